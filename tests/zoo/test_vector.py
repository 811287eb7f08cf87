"""Codebooks of k-means, product and residual quantization; shared weights in training."""

import itertools
import re

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qtrain.optim import constrained, project
from qtrain.zoo.clusters import (
    _farthest,
    kmeans,
    piece_kmeans,
    product_bits,
    product_kmeans,
    product_rate,
    residual_rate,
    shared_rate,
)
from qtrain.zoo.vector import METHODS, NOT_BUILT, ResidualWeights, SharedWeights, _fitting, share

UNIT = 2.0**-24
SEEDS = st.integers(0, 999)
SHAPE = (3, 3, 4, 24)  # 36 inputs, 24 outputs


def weights(seed: int, shape=SHAPE) -> np.ndarray:
    """Heavy tails, at any scale, some of them equal."""
    rng = np.random.default_rng(seed)
    w = rng.standard_t(3, shape)
    w.reshape(-1)[:50] = w.reshape(-1)[0]
    return (w * 2.0 ** rng.integers(-12, 6)).astype(np.float32)


def curvature(seed: int) -> np.ndarray:
    return 10.0 ** np.random.default_rng(seed + 1).uniform(-4, 2, SHAPE).astype(np.float32)


kmeans_ = jax.jit(kmeans, static_argnums=1)
share_ = jax.jit(share, static_argnums=2, static_argnames="mean")
gather_gradient = jax.jit(jax.grad(lambda table, codes, g: jnp.sum(table[codes] * g)))
product_ = jax.jit(product_kmeans, static_argnums=(1, 2))
shipped = jax.jit(lambda setting, w: setting.deploy(w, ()), static_argnums=0)
pieces_ = jax.jit(piece_kmeans, static_argnums=1)


def trajectory(w, k, h):
    """Lloyd of 0, 1, ..., 9 iterations."""
    return [kmeans_(w, k, h, i) for i in range(10)]


def oracle_step(x, c, h):
    """Lloyd in float64, of scalars: nearest center, then the mean."""
    codes = np.abs(x[:, None] - c).argmin(1)
    total = np.bincount(codes, h, len(c))
    sums = np.bincount(codes, h * x, len(c))
    return np.where(total > 0, sums / np.where(total > 0, total, 1), c)


@pytest.mark.parametrize("weighted", [False, True])
@hp.settings(max_examples=10)
@hp.given(seed=SEEDS)
def test_distortion_never_grows(weighted, seed):
    """By one iteration more, with or without curvature, and up to rounding.

    A center, moved by a mean of at most n differences, is off by e = 2 (n + 4) u max|w|: the error
    sum h (w - c)^2 changes by 2 e sum h |w - c| and a square.

    Kills: zoo/clusters.py: `.at[codes].add(h)[:, None]` -> `.at[codes].add(1.0)[:, None]`;
    `h[:, None] * (x -` -> `(x -`.
    """
    w = weights(seed)
    h = curvature(seed) if weighted else np.ones(SHAPE, np.float32)
    runs = trajectory(w, 8, h)
    x = w.astype(float)
    off = [np.abs(np.asarray(r.weights, float) - x) for r in runs]
    errors = [(h * d**2).sum() for d in off]
    slack = 4 * (x.size + 4) * UNIT * np.abs(x).max()
    for a, b, d in zip(errors, errors[1:], off, strict=False):
        assert b <= a + slack * (h * d).sum() + (h * slack**2).sum()
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("weighted", [False, True])
def test_lloyd_by_hand(weighted):
    """Even start over [min, max], then means, an empty center where it was [han2016deep].

    A center moves by a mean of at most 432 differences below 1: the sum errs by 432 u of it, and
    the new center, below 9, by 9 u. Kills: zoo/clusters.py: `jnp.linspace(jnp.min(x), jnp.max(x),
    k)` -> `jnp.linspace(-1, 1, k)`; `jnp.where(total > 0, total, 1), centers)` -> `..., 0)`.
    """
    w = np.zeros(SHAPE, np.float32)
    w.reshape(-1)[:432] = np.linspace(0.5, 1, 432)
    w.reshape(-1)[-1] = 9.0
    h = np.ones(SHAPE, np.float32)
    h.reshape(-1)[:200] = 5.0 if weighted else 1.0
    c = np.linspace(0, 9, 8)
    for run in trajectory(w, 8, h):
        np.testing.assert_allclose(run.table, c, atol=432 * UNIT + 9 * UNIT)
        c = oracle_step(w.reshape(-1).astype(float), c, h.reshape(-1).astype(float))
    assert (np.abs(np.asarray(run.table) - np.linspace(0, 9, 8)) < 1e-5).sum() > 4


