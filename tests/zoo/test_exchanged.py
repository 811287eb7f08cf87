"""Random rounding: fixed point without bias, and what the methods of the wire send."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.wire import QSGD, Sign, Stochastic
from qtrain.zoo.exchanged import METHODS, TERNGRAD, fixed_point

UNIT = 2.0**-24
DRAWS = 100_000
run = functools.partial(jax.jit, static_argnums=0)(lambda quantizer, x, key: quantizer(x, key))
BY_NAME = {method.name: method for method in METHODS}


@pytest.mark.parametrize(("bits", "before"), [(8, 2), (16, 4), (12, 1)])
def test_fixed_point_has_no_bias(bits, before):
    """Means of 1e5 draws within five standard errors (12 numbers: chance 1e-5), all draws beside
    the value; those on the grid stay, those beyond it saturate.

    The variance is p (1 - p) step^2; a chance is rounded to 2^-24.

    Kills: zoo/exchanged.py: `"stochastic"` removed; `{bits - before}` -> `{bits}`.
    """
    step, top = 2.0 ** (before - bits), 2.0 ** (before - 1)
    x = np.random.default_rng(bits).uniform(-top, top - step, 16)
    x[:8] = 0, step, -step, top, 2 * top, -2 * top, step / 8, -top + step / 4
    x = x.astype(np.float32)
    got = run(fixed_point(bits, before), np.tile(x, (DRAWS, 1)), jax.random.key(bits))
    got, want = np.asarray(got, np.float64), np.clip(x.astype(np.float64), -top, top - step)
    assert (got / step == np.rint(got / step)).all()
    assert np.abs(got - want).max() < step
    p = want / step % 1
    assert (got[:, p == 0] == want[p == 0]).all()
    error = np.sqrt(p * (1 - p) / DRAWS) * step
    assert (np.abs(got.mean(0) - want) <= 5 * error + 2 * UNIT * step).all()


def test_fixed_point_in_every_place():
    """Kills: zoo/exchanged.py: `fixed_point(activation_bits, 4)` -> `2`."""
    places = BY_NAME["gupta"].settings(8, 16)
    formats = {place: quantizer.fmt for place, quantizer in places.items()}
    assert formats == {"weight": "fixed2.6", "activation": "fixed4.12", "error": "fixed1.15"}
    assert all(quantizer.needs_key for quantizer in places.values())


def test_terngrad_is_ternary_without_bias():
    """s sign(g) Bernoulli(|g| / s): three values; means of 1e5 draws within five standard errors.

    No value is beyond 2.5 sigma, so none is clipped. |g| / s, s p and s: 4 u.

    Kills: zoo/exchanged.py: `Stochastic(bits=2` -> `Stochastic(bits=3`.
    """
    g = np.array([1.0, -1.0, 0.9, -0.6, 0.3, 0.02, 0.0, -0.999], np.float32)

    @jax.jit
    @jax.vmap
    def send(key):
        return TERNGRAD.decode(TERNGRAD.encode(g, key), g)

    got = np.asarray(send(jax.random.split(jax.random.key(0), DRAWS)), np.float64)
    assert set(np.unique(got)) == {-1.0, 0.0, 1.0}
    p = np.abs(g.astype(np.float64))
    error = np.sqrt(p * (1 - p) / DRAWS)
    assert (np.abs(got.mean(0) - g) <= 5 * error + 4 * UNIT).all()


def test_terngrad_cuts_at_two_and_a_half_sigma():
    """Kills: zoo/exchanged.py: `clip=2.5` -> `clip=3.0`."""
    g = jax.random.normal(jax.random.key(1), (1000,)).at[0].set(20)
    scale = TERNGRAD.encode(g, jax.random.key(0)).scale
    np.testing.assert_allclose(scale, 2.5 * np.std(np.asarray(g, np.float64)), rtol=1e-5)


def test_methods_of_the_wire():
    """They leave all layers in float32."""
    codecs = {"terngrad": Stochastic(bits=2, clip=2.5), "qsgd": QSGD(bits=8), "signsgd": Sign()}
    for name, codec in codecs.items():
        method = BY_NAME[name]
        assert method.settings() == {"wire": codec}
        assert method.targets == ("gradient",)
        payload = codec.encode(jnp.ones((3, 2)), jax.random.key(0))
        np.testing.assert_allclose(codec.decode(payload, jnp.ones((3, 2))), 1, rtol=0.2)
