"""Gradients averaged over simulated workers, who see each other's codes alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from qtrain.quantize import fold
from qtrain.wire import Stochastic, exchange, traffic

UNIT = 2.0**-24
SQ3 = Stochastic(bits=3)
SHAPES = {"conv": (3, 3, 5), "bias": (7,)}


def grads(workers: int, dtype=jnp.float32):
    """One gradient for each worker, stacked."""
    keys = jax.random.split(jax.random.key(workers), len(SHAPES))
    return {
        name: jax.random.normal(key, (workers, *shape)).astype(dtype)
        for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)
    }


@functools.cache
def program(codec, workers: int):
    """(stacked gradients, key) -> what each worker ends with, stacked."""
    mesh = Mesh(jax.devices()[:workers], ("data",))

    def worker(stacked, key):
        mean = exchange(codec, jax.tree.map(lambda g: g[0], stacked), key, "data")
        return jax.tree.map(lambda g: g[None], mean)

    specs = (PartitionSpec("data"), PartitionSpec())
    return jax.jit(
        jax.shard_map(
            worker, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("data"), check_vma=False
        )
    )


def by_hand(codec, stacked, key, workers: int):
    """What each worker's encoding decodes to, one by one: (workers, ...), and their mean."""
    decoded = {}
    for name, g in stacked.items():
        rows = []
        for i in range(workers):
            own = fold(jax.random.fold_in(key, i), f"['{name}']")
            rows.append(codec.decode(codec.encode(g[i], own), g[i]))
        decoded[name] = np.stack([np.asarray(row, np.float64) for row in rows])
    return decoded


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_the_mean_of_single_encodings(workers):
    """Same bits everywhere, and the mean up to a sum of N: (N + 1) u of the mean magnitude.

    With the same program for all, as one program of the mesh is, equal bits need equal inputs:
    all gather the same words in the same order.

    Kills: wire/exchange.py: `codec.decode(one, g)` averaged with this worker's own g;
    `lax.axis_index(axis_name)` -> 0; `jnp.mean` -> `jnp.sum`.
    """
    stacked, key = grads(workers), jax.random.key(3)
    got = jax.device_get(program(SQ3, workers)(stacked, key))
    for name, decoded in by_hand(SQ3, stacked, key, workers).items():
        for row in got[name]:
            np.testing.assert_array_equal(row.view(np.uint32), got[name][0].view(np.uint32))
        slack = (workers + 1) * UNIT * np.abs(decoded).mean(0)
        assert (np.abs(got[name][0] - decoded.mean(0)) <= slack).all()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _errors(workers: int, draws: int, g):
    """(draws,) squared errors of the mean when all workers hold the same gradient."""
    across = jax.vmap(
        lambda key: exchange(SQ3, {"w": g}, key, "workers"),
        axis_name="workers", axis_size=workers, in_axes=None, out_axes=None,
    )  # fmt: skip
    return jax.lax.map(
        lambda key: jnp.sum((across(key)["w"] - g) ** 2), jax.random.split(jax.random.key(0), draws)
    )


def test_workers_round_independently():
    """E |mean - g|^2 is the exact variance of one divided by N, within 5 standard errors.

    Simulated workers by vmap, for many draws in one call. p is the exact chance of the upper
    level, step the distance of levels; the standard error is measured.

    Kills: wire/exchange.py: `jax.random.fold_in(key, lax.axis_index(axis_name))` -> `key`.
    """
    g = jax.random.normal(jax.random.key(9), (64,))
    step = float(jnp.abs(g).max()) / SQ3.levels
    p = np.abs(np.asarray(g, np.float64)) / step % 1
    variance = (p * (1 - p)).sum() * step**2
    for workers in (1, 2, 4, 8):
        found = np.asarray(_errors(workers, 400, g), np.float64)
        error = found.std() / np.sqrt(found.size)
        assert abs(found.mean() - variance / workers) <= 5 * error


def test_bits_differ_by_leaf_and_key():
    """Two leaves of equal gradients, and two steps.

    Kills: wire/exchange.py: `fold(worker, jax.tree_util.keystr(path))` -> `worker`.
    """
    g = jax.random.normal(jax.random.key(1), (1, 200))
    run = program(SQ3, 1)
    first, second = (
        run({"conv": g, "bias": g}, jax.random.key(seed)) for seed in (0, 1)
    )  # fmt: skip
    assert (first["conv"] != first["bias"]).any()
    assert (first["conv"] != second["conv"]).any()
    again = run({"conv": g, "bias": g}, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_one_bad_worker_is_seen_by_all():
    stacked = grads(4)
    stacked["bias"] = stacked["bias"].at[2, 0].set(jnp.inf)
    got = jax.device_get(program(SQ3, 4)(stacked, jax.random.key(0)))
    assert (~np.isfinite(got["bias"])).any(axis=1).all()
    assert np.isfinite(got["conv"]).all()


def test_dtype_and_bytes():
    """bfloat16 gradients stay so; a worker sends the words and a scale of each leaf, no more."""
    run, stacked = program(SQ3, 2), grads(2, jnp.bfloat16)
    got = run(stacked, jax.random.key(0))
    assert {g.dtype for g in got.values()} == {jnp.dtype(jnp.bfloat16)}
    sent = traffic(run.lower(stacked, jax.random.key(0)).compile().as_text())
    assert {t.kind for t in sent} == {"all-gather"}
    assert sum(t.payload for t in sent) == (5 * 4 + 4) + (1 * 4 + 4)  # 45 and 7 codes, ten a word
