"""Weights that a constraint changes over time, and the optimizer's gradients through it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qtrain import optim
from qtrain.optim import Constraint, constrained, deploy, project

PARAMS = {"a": {"kernel": jnp.linspace(-1, 1, 8)}, "b": {"kernel": jnp.linspace(-2, 2, 8)}}
GRADS = jax.tree.map(lambda w: 0.5 + w, PARAMS)
STEPS = 6


@dataclasses.dataclass(frozen=True)
class Pruned(Constraint):
    """The smaller half is gone from the first step on; signs are shipped."""

    def init(self, w, steps):
        return {"mask": jnp.abs(w) > jnp.median(jnp.abs(w)), "last": jnp.int32(steps)}

    def project(self, w, state, step, steps):
        return jnp.where(state["mask"], w, 0), {**state, "last": jnp.int32(steps) - step}

    def gradient(self, g, w, state):
        return jnp.where(state["mask"], g, 0)

    def deploy(self, w, state):
        return jnp.sign(w)


CONSTRAINTS = {"a/kernel": Pruned()}


def run(tx, params, steps):
    state = tx.init(params)
    for step in range(steps):
        params, state = project(params, state, CONSTRAINTS, jnp.int32(step), STEPS)
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_pruned_weights_stay_gone():
    """Through momentum and decay; other weights move as without a constraint.

    Kills: optim/constrained.py: `return constraints[name].gradient(g, w, state.kept[name])` ->
    `return g`; `moved, kept[name] =` -> `moved, _ =`.
    """
    inner = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    params, state = run(constrained(inner, CONSTRAINTS, STEPS), PARAMS, STEPS)
    free = PARAMS
    memory = inner.init(PARAMS)
    for _ in range(STEPS):
        updates, memory = inner.update(GRADS, memory, free)
        free = optax.apply_updates(free, updates)
    mask = np.abs(PARAMS["a"]["kernel"]) > np.median(np.abs(PARAMS["a"]["kernel"]))
    np.testing.assert_array_equal(params["a"]["kernel"][~mask], 0)
    np.testing.assert_array_equal(params["a"]["kernel"][mask], free["a"]["kernel"][mask])
    np.testing.assert_array_equal(params["b"]["kernel"], free["b"]["kernel"])
    assert state.kept["a/kernel"]["last"] == 1  # the last step was number STEPS - 1


def test_what_is_shipped():
    """Kills: optim/constrained.py: `constraints[name].deploy(w, kept[name])` -> `w`."""
    tx = constrained(optax.sgd(0.1), CONSTRAINTS, STEPS)
    params, state = run(tx, PARAMS, 2)
    shipped = deploy(params, state, CONSTRAINTS)
    np.testing.assert_array_equal(shipped["a"]["kernel"], np.sign(params["a"]["kernel"]))
    np.testing.assert_array_equal(shipped["b"]["kernel"], params["b"]["kernel"])


def test_inside_a_loss_scale():
    """A bad step changes no weight and nothing that the constraint keeps.

    Kills: optim/constrained.py: `is_leaf=is_ours` of `project` removed.
    """
    tx = optim.loss_scaled(constrained(optax.sgd(0.1), CONSTRAINTS, STEPS), 1024.0)
    params, state = project(PARAMS, tx.init(PARAMS), CONSTRAINTS, jnp.int32(0), STEPS)
    kept = state.inner.kept
    assert kept["a/kernel"]["last"] == STEPS
    bad = jax.tree.map(lambda g: g.at[0].set(jnp.inf), GRADS)
    updates, state = tx.update(bad, state, params)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0), updates)
    jax.tree.map(np.testing.assert_array_equal, state.inner.kept, kept)


def test_a_plain_constraint_changes_nothing():
    one, other = (
        run_free(tx) for tx in (constrained(optax.sgd(0.1), {"a/kernel": Constraint()}, STEPS),
                                constrained(optax.sgd(0.1), {}, STEPS))
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, one, other)


def run_free(tx):
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    return optax.apply_updates(PARAMS, updates)


def test_errors():
    tx = constrained(optax.sgd(0.1), {"c/kernel": Pruned()}, STEPS)
    with pytest.raises(ValueError, match="no weight is called 'c/kernel': there are a/kernel, b/"):
        tx.init(PARAMS)
    tx = constrained(optax.sgd(0.1), CONSTRAINTS, STEPS)
    with pytest.raises(ValueError, match="constrained weights need themselves"):
        tx.update(GRADS, tx.init(PARAMS))
    with pytest.raises(ValueError, match="one ConstrainedState is needed"):
        project(PARAMS, optax.sgd(0.1).init(PARAMS), CONSTRAINTS, jnp.int32(0), STEPS)
