"""Formats: derived quantities against the list of their codes; names there and back; errors."""

import dataclasses
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from strategies import all_floats, float_formats, formats

from qtrain.formats import Codebook, Fixed, Float, Int, get

ML_DTYPES = {
    "e5m2": "float8_e5m2", "e4m3": "float8_e4m3", "e3m4": "float8_e3m4",
    "e4m3fn": "float8_e4m3fn", "e4m3fnuz": "float8_e4m3fnuz", "e5m2fnuz": "float8_e5m2fnuz",
    "e4m3b11fnuz": "float8_e4m3b11fnuz", "bfloat16": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize("fmt", all_floats(8), ids=lambda f: f.name)
def test_derived_quantities_equal_the_list_of_codes(fmt):
    """Kills: float.py: emax not lowered where the top exponent is taken by infinity."""
    codes = [fmt.decode(code) for code in range(fmt.num_codes)]
    finite = sorted({v for v in codes if math.isfinite(v)})
    np.testing.assert_array_equal(fmt.values, finite)
    positive = [v for v in finite if v > 0]
    assert fmt.max == positive[-1]
    assert fmt.max >= 2.0**fmt.emax > fmt.max / 2
    assert fmt.num_codes == 2**fmt.bits == 2 ** (1 + fmt.exp + fmt.man)
    assert fmt.min_subnormal == (positive[0] if fmt.man else fmt.min_subnormal)
    if fmt.emin < fmt.emax and fmt.man:
        above = positive[positive.index(fmt.min_normal) + 1]
        assert above - fmt.min_normal == fmt.min_normal * fmt.eps
    assert any(map(math.isinf, codes)) == (fmt.top == "ieee")
    nans = sum(map(math.isnan, codes))
    assert nans == {"ieee": 2 * (2**fmt.man - 1), "fn": 2, "fnuz": 1, "finite": 0}[fmt.top]


@pytest.mark.parametrize(("name", "theirs"), ML_DTYPES.items())
def test_codes_equal_ml_dtypes(name, theirs):
    """Every code means the same number."""
    fmt = get(name)
    word = np.uint8 if fmt.bits == 8 else np.uint16
    want = np.arange(fmt.num_codes, dtype=word).view(getattr(ml_dtypes, theirs)).astype(np.float64)
    got = np.array([fmt.decode(code) for code in range(fmt.num_codes)])
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(want[want == 0]))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_standard_formats_equal_finfo(name):
    fmt, info = get(name), ml_dtypes.finfo(name)
    assert fmt.max == float(info.max)
    assert fmt.min_normal == float(info.smallest_normal)
    assert fmt.min_subnormal == float(info.smallest_subnormal)
    assert fmt.eps == float(info.eps)
    assert (fmt.precision, fmt.bits) == (info.nmant + 1, info.bits)


@given(formats())
def test_names_come_back(fmt):
    """Kills: names.py: `ftz` and `sat` swapped."""
    assert get(fmt.name) == fmt
    assert hash(get(fmt.name)) == hash(fmt)


@pytest.mark.parametrize("saturate", [False, True])
def test_every_short_name_comes_back(saturate):
    """Kills: names.py: "e2m1fn" is an alias, as ml_dtypes spells a format without NaN."""
    for fmt in all_floats(9):
        fmt = dataclasses.replace(fmt, saturate=saturate)
        assert get(fmt.name) == fmt


@given(float_formats(12))
def test_a_default_bias_is_no_bias(fmt):
    """Equal formats are one format, so they share compilations."""
    assert dataclasses.replace(fmt, bias=fmt.bias_value) == fmt


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("e5m2", Float(5, 2)), ("E6M9", Float(6, 9)), ("bf16", Float(8, 7)), ("f32", Float(8, 23)),
        ("float8_e4m3fn", Float(4, 3, top="fn")), ("float4_e2m1fn", Float(2, 1, top="finite")),
        ("e2m1fn", Float(2, 1, top="fn")),
        ("e4m3b11fnuz", Float(4, 3, 11, top="fnuz")), ("e4m3ftz", Float(4, 3, subnormals=False)),
        ("e4m3fnsat", Float(4, 3, top="fn", saturate=True)), ("int8", Int(8)),
        ("uint4", Int(4, signed=False)), ("int8sym", Int(8, symmetric=True)),
        ("fixed4.4", Fixed(4, 4)), ("ternary", Codebook((-1.0, 0.0, 1.0))),
        ("pow2.3", Codebook((-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0))),
    ],
)  # fmt: skip
def test_names(name, want):
    assert get(name) == want


@pytest.mark.parametrize(
    ("name", "low", "high", "count"),
    [
        ("int8", -128, 127, 256), ("int8sym", -127, 127, 255), ("uint4", 0, 15, 16),
        ("fixed4.4", -8, 7.9375, 256), ("binary", -1, 1, 2), ("pow2.4", -1, 1, 15),
    ],
)  # fmt: skip
def test_ranges(name, low, high, count):
    fmt = get(name)
    values = fmt.values
    assert (values[0], values[-1], len(values)) == (low, high, count)
    assert (fmt.min, fmt.max, fmt.num_codes) == (low, high, count)
    assert 2 ** (fmt.bits - 1) < count <= 2**fmt.bits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Float(1, 3), "exp must be 2 to 8 bits, not 1"),
        (lambda: Float(5, 24), "man must be 0 to 23 bits, not 24"),
        (lambda: Float(5, 2, top="ocp"), "top must be ieee, fn, fnuz or finite, not 'ocp'"),
        (lambda: Float(8, 7, bias=200), "beyond float32"),
        (lambda: Int(25), "bits must be 2 to 24, not 25"),
        (lambda: Int(8, signed=False, symmetric=True), "cannot be symmetric"),
        (lambda: Fixed(0, 4), "at least 1 bit before the point"),
        (lambda: Codebook((1.0, 0.0)), "ascending"),
        (lambda: Codebook((0.1, 0.2)), "must be finite float32 values"),
        (lambda: get("e5m3x"), "unknown format 'e5m3x': did you mean e"),
        (lambda: get("flot8"), "unknown format 'flot8'"),
        (lambda: get("float8_e8m0fnu"), "unknown format 'float8_e8m0fnu'"),
        (lambda: get("e5m99"), "'e5m99' is no possible format: man must be 0 to 23"),
        (lambda: get("int99"), "'int99' is no possible format: bits must be"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
