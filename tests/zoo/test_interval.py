"""The transformer and the discretizer of learned intervals, against their algebra.

Intervals are drawn with d <= c, as the guards keep them, and a gamma that bends either way.
u = (|w| - c + d) / (2 d) is rounded three times, at sizes up to c / d of its own: an error of
2 (c / d + 2) UNIT at most, which `off` allows for.
"""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

from qtrain.zoo.interval import (
    LEAST_U,
    discretize,
    guarded,
    positive,
    thresholds,
    transform,
    transform_signed,
)

UNIT = 2.0**-24  # unit roundoff of float32
N = 64
BITS = (2, 3, 4, 5)
PICK = hp.settings(max_examples=30)


@st.composite
def intervals(draw) -> tuple[np.float32, np.float32, np.float32]:
    """c >= d > 0 and gamma; c / d up to 32."""
    d = draw(st.floats(2.0**-6, 4, width=32))
    c = d * draw(st.sampled_from([1.0, 1.0, 1.5, 4.0, 32.0]))
    return np.float32(c), np.float32(d), np.float32(draw(st.floats(0.3125, 3, width=32)))


def placed(c, d, seed: int) -> np.ndarray:
    """Weights below, in and above the interval, of both signs, with its ends and 0."""
    rng = np.random.default_rng(seed)
    size = np.abs(c - d + 2 * d * rng.uniform(-0.5, 1.5, N - 8))
    size = np.concatenate([size, [c - d, c, c + d, 0.0]])
    w = np.concatenate([size * rng.choice([-1, 1], size.size), [c, -c, c + d, -(c + d)]])
    return w.astype(np.float32)


@functools.partial(jax.jit, static_argnums=4)
def weights(w, c, d, gamma, q):
    """The quantized weights, without guards."""
    return discretize(transform_signed(w, c, d, gamma), q)


@functools.partial(jax.jit, static_argnums=3)
def activations(x, c, d, q):
    return discretize(transform(x, c, d), q)


signed = jax.jit(transform_signed)


def exact(w, c, d, gamma) -> np.ndarray:
    """The transformer in float64 [jung2019qil, eq. (3)], by alpha and beta as the sources do."""
    w, c, d, gamma = (np.float64(v) for v in (w, c, d, gamma))
    inner = np.clip(0.5 / d * np.abs(w) + (0.5 - 0.5 * c / d), 0, 1) ** gamma
    size = np.where(np.abs(w) < c - d, 0, np.where(np.abs(w) > c + d, 1, inner))
    return size * np.where(w < 0, -1, 1)


def off(c, d, gamma) -> float:
    """How far rounding moves u^gamma: its slope may be infinite at 0, where the move is ^gamma."""
    du = 2 * (float(c) / float(d) + 2) * UNIT
    return max(du ** min(float(gamma), 1.0), float(gamma) * du) + 8 * UNIT


@PICK
@hp.given(interval=intervals(), seed=st.integers(0, 999), bits=st.sampled_from(BITS))
def test_the_transformer_is_that_of_the_equation(interval, seed, bits):
    """And differs from its discretized self by half a step at most.

    Kills: interval.py: `(x - (c - d))` -> `(x - c)`; `jnp.where(u > 1, 1.0, 0.0)` -> `0.0`;
    `sign * transform` -> `transform`.
    """
    c, d, gamma = interval
    w, q = placed(c, d, seed), 2 ** (bits - 1) - 1
    got = np.asarray(signed(w, c, d, gamma), np.float64)
    np.testing.assert_allclose(got, exact(w, c, d, gamma), rtol=0, atol=off(c, d, gamma))
    step = np.abs(np.asarray(weights(w, c, d, gamma, q), np.float64) - got)
    assert step.max() <= 1 / (2 * q) + 2 * UNIT


@PICK
@hp.given(interval=intervals())
def test_ends_and_middle(interval):
    """0 at c - d, 0.5^gamma at c, 1 at c + d, and continuous there.

    Kills: interval.py: `u > 1, 1.0, 0.0` -> `u > 1, 0.5, 0.0`; `(1 / (2 * d))` -> `(1 / d)`.
    """
    c, d, gamma = interval
    at = np.zeros(N, np.float32)
    at[:3] = c - d, c, c + d
    at[3:5] = np.nextafter(c - d, np.float32(0)), np.nextafter(c + d, np.float32(np.inf))
    low, middle, high, below, above = np.asarray(signed(at, c, d, gamma))[:5]
    error = off(c, d, gamma)
    assert low <= error
    assert below <= low
    assert abs(middle - 0.5 ** float(gamma)) <= error
    assert 1 - error <= high <= 1
    assert above >= high


