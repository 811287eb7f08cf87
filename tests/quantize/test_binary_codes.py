"""Binary codes against their definition, bit for bit where float32 is exact, and their laws."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from qtrain.quantize.binary_codes import BinaryCodes, alternate, values

N, GROUPS = 64, 4  # a power of two: a mean of 64 integers is a float32
UNIT = 2.0**-24  # unit roundoff of float32
RULES = ("greedy", "refined", "alternating")
# MSE of standard normal weights for 1 to 4 bits, to 0.002 [derived]
GAUSSIAN = {
    "greedy": (0.364, 0.131, 0.059, 0.033),
    "refined": (0.364, 0.125, 0.051, 0.025),
    "alternating": (0.364, 0.118, 0.037, 0.0115),
    "Lloyd-Max": (0.363, 0.1175, 0.0345, 0.0095),
}


@functools.partial(jax.jit, static_argnums=0)
def codes(quantizer, w, mask=None):
    return quantizer.codes(w, mask)


@functools.partial(jax.jit, static_argnums=0)
def quantize(quantizer, w, mask=None):
    return quantizer.quantize(w, mask)


@functools.partial(jax.jit, static_argnums=2)
def resumed(w, scales, iterations):
    return alternate(w, jnp.ones_like(w), scales, iterations)


def integers(seed: int) -> np.ndarray:
    """Integers from -31 to 31, zeros among them, (N, GROUPS).

    Every step of the greedy rule is exact up to three codes: what is left after two is a multiple
    of 2^-12 below 2^5, and so a sum of 64 of them has 23 bits.
    """
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 32, GROUPS)
    return (rng.integers(-31, 32, (N, GROUPS)) % (size + 1) * rng.choice([-1, 1], (N, 1))).astype(
        np.float32
    )


def heavy(seed: int) -> np.ndarray:
    """Student's t of 4, of any size, (N, GROUPS)."""
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, (N, GROUPS)) * 10.0 ** rng.uniform(-3, 3, GROUPS)).astype(np.float32)


SEEDS = st.integers(0, 10**6)
INTEGERS, HEAVY = st.builds(integers, SEEDS), st.builds(heavy, SEEDS)


def error(w, quantized) -> np.ndarray:
    """Sum of squares, in float64, of each group."""
    return ((np.float64(w) - np.float64(quantized)) ** 2).sum(0)


@hp.given(INTEGERS)
def test_greedy_is_its_definition(w):
    """b_i = sign(r), sign(0) = 1; a_i = mean|r|; r - a_i b_i next: all bits.

    Kills: quantize/binary_codes.py: `left < 0` -> `left <= 0`; `left - scales[-1] * code` -> `w -
    scales[-1] * code`.
    """
    found = codes(BinaryCodes(bits=3), w)
    left = w.astype(np.float64)
    for scale, code in zip(found.scales, found.codes, strict=True):
        sign = np.where(left < 0, -1, 1)
        np.testing.assert_array_equal(code, sign)
        np.testing.assert_array_equal(scale, abs(left).mean(0))
        left = left - abs(left).mean(0) * sign


@hp.given(HEAVY)
def test_one_bit_twice_is_one_bit_once(w):
    """Every bit: the mean of equal numbers is that number, though their sum was rounded.

    Kills: quantize/binary_codes.py: `first + _solve(...)` -> `first`.
    """
    for rule in RULES:
        once = quantize(BinaryCodes(rule=rule), w[:63])  # 63: a division that rounds
        np.testing.assert_array_equal(quantize(BinaryCodes(rule=rule), once), once)


@hp.given(INTEGERS)
def test_a_second_greedy_pass_shifts_the_two_scales(w):
    """With m = mean(b1 b2): a1' = a1 + a2 m, a2' = a2 (1 - m^2), the same codes [derived].

    Where a1 > a2 > 0: a tensor that is mostly zeros has a2 > a1, and its values change sign.
    Every number up to a1' is exact; of a2', the sum rounds 64 times, its fit takes that out.
    Kills: quantize/binary_codes.py: `refine=self.rule != "greedy"` -> `refine=True`.
    """
    first = codes(BinaryCodes(bits=2), w)
    (a1, a2), (b1, b2) = np.float64(first.scales), np.float64(first.codes)
    fine = (a1 > a2) & (a2 > 0)
    m = (b1 * b2).mean(0)
    second = codes(BinaryCodes(bits=2), values(first))
    np.testing.assert_array_equal(second.codes[:, :, fine], first.codes[:, :, fine])
    np.testing.assert_array_equal(second.scales[0][fine], (a1 + a2 * m)[fine])
    np.testing.assert_allclose(second.scales[1][fine], (a2 * (1 - m**2))[fine], rtol=4 * UNIT)


