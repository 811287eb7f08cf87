"""The exact theory against sums that `qtrain.dot` really computed.

A sample is one row of products, drawn from a discrete law, times ones; its exact sum S is known.
Of each setting are compared, within 4 standard errors:

  retention  E[s^2] / E[S^2]   raw, its standard error from the theory's own law of s; and with
                               S^2, whose mean is known, as a control variate
  mean       E[s]              raw; and as E[s - S]
  error      E[(s - S)^2]

Raw standard errors are exact (sd of s^2 or s under the law, over sqrt(samples)) and 1 to 4 % of
E[S^2] here; the paired ones come from the sample and are far smaller where s is nearly S. Those
mean something where the sample's own variance does: a statistic is left out where its kurtosis
is above samples / 30, i.e. where some 30 rows or fewer decide.
"""

from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
import pytest

import qtrain as qt
from theory import chain, products, scaling

ROUNDINGS = ("nearest", "stochastic", "toward_zero", "align")
SIGMAS = 4
TICKS = 2**16  # probabilities are multiples of 1 / TICKS, so that sampling is exact and fast
FLOAT64 = 1e-9  # rounding of the theory's float64 arithmetic, relative


def dyadic(law: products.Discrete) -> products.Discrete:
    """`law` with probabilities rounded to 1 / TICKS; the atom nearest the mean takes the rest."""
    ticks = np.round(law.probs * TICKS)
    ticks[np.argmin(np.abs(law.values - law.mean))] += TICKS - ticks.sum()
    return products.discrete(law.values[ticks > 0], ticks[ticks > 0] / TICKS)


@functools.cache
def law_of(name: str) -> products.Discrete:
    """Three kinds of products.

    gaussian: two e5m2 operands so small that many of their values are subnormal. uniform:
    mean 1 and standard deviation 0.99 on a grid of 1/16, as in [wang2018fp8, Fig. 3(b)].
    sparse: the first, three of four products 0.
    """
    if name == "uniform":
        values = 1 + np.arange(-27, 28) / 16
        return dyadic(products.discrete(values, np.full(55, 1 / 55)))
    gaussian = products.gaussian_products("e5m2", "e5m2", scale_a=2.0**13, scale_b=2.0**13)
    return dyadic(gaussian if name == "gaussian" else products.sparse(gaussian, 0.25))


def draw(law: products.Discrete, shape, seed: int) -> np.ndarray:
    """Products from a dyadic law, float32."""
    table = np.repeat(law.values.astype(np.float32), np.round(law.probs * TICKS).astype(int))
    return table[np.random.default_rng(seed).integers(0, TICKS, shape, dtype=np.uint16)]


@functools.partial(jax.jit, static_argnames="accum")
def rounded_sums(x, ones, key, accum):
    return qt.dot(x, ones, accum=accum, key=key)[:, 0]


def sample(law, n, m, rounding, chunk, samples, seed=0):
    """Computed and exact sums of `samples` rows of n products; float64."""
    accum = qt.Accumulator(f"e6m{m}", chunk=chunk, rounding=rounding)
    x = draw(law, (samples, n), seed)
    s = rounded_sums(x, np.ones((n, 1), np.float32), jax.random.key(seed), accum)
    return np.asarray(s, np.float64), x.sum(axis=1, dtype=np.float64)


def z_score(found: float, expected: float, se: float, slack: float) -> float:
    """Standard errors between the two, after `slack`."""
    off = max(0.0, abs(found - expected) - slack)
    return off / se if se > 0 else np.inf * off if off else 0.0


def paired_z(y: np.ndarray, expected: float, slack: float) -> float:
    """z of a sample mean; NaN where too few rows decide its variance."""
    d = y - y.mean()
    if len(y) * np.mean(d**4) > np.mean(d**2) ** 2 * len(y) ** 2 / 30 or not d.any():
        return np.nan
    return z_score(y.mean(), expected, d.std() / np.sqrt(len(y)), slack)


def controlled(y: np.ndarray, control: np.ndarray, mean: float) -> np.ndarray:
    """Y less what a control of known mean explains of it."""
    d = control - control.mean()
    return y - (d @ (y - y.mean())) / (d @ d) * (control - mean)


