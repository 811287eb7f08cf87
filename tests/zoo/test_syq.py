"""SYQ: which weights share a scale, and what learns from which gradient."""

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from weights import SHAPE, UNIT, weights

from qtrain.nn import Learned
from qtrain.zoo.syq import METHODS, SYQ
from qtrain.zoo.uniform import Clipped

OVER = {"pixel": (2, 3), "row": (1, 2, 3), "layer": (0, 1, 2, 3)}  # axes that share a scale


@pytest.mark.parametrize(
    ("group", "conv", "line", "dense"),
    [
        ("pixel", (3, 5, 1, 1), (3, 1, 1), (1, 1)),
        ("row", (3, 1, 1, 1), (3, 1, 1), (1, 1)),
        ("layer", (1, 1, 1, 1), (1, 1, 1), (1, 1)),
    ],
)
def test_groups(group, conv, line, dense):
    """Kernels of two, one and no spatial axes. Kills: `len(kernel) - 2` -> `len(kernel) - 1`."""
    shape = SYQ(group=group).shape
    assert (shape((3, 5, 2, 4)), shape((3, 2, 4)), shape((7, 9))) == (conv, line, dense)


@pytest.mark.parametrize("eta", [0.0, 0.05])
@pytest.mark.parametrize("group", list(OVER))
@hp.settings(max_examples=10)
@hp.given(weights(), st.integers(0, 999))
def test_values_and_gradients(group, eta, w, seed):
    """alpha t; dalpha = sum of g t over the group, within its rounding; dw = alpha g, g at zeros.

    Scales start from the group's mean |w|: n roundings. Kills: `w < 0` of binary codes -> `w <=
    0` (zoo/binary.py: `x < 0` -> `x <= 0`); `self.eta > 0` -> `self.eta >= 0`; `n == 1` -> `d >
    1`; the straight-through estimator left out; `jnp.where(codes == 0, 1, self.alpha[...])` ->
    `self.alpha[...]`.
    """
    rng = np.random.default_rng(seed)
    settings = SYQ(eta=eta, group=group)
    module = settings.module(jnp.asarray(w))
    start = np.abs(w.astype(float)).mean(OVER[group], keepdims=True)
    np.testing.assert_allclose(module.alpha[...], start, rtol=w.size * UNIT)
    alpha = rng.uniform(0.5, 2, start.shape).astype(np.float32)
    g = rng.normal(size=SHAPE).astype(np.float32)
    module.alpha[...] = jnp.asarray(alpha)
    graph, numbers = nnx.split(module, Learned)
    got, pull = jax.vjp(lambda w, numbers: nnx.merge(graph, numbers)(w), jnp.asarray(w), numbers)
    codes = np.where(w < 0, np.float32(-1), np.float32(1))
    if eta > 0:
        codes *= np.abs(w) > np.abs(w).max() * np.float32(eta)
    np.testing.assert_array_equal(got, alpha * codes)
    dw, slopes = pull(jnp.asarray(g))
    np.testing.assert_array_equal(dw, np.where(codes == 0, g, alpha * g))
    want = (g.astype(float) * codes).sum(OVER[group], keepdims=True)
    slack = w.size * UNIT * np.abs(g).sum()
    np.testing.assert_allclose(slopes["alpha"][...], want, atol=slack)


@hp.given(weights())
def test_codes(w):
    """At most three, two if binary; monotone, odd but for zeros, and codes of codes are the same.

    Kills: `w > threshold` -> `w > -threshold`, in zoo/ternary.py.
    """
    for settings, most in ((SYQ(), 3), (SYQ(eta=0.0), 2)):
        t = np.asarray(settings.codes(jnp.asarray(w)))
        assert len(np.unique(t)) <= most
        np.testing.assert_array_equal(settings.codes(jnp.asarray(t)), t)
        np.testing.assert_array_equal(settings.codes(jnp.asarray(-w))[w != 0], -t[w != 0])
        assert (np.diff(t.ravel()[np.argsort(w, axis=None)]) >= 0).all()


def test_method():
    """One bit is binary, two are ternary; activations only where they are asked for."""
    (method,) = METHODS
    assert method.settings()["weight"] == SYQ()
    assert method.settings(1, 4) == {"weight": SYQ(eta=0.0), "activation": Clipped(bits=4)}
    assert method.places(2, None) == {"weight": SYQ()}


def test_mistakes():
    with pytest.raises(ValueError, match=r"eta must be at least 0 and below 1, not 1\.5"):
        SYQ(eta=1.5)
    with pytest.raises(ValueError, match="unknown group 'channel': one of pixel, row, layer"):
        SYQ(group="channel")
