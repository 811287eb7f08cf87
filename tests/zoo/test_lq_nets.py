"""LQ-Nets: levels, thresholds and the step of the basis against float64, and a quantized model."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qtrain as qt
from qtrain.nn import Rule, quantize_model
from qtrain.zoo.lq_nets import METHODS, LearnedBasis, least_squares, rounded, sorted_levels

UNIT = 2.0**-24
ROWS, CHANNELS = 90, 3
BITS = (1, 2, 3, 4)
PICK = hp.settings(max_examples=20)
ALL = [LearnedBasis(bits=b, signed=s) for b in BITS for s in (True, False)]
NAMES = [f"{q.bits}{'s' if q.signed else 'u'}" for q in ALL]


def problem(settings, seed: int):
    """Values (ROWS, CHANNELS) and a basis that need not be ordered, (bits, CHANNELS)."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-2, 2)
    x = rng.normal(size=(ROWS, CHANNELS)) * scale
    v = rng.uniform(0.2, 1, (settings.bits, CHANNELS)) * scale
    return x.astype(np.float32), v.astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def quantize(settings, x, v):
    return rounded(x, sorted_levels(v, settings.codes)[0])


@functools.partial(jax.jit, static_argnums=0)
def step(settings, x, v):
    return least_squares(x, v, *sorted_levels(v, settings.codes))


def all_levels(settings, v) -> np.ndarray:
    """All b v in float64, (2^bits, CHANNELS)."""
    return settings.codes.astype(np.float64) @ v.astype(np.float64)


@pytest.mark.parametrize("settings", ALL, ids=NAMES)
@PICK
@hp.given(seed=st.integers(0, 999))
def test_each_value_takes_the_nearest_level_of_its_channel(settings, seed):
    """Thresholds are midpoints. A level is a sum of 4 numbers, a midpoint of two: 6 u of the
    largest level.

    Kills: zoo/lq_nets.py: `(levels[:-1] + levels[1:]) * 0.5` -> `levels[:-1]`; `jnp.argsort(levels`
    -> `jnp.argsort(0 * levels`; `x > threshold` -> `x > level`; `2 * numbers - 1` -> `numbers`.
    """
    x, v = problem(settings, seed)
    y = np.asarray(quantize(settings, x, v))
    np.testing.assert_array_equal(y, rounded(x, sorted_levels(jnp.asarray(v), settings.codes)[0]))
    levels = all_levels(settings, v)
    slack = 6 * UNIT * np.abs(levels).max()
    distance = np.abs(x[:, None].astype(np.float64) - levels)
    assert (np.abs(x - y) <= distance.min(1) + slack).all()
    assert (np.abs(y[:, None] - levels).min(1) <= slack).all()
    assert all(len(np.unique(column)) <= 2**settings.bits for column in y.T)
    assert (np.diff(np.take_along_axis(y, x.argsort(0), 0), axis=0) >= 0).all()
    np.testing.assert_array_equal(quantize(settings, y, v), y)
    if settings.signed:
        np.testing.assert_array_equal(quantize(settings, -x, v), -y)


@pytest.mark.parametrize("settings", ALL, ids=NAMES)
@PICK
@hp.given(seed=st.integers(0, 999))
def test_a_step_never_adds_error_for_given_codes(settings, seed):
    """Least squares with the ridge, against numpy's in float64; so is any part of the step.

    |x - B v'|^2 + delta |v' - v|^2 is least at v', and its second term is 0 at v. Float32 sums and
    a solve of a matrix of condition kappa: 100 u kappa of the largest |v|.

    Kills: zoo/lq_nets.py: `total[..., None] * codes` -> `count[..., None] * codes`;
    `jnp.where(m, x, 0)` -> `x`; `codes)[order]` -> by the inverse of the order.
    """
    x, v = problem(settings, seed)
    got = np.asarray(step(settings, x, v), np.float64)
    for c in range(CHANNELS):
        column, old = x[:, c].astype(np.float64), v[:, c].astype(np.float64)
        levels = all_levels(settings, v)[:, c]
        distance = np.sort(np.abs(column[:, None] - levels), axis=1)
        hp.assume(len(levels) == 1 or (np.diff(distance)[:, 0] > 1e-5 * np.abs(levels).max()).all())
        b = settings.codes[np.abs(column[:, None] - levels).argmin(1)].astype(np.float64)
        matrix = b.T @ b + 1e-4 * np.eye(len(old))
        want = np.linalg.solve(matrix, b.T @ column + 1e-4 * old)
        kappa = np.linalg.cond(matrix)
        if kappa > 1e4:
            continue
        off = 100 * UNIT * kappa * max(np.abs(want).max(), np.abs(old).max())
        np.testing.assert_allclose(got[:, c], want, rtol=0, atol=off)
        before, after, part = (
            ((column - b @ basis) ** 2).sum()
            for basis in (old, got[:, c], 0.9 * old + 0.1 * got[:, c])
        )
        assert after <= before * (1 + 1e-5)
        assert part <= before * (1 + 1e-5)


