"""Narrow weights outside, wide ones in the optimizer's state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qtrain import optim
from qtrain.optim import LossAware, StoredState, leaf_path, narrow, stored

KEY = jax.random.key(5)
TERNARY = LossAware(bits=2)
PARAMS = {
    "layer": {"kernel": jax.random.normal(KEY, (8, 6)), "bias": jnp.linspace(-1, 1, 6)},
    "head": {"kernel": jax.random.normal(jax.random.key(6), (6, 3))},
}
QUANTIZERS = {"layer/kernel": TERNARY}


def grads(seed: int):
    leaves, structure = jax.tree.flatten(PARAMS)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draws = [jax.random.normal(k, w.shape) for k, w in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, draws)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_sgd_by_hand():
    """w <- w - lr g with the wide w; outside, the ternary of it; other leaves as they are.

    Kills: optim/stored.py: `state.wide, **extra` -> `params, **extra` together with
    `apply_updates(state.wide` -> `apply_updates(params`: the narrow weights as the master copy.
    """
    tx = stored(optax.sgd(0.1), QUANTIZERS)
    state = tx.init(PARAMS)
    wide, params = PARAMS, narrow(state, QUANTIZERS)
    for step in range(3):
        g = grads(step)
        updates, state = tx.update(g, state, params)
        moved = optax.apply_updates(params, updates)
        params = narrow(state, QUANTIZERS)
        wide = jax.tree.map(lambda w, g: w + -0.1 * g, wide, g)
        equal(state.wide, wide)
        equal(params["head"], wide["head"])
        equal(params["layer"]["bias"], wide["layer"]["bias"])
        equal(params["layer"]["kernel"], TERNARY(wide["layer"]["kernel"]))
        # p + (q - p): two roundings of numbers no larger than |p| + |q|
        jax.tree.map(lambda m, p: np.testing.assert_allclose(m, p, atol=2.0**-20), moved, params)
    assert len(np.unique(params["layer"]["kernel"])) == 3


OPTIMIZERS = {
    "optax.adam": (optax.adam(0.1, b2=0.9), 0.9),
    "optax.adamw": (optax.adamw(0.1, b2=0.8, weight_decay=0.1), 0.8),
    "optax.rmsprop": (optax.rmsprop(0.1, decay=0.7), 0.7),
    "optim.adam": (optim.adam(0.1, b2=0.9, fmt="e8m21", rounding="nearest"), 0.9),
}


@pytest.mark.parametrize(("inner", "b2"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_curvature_is_the_second_moment(inner, b2):
    """nu of that very leaf, after this step: b2 nu + (1 - b2) g^2, on a grid of 22 bits at least.

    Kills: optim/stored.py: `narrow(after, quantizers)` -> with `state.inner`;
    `optax.tree.get(state, "nu")` -> `"mu"`.
    """
    seen = {}

    def spy(w, v):
        seen["w"], seen["v"] = w, v
        return TERNARY(w, v)

    quantizers = {"head/kernel": spy}
    tx = stored(inner, quantizers)
    state = tx.init(PARAMS)
    params, nu = narrow(state, quantizers), jnp.zeros((6, 3))
    for step in range(2):
        g = grads(step)
        updates, state = tx.update(g, state, params)
        moved, params = optax.apply_updates(params, updates), narrow(state, quantizers)
        jax.tree.map(lambda m, p: np.testing.assert_allclose(m, p, atol=2.0**-20), moved, params)
        nu = b2 * nu + (1 - b2) * g["head"]["kernel"] ** 2
        np.testing.assert_allclose(seen["v"], nu, rtol=2.0**-20)
        equal(seen["w"], state.wide["head"]["kernel"])
        equal(params["head"]["kernel"], TERNARY(seen["w"], seen["v"]))


def test_inside_a_loss_scale():
    """A good step is the one without a scale, bit for bit (a power of two); a bad one changes none.

    Kills: optim/paths.py: `is_leaf=is_ours` removed.
    """
    plain, scaled = (
        stored(optax.adam(0.1), QUANTIZERS),
        optim.loss_scaled(stored(optax.adam(0.1), QUANTIZERS), 1024.0),
    )
    one, two = plain.init(PARAMS), scaled.init(PARAMS)
    params = narrow(one, QUANTIZERS)
    equal(narrow(two, QUANTIZERS), params)
    _, one = plain.update(grads(0), one, params)
    _, two = scaled.update(jax.tree.map(lambda g: 1024 * g, grads(0)), two, params)
    equal(narrow(two, QUANTIZERS), narrow(one, QUANTIZERS))
    bad = jax.tree.map(lambda g: g.at[0].set(jnp.inf), grads(1))
    updates, after = scaled.update(bad, two, narrow(two, QUANTIZERS))
    equal(after.inner, two.inner)
    equal(narrow(after, QUANTIZERS), narrow(two, QUANTIZERS))
    assert not any(np.any(u) for u in jax.tree.leaves(updates))
    assert after.skipped == 1


def test_wide_weights_on_a_grid():
    """A rounded optimizer keeps the wide weights on its grid; the narrow ones need not be on it."""
    move = lambda w, u: optim.apply_updates(w, u, "e6m9")  # noqa: E731
    tx = stored(optim.sgd(0.3, fmt="e6m9"), QUANTIZERS, move)
    plain = optim.sgd(0.3, fmt="e6m9")
    tiny = {**PARAMS, "layer": jax.tree.map(lambda w: 1e-6 * w, PARAMS["layer"])}  # will jump
    wide = optim.round_params(tiny, "e6m9")
    state, inner = tx.init(wide), plain.init(wide)
    for step in range(3):
        params = narrow(state, QUANTIZERS)
        _, state = tx.update(grads(step), state, params, key=jax.random.key(step))
        updates, inner = plain.update(grads(step), inner, wide, key=jax.random.key(step))
        wide = move(wide, updates)
        equal(state.wide, wide)
        equal(state.wide, optim.round_params(state.wide, "e6m9"))
        assert len(np.unique(narrow(state, QUANTIZERS)["layer"]["kernel"])) <= 3


def test_wide_weights_move_as_told():
    """Kills: optim/stored.py: `apply_updates(state.wide` -> `optax.apply_updates(state.wide`."""
    twice = lambda w, u: jax.tree.map(lambda w, u: w + 2 * u, w, u)  # noqa: E731
    tx = stored(optax.sgd(1.0), QUANTIZERS, twice)
    state = tx.init(PARAMS)
    _, state = tx.update(grads(0), state, narrow(state, QUANTIZERS))
    equal(state.wide, jax.tree.map(lambda w, g: w - 2 * g, PARAMS, grads(0)))


def test_dtypes_and_names():
    """A bfloat16 leaf stays one; a layer may be called value, as in attention.

    Kills: optim/stored.py: `path[-1] == GetAttrKey("value")` -> every part named value dropped.
    """
    params = {"value": {"kernel": jnp.ones((2, 2), jnp.bfloat16)}, "kernel": jnp.ones((2, 2))}
    quantizers = {"value/kernel": lambda w, v: jnp.zeros_like(w, jnp.float32)}
    got = narrow(stored(optax.adam(0.1), quantizers).init(params), quantizers)
    equal(got, {"value": {"kernel": jnp.zeros((2, 2))}, "kernel": jnp.ones((2, 2))})
    assert got["value"]["kernel"].dtype == jnp.bfloat16
    paths = jax.tree_util.tree_flatten_with_path({"layers": [1, {"a": 2}]})[0]
    assert [leaf_path(path) for path, _ in paths] == ["layers/0", "layers/1/a"]


def test_mistakes():
    tx = stored(optax.sgd(0.1), QUANTIZERS)
    with pytest.raises(ValueError, match="stored weights need the narrow weights"):
        tx.update(grads(0), tx.init(PARAMS))
    wrong = stored(optax.sgd(0.1), {"layer/kernels": TERNARY})
    with pytest.raises(ValueError, match="no weight is called 'layer/kernels': there are head/ker"):
        wrong.init(PARAMS)
    with pytest.raises(ValueError, match=r"one StoredState is needed .* not 0"):
        narrow(optax.sgd(0.1).init(PARAMS), QUANTIZERS)
    with pytest.raises(ValueError, match=r"one StoredState is needed .* not 2"):
        narrow([StoredState(PARAMS, ()), StoredState(PARAMS, ())], QUANTIZERS)
