"""QNN: fixed point and powers of two."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.zoo.binary import BinaryConnect, Sign
from qtrain.zoo.qnn import METHODS, PowerOfTwo, linear, nearest_exponent
from qtrain.zoo.uniform import Filled

N = 64
PICK = hp.settings(max_examples=20)
run = functools.partial(jax.jit, static_argnums=0)(lambda quantizer, x: quantizer(x))
gradient = functools.partial(jax.jit, static_argnums=0)(
    lambda quantizer, x: jax.grad(lambda x: quantizer(x).sum())(x)
)


def inputs(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(2, N) * 10.0 ** rng.uniform(-20, 20)
    x[:2] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("bits", [2, 4, 8])
@PICK
@hp.given(seed=st.integers(0, 999))
def test_linear_is_its_formula(bits, seed):
    """clip(round(x 2^(k-1)) / 2^(k-1), -1, 1 - 2^(1-k)): every step of it is exact in float32.

    Kills: zoo/qnn.py: `fixed1.{bits - 1}` -> `fixed1.{bits}`; `clip_gradient=True` removed.
    """
    x = np.random.default_rng(seed).normal(size=N).astype(np.float32)
    x[:3] = 1, -1, 1 - 2.0 ** (1 - bits)
    half = 2 ** (bits - 1)
    want = np.clip(np.rint(x * half) / half, -1, 1 - 1 / half)
    np.testing.assert_array_equal(run(linear(bits), x), want)
    inside = (x >= -1) & (x <= 1 - 1 / half)
    np.testing.assert_array_equal(gradient(linear(bits), x), inside.astype(np.float32))


@pytest.mark.parametrize("bits", [2, 3, 6, 8])
@PICK
@hp.given(seed=st.integers(0, 999))
def test_powers_are_nearest_by_logarithm(bits, seed):
    """Exponents are round(log2|x|) in float64, from that of the largest |x| 2^(bits - 1) - 1 of
    them down; odd, and the same the second time, jitted and not.

    Kills: zoo/qnn.py: `np.sqrt(0.5)` -> `0.75`, and -> `0.5`; `top - 2 ** (self.bits - 1) + 2` ->
    `+ 1`; `jnp.where(x < 0, -power, power)` -> `power`.
    """
    x, quantizer = inputs(seed), PowerOfTwo(bits=bits)
    with np.errstate(divide="ignore"):
        exponent = np.rint(np.log2(np.abs(x.astype(np.float64))))
    top = exponent.max()
    least = max(top - 2 ** (bits - 1) + 2, -126)
    want = np.sign(x) * 2.0 ** np.clip(exponent, least, top)
    got = np.asarray(run(quantizer, x))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got, quantizer(jnp.asarray(x)))
    np.testing.assert_array_equal(run(quantizer, -x), -got)
    np.testing.assert_array_equal(run(quantizer, got), got)
    assert len(np.unique(got)) <= 2**bits - 1
    np.testing.assert_array_equal(gradient(quantizer, x), 1)


def test_exponents_of_the_whole_range():
    """Powers of two, and the float32 numbers beside 2^(e + 1/2).

    Kills: zoo/qnn.py: `mantissa <= ` -> `mantissa < `; `, 127)` -> `, 128)`.
    """
    e = np.arange(-126, 127)
    root = np.float32(np.sqrt(0.5)) * np.exp2((e + 1).astype(np.float64)).astype(np.float32)
    assert float(np.float32(np.sqrt(0.5))) < np.sqrt(0.5)  # so it rounds down
    find = jax.jit(nearest_exponent)
    np.testing.assert_array_equal(find(np.exp2(e.astype(np.float64)).astype(np.float32)), e)
    np.testing.assert_array_equal(find(root), e)
    np.testing.assert_array_equal(find(np.nextafter(root, np.float32(np.inf))), e + 1)
    assert find(np.float32(3.4e38)) == 127


@pytest.mark.parametrize("bits", [2, 6])
def test_zeros_stay_and_what_is_not_finite_is_seen(bits):
    """Kills: zoo/qnn.py: `jnp.where(size == 0, 0, ` removed; `jnp.isfinite(most)` left out."""
    zeros = jnp.zeros(N)
    np.testing.assert_array_equal(run(PowerOfTwo(bits=bits), zeros), zeros)
    np.testing.assert_array_equal(run(PowerOfTwo(bits=bits), zeros.at[3].set(1))[:3], 0)
    for bad in (np.nan, np.inf, -np.inf):
        assert np.isnan(run(PowerOfTwo(bits=bits), zeros.at[3].set(bad))).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear(1), "linear bits must be 2 to 16, not 1"),
        (lambda: PowerOfTwo(bits=9), "logarithmic bits must be 2 to 8, not 9"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_methods():
    plain, errors = METHODS
    assert plain.settings() == {"weight": BinaryConnect(), "activation": linear(2)}
    assert plain.settings(4, 1) == {
        "weight": Filled(quantizer=linear(4)),
        "activation": Sign(),
    }
    assert errors.settings() == plain.settings() | {"error": PowerOfTwo(bits=6)}
    assert PowerOfTwo(bits=5).describe() == "5-bit powers of two"
