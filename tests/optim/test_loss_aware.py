"""Loss-aware weight quantization in float32 beside the same in float64, from theory."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.optim import LossAware
from theory import loss_aware as theory

UNIT = 2.0**-24  # unit roundoff of float32
ROWS, D = 8, 64
SCALE = 2 * (D + 8) * UNIT  # relative error of a scale, see `_settled`
SEEDS = st.integers(0, 999)


@functools.partial(jax.jit, static_argnums=0)
def quantize(quantizer, w, v):
    """Each row by itself."""
    return jax.vmap(quantizer)(w, v)


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and second moments, float32 (ROWS, D): heavy tails, moments over six decades."""
    rng = np.random.default_rng(seed)
    w = rng.standard_t(4, (ROWS, D)) * 10.0 ** rng.uniform(-2, 1, (ROWS, 1))
    v = 10.0 ** rng.uniform(-8, -2, (ROWS, D))
    v[0] = 0
    return w.astype(np.float32), v.astype(np.float32)


def codes_of(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What multiplied the scale, given it up to rounding."""
    return np.asarray(q, np.float64) / scale[:, None]


@hp.given(seed=SEEDS)
def test_binary_is_the_weighted_mean(seed):
    """Signs, and sum c |w| / sum c within rounding.

    Each sum has D positive terms, of relative error at most (D - 1 + 4) u together with c
    (a root, a sum, 1e-8) and the product; a quotient of two and its rounding err by 2 (D + 4) u.

    Kills: optim/loss_aware.py: `jnp.sqrt(v` -> `(v`; `/ jnp.sum(c)` -> `/ c.size`.
    """
    w, v = problem(seed)
    want = theory.binary(w, theory.curvature(v.astype(float)))
    got = np.asarray(quantize(LossAware(bits=1), w, v), np.float64)
    np.testing.assert_allclose(got, want.weights, rtol=SCALE)
    np.testing.assert_array_equal(np.abs(got), np.abs(got[:, :1]).repeat(D, 1))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("rule", ["least_squares", "published"])
@hp.given(seed=SEEDS)
def test_alternating_is_that_of_theory(bits, rule, seed):
    """Equal codes, scales within rounding, wherever float32 cannot decide otherwise: `_settled`.

    Kills: optim/loss_aware.py: `c * codes**2` -> `c * jnp.abs(codes)`; `step < ITERATIONS` ->
    `step < 3`; `moved >= TOLERANCE` -> `moved >= 1e-1`; `+ 0.5` removed.
    """
    w, v = problem(seed)
    c, k = theory.curvature(v.astype(float)), theory.levels(bits)
    want = theory.alternate(w, c, bits, rule)
    got = quantize(LossAware(bits=bits, rule=rule), w, v)
    sure = np.array([_settled(*row, k, rule) for row in zip(w.astype(float), c, strict=True)])
    hp.assume(sure.any())
    codes = codes_of(got, want.scale) * k
    np.testing.assert_array_equal(np.rint(codes)[sure], np.rint(want.codes * k)[sure])
    np.testing.assert_allclose(np.asarray(got)[sure], want.weights[sure], rtol=SCALE + 3 * UNIT)


def _settled(w, c, k: int, rule) -> bool:
    """Whether no step of the alternation is nearer to a tie than rounding can move it.

    While codes are equal, a scale is a quotient of two sums of D positive terms, each term of
    relative error at most 7 u (c: 3 u, codes: 2 u, products), so it errs by 2 (D + 8) u at most,
    and |w| k / alpha by 3 u more. It is compared with half-integers, and the move of alpha, 0
    or the difference of two such scales, with 1e-6.
    """
    fit = theory.least_squares_scale if rule == "least_squares" else theory.published_scale
    codes, alpha, moved = np.sign(w), np.inf, np.inf
    for _ in range(theory.ITERATIONS + 1):
        new = fit(w, c, codes)
        x = np.minimum(np.abs(w) / new, 1 + 1e-3) * k
        if (np.abs(x % 1 - 0.5) <= x * (SCALE + 4 * UNIT) + UNIT * k).any():
            return False
        moved, alpha, codes = abs(new - alpha), new, theory.nearest_codes(w, new, k)
        if 0 < abs(moved - theory.TOLERANCE) <= 2 * SCALE * alpha and moved > 0:
            return False
        if moved < theory.TOLERANCE:
            return True
    return True


@pytest.mark.parametrize("bits", [2, 3, 4])
@hp.given(seed=SEEDS)
def test_optimum_is_the_least_error(bits, seed):
    """No error beyond the exact optimum's but of rounding, in units of sum c w^2 = E + P^2 / S.

    Running sums of n = D k positive terms err by (n + 8) u, P^2 / S by 4 (n + 8) u, and a choice
    by twice that. Thresholds closer than 2 u may change places: then both codes of a weight are
    as good up to 4 u c w alpha / k, in all 16 k u sum c w^2. Rounded codes and products, which
    are no multiples of one scale, move the error by 8 u, up or down.

    Kills: optim/loss_aware.py: `p / jnp.sqrt(s)` -> `p / s`; `(2 * j - 1) / k**2` -> `2 * j /
    k**2`; `reached <= best` -> `< best`.
    """
    w, v = problem(seed)
    c, k = theory.curvature(v.astype(float)), theory.levels(bits)
    best = theory.error(w, c, theory.optimum(w, c, bits))
    got = np.asarray(quantize(LossAware(bits=bits, rule="optimum"), w, v), np.float64)
    error = (c * (got - w) ** 2).sum(-1)
    unit = (c * w.astype(float) ** 2).sum(-1) * UNIT
    assert (error >= best - 8 * unit).all()
    assert (error <= best + (8 * (D * k + 8) + 16 * k + 8) * unit).all()


@hp.given(seed=SEEDS)
def test_ternary_rules_agree(seed):
    """Codes are 0 and +-1, so both scales are least squares: the same bits.

    Kills: optim/loss_aware.py: `jnp.abs(c * codes)` -> `c`.
    """
    w, v = problem(seed)
    rules = [
        quantize(LossAware(bits=2, rule=rule), w, v) for rule in ("least_squares", "published")
    ]
    np.testing.assert_array_equal(*rules)


@pytest.mark.parametrize("bits", [2, 3, 4])
@hp.given(seed=SEEDS)
def test_exact_below_alternating_below_where_it_begins(bits, seed):
    """From either start, the error is at most that of the start's codes with their best scale.

    So it is at most that of any scale of them, like twice the threshold, the first weights of the
    source's code. Rounding moves an error by 16 n u of sum c w^2 at most, see `_settled`.

    Kills: optim/loss_aware.py: `fit(w, c, first)` -> `fit(w, c, 0 * first + 1)`.
    """
    w, v = problem(seed)
    c, u = theory.curvature(v.astype(float)), w.astype(float)
    error = lambda q: (c * (np.asarray(q, float) - u) ** 2).sum(-1)  # noqa: E731
    slack = 16 * D * theory.levels(bits) * UNIT * (c * u**2).sum(-1)
    exact = error(quantize(LossAware(bits=bits, rule="optimum"), w, v))
    size = np.abs(u)
    kept = size > 0.7 * size.mean(-1, keepdims=True)
    for begin, first in (("signs", np.sign(u)), ("ternary", np.sign(u) * kept)):
        found = error(quantize(LossAware(bits=bits, begin=begin), w, v))
        scale = theory.least_squares_scale(u, c, first)
        assert (exact <= found + slack).all()
        assert (found <= error(scale[:, None] * first) + slack).all()


def test_where_the_alternation_begins_can_matter():
    """Either start may be caught where the other one is not, far from the optimum.

    A large weight among small ones, by signs: all codes stay 1. Curvature on small weights, from
    ternary codes: these stay 0. Kills: optim/loss_aware.py: `self.begin == "signs"` -> `True`.
    """
    tail = np.float32([10] + [0.1] * 99)
    dropped, curved = np.float32([1, 1, 0.1, 0.1, 0.1, 0.1]), np.float32([0, 0, 1, 1, 1, 1])
    for w, v, caught, free in (
        (tail, np.ones_like(tail), "signs", "ternary"),
        (dropped, curved, "ternary", "signs"),
    ):
        error = lambda q: np.sum(np.sqrt(v) * (np.asarray(q(w, v)) - w) ** 2)  # noqa: B023, E731
        exact = error(LossAware(rule="optimum"))
        assert error(LossAware(begin=free)) == pytest.approx(exact, rel=1e-4, abs=1e-12)
        assert error(LossAware(begin=caught)) > 10 * exact + 1e-2


def test_ternary_codes_of_the_source():
    """By hand: |w| above 0.7 mean|w|, which is 0.7. Kills: `THRESHOLD = 0.7` -> 0.8, 0.6."""
    w = jnp.array([1.5, -0.75, 0.5, 0.0, -2.25, 0.65, 1.35])
    np.testing.assert_array_equal(LossAware(begin="ternary").first(w), [1, -1, 0, 0, -1, 0, 1])
    np.testing.assert_array_equal(LossAware().first(w), jnp.sign(w))


ALL = [
    LossAware(bits=1),
    *(LossAware(bits=b, rule=r) for b in (2, 4) for r in ("least_squares", "published", "optimum")),
    LossAware(bits=3, begin="ternary"),
    LossAware(bits=16),
]


@pytest.mark.parametrize("quantizer", ALL, ids=lambda q: f"{q.bits} {q.rule}")
def test_shapes_zeros_and_single_weights(quantizer):
    """Kills: optim/loss_aware.py: `jnp.where(alpha > 0, alpha, 1)` -> `alpha`."""
    run = jax.jit(quantizer)
    zeros = jnp.zeros((3, 3, 2))
    np.testing.assert_array_equal(run(zeros), zeros)
    np.testing.assert_array_equal(run(zeros, zeros), zeros)
    w = jax.random.normal(jax.random.key(0), (3, 3, 2)).astype(jnp.bfloat16)
    got = run(w, zeros)
    assert (got.shape, got.dtype) == (w.shape, jnp.float32)
    flat = run(w.reshape(-1), zeros.reshape(-1)).reshape(w.shape)
    # alpha = P / S, sums of positive terms of three roundings each, added in two orders
    np.testing.assert_allclose(got, flat, rtol=2 * (2 * (w.size + 3) + 2) * UNIT)
    one = np.asarray(run(jnp.array([-0.3])))
    np.testing.assert_allclose(one, [-0.3], rtol=4 * UNIT)  # c w / c: two products, one quotient


@pytest.mark.parametrize("quantizer", ALL[:-1], ids=lambda q: f"{q.bits} {q.rule}")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_seen(quantizer, bad):
    """A weight, or a moment, that training must not go on with.

    Kills: optim/loss_aware.py: `jnp.where(finite, alpha * codes, jnp.nan)` -> `alpha * codes`.
    """
    w, v = jnp.array([0.5, 1.0, 0.0, -0.25]), jnp.ones(4)
    run = jax.jit(quantizer)
    assert not np.isfinite(run(w.at[1].set(bad), v)).all()
    assert not np.isfinite(run(w, v.at[1].set(bad))).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_optimum_of_tiny_weights(bits):
    """A power of two in front changes no code, down to where products leave float32.

    Kills: optim/loss_aware.py: `p / jnp.sqrt(s)` -> `p**2 / s`.
    """
    w, v = problem(0)
    w, v = np.sign(w) * np.maximum(np.abs(w), 1e-3), np.zeros_like(v)
    quantizer = LossAware(bits=bits, rule="optimum")
    small = np.float32(2.0**-66)
    np.testing.assert_array_equal(
        quantize(quantizer, w * small, v), quantize(quantizer, w, v) * small
    )


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_weighted_by_the_root_of_the_moment(bits):
    """Without moments all weights count alike; with them, not."""
    w, v = problem(1)
    quantizer = LossAware(bits=bits)
    even, weighted = quantizer(jnp.asarray(w[1])), quantizer(jnp.asarray(w[1]), jnp.asarray(v[1]))
    assert (even != weighted).any()
    bound = theory.binary(w[1], np.ones(D)) if bits == 1 else theory.optimum(w[1], np.ones(D), bits)
    ones = np.ones(D)
    assert ((even - w[1]) ** 2).sum() >= theory.error(w[1], ones, bound) * (1 - 4 * D * UNIT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "bits must be 1 to 16, not 0"),
        ({"bits": 17}, "bits must be 1 to 16, not 17"),
        ({"rule": "best"}, "unknown rule 'best': least_squares, published or optimum"),
        ({"begin": "zeros"}, "unknown begin 'zeros': signs or ternary"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        LossAware(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"bits": 1}, "LAB, in the optimizer"),
        ({"bits": 3}, "LAQ3, in the optimizer"),
        ({"bits": 4, "rule": "published"}, "LAQ4 (published), in the optimizer"),
        ({"bits": 2, "begin": "ternary"}, "LAQ2, from ternary codes, in the optimizer"),
    ],
)
def test_in_words(settings, text):
    assert LossAware(**settings).describe() == text
