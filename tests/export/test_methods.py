"""Every method of the zoo as a file: its bits are those it claims, its outputs those it had."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train import tiny

from qtrain.export import Origin, export, load, write
from qtrain.nn import set_keys
from qtrain.nn.deploy import deploy
from qtrain.recipes.base import changed
from qtrain.recipes.guo2018survey import Options, recipe
from qtrain.train.state import create
from qtrain.zoo import registry

# one width for all, or what else is stored for a reason: bits of a weight
OTHER = {
    "syq": 5,  # 3 values for each of 9 positions, of which the form has one table: 19 values
    "binaryconnect_stochastic": 32,  # evaluated by its wide weights, as published
    "pq": 32,  # codes stand for pieces, which no form has: more single values than a table
    "rvq": 32,
}


@pytest.mark.parametrize("name", ["twn", "xnor", "lrnet", "kmeans"])
def test_a_method_of_each_kind(name, tmp_path):
    """Stateless, of a whole layer with and without its work, shared.

    Kills: zoo/lr_nets.py: `return likeliest(*self.probabilities())` -> `return jnp.sign(kernel)`;
    nn/deploy.py: `if hasattr(module, "narrowed"):` -> `if False:`; zoo/xnor.py: `return kernel if
    self.narrow else self.settings(kernel)` -> `return kernel`; `XnorLayer(self.settings,
    narrow=True)` -> `XnorLayer(XNOR(input_scale=False), narrow=True)`.
    """
    exported(name, tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry.METHODS))
def test_every_method(name, tmp_path):
    exported(name, tmp_path / "file")


def exported(name, path):
    """Weights before the first step, as they would be shipped."""
    method, data = registry.get(name), tiny.dataset()
    one = changed(recipe(Options(method=name)), batch_size=16, data="tiny", wire=None)
    program, state = create(one, data, seed=0, steps=6)
    begin = lambda *args: program.moves.deploy(*program.moves.begin(*args))  # noqa: E731
    params = jax.jit(begin)(state.params, state.optimizer, state.step)
    model = nnx.merge(program.eval_graph, params, program.hooks, state.stats, copy=True)
    set_keys(model, jax.random.key(0))
    found = export(deploy(model), Origin(
        recipe=one, shape=data.train_x.shape[1:], num_classes=10, mean=data.mean, std=data.std
    ))  # fmt: skip
    write(path, found)
    np.testing.assert_array_equal(outputs(load(path)), outputs(model))
    most = OTHER.get(name, method.weight_bits[0] if method.weight_bits else 32)
    for layer in ("conv2", "hidden"):  # the ends are left in float32
        assert found.tensors[f"{layer}/kernel"].bits <= most
    parts = {path.rsplit("/", 1)[1] for path in found.tensors if "/rhs/" in path}
    assert not parts  # nothing of a weight's quantizer


def outputs(model) -> np.ndarray:
    x = jax.random.normal(jax.random.key(1), (6, 8, 8, 1), jnp.float32)
    return np.asarray(nnx.jit(lambda model, x: model(x))(model, x)).view(np.uint32)