@PICK
@hp.given(interval=intervals(), seed=st.integers(0, 999), bits=st.sampled_from(BITS))
def test_levels_order_and_symmetry(interval, seed, bits):
    """2^b - 1 weights j / q and 2^b activations j / q, all reached, in order; weights are odd.

    Levels are the float32 numbers nearest to j / q, compiled or not.
    Kills: interval.py: `jnp.where(w < 0, -1.0, 1.0)` -> `1.0`; `round_steps(v, q)` ->
    `round_steps(v + 0.25 / q, q)`.
    """
    c, d, gamma = interval
    w, q_w, q_x = np.sort(placed(c, d, seed)), 2 ** (bits - 1) - 1, 2**bits - 1
    got, of_x = np.asarray(weights(w, c, d, gamma, q_w)), np.asarray(activations(w, c, d, q_x))
    for values, low, q in ((got, -q_w, q_w), (of_x, 0, q_x)):
        assert (np.diff(values) >= 0).all()
        assert np.isin(values, np.arange(low, q + 1, dtype=np.float32) / np.float32(q)).all()
    np.testing.assert_array_equal(weights(-w, c, d, gamma, q_w), -got)
    np.testing.assert_array_equal(discretize(transform(w, c, d), q_x), of_x)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_every_level_is_reached(bits):
    """Kills: interval.py: `round_steps(v, q)` -> `round_steps(v, q - 1)`."""
    q_w, q_x = 2 ** (bits - 1) - 1, 2**bits - 1
    w = np.linspace(-2, 2, 4001, dtype=np.float32)
    one = np.float32(1)
    assert len(set(np.asarray(weights(w, one, one / 2, one, q_w)).tolist())) == 2**bits - 1
    assert len(set(np.asarray(activations(w, one, one / 2, q_x)).tolist())) == 2**bits


@PICK
@hp.given(interval=intervals(), bits=st.sampled_from(BITS))
def test_thresholds_are_where_the_levels_change(interval, bits):
    """Found by bisection, in float32, of both ends; to 1e-5 of the interval's reach.

    Kills: interval.py: `(0.5 / q) ** (1 / gamma)` -> `(0.5 / q) ** gamma`; the printed form,
    `2 * d * (0.5 / q)` -> `0.5 * d / q`.
    """
    c, d, gamma = interval
    q = 2 ** (bits - 1) - 1
    want = np.float64(thresholds(np.float64(c), np.float64(d), q, np.float64(gamma)))
    for threshold, reached in zip(want, (lambda v: v > 0, lambda v: v >= 1), strict=True):
        low, high = np.float32(0), np.float32(2 * (c + d))
        for _ in range(6):  # sixty-four places at once: 2^-36 of the start
            places = np.linspace(low, high, N, dtype=np.float32)
            first = int(np.argmax(reached(np.asarray(weights(places, c, d, gamma, q)))))
            low, high = places[max(first - 1, 0)], places[first]
        assert abs(float(high) - threshold) <= 1e-5 * (c + d)


@PICK
@hp.given(interval=intervals(), bits=st.sampled_from(BITS))
def test_printed_thresholds_are_not_those(interval, bits):
    """As a note prints eq. (4), and with the signs of d exchanged: half a step is d / q.

    Kills: interval.py: `2 * d * (0.5 / q)` -> `d * (0.5 / q)`.
    """
    c, d, _ = (np.float64(v) for v in interval)
    q = 2 ** (bits - 1) - 1
    th_p, th_c = np.float64(thresholds(c, d, q))
    np.testing.assert_allclose([th_p, th_c], [c - d + d / q, c + d - d / q], rtol=1e-6)
    half = 0.5 * d / q
    printed, exchanged = (c + d + half, c - d - half), (c - d + half, c + d - half)
    assert printed[0] > c + d
    assert printed[1] < c - d
    for other in (printed, exchanged):
        assert (np.abs(np.subtract(other, (th_p, th_c))) > 0.4 * d / q).all()


