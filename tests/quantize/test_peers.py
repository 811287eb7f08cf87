"""Inputs on which other libraries are wrong: each is decided here by the format's definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.quantize import cast

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("fmt", "x", "want"),
    [
        # overflow: half an ulp beyond the largest value and everything above is infinite
        ("e5m2", 65536.0, INF), ("e5m2", 8e4, INF), ("e5m2", 1.3e5, INF), ("e5m2", 131072.0, INF),
        ("e5m2", 61440.0, INF), ("e5m2", 61439.996, 57344.0), ("e4m3", 256.0, INF),
        ("e6m9", 4294967296.0, INF), ("e5m2", 3.4028234663852886e38, INF),
        # E4M3 with its one NaN has no infinity; saturation is a format of its own
        ("e4m3fn", 1000.0, NAN), ("e4m3fnsat", 1000.0, 448.0), ("e4m3fnsat", INF, 448.0),
        ("e4m3", 1000.0, INF), ("e4m3finite", 1000.0, 480.0),
        # one float32 ulp around half the smallest subnormal
        ("e5m2", 7.629395440744702e-06, 1.52587890625e-05), ("e5m2", 7.62939453125e-06, 0.0),
        ("e5m2", 7.629394076502649e-06, 0.0),
        # one ulp under a tie of subnormals: adding 2^emin in float32 would round twice
        ("e5m2", 3.814696901827119e-05, 3.0517578125e-05),
        # subnormals are numbers of the format
        ("e5m2", 1.52587890625e-05, 1.52587890625e-05),
        ("e5m2", 3.0517578125e-05, 3.0517578125e-05),
        ("e4m3", 0.001953125, 0.001953125),
        # the sign of zero
        ("e5m2", -0.0, -0.0), ("e5m2", -7.62939453125e-06, -0.0),
        # ties to even among normals and subnormals alike
        ("e2m1finite", 0.25, 0.0), ("e2m1finite", 0.75, 1.0), ("e2m1finite", 2.5, 2.0),
        ("e3m2finite", 0.03125, 0.0), ("e8m23", 3.0, 3.0), ("e8m23", 1e-45, 1e-45),
        ("e2m1finite", NAN, NAN),
    ],
)  # fmt: skip
def test_value(fmt, x, want):
    """Compared by bits, so that -0 is not 0."""
    got = np.asarray(cast(jnp.float32(x), fmt))
    want = np.float32(want)
    assert got.view(np.uint32) == want.view(np.uint32) or (np.isnan(got) and np.isnan(want))


@pytest.mark.parametrize("bits", [0x7F8005D3, 0xFF8027DA, 0x7FC00000, 0xFFFFFFFF])
@pytest.mark.parametrize("fmt", ["e5m2", "e4m3fn", "e4m3fnuz", "e6m9", "e2m1finite"])
def test_nan_stays_nan(fmt, bits):
    assert jnp.isnan(cast(jnp.asarray(np.uint32(bits).view(np.float32)), fmt))


def up_share(x: float, fmt: str, **options) -> float:
    """The share of 2^20 copies of `x` that end above it."""
    copies = jnp.full(1 << 20, x, jnp.float32)
    return float((cast(copies, fmt, jax.random.key(5), **options) > x).mean())


@pytest.mark.parametrize(
    ("fmt", "low", "ulp"), [("e4m3fn", 1.0, 0.125), ("e5m2", 1.0, 0.25), ("int8", 1.0, 1.0)]
)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_noise_is_used(fmt, low, ulp, share):
    """The up-share is the remainder, within 6 standard errors of 2^20 draws (2e-9)."""
    error = np.sqrt(share * (1 - share) / 2**20)
    assert abs(up_share(low + share * ulp, fmt) - share) < 6 * error


@pytest.mark.parametrize("fmt", ["e6m9", "e5m2", "int8"])
def test_noise_leaves_exact_values(fmt):
    x = jnp.full(1 << 16, 1.0)
    assert (cast(x, fmt, jax.random.key(0)) == 1.0).all()


@pytest.mark.parametrize(
    ("fmt", "largest", "ulp", "beyond"),
    [
        ("e5m2", 57344.0, 8192.0, INF),
        ("e4m3fn", 448.0, 32.0, NAN),
        ("e4m3fnsat", 448.0, 32.0, 448.0),
    ],
)  # fmt: skip
def test_just_above_the_largest(fmt, largest, ulp, beyond):
    """A quarter of an ulp beyond, a quarter overflows, as if the exponent went on."""
    y = np.asarray(cast(jnp.full(1 << 20, largest + ulp / 4), fmt, jax.random.key(0)))
    out = np.isnan(y) if np.isnan(beyond) else y == beyond
    if beyond == largest:
        assert out.all()
    else:
        assert abs(out.mean() - 0.25) < 6 * np.sqrt(0.25 * 0.75 / 2**20)
        assert (y[~out] == largest).all()
