"""Steps of workers that exchange encoded gradients, with narrow weights or without."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from train import tiny

from qtrain.models import create as create_model
from qtrain.nn import RangeNorm
from qtrain.optim import LossAware
from qtrain.quantize import Cast, cast, fold
from qtrain.recipes import hou2019analysis as hou
from qtrain.recipes import wang2018fp8
from qtrain.recipes.base import Adam, At, merge
from qtrain.train import mesh as meshes
from qtrain.train.data import normalize
from qtrain.train.state import create
from qtrain.train.step import _gradients, train_step
from qtrain.wire import traffic

BATCH, UNIT = 16, 2.0**-24


def recipe(model="mlp", **options):
    found = hou.recipe(hou.Options(**options))
    return dataclasses.replace(found, model=model, batch_size=BATCH, epochs=2)


def batch(index: int = 0):
    data, rows = tiny.dataset(), slice(index * BATCH, (index + 1) * BATCH)
    return data.train_x[rows], data.train_y[rows]


class Workers:
    """A recipe's steps on a mesh of N devices."""

    def __init__(self, chosen, devices: int):
        self.mesh = meshes.create(devices, chosen.batch_size)
        self.program, state = create(
            chosen, tiny.dataset(), seed=0, steps=12, mesh=self.mesh
        )  # fmt: skip
        self.state = meshes.place(self.mesh, state)
        self.step = jax.jit(functools.partial(train_step, self.program), donate_argnums=0)

    def advance(self, images, labels):
        """One step, done when this returns: the devices of a CPU share their threads."""
        shared = (meshes.share(self.mesh, x) for x in (images, labels))
        self.state, row = jax.block_until_ready(self.step(self.state, *shared))
        return row


def same_on_all_devices(tree) -> None:
    for leaf in jax.tree.leaves(tree):
        first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        assert first.shape == leaf.shape
        for other in others:
            assert first.tobytes() == other.tobytes()


def kernels(params) -> list[np.ndarray]:
    return [np.asarray(w) for w in jax.tree.leaves(params) if w.ndim > 1]


@pytest.mark.parametrize(
    ("devices", "weights", "values"),
    [
        pytest.param(1, "laq2", 3, marks=pytest.mark.slow),
        (2, "laq4", 15),
        pytest.param(8, "laq3", 7, marks=pytest.mark.slow),
    ],
)
def test_all_workers_hold_the_same_weights(devices, weights, values):
    """Every bit of the state, after each step; a kernel has no more values than codes.

    The buffers are donated: narrow and wide biases must not share one.

    Kills: train/optimizer.py: `optim.narrow(memory, stored)` -> `optax.apply_updates(
    params, updates)`; train/step.py: `exchange(program.wire, grads, ...)` -> `grads`.
    """
    chosen = recipe(weights=weights, gradients="sq3", clip=3.0)
    chosen = dataclasses.replace(chosen, optimizer=Adam(lr=0.1))  # signs change in these steps
    run = Workers(chosen, devices)
    for i in range(4):
        row = run.advance(*batch(i))
        assert row["broken"] == -1
        same_on_all_devices(run.state)
        for w, wide in zip(
            kernels(run.state.params), kernels(run.state.optimizer.wide), strict=True
        ):
            assert 3 <= np.unique(w).size <= values < np.unique(wide).size
            np.testing.assert_array_equal(np.unique(np.abs(w)), np.unique(np.maximum(w, 0)))