@PICK
@hp.given(seed=st.integers(0, 999), bits=st.sampled_from(BITS))
def test_idempotent(seed, bits):
    """The discretizer is; all of it only for c = d = 0.5 and gamma = 1, where it clips to 1.

    Kills: interval.py: `(1 / (2 * d))` -> `(1 / (2.5 * d))`.
    """
    q, half, one = 2 ** (bits - 1) - 1, np.float32(0.5), np.float32(1)
    w = np.random.default_rng(seed).uniform(-2, 2, N).astype(np.float32)
    once = weights(w, half, half, one, q)
    np.testing.assert_array_equal(signed(w, half, half, one), np.clip(w, -1, 1))
    np.testing.assert_array_equal(weights(once, half, half, one, q), once)
    np.testing.assert_array_equal(discretize(once, q), once)
    c, d = np.float32(0.75), np.float32(0.5)  # 1 comes to 0.75
    again = weights(weights(w, c, d, one, q), c, d, one, q)
    if bits > 3:  # with few levels, 0.75 may be nearest to 1
        assert (again != weights(w, c, d, one, q)).any()


@PICK
@hp.given(interval=intervals(), seed=st.integers(0, 999), power=st.integers(-8, 8))
def test_scaling_all_changes_nothing(interval, seed, power):
    """Q(s w; s c, s d, gamma) = Q(w; c, d, gamma); to the bit for powers of two.

    Kills: interval.py: `(x - (c - d))` -> `(x - (c - d) + 1e-3)`.
    """
    c, d, gamma = interval
    w, s = placed(c, d, seed), np.float32(2.0**power)
    np.testing.assert_array_equal(
        weights(s * w, s * c, s * d, gamma, 7), weights(w, c, d, gamma, 7)
    )


@PICK
@hp.given(interval=intervals(), seed=st.integers(0, 999), more=st.floats(1, 4))
def test_gamma_prunes(interval, seed, more):
    """A larger gamma makes no weight larger; a higher th_p leaves no more weights, whichever of c,
    d and gamma moved it: they are those above it.

    Weights within 1e-5 (c + d) of a threshold may count either way.
    Kills: interval.py: `return u**gamma` -> `return u ** (1 / gamma)`; `** (1 / gamma)` ->
    `** gamma`.
    """
    c, d, gamma = interval
    w, q = placed(c, d, seed), 3
    size = np.abs(np.asarray(signed(w, c, d, gamma)))
    larger = np.abs(np.asarray(signed(w, c, d, np.float32(gamma * more))))
    assert (larger <= size + 4 * UNIT).all()  # a rounding of the power, either time
    th_p, near = float(thresholds(c, d, q, gamma)[0]), 1e-5 * (c + d)
    kept = np.asarray(weights(w, c, d, gamma, q)) != 0
    assert kept[np.abs(w) > th_p + near].all()
    assert not kept[np.abs(w) < th_p - near].any()


def closed_forms(w, c, d, gamma, g) -> tuple[np.ndarray, ...]:
    """Gradients for w, c, d and gamma as the sources print them, in float64."""
    w, c, d, gamma, g = (np.float64(v) for v in (w, c, d, gamma, g))
    u, s = (np.abs(w) - c + d) / (2 * d), np.where(w < 0, -1, 1)
    inside = (u >= 0) & (u <= 1)
    v = np.where(inside, np.maximum(u, LEAST_U), 1)
    slope = inside * gamma * v ** (gamma - 1)
    by_c, by_d = -0.5 / d, 0.5 * (c - np.abs(w)) / d**2
    by_gamma = inside * v**gamma * np.log(v)
    return g * slope * 0.5 / d, g * slope * s * by_c, g * slope * s * by_d, g * s * by_gamma