def test_first_values_are_those_of_the_source():
    """v_i = 2^i 2 (0.6745) / (2^K - 1); 2^i 0.6745 sqrt(2 / (k k out)) / 2^(K - 1).

    Kills: zoo/lq_nets.py: `shape[:-2]` -> `shape[:-1]`; `2 ** (self.bits - 1)` -> `2**self.bits`.
    """
    v = LearnedBasis(bits=2).first((3, 3, 5, 8))
    np.testing.assert_allclose(v, [[0.6745 * 2 / 3], [0.6745 * 4 / 3]], rtol=2 * UNIT)
    want = 0.6745 * np.sqrt(2 / 72) / 4 * np.array([1, 2, 4])[:, None].repeat(8, 1)
    np.testing.assert_allclose(LearnedBasis(bits=3, signed=True).first((3, 3, 5, 8)), want,
                               rtol=2 * UNIT)  # fmt: skip
    dense = LearnedBasis(bits=1, signed=True).first((5, 8))
    np.testing.assert_allclose(dense, np.full((1, 8), 0.6745 * 0.5), rtol=2 * UNIT)


@pytest.mark.parametrize("settings", ALL[2:4], ids=NAMES[2:4])
def test_training_moves_a_tenth_of_the_way_after_its_use(settings):
    """v <- 0.9 v + 0.1 v', from the values just rounded by v; evaluation keeps it.

    Kills: zoo/lq_nets.py: `KEPT * v + (1 - KEPT) * new` swapped; `if not self` -> `if self`.
    """
    basis = settings.module(jnp.zeros((4, CHANNELS)))
    x = 2 * jax.random.normal(jax.random.key(0), (ROWS, CHANNELS))
    old = basis.v[...]
    y = basis(x)
    np.testing.assert_array_equal(y, rounded(x, sorted_levels(old, settings.codes)[0]))
    columns = x.reshape(-1, old.shape[1])
    new = least_squares(columns, old, *sorted_levels(old, settings.codes))
    np.testing.assert_allclose(basis.v[...], 0.9 * old + 0.1 * new, rtol=8 * UNIT)
    moved = basis.v[...]
    basis.use_running_average = True
    basis(x)
    np.testing.assert_array_equal(basis.v[...], moved)


def test_gates():
    """1 for weights; for activations 1{x <= largest level}, below 0 too [zhang2018lqnets, code].

    Kills: zoo/lq_nets.py: `-jnp.inf, top` -> `0, top`; `jnp.inf if self` -> `levels[-1] if self`.
    """
    x = jnp.linspace(-3, 3, ROWS * CHANNELS).reshape(ROWS, CHANNELS)
    for settings in ALL[2:4]:
        basis = settings.module(jnp.zeros((4, CHANNELS)))
        basis.use_running_average = True
        top = np.inf if settings.signed else float(basis.v[...].sum())
        got = jax.grad(lambda x, basis=basis: basis(x).sum())(x)
        np.testing.assert_array_equal(got, np.asarray(x) <= top)