def test_narrow_weights_by_hand():
    """Three steps of optax.adamw on wide weights, gradients at the narrow ones, in plain nnx.

    Not compared bit for bit, since the programs differ: an Adam step is at most about lr / (1 -
    b1) per weight here and continuous in the gradient, but a code at a tie may fall either way.
    So each step starts from the state of the run, and compares wide weights within 1e-3 of the
    learning rate, except where |g| is so small (below 1e-5 of the largest) that its rounding
    error shows in g / (|g| + eps).

    Kills: optim/stored.py: `inner.update(grads, state.inner, state.wide` -> `..., params`;
    train/state.py: `params = optim.narrow(memory, quantizers)` removed.
    """
    lr = 1e-2
    settings = Adam(lr=lr, weight_decay=0.1, schedule="constant")
    chosen = dataclasses.replace(
        recipe(weights="laq3", gradients="fp"), optimizer=settings
    )  # fmt: skip
    run, data = Workers(chosen, 1), tiny.dataset()
    model = create_model("mlp", num_classes=10, in_shape=(8, 8, 1), rngs=nnx.Rngs(0))
    graph, initial = nnx.split(model, nnx.Param)
    jax.tree.map(np.testing.assert_array_equal, run.state.optimizer.wide, initial)
    tx = optax.adamw(lr, weight_decay=0.1)

    @jax.jit
    def by_hand(wide, inner, nu, x, y):
        q = LossAware(bits=3)
        narrow = jax.tree.map(lambda w, v: q(w, v) if w.ndim > 1 else w, wide, nu)

        def loss(params):
            logits = nnx.merge(graph, params)(normalize(x, data.mean, data.std))
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, grads = jax.value_and_grad(loss)(narrow)
        updates, _ = tx.update(grads, inner, wide)
        return value, grads, optax.apply_updates(wide, updates)

    for i in range(3):
        wide, inner = jax.tree.map(jnp.array, run.state.optimizer)
        value, grads, want = by_hand(wide, inner, inner[0].nu, *map(jnp.asarray, batch(i)))
        row = run.advance(*batch(i))
        assert abs(float(row["loss"]) - float(value)) <= 1e-5 * float(value)
        got = run.state.optimizer.wide
        for a, b, g in zip(*map(jax.tree.leaves, (got, want, grads)), strict=True):
            seen = np.abs(g) > 1e-5 * np.abs(g).max()
            assert (np.abs(a - b)[seen] <= 1e-3 * lr).all()


@pytest.mark.slow
def test_batch_statistics_of_workers():
    """Each worker normalizes its own share; what is tracked is their mean, the same on all.

    The mean of means is the mean of the batch, up to the order of sums of n = 16 x 64 outputs of
    magnitude r = sqrt(mean^2 + var), each of 9 products: 2 (n + 9) u r, and 10 u of what cancels
    in an output, below 9 x 5 x max |w|. The mean of variances is no more than that of the batch.

    Kills: train/step.py: `jax.lax.pmean((seen, stats), AXIS)` -> `(pmean(seen), stats)`.
    """
    stats = {}
    for devices in (1, 4):
        run = Workers(recipe("small_cnn_bn", weights="laq3", gradients="sq3"), devices)
        largest = max(float(np.abs(w).max()) for w in kernels(run.state.params))
        assert run.advance(*batch())["broken"] == -1
        same_on_all_devices(run.state)
        norm = run.state.stats["norm1"]
        stats[devices] = [np.asarray(norm[name][...], np.float64) for name in ("mean", "var")]
    (mean, var), (mean4, var4) = stats[1], stats[4]
    n, keeps = BATCH * 64, 0.1  # of the new statistics, beside the old 0 and 1
    slack = 2 * (n + 9) * UNIT * np.sqrt((mean / keeps) ** 2 + (var - 0.9) / keeps)
    slack += 2 * 10 * UNIT * 9 * 5 * largest
    assert (np.abs(mean4 - mean) <= keeps * slack + 4 * UNIT).all()
    assert (var4 <= var * (1 + 4 * n * UNIT)).all()
    assert (var4 < var * (1 - 1e-3)).any()