def against_chain(name: str, n, m, rounding, chunk, samples) -> dict[str, float]:
    """z by statistic, and the raw standard error of the retention ("se")."""
    law = law_of(name)
    s, exact = sample(law, n, m, rounding, chunk, samples)
    theory = chain.sums(law, n, f"e6m{m}", rounding, chunk=chunk)
    values, probs = theory.law.values, theory.law.probs
    unit = theory.variance + theory.mean**2  # E[S^2]
    mean, square = probs @ values, probs @ values**2
    assert square / unit == pytest.approx(theory.retention, rel=FLOAT64)
    se_mean = np.sqrt(max(square - mean**2, 0) / samples)
    se_square = np.sqrt(max(probs @ values**4 - square**2, 0) / samples)
    slack, slack_mean = FLOAT64 * unit, FLOAT64 * np.sqrt(unit)
    error = theory.mean_square_error
    return {
        "retention": z_score(np.mean(s**2), square, se_square, slack),
        "mean": z_score(s.mean(), mean, se_mean, slack_mean),
        "retention, paired": paired_z(controlled(s**2, exact**2, unit), square, slack),
        "mean, paired": paired_z(s - exact, mean - theory.mean, slack_mean),
        "error": paired_z((s - exact) ** 2, error, slack),
        "se": se_square / unit,
    }


def against_estimate(name: str, n, m, rounding, chunk, samples) -> dict[str, float]:
    """z beyond the stated bound of `scaling.estimate`."""
    law = law_of(name)
    s, exact = sample(law, n, m, rounding, chunk, samples)
    theory = scaling.estimate(m, n, rounding, law, chunk)
    unit = n * law.variance + (n * law.mean) ** 2
    bound = theory.bound * max(1.0, theory.retention)
    y, control = s**2 / unit, controlled(s**2, exact**2, unit) / unit
    se = y.std() / np.sqrt(samples)
    return {
        "retention": z_score(y.mean(), theory.retention, se, bound),
        "retention, paired": paired_z(control, theory.retention, bound),
        "se": se,
    }


def passes(scores: dict[str, float]) -> bool:
    return all(not z > SIGMAS for key, z in scores.items() if key != "se")


# Every rounding with and without chunks, every width, n = 2^4 to 2^12: (n, m, rounding, chunk)
DESIGNED = [
    (16, 3, "nearest", None),
    (16, 10, "align", None),
    (64, 4, "toward_zero", None),
    (256, 8, "stochastic", None),
    (256, 5, "align", 64),
    (256, 6, "stochastic", 64),
    (1024, 7, "nearest", 64),
    (1024, 4, "toward_zero", 64),
    (4096, 5, "nearest", None),
    (4096, 3, "stochastic", 64),
    (4096, 9, "nearest", None),
]


@pytest.mark.parametrize(("n", "m", "rounding", "chunk"), DESIGNED)
def test_exact_theory(n, m, rounding, chunk):
    names = ("uniform",) if n * 2**m > 2**18 else ("gaussian", "uniform", "sparse")
    for name in names:
        scores = against_chain(name, n, m, rounding, chunk, min(8192, 2**23 // n))
        assert passes(scores), (name, scores)


def grid():
    """All settings up to n = 2^12, and of the longest a quarter, spread over both axes."""
    combinations = list(itertools.product(ROUNDINGS, (None, 64)))
    for n, m in itertools.product((16, 64, 256, 1024, 4096, 2**14, 2**16), range(3, 11)):
        for i, (rounding, chunk) in enumerate(combinations):
            if chunk is not None and n <= chunk:
                continue
            if n <= 4096 or (3 * m + i + (n == 2**16)) % 4 == 0:
                yield n, m, rounding, chunk


def grid_samples(n: int) -> int:
    return min(8192, 2**26 // n)


def grid_laws(n, m, rounding, chunk) -> tuple[str, str]:
    """One law of zero mean, in turn, and the one with a mean."""
    turn = n.bit_length() // 2 + m + ROUNDINGS.index(rounding) + (chunk is None)
    return ("gaussian", "sparse")[turn % 2], "uniform"


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "rounding", "chunk"), list(grid()))
def test_exact_theory_on_the_grid(n, m, rounding, chunk):
    long = n > 2**12 and m > 7  # the chain would take minutes
    compare = against_estimate if long and chunk is None else against_chain
    for name in grid_laws(n, m, rounding, chunk):
        scores = compare(name, n, m, rounding, chunk, grid_samples(n))
        assert passes(scores), (name, scores)