def test_greedy_codes_of_mostly_zeros_change_sign():
    """Where a1 < a2 zeros become negative: what the assumption of the test before leaves out."""
    w = jnp.zeros((10, 1)).at[0].set(1.0)  # a1 = 0.1, a2 = 0.18
    got = np.asarray(quantize(BinaryCodes(bits=2), w))
    np.testing.assert_allclose(got[1:], -0.08, rtol=1e-5)


@hp.given(HEAVY)
def test_two_refined_bits_are_two_means(w):
    """|w| becomes the mean of those above mean|w|, or of those below: so again and again.

    Least squares with codes sign(w) and sign(|w| - mean|w|), up to their product, has one value for
    each of the two. Kills: quantize/binary_codes.py: the factor of the elimination -> `0 *
    inverse[i]`.
    """
    size = abs(w.astype(np.float64))
    above = size >= size.mean(0)
    mean = np.where(
        above, (size * above).sum(0) / above.sum(0), (size * ~above).sum(0) / (~above).sum(0)
    )
    once = quantize(BinaryCodes(bits=2, rule="refined"), w)
    top = size.max(0)
    near = abs(size - size.mean(0)).min(0) > 1e-5 * size.mean(0)  # else the mean's rounding decides
    np.testing.assert_allclose((once / top)[:, near], (np.sign(w) * mean / top)[:, near], atol=1e-6)
    twice = quantize(BinaryCodes(bits=2, rule="refined"), once)
    np.testing.assert_allclose(twice / top, once / top, atol=8 * UNIT)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("rule", ["refined", "alternating"])
@hp.given(w=HEAVY)
def test_scales_are_least_squares(rule, bits, w):
    """What is left is orthogonal to every code: mean(r b_i) is a rounding of the values.

    The scales are rounded once, each, after a second fit whose own errors are of second order.
    Kills: quantize/binary_codes.py: `factor = rows[j][i] * inverse[i]` -> `factor = 0 *
    inverse[i]`; `range(i + 1, k)` of the back substitution -> `range(i + 2, k)`.
    """
    found = codes(BinaryCodes(bits=bits, rule=rule), w)
    a, b = np.float64(found.scales), np.float64(found.codes)
    left = w.astype(np.float64) - (a[:, None] * b).sum(0)
    bound = 8 * bits * UNIT * (abs(w).max(0) + abs(a).sum(0))
    assert (abs((left * b).mean(1)) <= bound).all()


@hp.given(HEAVY)
def test_more_codes_and_better_rules_err_less(w):
    """For greedy and refined codes, which are nested; and refined <= greedy of two bits, whose
    codes are the same, alternating <= refined of any. But for rounding: 1e-5 of the weights' power.

    Kills: quantize/binary_codes.py: `w > middle` -> `w > 0 * middle`.
    """
    slack = 1e-5 * (np.float64(w) ** 2).sum(0)
    found = {
        (rule, bits): error(w, quantize(BinaryCodes(bits=bits, rule=rule), w))
        for rule in RULES for bits in (1, 2, 3)
    }  # fmt: skip
    for bits in (1, 2):
        for rule in ("greedy", "refined"):
            assert (found[rule, bits + 1] <= found[rule, bits] + slack).all()
    for bits in (1, 2, 3):
        assert (found["alternating", bits] <= found["refined", bits] + slack).all()
    assert (found["refined", 2] <= found["greedy", 2] + slack).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_gaussian_errors(bits):
    """MSE within 0.002, and Lloyd-Max <= alternating <= refined <= greedy [derived].

    4096 quantiles of the normal distribution stand for it; they lose the tails beyond them, whose
    power, 2 phi(3.7) 3.7, is 0.0003 of the whole.
    Kills: quantize/binary_codes.py: `fori_loop(0, iterations - 1` -> `fori_loop(0, 0`; `left = w -
    values(found)` -> `left = w - found.scales[0] * found.codes[0]`.
    """
    w = jnp.asarray(norm.ppf((np.arange(4096) + 0.5) / 4096)[:, None], jnp.float32)
    got = [error(w, quantize(BinaryCodes(bits=bits, rule=r), w)).item() / 4096 for r in RULES]
    want = [GAUSSIAN[rule][bits - 1] for rule in RULES]
    np.testing.assert_allclose(got, want, atol=0.002)
    assert got[0] >= got[1] >= got[2] - 1e-6  # equal at one bit
    assert got[2] >= GAUSSIAN["Lloyd-Max"][bits - 1] - 0.0005  # as printed