def inner(c, d, seed: int) -> np.ndarray:
    """Weights of both signs at u = 0.02 to 0.98, every third far below or above the interval."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(0.02, 0.98, N)
    u[::3] = rng.choice([-0.4, 1.5], u[::3].size)
    size = np.float64(c) - d + 2 * np.float64(d) * u
    return (np.where(size > 0, size, c + 3 * d) * rng.choice([-1, 1], N)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=5)
def gradients(w, c, d, gamma, g, q):
    """Of sum g w_bar by w; and, a column for each weight, by c, d and gamma."""
    alone = lambda *a: weights(*a, q)  # noqa: E731
    each = jax.vmap(jax.grad(alone, argnums=(0, 1, 2, 3)), (0, None, None, None))(w, c, d, gamma)
    return tuple(g * part for part in each)


@PICK
@hp.given(interval=intervals(), seed=st.integers(0, 999))
def test_gradients_are_the_printed_ones(interval, seed):
    """And zero outside. u errs by `off`, at u >= 0.02 by a 50th part more; ln u alike.

    Kills: interval.py: `gamma * kept ** (gamma - 1)` -> `kept ** (gamma - 1)`; `by_gamma *
    tangents[1]` -> `0 * tangents[1]`; `clip=(-1.0, 1.0)` -> `clip=(-0.5, 0.5)`.
    """
    c, d, gamma = interval
    w, g = inner(c, d, seed), np.random.default_rng(seed).normal(size=N).astype(np.float32)
    want = closed_forms(w, c, d, gamma, g)
    u = (np.abs(np.float64(w)) - c + d) / (2 * np.float64(d))
    tolerance = 50 * 8 * (float(c / d) + 4) * UNIT
    for got, exactly in zip(gradients(w, c, d, gamma, g, 7), want, strict=True):
        got = np.asarray(got, np.float64)
        scale = np.abs(exactly).max()
        np.testing.assert_allclose(got, exactly, rtol=tolerance, atol=tolerance * scale)
        assert (got[(u < 0) | (u > 1)] == 0).all()


@PICK
@hp.given(interval=intervals(), seed=st.integers(0, 999))
def test_gradients_are_finite_differences(interval, seed):
    """Of the transformer in float64, at interior points, to 1e-3 of the largest.

    Kills: interval.py: `(x - (c - d))` -> `(x - (c - lax.stop_gradient(d)))`.
    """
    c, d, gamma = interval
    w = inner(c, d, seed)
    g = np.ones(N, np.float32)
    point = [np.float64(v) for v in (w, c, d, gamma)]
    for i, got in enumerate(gradients(w, c, d, gamma, g, 7)):
        h = 1e-6 * (gamma if i == 3 else d)
        ends = [exact(*(v + s * h * (i == j) for j, v in enumerate(point))) for s in (1, -1)]
        want = (ends[0] - ends[1]) / (2 * h)
        assert np.abs(np.asarray(got, np.float64) - want).max() <= 1e-3 * np.abs(want).max()


@PICK
@hp.given(interval=intervals(), seed=st.integers(0, 999))
def test_gradients_of_a_uniform_quantizer_are_straight_lines(interval, seed):
    """gamma = 1: that of c is constant in |w|, that of d falls as c - |w|, zero at the center.

    Kills: interval.py: `(1 / (2 * d))` -> `lax.stop_gradient(1 / (2 * d))`.
    """
    c, d, _ = interval
    w, one = np.abs(inner(c, d, seed)), np.float32(1)
    _, by_c, by_d, _ = (np.float64(v) for v in gradients(w, c, d, one, np.ones(N, np.float32), 7))
    u = (w - np.float64(c) + d) / (2 * np.float64(d))
    inside = (u > 0) & (u < 1)
    tolerance = 8 * (float(c / d) + 4) * UNIT
    np.testing.assert_allclose(by_c[inside], -0.5 / d, rtol=tolerance)
    line = 0.5 * (np.float64(c) - w) / np.float64(d) ** 2
    np.testing.assert_allclose(by_d[inside], line[inside], atol=tolerance * 0.5 / d)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 3.0])
def test_gradients_at_the_pole_are_finite(gamma):
    """u = 0, at a weight of 0: du^gamma/du counts u as 1e-6, and u^gamma ln u is 0.

    Kills: interval.py: `jnp.maximum(u, LEAST_U)` -> `u`; `jnp.log(kept)` -> `jnp.log(u)`.
    """
    w, half = np.zeros(N, np.float32), np.float32(0.5)
    got = gradients(w, half, half, np.float32(gamma), np.ones(N, np.float32), 7)
    by_w, by_c, by_d, by_gamma = (np.asarray(v) for v in got)
    np.testing.assert_allclose(by_w, gamma * 1e-6 ** (gamma - 1), rtol=1e-5)
    np.testing.assert_allclose((by_c, by_d), (-by_w, by_w), rtol=1e-6)
    assert (by_gamma == 0).all()
    assert (np.asarray(signed(w, half, half, np.float32(gamma))) == 0).all()


def test_nan_stays_nan_and_extremes_saturate():
    """
    `outside = (u < 0) | (u > 1)` -> `outside = ~((u >= 0) & (u <= 1))`."""
    w = np.zeros(N, np.float32)
    w[:4] = np.nan, np.inf, -np.inf, 3e38
    one, gamma = np.float32(1), np.float32(0.7)
    for got in (weights(w, one, one, gamma, 7), weights(w, one, one, None, 7)):
        np.testing.assert_array_equal(np.asarray(got)[:4], [np.nan, 1, -1, 1])
    np.testing.assert_array_equal(np.asarray(activations(w, one, one, 15))[:4], [np.nan, 1, 0, 1])


@PICK
@hp.given(
    start=hnp.arrays(np.float32, 2, elements=st.floats(-2, 2, width=32)),
    seed=st.integers(0, 999),
)
def test_guards_keep_the_interval(start, seed):
    """c - d >= 0 and d > 0 after each of 10^4 steps of random gradients, wherever it began.

    Kills: interval.py: `jnp.where(v < 0, -v, v)` -> `v`; `jnp.minimum(d, lax.stop_gradient(c))` ->
    `d`; `size + ADDED` -> `size` (c = 0).
    """
    c, d = (np.asarray(v) for v in walk(start, seed))
    assert (d > 0).all()
    assert (c - d >= 0).all()
    assert np.isfinite(c).all()


@jax.jit
def walk(start, seed):
    """The guarded numbers along a walk, 10^4 steps of SGD, from `start` and from zero."""

    def step(raw, noise):
        push = jax.vjp(lambda r: guarded(r[0], r[1]), raw)[1]
        raw = raw - 0.05 * push((noise[0], noise[1]))[0]
        return raw, guarded(raw[0], raw[1])

    noise = jax.random.normal(jax.random.key(seed), (10_000, 2))
    found = jax.lax.scan(step, start, noise)[1]
    first = guarded(start[0], start[1]), guarded(jnp.float32(0), jnp.float32(0))
    return tuple(jnp.append(found[i], jnp.stack([f[i] for f in first])) for i in (0, 1))


def test_guards_leave_good_numbers_and_their_gradients_alone():
    """And a d beyond c can come back.

    Kills: interval.py: `straight_through(lambda d: jnp.minimum(d, lax.stop_gradient(c)), d)` ->
    `jnp.minimum(d, c)`, of half a gradient at d = c.
    """
    for c, d, want in ((0.5, 0.25, (0.5, 0.25)), (0.5, 0.5, (0.5, 0.5)), (0.5, 0.75, (0.5, 0.5)),
                       (-0.5, -0.25, (0.5, 0.25)), (5e-4, 1.0, (6e-4, 6e-4))):  # fmt: skip
        got, push = jax.vjp(guarded, jnp.float32(c), jnp.float32(d))
        np.testing.assert_allclose(got, want, rtol=1e-6)
        assert push((jnp.float32(1), jnp.float32(0))) == (np.sign(c), 0)
        assert push((jnp.float32(0), jnp.float32(1))) == (0, np.sign(d))
    assert positive(jnp.float32(0)) == np.float32(1e-4)


@pytest.mark.parametrize("gamma", [None, 0.5])
def test_compiled_or_not(gamma):
    """The same codes, at c too, where u = 0.5 is halfway between two levels.

    Kills: interval.py: `* (1 / (2 * d))` -> `/ (2 * d)`.
    """
    c = d = np.float32(2.6992188)
    x = np.random.default_rng(0).normal(size=N).astype(np.float32)
    x[:2] = c, -c
    gamma = None if gamma is None else np.float32(gamma)
    np.testing.assert_array_equal(activations(x, c, d, 15), discretize(transform(x, c, d), 15))
    plain = discretize(transform_signed(x, c, d, gamma), 15)
    np.testing.assert_array_equal(weights(x, c, d, gamma, 15), plain)