@hp.given(seed=SEEDS)
def test_codes_are_nearest(seed):
    """Each weight has the nearest of at most k values, in ascending order.

    Up to rounding of the middle between two. Kills: zoo/clusters.py: `/ 2, x[:, 0])` ->
    `/ 3, x[:, 0])`.
    """
    w = weights(seed)
    got = kmeans_(w, 16)
    table, x = np.asarray(got.table, float), w.astype(float)
    assert (np.diff(table) >= 0).all()
    least = np.abs(x[..., None] - table).min(-1)
    assert (np.abs(np.asarray(got.weights) - x) <= least + 4 * UNIT * np.abs(x).max()).all()
    assert len(np.unique(got.weights)) <= 16


def error(got, w) -> float:
    return float(((np.asarray(got, float) - w) ** 2).sum())


def not_above(after: float, before: float, w) -> bool:
    """Up to the rounding of centers: means of at most 216 differences, as above."""
    big = 2 * (216 + 4) * UNIT * np.abs(w.astype(float)).max()
    return after <= before + 2 * big * np.sqrt(before * w.size) + big**2 * w.size


@hp.settings(max_examples=10)
@hp.given(seed=SEEDS)
def test_more_pieces_or_stages_are_never_worse(seed):
    """Of product quantization in the number of pieces; of residual quantization in both.

    Kills: zoo/clusters.py: `jnp.where(jnp.arange(k)[:, None] < 2**level, centers, twins)` ->
    `twins`; `piece_kmeans(x - total, bits)` -> `piece_kmeans(x, bits)`. zoo/vector.py:
    `self.stages)` -> `1)`.
    """
    w = weights(seed)
    by_pieces = [error(product_(w, b, 4).weights, w) for b in (1, 3)]
    by_bits = [error(shipped(ResidualWeights(bits=b, stages=1), w), w) for b in (1, 2)]
    by_stages = [error(0, w)]
    by_stages += [error(shipped(ResidualWeights(bits=2, stages=s), w), w) for s in (1, 2)]
    for errors in (by_pieces, by_bits, by_stages):
        assert all(not_above(b, a, w) for a, b in itertools.pairwise(errors))
        assert errors[-1] < errors[-2]


@hp.settings(max_examples=10)
@hp.given(seed=SEEDS)
def test_pieces_are_nearest_and_along_the_inputs(seed):
    """Product quantization is, at each place, k-means of one piece per output channel.

    So a kernel whose output channels come in two kinds has no error, and channels of one kind have
    the same codes. Kills: zoo/clusters.py: `_pieces(w, length).swapaxes(0, 1)` ->
    `_pieces(w, length)` and back; `.T.reshape(w.shape)` -> `.reshape(w.shape)`.
    """
    w = weights(seed)
    kind = np.random.default_rng(seed).integers(0, 2, SHAPE[-1])
    got = product_(w[..., kind], 3, 4)
    big = np.abs(w).max()
    np.testing.assert_allclose(got.weights, w[..., kind], atol=4 * UNIT * big, rtol=0)
    assert got.table.shape == (36 * 8,)
    codes = np.asarray(got.codes)
    np.testing.assert_array_equal(codes, codes[..., [np.argmax(kind == k) for k in kind]])
    table = np.asarray(product_(w, 3, 4).table, float).reshape(9, 8, 4)
    pieces = w.reshape(36, 24).T.reshape(24, 9, 4).astype(float)
    least = ((pieces[:, :, None] - table) ** 2).sum(-1).min(-1).sum()
    assert not_above(error(product_(w, 3, 4).weights, w), least, w)


@hp.given(seed=SEEDS)
def test_piece_centers(seed):
    """Rows have the nearest center; centers are the means of their rows, or have none; rows of
    two kinds have no error.

    Kills: zoo/clusters.py: `jnp.argmin(_distances` -> `jnp.argmax(_distances`; `jnp.mean(x,
    axis=0)` -> `0.0`.
    """
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(30, 3)).astype(np.float32)
    centers, codes = pieces_(rows, 2)
    d = ((rows[:, None] - np.asarray(centers, float)) ** 2).sum(-1)
    big = np.abs(rows).max()
    assert (d[np.arange(30), codes] <= d.min(1) + 64 * UNIT * big**2).all()
    assert len(np.unique(codes)) >= 3  # a lone row needs no second center
    np.testing.assert_allclose(pieces_(rows, 0)[0][0], rows.mean(0), atol=32 * UNIT * big)
    two = rows[rng.integers(0, 2, 30)]
    centers, codes = pieces_(two, 2)
    np.testing.assert_allclose(np.asarray(centers)[codes], two, atol=4 * UNIT * big)