@pytest.mark.parametrize("per", ["channel", "layer"])
@pytest.mark.parametrize("rule", RULES)
@hp.given(w=HEAVY, seed=SEEDS)
def test_few_values_and_zeros_where_masked(rule, per, w, seed):
    """At most 2^k values in a group, beside zeros where masked; those have no influence: the rest
    is as if it were alone, but for the order of its sums.

    Kills: quantize/binary_codes.py: `* kept` of `_nearest` left out; `-kept, kept` -> `-1.0, 1.0`;
    `self.per == "channel"` -> `"layer"`.
    """
    rng = np.random.default_rng(seed)
    mask = rng.permuted(np.arange(w.size).reshape(w.shape) // GROUPS < N // 2, axis=0)
    quantizer = BinaryCodes(bits=2, rule=rule, per=per)
    got = np.asarray(quantize(quantizer, w, mask))
    assert (got[~mask] == 0).all()
    rest = [x.T[mask.T].reshape(GROUPS, -1).T for x in (w, got)]  # half of each column
    groups = rest[1].T if per == "channel" else [rest[1]]
    assert all(len(np.unique(q)) <= 4 for q in groups)
    np.testing.assert_array_equal(got, quantize(quantizer, np.where(mask, w, 7), mask))
    size = abs(rest[0]).max()
    alone = quantize(quantizer, rest[0])
    decided = abs(rest[1] - alone) < 1e-5 * size  # or a tie of rounding, of few weights
    assert decided.mean() > 0.9


@hp.given(HEAVY, st.integers(-40, 40))
def test_scales_with_the_weights(w, power):
    """Q(s w) = s Q(w), every bit for powers of two; Q(-w) = -Q(w), where nothing left is 0.

    Kills: quantize/binary_codes.py: `(levels[:-1] + levels[1:]) / 2` -> `levels[:-1] + 0.1`.
    """
    for rule in RULES:
        quantizer = BinaryCodes(bits=3, rule=rule)
        got = quantize(quantizer, w)
        scaled = quantize(quantizer, np.ldexp(w, power))
        np.testing.assert_array_equal(scaled, np.ldexp(got, power))
        np.testing.assert_array_equal(quantize(quantizer, -w), -got)


@hp.given(HEAVY)
def test_alternation_stays_where_it_is(w):
    """From its own scales, its values come back: the nearest of a value is itself.

    Kills: quantize/binary_codes.py: levels that are not sorted.
    """
    found = codes(BinaryCodes(bits=3, rule="alternating"), w)
    own = values(found)
    again = values(resumed(own, found.scales, 2))
    np.testing.assert_allclose(again / abs(w).max(), own / abs(w).max(), atol=16 * UNIT)


@pytest.mark.parametrize("rule", RULES)
def test_degenerate_groups(rule):
    """Equal weights, zeros, one weight: no NaN. A NaN or an infinity is not lost.

    Kills: quantize/binary_codes.py: `rows[i][i] > _DEPENDENT * gram[i][i]` -> `rows[i][i] ==
    rows[i][i]`.
    """
    w = np.zeros((N, GROUPS), np.float32)
    w[:, 1], w[0, 2], w[:, 3] = -0.3, 2.0, np.where(np.arange(N) % 2, 0.7, -0.7)
    quantizer = BinaryCodes(bits=3, rule=rule)
    got = np.asarray(quantize(quantizer, w))
    np.testing.assert_array_equal(got[:, :2], w[:, :2])
    np.testing.assert_allclose(got[:, 3], w[:, 3], rtol=4 * UNIT)
    assert np.isfinite(got).all()
    nothing = np.asarray(quantize(quantizer, w, np.zeros_like(w, bool)))
    np.testing.assert_array_equal(nothing, np.zeros_like(w))
    for bad in (np.nan, np.inf):
        broken = w.copy()
        broken[5, 1] = bad
        got = np.asarray(quantize(quantizer, broken))
        assert np.isnan(got[:, 1]).all()
        assert np.isfinite(got[:, [0, 2, 3]]).all()


def test_shapes_and_gradient():
    """Any shape, its dtype; channels are the last axis; the gradient is that of the identity."""
    w = jnp.asarray(heavy(0)).reshape(4, 16, GROUPS)
    quantizer = BinaryCodes(bits=2)
    got = np.asarray(jax.jit(quantizer)(w))
    np.testing.assert_array_equal(got.reshape(N, GROUPS), quantize(quantizer, w.reshape(N, GROUPS)))
    assert jax.eval_shape(quantizer, w.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert jax.jit(quantizer)(jnp.float32(0.3)) == jnp.float32(0.3)
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(quantizer(w) * jnp.arange(GROUPS))))(w)
    np.testing.assert_array_equal(gradient, jnp.broadcast_to(jnp.arange(GROUPS), w.shape))
    assert quantizer.describe() == "2-bit greedy codes, per channel"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "bits must be 1 to 8, not 0"),
        ({"rule": "best"}, "unknown rule 'best': greedy, refined or alternating"),
        ({"per": "row"}, "scales are per channel or layer, not per 'row'"),
        ({"iterations": 0}, "iterations must be at least 1, not 0"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message) as problem:
        BinaryCodes(**settings)
    assert "\n" not in str(problem.value)
