"""One rounded addition, and the proof that a shorter sequence of instructions gives its bits."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from strategies import assert_same

import qtrain as qt
from qtrain import formats
from qtrain.ops import adder
from qtrain.ops.accumulate import accumulate


@pytest.mark.parametrize("rounding", ["nearest", "toward_zero", "align", "stochastic"])
def test_one_addition(rounding):
    """`add` on 20,000 pairs: addends up to 2^14 apart, near ties, hidden ones that float32 makes
    exact, cancellation.

    Kills: adder.py `_sum_to_odd`: bits & 1 == 0 -> True; `_add_stochastic`: small -> True.
    """
    fmt = formats.get("e6m9")
    rng = np.random.default_rng(0)
    a = np.asarray(qt.cast(jnp.asarray(rng.normal(size=20000), jnp.float32), fmt))
    b = (rng.normal(size=20000) * 2.0 ** rng.integers(-14, 15, 20000)).astype(np.float32)
    b[2::8], b[6::8] = -a[2::8], -a[6::8] * np.float32(1 + 2.0**-20)  # cancellation
    power = np.exp2(np.floor(np.log2(np.abs(a[::8]))) - 10).astype(np.float32)  # half an ulp
    b[::8] = power * rng.choice([1 - 2.0**-23, 1 + 2.0**-23], power.size)
    b[1::8] = -np.sign(a[1::8]) * 2.0**-24 * rng.uniform(0.5, 2, power.size) * np.abs(a[1::8])
    b[4::8] = a[4::8] * (rng.integers(1, 4096, 2500) * 2.0**-21).astype(np.float32)  # near ties
    word = rng.integers(0, 2**14, 20000)
    got = adder.add(a, b, fmt, rounding, jnp.asarray(word, jnp.uint32))
    want = [
        oracles.add(*x, fmt, rounding, int(w))
        for *x, w in zip(a.tolist(), b.tolist(), word, strict=True)
    ]
    assert_same(np.asarray(got), np.array(want, np.float32), a)


@pytest.mark.parametrize("rounding", ["toward_zero", "align"])
def test_truncated_sums_at_the_ends_of_float32(rounding):
    """Kills: adder.py `add`: a finite sum that overflows float32 is infinite; `_aligned`: a
    subnormal ulp wraps around (NaN).
    """
    add = lambda a, b: float(adder.add(jnp.float32(a), jnp.float32(b), fmt, rounding))  # noqa: E731
    fmt = formats.get("e8m7")
    assert add(fmt.max, fmt.max) == fmt.max
    assert add(-fmt.max, -fmt.max) == -fmt.max
    assert add(np.inf, fmt.max) == np.inf
    assert np.isnan(add(np.inf, -np.inf))
    for x in (2.0**-126, 2.0**-120, 1.9921875 * 2.0**-119):
        assert add(x, 0) == x
    assert add(2.0**-118, 1.5 * 2.0**-125) == 2.0**-118 * (1 + 2.0**-7)


def test_double_rounding_is_foreseen():
    """1 + 2^-9, then a product just below half an ulp that float32 would round up to it: bfloat16
    operands look narrow but need the general sequence. Kills: operands.py: `narrow` leaves out
    the one-rounding condition.
    """
    a = jnp.asarray([[1, 2.0**-9, 1 + 2.0**-7]], jnp.float32)
    b = jnp.asarray([[1], [1], [2.0**-10 * (1 - 2.0**-7)]], jnp.float32)
    assert qt.dot(a, b, accum=qt.Accumulator("e6m9"))[0, 0] == 1 + 2.0**-9


def test_rounded_products_are_no_exact_ones():
    """One product each that e4m3fn cannot hold: too large, of too many bits, too small.

    Kills: operands.py `narrow`: the range or the precision of products is not checked.
    """
    accum = qt.Accumulator("e6m9", product="e4m3fn")
    for a, b, want in ((32.0, 32.0, np.nan), (1.25, 1.25, 1.5), (2.0**-6, 2.0**-6, 0)):
        got = accumulate(jnp.full((1, 1, 1), a), jnp.full((1, 1, 1), b), accum)
        np.testing.assert_array_equal(got, np.full((1, 1, 1), want, np.float32))