def test_the_farthest_member():
    """By hand: a tie belongs to the first center; a center without members is itself.

    Kills: zoo/clusters.py: `jnp.zeros(k).at[codes].max(d)` -> the least.
    """
    rows = jnp.array([[0.0], [1.0], [5.0], [10.0], [12.0]])
    centers = jnp.array([[0.0], [10.0], [100.0], [jnp.inf]])
    np.testing.assert_array_equal(_farthest(rows, centers), [[5.0], [12.0], [100.0], [jnp.inf]])


@hp.given(seed=SEEDS)
def test_gradient_of_a_center_is_the_sum_of_its_members(seed):
    """np.add.at in float64, within the rounding of a sum; the same bits for all members.

    And, by autodiff, that of the table from which the weights are taken. Kills: zoo/vector.py:
    `.at[codes].add(g)` -> `.at[codes].set(g)`; `return total[codes]` -> `return g`; `if mean:` ->
    `if not mean:`.
    """
    rng = np.random.default_rng(seed)
    g = rng.normal(size=SHAPE).astype(np.float32)
    codes = rng.integers(0, 16, SHAPE)
    got = np.asarray(share_(g, codes, 16))
    want, scale = np.zeros(16), np.zeros(16)
    np.add.at(want, codes, g.astype(float))
    np.add.at(scale, codes, np.abs(g.astype(float)))
    count = np.bincount(codes.reshape(-1), minlength=16)
    assert (np.abs(got - want[codes]) <= (count * UNIT * scale)[codes]).all()
    auto = gather_gradient(jnp.zeros(16), codes, g)
    np.testing.assert_allclose(got, np.asarray(auto)[codes], atol=(count * UNIT * scale).max())
    for i in range(16):
        assert len(np.unique(got[codes == i])) <= 1
    mean = np.asarray(share_(g, codes, 16, mean=True))
    np.testing.assert_allclose(mean, got / count[codes], rtol=4 * UNIT)


RUNS = [
    ("momentum", SharedWeights(bits=4)),
    ("adam", SharedWeights(bits=4)),
    ("adam", SharedWeights(bits=3, length=4, gradient_of="mean")),
]
OPTIMIZERS = {
    "momentum": optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(1e-3, momentum=0.9)),
    "adam": optax.adamw(1e-2, weight_decay=0.1),
}


@pytest.mark.parametrize(("optimizer", "setting"), RUNS)
def test_members_stay_equal(optimizer, setting):
    """Bit for bit, after steps of an optimizer with state; they move, and only by their codes.

    Kills: zoo/vector.py: `return share(g, state, ...)` -> `return g`; `step == 0` -> `step == 1`.
    """
    params = {"layer": {"kernel": jnp.asarray(weights(3)), "bias": jnp.ones(24)}}
    targets = {"layer": {"kernel": jnp.asarray(weights(4)), "bias": jnp.zeros(24)}}
    constraints = {"layer/kernel": setting}
    tx = constrained(OPTIMIZERS[optimizer], constraints, 20)

    def step(carry, i):
        params, state = project(*carry, constraints, i, 20)
        grads = jax.tree.map(lambda p, t: p - t, params, targets)
        updates, after = tx.update(grads, state, params)
        seen = (params["layer"]["kernel"], state.kept["layer/kernel"])
        return (optax.apply_updates(params, updates), after), seen

    run = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), jnp.arange(20)))
    (params, _), (kernels, codes) = run(params)
    kernels = np.append(kernels, params["layer"]["kernel"][None], axis=0)
    want = jax.jit(setting.quantized)(jnp.asarray(weights(3)))
    np.testing.assert_array_equal(kernels[0], want.weights)
    np.testing.assert_array_equal(codes, np.broadcast_to(want.codes, codes.shape))
    for w in kernels:
        table = np.zeros(want.table.shape, np.float32)
        table[want.codes] = w
        np.testing.assert_array_equal(table[want.codes], w)
    assert (kernels[-1] != kernels[0]).all()


