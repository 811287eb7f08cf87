"""One step: float32 equals plain nnx and optax bit for bit; sharding changes only native sums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from train import tiny

import qtrain as qt
from qtrain import optim
from qtrain.models import create as create_model
from qtrain.recipes.base import Adam, LossScale, Momentum, Update
from qtrain.train import mesh as meshes
from qtrain.train.data import normalize
from qtrain.train.optimizer import moves
from qtrain.train.state import create
from qtrain.train.step import PLACES, train_step

BATCH = 16
UNIT = 2.0**-24  # unit roundoff of float32


def batch(index: int = 0):
    data = tiny.dataset()
    rows = slice(index * BATCH, (index + 1) * BATCH)
    return jnp.asarray(data.train_x[rows]), jnp.asarray(data.train_y[rows])


def start(recipe):
    program, state = create(recipe, tiny.dataset(), seed=0, steps=12)
    return jax.jit(functools.partial(train_step, program)), state


ADAM = Adam(lr=3e-3, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.01)
ORDINARY = {
    "momentum": (
        Momentum(),
        optax.chain(
            optax.add_decayed_weights(5e-4), optax.sgd(optax.cosine_decay_schedule(0.05, 12), 0.9)
        ),
    ),
    "adam": (
        ADAM,
        optax.adamw(
            optax.cosine_decay_schedule(3e-3, 12), b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.01
        ),
    ),
}


@pytest.mark.parametrize(("settings", "tx"), ORDINARY.values(), ids=ORDINARY)
def test_float32_is_ordinary_training(settings, tx):
    """Kills: `.mean()` -> `.sum()` in train/step.py, anything that touches a float32 run, and
    state.py: `("b1", "b2", "eps", "weight_decay")` without one of them.
    """
    step, state = start(tiny.float32(optimizer=settings))
    data = tiny.dataset()
    model = create_model("mlp", num_classes=10, in_shape=(8, 8, 1), rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    optimizer = tx.init(params)

    @jax.jit
    def plain(params, optimizer, x, y):
        def loss(params):
            logits = nnx.merge(graph, params)(normalize(x, data.mean, data.std))
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, optimizer = tx.update(jax.grad(loss)(params), optimizer, params)
        return optax.apply_updates(params, updates), optimizer

    for i in range(3):
        state, _ = step(state, *batch(i))
        params, optimizer = plain(params, optimizer, *batch(i))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "settings", [Momentum(), pytest.param(ADAM, marks=pytest.mark.slow)], ids=["momentum", "adam"]
)
def test_weights_stay_on_their_grid(settings):
    """Kills: `if program.update_fmt is None` -> `if True` in train/step.py is not seen here (it
    needs a jump of 2^13); `optim.round_params(params` -> `(params` in train/state.py is."""
    step, state = start(tiny.fp8(optimizer=settings))
    for i in range(3):
        for leaf in jax.tree.leaves((state.params, state.optimizer.inner._replace(count=0.0))):
            np.testing.assert_array_equal(leaf, qt.cast(leaf, "e6m9"))
        state, _ = step(state, *batch(i))


def test_rounded_adam_gets_its_settings():
    """One update of the recipe's transformation and of optim.adam, bit for bit.

    Kills: train/optimizer.py: `return optim.adam(rate, **chosen,` -> `return optim.adam(rate,`.
    """
    recipe = tiny.fp8(optimizer=ADAM, loss_scale=None, update=Update(fmt="e5m6"))
    rate = optax.cosine_decay_schedule(3e-3, 12)
    plain = optim.adam(rate, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.01, fmt="e5m6")
    weights = optim.round_params({"w": jax.random.normal(jax.random.key(0), (64,))}, "e5m6")
    grads = {"w": jax.random.normal(jax.random.key(1), (64,))}
    found = [
        tx.update(grads, tx.init(weights), weights, key=jax.random.key(2))[0]["w"]
        for tx in (moves(recipe, 12, weights).transform, plain)
    ]
    np.testing.assert_array_equal(*found)


def test_a_step_reuses_its_buffers():
    program, state = create(tiny.fp8(), tiny.dataset(), seed=0, steps=12)
    step = jax.jit(functools.partial(train_step, program), donate_argnums=0)
    step(state, *batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.optimizer)))


def test_a_skipped_step_changes_no_weight():
    """A loss scale of 1e38 overflows the FP8 errors.

    Kills: `jnp.where(finite, u, jnp.zeros_like(u))` -> `u` in optim/loss_scale.py.
    """
    step, state = start(tiny.fp8(loss_scale=LossScale(init=1e38)))
    after, row = step(state, *batch())
    assert (row["skipped"], row["broken"], after.step) == (1, -1, 1)
    for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_broken_place_is_named():
    step, state = start(tiny.float32())
    params = jax.tree.map(lambda w: w.at[(0,) * w.ndim].set(jnp.nan), state.params)
    assert PLACES[step(state._replace(params=params), *batch())[1]["broken"]] == "weights"
    huge = jax.tree.map(lambda w: jnp.full_like(w, 1e30), state.params)
    assert (
        PLACES[step(state._replace(params=huge), *batch())[1]["broken"]] == "outputs of the model"
    )


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(tiny.fp8(), marks=pytest.mark.slow), tiny.float32()],
    ids=lambda r: r.key,
)
def test_eight_devices(recipe):
    """From the same state, one step on one device and on eight.

    The loss is a mean of n positive losses. Two orders of summation differ by at most
    2 (n - 1) u sum(e_i) / n, u = 2^-24 [higham2002accuracy, eq. (4.4)]. The sums in the recipe's
    GEMMs have a defined order: its forward pass, and all its weight matrices after the step,
    are equal bit for bit. In float32 the native GEMMs may add in another order on a device
    with fewer rows, which moves the logits by `_forward_bound`, and each loss by at most twice
    the largest of these.

    Kills: `batch[index]` -> `batch[: len(batch[index])]` in train/mesh.py: all get one share.
    """
    step, state = start(recipe)
    for i in range(3):
        losses, states = {}, {}
        for devices in (1, 8):
            mesh = meshes.create(devices, BATCH)
            x, y = (meshes.share(mesh, np.asarray(a)) for a in batch(i))
            states[devices], row = step(meshes.place(mesh, state), x, y)
            losses[devices] = float(row["loss"])
        bound = 2 * BATCH * UNIT * losses[1]
        if recipe.accumulator is None:
            bound += 2 * _forward_bound(state.params, batch(i)[0])
        else:
            _same_matrices(states[1].params, states[8].params)
        assert abs(losses[1] - losses[8]) <= bound
        state = jax.tree.map(lambda a: jnp.array(np.asarray(a)), states[1])


def _same_matrices(one, eight):
    flat = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(eight), strict=True)
    for (path, a), b in flat:
        if a.ndim == 2:
            np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def _forward_bound(params, images) -> float:
    """How far two orders of summation can move a logit of the MLP: 2 K u sum |x||w| per layer,
    carried on through |w| (ReLU does not stretch)."""
    data = tiny.dataset()
    x = np.abs(np.asarray(normalize(images, data.mean, data.std), np.float64)).reshape(BATCH, -1)
    moved = np.zeros_like(x)
    for layer in ("hidden1", "hidden2", "head"):
        w = np.abs(np.asarray(params[layer]["kernel"][...], np.float64))
        b = np.abs(np.asarray(params[layer]["bias"][...], np.float64))
        moved = 2 * (w.shape[0] + 1) * UNIT * (x @ w + b) + moved @ w
        x = x @ w + b
    return float(moved.max())
