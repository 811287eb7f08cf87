"""BalancedQ: bins of equal size, and bins split at means."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.zoo.balanced import METHODS, Balanced, by_mean, by_median

N = 60  # no multiple of 8 or 16
BITS = (1, 2, 3, 4)
PICK = hp.settings(max_examples=20)
run = functools.partial(jax.jit, static_argnums=0)(lambda quantizer, x: quantizer(x))
bins = functools.partial(jax.jit, static_argnums=(0, 2))(lambda split, x, bits: split(x, bits))


def inputs(seed: int) -> np.ndarray:
    """Heavy tails, all different."""
    rng = np.random.default_rng(seed)
    return (rng.standard_t(2, N) * 10.0 ** rng.uniform(-9, 9)).astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
@PICK
@hp.given(seed=st.integers(0, 999))
def test_bins_are_of_equal_size(bits, seed):
    """Sizes differ by one at most, and bins ascend with the values.

    Kills: zoo/balanced.py: `-(-x.size * j // count) - 1` -> `x.size * j // count`; `x > ordered`
    -> `x >= ordered`; `range(1, count)` -> `range(1, count - 1)`.
    """
    x = inputs(seed)
    found = np.asarray(bins(by_median, x, bits))
    size = np.bincount(found, minlength=2**bits)
    assert len(size) == 2**bits
    assert size.max() - size.min() <= 1
    assert (np.diff(found[np.argsort(x)]) >= 0).all()


def split_at_means(x: np.ndarray, bits: int) -> np.ndarray:
    """The definition, recursively, in float64; -1 where a value is too near to a mean to say."""
    if bits == 0 or len(x) == 0:
        return np.zeros(len(x), int)
    mean = x.mean()
    upper, found = x > mean, np.zeros(len(x), int)
    if (np.abs(x - mean) <= 2.0**-18 * np.abs(x).max()).any():
        raise ValueError
    for side in (False, True):
        found[upper == side] = split_at_means(x[upper == side], bits - 1)
    return found + upper * 2 ** (bits - 1)


@pytest.mark.parametrize("bits", BITS)
@PICK
@hp.given(seed=st.integers(0, 999))
def test_means_split_bins_again_and_again(bits, seed):
    """Equal to a recursion in float64, where no value is within 2^-18 max|x| of its mean: a sum of
    60 errs by 60 u of that.

    Kills: zoo/balanced.py: `2 * bins + (` -> `bins + (`; `/ jnp.maximum(size, 1)` removed.
    """
    x = np.random.default_rng(seed).uniform(size=N).astype(np.float32)
    try:
        want = split_at_means(x.astype(np.float64), bits)
    except ValueError:
        hp.reject()
    np.testing.assert_array_equal(bins(by_mean, x, bits), want)


@pytest.mark.parametrize("split", ["median", "mean"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", BITS)
@PICK
@hp.given(seed=st.integers(0, 99))
def test_bins_are_spaced_evenly(bits, signed, split, seed):
    """Levels m i / n, or m (2 i / n - 1): float32 quotients, then one product; monotone. The
    gradient is that of the identity.

    Kills: zoo/balanced.py: `2 * bins - n if self.signed` -> `bins if self.signed`; `jnp.abs(flat)`
    -> `flat`.
    """
    x, n = inputs(seed), 2**bits - 1
    quantizer = Balanced(bits=bits, signed=signed, split=split)
    got = np.asarray(run(quantizer, x))
    j = np.arange(-n if signed else 0, n + 1, 2 if signed else 1)
    levels = (j / n).astype(np.float32) * np.abs(x).max()
    assert np.isin(got, levels).all()
    assert (np.diff(got[np.argsort(x)]) >= 0).all()
    if split == "median":  # means may leave the last bin empty, and add in another order
        assert got.max() == levels[-1]
        np.testing.assert_array_equal(got, quantizer(jnp.asarray(x)))


@pytest.mark.parametrize("quantizer", [Balanced(), Balanced(split="mean")], ids=["median", "mean"])
def test_equal_values_zeros_and_nan(quantizer):
    """What a ReLU makes zero is one bin, the lowest; a NaN is seen everywhere.

    Kills: zoo/balanced.py: `jnp.max(jnp.abs(flat))` -> `jnp.nanmax`.
    """
    x = jnp.asarray(np.maximum(inputs(0), 0) + 0.0)
    got = np.asarray(run(quantizer, x))
    assert (got[x == 0] == -x.max()).all()
    np.testing.assert_array_equal(run(quantizer, jnp.zeros(N)), 0)
    assert np.isnan(run(quantizer, x.at[3].set(jnp.nan))).all()
    np.testing.assert_array_equal(jax.grad(lambda x: run(quantizer, x).sum())(x), 1)
    assert run(quantizer, jnp.zeros((0, 3))).shape == (0, 3)
    assert run(quantizer, x.astype(jnp.bfloat16).reshape(6, 10)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "balanced bits must be 1 to 8, not 0"),
        ({"split": "mode"}, "unknown split 'mode': median or mean"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        Balanced(**settings)
    assert "\n" not in str(error.value)


def test_methods():
    (method,) = METHODS
    want = {"weight": Balanced(bits=3), "activation": Balanced(bits=2, signed=False)}
    assert method.settings(3) == want
    assert Balanced().describe() == "2 bits balanced, signed"
    assert Balanced(signed=False, split="mean").describe() == "2 bits balanced by means, from 0"