@pytest.mark.parametrize(("inputs", "length"), [(36, 4), (35, 1), (2, 2)])
def test_pieces_fit_the_layer(inputs, length):
    """4 divides 36; of 35 inputs, single ones. Kills: zoo/vector.py: `% n == 0` -> `% n != 0`."""
    w = jnp.linspace(-1, 1, inputs * 8).reshape(inputs, 8)
    got = jax.eval_shape(SharedWeights(bits=2, length=4).quantized, w)
    assert got.table.shape == (4 * inputs,)
    assert _fitting(w, 4) == length


QUANTIZERS = {
    "kmeans": lambda w: kmeans_(w, 16).weights,
    "product": lambda w: product_(w, 3, 4).weights,
    "residual": lambda w: shipped(ResidualWeights(bits=2, stages=2), w),
}


@pytest.mark.parametrize("quantize", QUANTIZERS.values(), ids=QUANTIZERS)
def test_zeros_and_what_is_not_finite(quantize):
    """Zeros stay zeros, equal weights equal; a NaN or an infinity is not rounded to a number.

    Kills: zoo/clusters.py: `jnp.where(total > 0, total, 1)` -> `total`.
    """
    np.testing.assert_array_equal(quantize(jnp.zeros(SHAPE)), np.zeros(SHAPE))
    np.testing.assert_allclose(quantize(jnp.full(SHAPE, 0.3)), np.float32(0.3), rtol=4 * UNIT)
    for bad in (np.nan, np.inf):
        got = np.asarray(quantize(jnp.asarray(weights(1)).at[1, 1, 1, 1].set(bad)))
        assert not np.isfinite(got[1, 1, 1, 1])


def test_rates():
    """By hand: 10,000 weights of 16 values, 4 bits each, and 16 floats beside them.

    Kills: zoo/clusters.py: `k * width)` -> `k)`; `* pieces / inputs` -> `* inputs / pieces`;
    `k * inputs * width` -> `k * pieces * width`; `stages * k * length` -> `k * length`.
    """
    assert shared_rate(10_000, 16) == 320_000 / (40_000 + 512)
    assert shared_rate(10_000, 16, width=16) == 160_000 / (40_000 + 256)
    assert product_bits(256, 32, 128) == 2
    # 128 x 1000 weights: 32,000 codes of 8 bits, 32 codebooks of 256 pieces of 4 floats
    assert product_rate(128, 1000, 256, 32) == 128_000 * 32 / (256_000 + 32 * 256 * 4 * 32)
    # 3 codes of 4 bits for each of 32,000 pieces, 3 codebooks of 16 pieces of 4 floats
    assert residual_rate(128, 1000, 16, 4, 3) == 128_000 * 32 / (384_000 + 3 * 16 * 4 * 32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SharedWeights(bits=0), "bits must be 1 to 12, not 0"),
        (lambda: SharedWeights(bits=13), "bits must be 1 to 12, not 13"),
        (lambda: SharedWeights(length=0), "length must be at least 1, not 0"),
        (lambda: SharedWeights(gradient_of="max"), "unknown gradient_of 'max': sum or mean"),
        (lambda: ResidualWeights(stages=0), "stages must be at least 1, not 0"),
        (lambda: ResidualWeights(length=0), "length must be at least 1, not 0"),
        (lambda: product_kmeans(jnp.zeros((3, 2)), 1, 2), "pieces of 2 do not divide 3 inputs"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_in_the_list_of_methods():
    settings = {m.name: [m.settings(b)["weight"] for b in m.weight_bits] for m in METHODS}
    assert settings["kmeans"] == [SharedWeights(bits=b) for b in (5, 8, 4, 3, 2)]
    assert [4 // s.length for s in settings["pq"]] == [2, 1, 4]  # bits per weight
    assert [s.stages for s in settings["rvq"]] == [2, 1, 4]  # likewise: 4 bits for 4 weights
    assert all(hash(s) is not None for s in itertools.chain.from_iterable(settings.values()))
    assert SharedWeights().describe() == "32 shared weights, trained"
    assert SharedWeights(bits=4, length=2).describe() == "16 shared pieces of 2 weights, trained"
    assert ResidualWeights().describe() == "2 stages of 16 pieces of 4 weights"
    assert {"hessian_kmeans", "entropy_kmeans", "q_cnn"} == set(NOT_BUILT)
