"""Bounds with a probability: exceeded less often than they say, and close to what happens."""

import math
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

import qtrain as qt
from theory.bounds import worst_case
from theory.probabilistic import independent_errors, stochastic

U = 2.0**-10  # e6m9
SIDE = 64  # 4096 sums, each with its own random bits


def errors(products, accum: qt.Accumulator, side: int = SIDE) -> np.ndarray:
    """|computed - exact| of side^2 sums of the same products, float64; exact differences."""
    a = np.tile(np.asarray(products, np.float32), (side, 1))
    b = np.ones((len(products), side), np.float32)
    got = np.asarray(qt.dot(a, b, accum=accum, key=jax.random.key(0))).ravel()
    exact = sum(map(Fraction, a[0].tolist()), Fraction(0))
    return np.array([float(abs(Fraction(y) - exact)) for y in got.tolist()])


def half_ulps(k: int) -> np.ndarray:
    """One, then half ulps of it: every addition errs by +u or -u, the most that varies."""
    return np.array([1.0] + [U] * (k - 1))


DATA = {
    "half ulps": half_ulps(256),
    "normal": np.random.default_rng(0).normal(size=256).astype(np.float32),
    "positive": np.random.default_rng(1).uniform(size=256).astype(np.float32),
}


@pytest.mark.parametrize("chunk", [None, 16])
@pytest.mark.parametrize("data", DATA)
def test_stochastic_exceedance(data, chunk):
    """Kills: probabilistic.py: half the range of an error."""
    products, exceeded = DATA[data], {}
    lost = errors(products, qt.Accumulator("e6m9", chunk, "stochastic"))
    size = sum(map(Fraction, np.abs(products).tolist()), Fraction(0))
    for lam in (1.25, 1.5, 2.0, 2.5, 3.0, 3.5):
        bound, probability = stochastic(size, 256, "e6m9", chunk, lam=lam, products="exact")
        exceeded[lam] = (lost > bound).mean()
        assert exceeded[lam] <= 1 - probability
    if data == "half ulps" and chunk is None:  # the bound is no wider than it must be
        bound = stochastic(size, 256, "e6m9", lam=2.0, products="exact")[0]
        assert exceeded[1.5] > 0.02
        assert lost.max() > bound / 2


def test_chunked_reached():
    """Chunks of half ulps: only the first one errs inside, then all of them between chunks."""
    products = np.zeros((16, 16))
    products[0], products[1:, 0] = half_ulps(16), U
    lost = errors(products.ravel(), qt.Accumulator("e6m9", 16, "stochastic"))
    bound, probability = stochastic(products.sum(), 256, "e6m9", 16, lam=3.0, products="grid")
    assert probability > 0.6
    assert bound / 2 < lost.max()
    assert (lost > bound).mean() <= 1 - probability


def test_the_last_random_bit():
    """Terms below half the last random bit are lost every time: a drift, not a martingale.

    Kills: probabilistic.py: no drift.
    """
    products = np.array([1.0] + [2.0**-24 * 0.875] * 4095)
    lost = errors(products, qt.Accumulator("e8m21", None, "stochastic"), side=4)
    bound, probability = stochastic(products.sum(), 4096, "e8m21", lam=1.5, products="exact")
    assert probability > 0.3
    assert (lost == 4095 * 0.875 * 2.0**-24).all()
    assert (lost <= bound).all()


def test_no_subnormals_is_a_drift():
    """What a format without subnormals flushes is lost for certain. Kills: c left out of T."""
    products = np.full(64, 2.0**-32)
    lost = errors(products, qt.Accumulator("e6m9ftz", None, "stochastic"), side=2)
    bound, _ = stochastic(products.sum(), 64, "e6m9ftz", lam=1.5, products="exact")
    assert (lost == 64 * 2.0**-32).all()
    assert (lost <= bound).all()


