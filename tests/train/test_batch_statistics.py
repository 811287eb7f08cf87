"""Statistics that a model keeps from step to step: updated in training, used in evaluation,
resumed bit for bit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train import tiny
from train.test_loop import interrupt_at, lines, weights

from qtrain.models import create as create_model
from qtrain.quantize import Affine
from qtrain.recipes import banner2018scalable as banner
from qtrain.recipes.banner2018scalable import Options
from qtrain.recipes.base import Recipe, baseline
from qtrain.train import mesh as meshes
from qtrain.train.data import normalize
from qtrain.train.loop import Settings, fit
from qtrain.train.state import create
from qtrain.train.step import eval_step, train_step

BATCH = 16
U = 2.0**-24


def recipe(model: str = "mlp", **options) -> Recipe:
    """On the MLP, tracked activations alone; on small_cnn_bn, all of the paper."""
    if model == "mlp":
        options = {"norm": "batch", **options}
    small = {"model": model, "batch_size": BATCH, "epochs": 1}
    return dataclasses.replace(banner.recipe(Options(**options)), **small)


def batch(index: int = 0):
    data = tiny.dataset()
    rows = slice(index * BATCH, (index + 1) * BATCH)
    return jnp.asarray(data.train_x[rows]), jnp.asarray(data.train_y[rows])


def start(chosen: Recipe):
    program, state = create(chosen, tiny.dataset(), seed=0, steps=6)
    evaluate = jax.jit(functools.partial(eval_step, program))
    return jax.jit(functools.partial(train_step, program)), evaluate, state


def first_range(stats) -> tuple[float, float]:
    """The running range of the images."""
    tracker = stats["hidden1"]["dot_general"]["lhs"]
    return tracker["low"][...].item(), tracker["high"][...].item()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 6 steps of the whole paper."""
    folder = tmp_path_factory.mktemp("whole")
    return fit(recipe("small_cnn_bn"), tiny.dataset(), Settings(folder=folder, quiet=True))


@pytest.mark.slow  # test_worker_runs.py resumes by default
def test_interrupt_and_resume(whole, tmp_path, monkeypatch):
    """Same metrics, same weights, same running ranges, bit for bit."""
    settings = Settings(folder=tmp_path, quiet=True)
    chosen = recipe("small_cnn_bn")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        stopped = fit(chosen, tiny.dataset(), settings)
    assert (stopped.interrupted, stopped.step) == (True, 3)
    resumed = fit(chosen, tiny.dataset(), dataclasses.replace(settings, resume=True))
    assert lines(tmp_path) == lines(whole.folder)
    for a, b in zip(weights(tmp_path), weights(whole.folder), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (resumed.accuracy, resumed.loss) == (whole.accuracy, whole.loss)
    assert np.isfinite(whole.loss)


def test_running_ranges_follow_the_batches():
    """Of the first layer, whose input is known: running <- 0.1 running + 0.9 new, from 0.

    A few roundings of numbers below 4 a step. Kills: statistics that
    stay those of the start.
    """
    step, _, state = start(recipe())
    data, low, high = tiny.dataset(), 0.0, 0.0
    for i in range(2):
        images = normalize(batch(i)[0], data.mean, data.std).reshape(BATCH, -1)
        new = [np.asarray(b).item() for b in Affine(range="sample_mean").bounds(images)]
        low, high = 0.1 * low + 0.9 * new[0], 0.1 * high + 0.9 * new[1]
        state, row = step(state, *batch(i))
        assert row["broken"] == -1
        np.testing.assert_allclose(first_range(state.stats), (low, high), atol=64 * U)


def test_evaluation_takes_the_running_ranges():
    """An image's loss does not depend on the others of its batch, as it would by their range;
    another running range is another loss. Evaluation changes nothing.

    Sums of two halves and of the whole differ by 16 roundings. Kills: `model.eval()` left out of
    train/state.py.
    """
    step, evaluate, state = start(recipe(bits=4))
    state, _ = step(state, *batch())
    images, labels = batch(1)
    images = images.at[: BATCH // 2].set(images[: BATCH // 2] // 2)  # halves of other ranges
    hidden = np.full(BATCH, -1, np.int32)

    def loss(rows, stats=state.stats):
        chosen = jnp.asarray(np.where(np.isin(np.arange(BATCH), rows), labels, hidden))
        dark = jnp.where((chosen >= 0)[:, None, None, None], images, 0)
        return evaluate(state.params, stats, dark, chosen)["loss"].item()

    whole = loss(range(BATCH))
    parts = loss(range(8)) + loss(range(8, 16))
    assert abs(whole - parts) <= 32 * U * whole
    wider = jax.tree.map(lambda x: 2 * x, state.stats)
    assert loss(range(BATCH), wider) != whole


def test_batch_norm_keeps_its_statistics():
    """nnx's own BatchNorm in a float32 run: what the model itself tracks when it is called.

    The step computes the same formulas, compiled with their gradient: sums of up to 16 x 64
    values in another order, 2 x 1024 u of numbers below the largest of them.
    """
    step, _, state = start(baseline(recipe("small_cnn_bn")))
    model = create_model("small_cnn_bn", num_classes=10, in_shape=(8, 8, 1), rngs=nnx.Rngs(0))
    data = tiny.dataset()
    images, labels = batch()
    nnx.jit(lambda model, x: model(x))(model, normalize(images, data.mean, data.std))
    after, _ = step(state, images, labels)
    want = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    got = jax.tree.leaves(after.stats)
    assert len(got) == len(want) == 6
    for a, b, old in zip(got, want, jax.tree.leaves(state.stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2048 * U * max(np.abs(b).max(), 1))
        assert (a != old).all()


def test_a_sharded_batch_has_one_running_range():
    """One step on one device and on eight: the range of the whole batch, by sums in another order,
    the same on every device.
    """
    step, _, state = start(recipe())
    found = {}
    for devices in (1, 8):
        mesh = meshes.create(devices, BATCH)
        x, y = (meshes.share(mesh, np.asarray(a)) for a in batch())
        after, _ = step(meshes.place(mesh, state), x, y)
        found[devices] = first_range(after.stats)
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(after.stats))
    np.testing.assert_allclose(found[8], found[1], atol=64 * U)


def test_no_batch_norm_to_replace():
    chosen = recipe(norm="range")
    with pytest.raises(ValueError, match="has no batch normalization to replace: take") as found:
        create(chosen, tiny.dataset(), seed=0, steps=6)
    assert "\n" not in str(found.value)


def test_replicas_that_do_not_divide_the_batch():
    chosen = recipe("small_cnn_bn", replicas=3)
    with pytest.raises(ValueError, match="a batch of 16 cannot be normalized in 3 equal parts"):
        create(chosen, tiny.dataset(), seed=0, steps=6)


def test_chunks_longer_than_the_batch():
    """The last normalization has 16 values per channel."""
    chosen = recipe("small_cnn_bn", chunks=16)
    with pytest.raises(ValueError, match=r"at least 2 values per channel .* not 1"):
        create(chosen, tiny.dataset(), seed=0, steps=6)
