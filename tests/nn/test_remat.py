"""nnx.remat of a quantized model: the layers run again backward, with the same random bits."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import qtrain as qt
from qtrain import nn


class Block(nnx.Module):
    """A convolution and a dense layer; without biases, whose gradients XLA would add."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), use_bias=False, rngs=rngs)
        self.dense = nnx.Linear(4, 2, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.relu(self.conv(x)))


def test_remat_keeps_the_bits():
    """Value, input and weight gradients, with scaled stochastic operands; sums are in order, so
    that XLA has no choice of bits.

    Kills: estimator.py: a rule that closes over the scale or the key (UnexpectedTracerError).
    """
    cast = qt.Cast("e4m3fn", "stochastic", qt.quantize.Scale())
    sums = qt.Accumulator("e8m13", rounding="toward_zero")
    config = qt.DotConfig(
        lhs=cast, rhs=cast, dgrad=cast, wgrad=cast,
        forward=sums, input_grad=sums, weight_grad=sums,
    )  # fmt: skip
    model = nn.quantize_model(Block(nnx.Rngs(0)), [nn.Rule(".*", config)])
    graph, params, hooks = nnx.split(nn.set_keys(model, jax.random.key(1)), nnx.Param, ...)
    x = jax.random.normal(jax.random.key(2), (2, 4, 4, 2))

    def run(forward):
        def value(params, x):
            return forward(nnx.merge(graph, params, hooks, copy=True), x)

        y, pull = jax.vjp(value, params, x)
        return y, pull(jnp.cos(y))

    call = lambda model, x: model(x)  # noqa: E731
    plain, again = jax.jit(lambda: (run(call), run(nnx.remat(call))))()
    for got, want in zip(*map(jax.tree.leaves, (again, plain)), strict=True):
        np.testing.assert_array_equal(got, want)
        assert (want != 0).any()