@pytest.mark.parametrize("settings", ALL, ids=NAMES)
def test_what_has_no_answer_keeps_the_basis(settings):
    """Zeros, equal values, and a NaN: the basis stays finite, and the NaN is seen.

    Kills: zoo/lq_nets.py: `jnp.where(jnp.isfinite(new[..., 0]), ...)` removed;
    `jnp.where(jnp.isnan(x), x, levels[0])` -> `levels[0]`.
    """
    x, v = problem(settings, 0)
    for value in (0, 1, -5, 100):
        new = np.asarray(step(settings, np.full_like(x, value), v))
        assert np.isfinite(new).all()
        assert np.abs(new).max() <= 10 * max(abs(value), np.abs(v).max())
    x[3, 1] = np.nan
    np.testing.assert_array_equal(step(settings, x, v)[:, 1], v[:, 1])
    y = np.asarray(quantize(settings, x, v))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


def test_an_unused_code_keeps_its_number_and_no_other():
    """All values are near 0 or v_0: v_0 becomes their mean, but for 1e-4 in 45, and v_1 stays.

    Kills: zoo/lq_nets.py: `max(RIDGE, 1e-6 * len(x))` -> `0`.
    """
    x = np.tile(np.float32([0, 1.1] * (ROWS // 2))[:, None], CHANNELS)
    v = np.tile(np.float32([[1], [10]]), CHANNELS)
    got = step(LearnedBasis(bits=2), x, v)
    np.testing.assert_allclose(got, np.float32([[1.1], [10]]) * np.ones(CHANNELS), rtol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def trained(settings, x, v):
    def once(_, v):
        return 0.9 * v + 0.1 * step(settings, x, v)

    return jax.lax.fori_loop(0, 150, once, v)


def test_two_bits_of_a_gaussian_come_near_to_the_best_levels():
    """Lloyd's four levels have an error of 0.1175; levels +-v0 +-v1 are Lloyd's form, so the
    basis should arrive there, within the error of a sample, 3 / sqrt(n) of it.
    """
    settings = LearnedBasis(bits=2, signed=True)
    x = np.random.default_rng(0).normal(size=(20_000, 1)).astype(np.float32)
    v = trained(settings, x, jnp.array([[0.3], [0.6]]))
    error = float(((x - np.asarray(quantize(settings, x, v))) ** 2).mean())
    assert abs(error - 0.1175) <= 3 * 0.1175 / np.sqrt(len(x)) + 1e-3


def test_a_model_tracks_its_bases():
    """Forward and gradient under jit; bases move in training, each layer's own, and have no
    gradient.

    Kills: zoo/lq_nets.py: `nnx.BatchStat` -> `nnx.Param`.
    """
    places = METHODS[0].settings(2, 2)
    config = qt.DotConfig(lhs=places["activation"], rhs=places["weight"])
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(
        nnx.Conv(2, 4, (3, 3), rngs=rngs), nnx.relu, nnx.Conv(4, 3, (3, 3), rngs=rngs)
    )
    quantize_model(net, [Rule(".*", config)])
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    x = jnp.abs(jax.random.normal(jax.random.key(1), (4, 5, 5, 2)))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params, rest, x):
        model = nnx.merge(graph, params, rest, copy=True)
        y = model(x)
        return (y**2).sum(), nnx.state(model, nnx.BatchStat)

    (value, after), grads = loss(params, rest, x)
    assert np.isfinite(value)
    leaves = jax.tree.leaves(grads)
    assert len(leaves) == 4
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in leaves)
    before = jax.tree.leaves(nnx.state(net, nnx.BatchStat))
    shapes = sorted(v.shape for v in before)
    assert shapes == [(2, 1), (2, 1), (2, 3), (2, 4)]
    moved = zip(before, jax.tree.leaves(after), strict=True)
    assert all((a != b).any() and np.isfinite(b).all() for a, b in moved)


def test_mistakes_and_words():
    for bits in (0, 5):
        with pytest.raises(ValueError, match=f"basis bits must be 1 to 4, not {bits}"):
            LearnedBasis(bits=bits)
    assert LearnedBasis().describe() == "2 bits, learned basis per layer"
    assert LearnedBasis(signed=True).describe() == "2 bits, learned basis per channel"
    assert METHODS[0].settings() == {
        "weight": LearnedBasis(signed=True),
        "activation": LearnedBasis(),
    }