def test_workers_draw_their_own_bits():
    """All have the same images, and rounding of their own: the loss is the mean of four losses.

    Each of the mean's additions and the division round once.

    Kills: train/step.py: `own = jax.random.fold_in(key, ...)` -> `own = key`.
    """
    rounded = At(".*", Cast("e4m3fn", rounding="stochastic"))
    chosen = dataclasses.replace(recipe(weights="fp"), activation=(rounded,))
    run, (images, labels) = Workers(chosen, 4), batch()
    images, labels = (np.concatenate([x[:4]] * 4) for x in (images, labels))
    state = jax.tree.map(lambda x: jnp.array(np.asarray(x)), run.state)
    key = fold(jax.random.wrap_key_data(state.key), state.step)

    @jax.jit
    def alone(key):
        args = (key, jnp.float32(1), jnp.asarray(images[:4]), jnp.asarray(labels[:4]))
        return _gradients(run.program, state.params, state.stats, *args)[1]["loss"]

    losses = [float(alone(jax.random.fold_in(key, i))) for i in range(4)]
    assert len(set(losses)) == 4
    found = float(run.advance(images, labels)["loss"])
    assert abs(found - np.mean(losses)) <= 16 * UNIT * np.mean(losses)  # and a mean of 4 in each


def test_with_fp8_in_the_other_places():
    """Exchanged gradients and wang2018fp8: same bits on all devices, weights on their grid."""
    both = merge(recipe(weights="fp", gradients="sq4"), wang2018fp8.recipe())
    run = Workers(both, 2)
    for i in range(2):
        assert run.advance(*batch(i))["broken"] == -1
        same_on_all_devices(run.state)
    assert run.state.optimizer.skipped == 0
    jax.tree.map(lambda w: np.testing.assert_array_equal(w, cast(w, "e6m9")), run.state.params)


@pytest.mark.parametrize("devices", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 8))])
def test_bytes_of_the_small_cnn(devices):
    """SQ3: ten codes a word and a scale for each of eight tensors; loss, accuracy, finite: 12.

    42,404 bytes where float32 would take 423,464 and 12: 1/9.99.

    Kills: wire/stochastic.py: `pack(codes.astype(jnp.uint32), self.bits)` -> 4 bits.
    """
    blank = np.zeros((BATCH, 28, 28, 1), np.uint8)
    data = dataclasses.replace(tiny.dataset(), train_x=blank, train_y=np.zeros(BATCH, np.int32))
    mesh = meshes.create(devices, BATCH)
    program, state = create(recipe("small_cnn"), data, seed=0, steps=2, mesh=mesh)
    args = (meshes.place(mesh, state), meshes.share(mesh, blank), meshes.share(mesh, data.train_y))
    step = jax.jit(functools.partial(train_step, program), donate_argnums=0)
    sent = traffic(step.lower(*args).compile().as_text())
    shapes = (144, 16, 4608, 32, 100352, 64, 640, 10)
    assert sorted(w.size for w in jax.tree.leaves(state.params)) == sorted(shapes)
    expected = sum(4 * -(-size // 10) + 4 for size in shapes) + 12
    assert sum(t.payload for t in sent) == expected
    assert expected <= (4 * sum(shapes) + 12) / 8


def test_a_wire_needs_its_workers():
    with pytest.raises(ValueError, match="hou2019analysis exchanges gradients: it needs a mesh"):
        create(recipe(), tiny.dataset(), seed=0, steps=1)


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_range_of_the_whole_batch_whatever_the_workers(devices):
    """One step on several workers tracks the ranges that one device tracks; with a replica for
    each worker it does not. Running moments agree but for the order of float32 sums.

    Kills: train/state.py without `module.axis_name = AXIS`.
    """

    def tracked(workers: int, replicas: int):
        exchanged = recipe("small_cnn_bn", weights="fp", gradients="sq8")
        norm = RangeNorm(replicas=replicas)
        run = Workers(dataclasses.replace(exchanged, norm=norm), workers)
        run.advance(*batch())
        same_on_all_devices(run.state.stats)
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(run.state.stats)])

    alone = tracked(1, 1)
    near = functools.partial(np.allclose, alone, rtol=2.0**-12, atol=2.0**-12)
    assert near(tracked(devices, 1))
    assert not near(tracked(devices, devices))


def test_replicas_that_do_not_fit_the_workers():
    chosen = recipe("small_cnn_bn", weights="fp", gradients="sq8")
    with pytest.raises(ValueError, match="3 replicas of range normalization do not fit 2 workers"):
        Workers(dataclasses.replace(chosen, norm=RangeNorm(replicas=3)), 2)
