"""Mutants of formats, roundings and rounded sums; `test_mutants.py` runs them."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """`old`, found once in `file`, becomes `new`; `tests` (pytest arguments) must then fail."""

    file: str
    old: str
    new: str
    tests: str


NUMBERS = {
    "a finite sum overflows": Mutant(
        "qtrain/ops/adder.py",
        "jnp.where(finite, jnp.clip(total, -most, most), total)",
        "total",
        "tests/ops/test_adder.py -k truncated_sums",
    ),
    "rounded products have any range": Mutant(
        "qtrain/ops/operands.py",
        "        ok &= top <= math.log2(held.max)\n",
        "",
        "tests/ops/test_adder.py -k no_exact_ones",
    ),
    "rounded products have any precision": Mutant(
        "qtrain/ops/operands.py",
        "(bits <= held.precision) & (quantum >= _smallest_exp(held))",
        "(quantum >= _smallest_exp(held))",
        "tests/ops/test_adder.py -k no_exact_ones",
    ),
    "rounded products are never subnormal": Mutant(
        "qtrain/ops/operands.py",
        "(bits <= held.precision) & (quantum >= _smallest_exp(held))",
        "(bits <= held.precision)",
        "tests/ops/test_adder.py -k no_exact_ones",
    ),
    "one bit too few": Mutant(
        "qtrain/quantize/cast.py",
        "magic = _f32(field + np.uint32(23 - fmt.man << 23 | 0x400000))",
        "magic = _f32(field + np.uint32(24 - fmt.man << 23 | 0x400000))",
        "tests/quantize/test_properties.py -k error_is_bounded",
    ),
    "values do not stay": Mutant(
        "qtrain/quantize/cast.py",
        "    rounded = _u32((jnp.abs(x) + magic) - magic)\n    return _finish",
        "    rounded = _u32((jnp.abs(x) + magic) - magic) + (1 << 23 - fmt.man)\n"
        "    return _finish",
        "tests/quantize/test_properties.py -k idempotent",
    ),
    "no subnormals": Mutant(
        "qtrain/quantize/cast.py",
        "bits & INFINITY, np.uint32(fmt.emin + 127 << 23)",
        "bits & INFINITY, np.uint32(fmt.emin - fmt.man + 127 << 23)",
        "tests/quantize/test_cast.py -k ml_dtypes",
    ),
    "the sign is lost": Mutant(
        "qtrain/quantize/cast.py",
        "_f32(_u32(y) | (bits & SIGN))",
        "_f32(_u32(y))",
        "tests/quantize/test_properties.py -k odd",
    ),
    "integers keep -0": Mutant(
        "qtrain/quantize/cast.py",
        "y = jnp.where(y == 0, np.float32(0), y)",
        "y = y + 0.0",
        "tests/quantize/test_cast.py -k rational_arithmetic",
    ),
    "random bits of half the width": Mutant(
        "qtrain/quantize/cast.py",
        ">> np.uint32(32 - nbits)",
        ">> np.uint32(33 - nbits)",
        "tests/quantize/test_properties.py -k unbiased",
    ),
    "stochastic keeps a bit more": Mutant(
        "qtrain/quantize/cast.py",
        "    mask = np.uint32(0xFFFFFFFF << (23 - fmt.man) & 0xFFFFFFFF)\n    truncated",
        "    mask = np.uint32(0xFFFFFFFF << (22 - fmt.man) & 0xFFFFFFFF)\n    truncated",
        "tests/quantize/test_cast.py -k gfloat",
    ),
    "ties of toward_odd": Mutant(
        "qtrain/quantize/reference.py",
        "up = inexact & ~odd",
        "up = inexact & odd",
        "tests/quantize/test_cast.py -k rational_arithmetic",
    ),
    "nearest_away breaks ties down": Mutant(
        "qtrain/quantize/reference.py",
        "up = (rest >= half) & inexact",
        "up = (rest > half) & inexact",
        "tests/quantize/test_cast.py -k rational_arithmetic",
    ),
    "variant B truncates": Mutant(
        "qtrain/quantize/reference.py",
        '    if variant == "B":',
        '    if variant == "never":',
        "tests/quantize/test_cast.py -k given_bits",
    ),
    "the hash ends early": Mutant(
        "qtrain/quantize/bits.py",
        "    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x846CA68B)\n",
        "",
        "tests/quantize/test_bits.py",
    ),
    "the second key word is left out": Mutant(
        "qtrain/quantize/bits.py",
        "* np.uint32(0x7FEB352D)\n    h = (h ^ (h >> np.uint32(15))) + k1",
        "* np.uint32(0x7FEB352D)\n    h = h ^ (h >> np.uint32(15))",
        "tests/quantize/test_bits.py -k shifts",
    ),
    "the second key word comes last": Mutant(
        "qtrain/quantize/bits.py",
        "(15))) + k1\n    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x846CA68B)",
        "(15)))\n    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x846CA68B) + k1",
        "tests/quantize/test_bits.py -k shifts",
    ),
    "raw keys seed the hash": Mutant(
        "qtrain/quantize/bits.py",
        '    key = fold(key, "random bits")\n',
        "",
        "tests/quantize/test_bits.py -k small_keys",
    ),
    "the scale underflows": Mutant(
        "qtrain/quantize/scale.py",
        "        scale = jnp.clip(scale, _LEAST, _MOST)\n",
        "",
        "tests/quantize/test_scale.py -k all_sizes",
    ),
    "folding ignores the part": Mutant(
        "qtrain/quantize/bits.py",
        "key = jax.random.fold_in(key, number)",
        "key = jax.random.fold_in(key, 0 * number)",
        "tests/quantize/test_bits.py -k places",
    ),
    "the worst scale": Mutant(
        "qtrain/quantize/scale.py",
        "argmin",
        "argmax",
        "tests/quantize/test_scale.py -k mse",
    ),
    "the end of the range does not move": Mutant(
        "qtrain/quantize/estimator.py",
        "(x >= clip[0]) & (x <= clip[1])",
        "(x > clip[0]) & (x < clip[1])",
        "tests/quantize/test_quantizer.py -k clipped",
    ),
    "scaled values overflow": Mutant(
        "qtrain/quantize/scale.py",
        "return jnp.where(jnp.isfinite(y), jnp.clip(y, np.float32(low), np.float32(high)), y)",
        "return y * np.float32(1 + 2.0**-4)",
        "tests/quantize/test_quantizer.py -k fill",
    ),
    "NaN is a number": Mutant(
        "qtrain/formats/float.py",
        'return codes - (2 if self.top == "fn" else 1)',
        "return codes - 1",
        "tests/formats",
    ),
    "the residual of TwoSum is dropped": Mutant(
        "qtrain/ops/adder.py",
        "(jnp.abs(error) > 0) & (bits & np.uint32(1) == 0)",
        "(jnp.abs(error) > jnp.inf) & (bits & np.uint32(1) == 0)",
        "tests/ops/test_adder.py -k one_addition",
    ),
    "rounding to odd without odd": Mutant(
        "qtrain/ops/adder.py",
        "(jnp.abs(error) > 0) & (bits & np.uint32(1) == 0)",
        "jnp.abs(error) > 0",
        "tests/ops/test_adder.py -k one_addition",
    ),
    "shift added to a large addend": Mutant(
        "qtrain/ops/adder.py",
        "small = jnp.abs(a) < np.float32(2 * fmt.min_normal)",
        "small = jnp.abs(a) >= 0",
        "tests/ops/test_adder.py -k one_addition",
    ),
    "align by one addend": Mutant(
        "qtrain/ops/adder.py",
        "larger = jnp.maximum(jnp.abs(x), jnp.abs(other))",
        "larger = jnp.abs(x)",
        "tests/ops/test_adder.py -k one_addition",
    ),
    "short sequence rounds away": Mutant(
        "qtrain/ops/adder.py",
        "np.uint32(drop << 23 | 0x400000))\n    return (total + magic) - magic",
        "np.uint32(drop << 23 | 0x400001))\n    return (total + magic) - magic",
        "tests/ops/test_accumulate.py -k agree",
    ),
    "sums start above 0": Mutant(
        "qtrain/ops/accumulate.py",
        "jnp.full((plan.side, *total.shape), -0.0, jnp.float32)",
        "jnp.full((plan.side, *total.shape), 2.0**-140, jnp.float32)",
        "tests/ops/test_accumulate.py -k equals_the_oracle",
    ),
    "the formats of the two sums swapped": Mutant(
        "qtrain/ops/accumulate.py",
        "inner = _Level(0, formats.get_float(accum.intra or accum.fmt)",
        "inner = _Level(0, formats.get_float(accum.fmt)",
        "tests/ops/test_accumulate.py -k three_formats",
    ),
    "one stream of bits for both levels": Mutant(
        "qtrain/ops/accumulate.py",
        "outer = _Level(1, ",
        "outer = _Level(0, ",
        "tests/ops/test_accumulate.py -k stochastic_bits",
    ),
    "narrow too often": Mutant(
        "qtrain/ops/operands.py",
        "ok &= (top - quantum <= 24) | _rounds_once(bits, intra, fmt)",
        "ok &= top < jnp.inf",
        "tests/ops/test_adder.py -k foreseen",
    ),
    "overflow not foreseen": Mutant(
        "qtrain/ops/operands.py",
        "    ok &= top <= min(math.log2(f.max) for f in (fmt, intra))\n",
        "",
        "tests/ops/test_accumulate.py -k equals_the_oracle",
    ),
    "the weight gradient sees another error": Mutant(
        "qtrain/ops/conv.py",
        "x, for_wgrad, w.shape, window",
        "x, for_dgrad[:, ::-1], w.shape, window",
        "tests/ops/test_conv_sums.py",
    ),
    "toward_zero rounds away": Mutant(
        "qtrain/quantize/reference.py",
        "up = jnp.zeros_like(inexact)",
        "up = inexact",
        "tests/quantize/test_properties.py -k never_grows",
    ),
    "stochastic drops a bit more": Mutant(
        "qtrain/quantize/cast.py",
        "    mask = np.uint32(0xFFFFFFFF << (23 - fmt.man) & 0xFFFFFFFF)\n    truncated",
        "    mask = np.uint32(0xFFFFFFFF << (24 - fmt.man) & 0xFFFFFFFF)\n    truncated",
        "tests/quantize/test_properties.py -k ends_at_a_neighbour",
    ),
    "magic numbers for any width": Mutant(
        "qtrain/quantize/cast.py",
        "fmt.man > 21 or fmt.emax",
        "fmt.emax",
        "tests/quantize/test_cast.py -k limits_of_float32",
    ),
    "float32 subnormals in the short way": Mutant(
        "qtrain/quantize/cast.py",
        "    if least < -126:\n",
        "    if least < -200:\n",
        "tests/quantize/test_cast.py -k limits_of_float32",
    ),
    "levels ignore the variant": Mutant(
        "qtrain/quantize/codebook.py",
        'jnp.round(scaled) if variant == "C" else jnp.floor(scaled)',
        "jnp.round(scaled)",
        "tests/quantize/test_cast.py -k bits_to_a_codebook",
    ),
    "the first multiplication is left out": Mutant(
        "qtrain/quantize/bits.py",
        "(h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)",
        "(h ^ (h >> np.uint32(16)))",
        "tests/quantize/test_bits.py -k avalanche",
    ),
    "several keys are one": Mutant(
        "qtrain/quantize/bits.py",
        "if key.ndim != 1 - typed:",
        "if False:",
        "tests/quantize/test_bits.py -k raw_keys",
    ),
    "the rank is a float32": Mutant(
        "qtrain/quantize/scale.py",
        "top = _percentile(magnitude, self.percentile)",
        "top = jnp.percentile(magnitude, self.percentile, axis=-1, keepdims=True)",
        "tests/quantize/test_quantizer.py -k compiled_bits",
    ),
    "a percentile passes NaN over": Mutant(
        "qtrain/quantize/scale.py",
        "return jnp.where(jnp.isnan(x[..., -1:]), np.float32(np.nan), low)",
        "return low",
        "tests/quantize/test_scale.py -k at_hand",
    ),
    "a percentile is one of the values": Mutant(
        "qtrain/quantize/scale.py",
        "    if share:\n",
        "    if False:\n",
        "tests/quantize/test_scale.py -k at_hand",
    ),
    "one more than the random word": Mutant(
        "qtrain/quantize/reference.py",
        "return whole + r >= np.uint32(1 << nbits)",
        "return whole + r + 1 >= np.uint32(1 << nbits)",
        "tests/quantize/test_properties.py -k odds_are",
    ),
    "the second key word is cut": Mutant(
        "qtrain/quantize/bits.py",
        "(15))) + k1\n",
        "(15))) + (k1 >> np.uint32(1))\n",
        "tests/quantize/test_bits.py -k second_key",
    ),
    "the groups of images and outputs change places": Mutant(
        "qtrain/ops/conv.py",
        "index = jnp.moveaxis(index.reshape(rows, window.groups, -1), 1, 0)",
        "index = index.reshape(window.groups, rows, -1)",
        "tests/ops/test_conv_sums.py -k stochastic",
    ),
    "the weights' sums use the forward key": Mutant(
        "qtrain/ops/conv.py",
        'config.weight_grad, keys["weight_grad"]\n',
        'config.weight_grad, keys["forward"]\n',
        "tests/ops/test_conv_sums.py -k stochastic",
    ),
    "dilated kernels are not": Mutant(
        "qtrain/ops/conv.py",
        "start = o * window.rhs_dilation[d]",
        "start = o",
        "tests/ops/test_conv_sums.py -k everything",
    ),
    "backward keeps strides and dilations": Mutant(
        "qtrain/ops/conv.py",
        "window, strides=window.lhs_dilation, lhs_dilation=window.strides,",
        "window, strides=window.strides, lhs_dilation=window.lhs_dilation,",
        "tests/ops/test_conv_sums.py -k uneven",
    ),
    "complex sums lose a part": Mutant(
        "qtrain/ops/accumulate.py",
        "    if not jnp.issubdtype(x.dtype, jnp.floating):",
        "    if x is None:",
        "tests/ops/test_accumulate.py -k operands_are",
    ),
    "bits are or-ed": Mutant(
        "qtrain/quantize/bits.py",
        "    return h ^ (h >> np.uint32(16))",
        "    return h | (h >> np.uint32(16))",
        "tests/quantize/test_bits.py -k bit_is_fair",
    ),
}