@pytest.mark.parametrize("chunk", [None, 16])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_independent_errors(rounding, chunk):
    """On 4096 sums of different normal numbers."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(SIDE, 256)), rng.normal(size=(256, SIDE))
    a, b = (np.round(x * 8) / 8 for x in (a, b))  # exact products
    key = jax.random.key(1) if rounding == "stochastic" else None
    got = qt.dot(
        a.astype(np.float32), b.astype(np.float32),
        accum=qt.Accumulator("e6m9", chunk, rounding), key=key,
    )  # fmt: skip
    lost = np.abs(np.asarray(got, np.float64) - a @ b)  # multiples of 1/64: exact in float64
    size = np.abs(a) @ np.abs(b)
    unit_bound, probability = independent_errors(
        1.0, 256, "e6m9", chunk, rounding, lam=4.0, products="exact"
    )
    assert probability > 0.8
    assert (lost > unit_bound * size).mean() <= 1 - probability


def test_independent_errors_reached():
    """Half of the bound, on the errors +u or -u; its 2 u for stochastic rounding is the rest.

    Kills: probabilistic.py: sqrt(m) without lam.
    """
    products = half_ulps(32)
    lost = errors(products, qt.Accumulator("e6m9", None, "stochastic"))
    bound, probability = independent_errors(
        products.sum(), 32, "e6m9", None, "stochastic", lam=3.0, products="grid"
    )
    assert probability > 0.2
    assert bound / 2 < lost.max() <= bound


def test_the_model_fails_where_sums_stagnate():
    """Ones stop adding up at 2^10 or 2^11 in nearest: probability 97 % by the model, and it is
    violated; the worst case holds, and stochastic rounding keeps its promise.
    """
    ones = np.ones(4096)
    lost = errors(ones, qt.Accumulator("e6m9"), side=1)[0]
    bound, probability = independent_errors(4096, 4096, "e6m9", lam=5.0, products="grid")
    assert probability > 0.96
    assert lost > bound
    assert lost <= worst_case(4096, 4096, "e6m9", products="grid")
    lost = errors(ones, qt.Accumulator("e6m9", None, "stochastic"), side=4)
    bound, probability = stochastic(4096, 4096, "e6m9", lam=5.0, products="grid")
    assert probability > 0.9999
    assert (lost <= bound).all()


@hypothesis.given(
    size=st.floats(2.0**-20, 2.0**10), n=st.integers(1, 10**6), lam=st.floats(1, 10),
    chunk=st.none() | st.integers(1, 100),
    fmt=st.sampled_from(["e6m9", "e5m2", "e6m9ftz", "bfloat16", "e8m21"]),
)  # fmt: skip
def test_never_worse_than_certain(size, n, lam, chunk, fmt):
    """Kills: probabilistic.py: the smaller of both not taken."""
    bound, probability = stochastic(size, n, fmt, chunk, lam=lam)
    assert 0 <= probability <= 1
    assert bound <= worst_case(size, n, fmt, chunk, "stochastic")
    wider, surer = stochastic(size, n, fmt, chunk, lam=lam + 1)
    assert bound <= wider
    assert probability <= surer


def test_first_order():
    """lam u (sqrt(b) + sqrt(n / b)) Sigma, and the probability of the docstring.

    Kills: probabilistic.py: no additions between chunks.
    """
    bound, probability = stochastic(1, 2**12, "e6m14", 64, lam=4.0, products="exact")
    assert math.isclose(bound, 4 * 2.0**-15 * 16, rel_tol=0.01)
    assert math.isclose(probability, 1 - 2 * 65 * math.exp(-8), rel_tol=1e-12)
    bound, probability = independent_errors(1, 2**12, "e6m14", 64, lam=5.0, products="exact")
    assert math.isclose(bound, 5 * 2.0**-15 * math.sqrt(128), rel_tol=0.01)
    assert math.isclose(probability, 1 - 2 * 2**12 * math.exp(-12.5), rel_tol=1e-12)
    assert stochastic(1, 8, "float32") == (worst_case(1, 8, "float32"), 1.0)
    with pytest.raises(ValueError, match="mean of zero"):
        independent_errors(1, 8, "e6m9", rounding="align")
