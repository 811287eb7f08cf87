"""LAB and LAQ: exact optima, what the alternating rule promises, the authors' formulas."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from theory import loss_aware
from theory.loss_aware import Quantized, alternate, binary, brute_force, error, optimum

ROUNDING = 1e-12  # relative to sum c w^2: sums of at most 2^9 float64 terms err by 2^9 * 2^-53
SMALL = hnp.arrays(float, (4,), elements=st.integers(-40, 40).map(lambda i: i / 8))
CURVATURE = hnp.arrays(float, (4,), elements=st.integers(1, 64).map(lambda i: i / 8))
WIDE = hnp.arrays(float, (3, 32), elements=st.floats(-4, 4, width=32))
WIDE_C = hnp.arrays(float, (3, 32), elements=st.floats(0.125, 8, width=32))
BITS = st.sampled_from([2, 3, 4])


def slack(w, c):
    return ROUNDING * ((c * w**2).sum(-1) + np.finfo(float).tiny)


@hypothesis.given(w=SMALL, c=CURVATURE, bits=st.sampled_from([2, 3]))
def test_optimum_is_the_best_of_all(w, c, bits):
    """Every code tried. Kills: loss_aware.py: 2 * j - 1 without its 1 in s."""
    best, witness = optimum(w, c, bits), brute_force(w, c, bits)
    assert error(w, c, best) == pytest.approx(float(error(w, c, witness)), abs=slack(w, c), rel=0)


def test_optimum_on_unlike_weights():
    """300 vectors whose thresholds interleave. Kills: loss_aware.py: thresholds at |w_i| k / j."""
    rng = np.random.default_rng(0)
    for w, c in zip(rng.normal(size=(300, 4)), np.exp(rng.normal(size=(300, 4))), strict=True):
        best, witness = error(w, c, optimum(w, c, 3)), error(w, c, brute_force(w, c, 3))
        assert best == pytest.approx(float(witness), abs=slack(w, c), rel=0)


@hypothesis.given(w=SMALL, c=CURVATURE)
def test_binary_is_the_best_of_all(w, c):
    """All signs with their own least squares. Kills: loss_aware.py: mean without weights."""
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
    scale = np.maximum((c * w * signs).sum(-1) / c.sum(), 0)
    best = error(w, c, Quantized(scale, signs)).min()
    assert error(w, c, binary(w, c)) == pytest.approx(best, abs=slack(w, c), rel=0)


@hypothesis.given(w=WIDE, c=WIDE_C, bits=BITS)
def test_no_scale_beats_the_optimum(w, c, bits):
    """Nor does the alternating rule, whatever its scale. Kills: loss_aware.py: `<= best` as `<`."""
    best = error(w, c, optimum(w, c, bits))
    for scale in ("least_squares", "published"):
        assert (best <= error(w, c, alternate(w, c, bits, scale)) + slack(w, c)).all()
    k = loss_aware.levels(bits)
    for alpha in np.linspace(0.05, 6, 40):
        codes = loss_aware.nearest_codes(w, np.full(3, alpha), k)
        fitted = Quantized(loss_aware.least_squares_scale(w, c, codes), codes)
        assert (best <= error(w, c, fitted) + slack(w, c)).all()


@hypothesis.given(w=WIDE, c=WIDE_C, bits=BITS)
def test_alternating_never_grows(w, c, bits):
    """Each iteration of exact least squares helps, or changes nothing, from any codes.

    Kills: loss_aware.py: least squares as sum |c w b| / sum |c b|.
    """
    k = loss_aware.levels(bits)
    scales = np.abs(w).max(-1) * np.array([1.0, 0.7, 0.4])
    codes = loss_aware.nearest_codes(w, scales, k)
    before = error(w, c, Quantized(scales, codes))
    for _ in range(6):
        alpha = loss_aware.least_squares_scale(w, c, codes)
        codes = loss_aware.nearest_codes(w, alpha, k)
        after = error(w, c, Quantized(alpha, codes))
        assert (after <= before + slack(w, c)).all()
        before = after


@hypothesis.given(w=WIDE, c=WIDE_C)
def test_ternary_scales_agree(w, c):
    """The published scale is the least squares there. Kills: loss_aware.py: sum |w b| / sum |b|."""
    a, b = alternate(w, c, 2), alternate(w, c, 2, "published")
    np.testing.assert_allclose(a.weights, b.weights, atol=1e-12)
    best = optimum(w, c, 2)
    assert set(np.unique(best.codes)) <= {-1.0, 0.0, 1.0}


def test_errors_by_bits():
    """The table of `alternate`: the published scale hardly gains from bits beyond 3."""
    w, c = np.random.default_rng(0).normal(size=(200, 256)), np.ones((200, 256))
    table = {
        "optimum": [optimum(w, c, bits) for bits in (2, 3, 4, 6)],
        "least_squares": [alternate(w, c, bits) for bits in (2, 3, 4, 6)],
        "published": [alternate(w, c, bits, "published") for bits in (2, 3, 4, 6)],
    }
    printed = {
        "optimum": [0.191, 0.0464, 0.0122, 0.0008],
        "least_squares": [0.191, 0.0468, 0.0147, 0.0059],
        "published": [0.191, 0.126, 0.121, 0.120],
    }
    for name, row in table.items():
        errors = np.array([error(w, c, q) / 256 for q in row])
        sampling = 4 * errors.std(-1) / np.sqrt(200)
        assert (
            np.abs(errors.mean(-1) - printed[name]) <= sampling + 5e-4
        ).all()  # printed to 0.001


def test_one_iteration_by_hand():
    """As the authors' code: b = sign, alpha, codes, alpha, codes; halves away from zero."""
    w, c = np.array([0.1, -0.5, 0.9, 1.5]), np.array([1.0, 2.0, 1.0, 1.0])
    alpha = (0.1 + 1.0 + 0.9 + 1.5) / 5  # 0.7
    codes = np.array([0, -2, 3, 3]) / 3  # 3 w/alpha = 0.43, -2.14, 3, 3 (clipped)
    assert loss_aware.nearest_codes(w, np.array(alpha), 3) == pytest.approx(codes)
    assert loss_aware.published_scale(w, c, codes) == pytest.approx((2 / 3 + 2.4) / (4 / 3 + 2))
    assert loss_aware.least_squares_scale(w, c, codes) == pytest.approx((2 / 3 + 2.4) / (8 / 9 + 2))
    halves = loss_aware.nearest_codes(np.array([0.5, -0.5, 0.49]), np.array(1.0), 1)
    assert halves.tolist() == [1, -1, 0]


def test_start_fixes_the_first_scale():
    """Codes that begin at zero do not take part in it [code: b = sign of the previous codes]."""
    w, c = np.array([4.0, 1.0, 1.0, 1.0]), np.ones(4)
    got = alternate(w, c, 2, start=np.array([1.0, 0, 0, 0]))
    assert got.scale == 4
    assert got.codes.tolist() == [1, 0, 0, 0]
    assert alternate(w, c, 2).codes.tolist() == [1, 1, 1, 1]  # 1 > 1.75 / 2: another fixed point


def test_zeros():
    zero, one = np.zeros((2, 5)), np.ones((2, 5))
    for got in (binary(zero, one), alternate(zero, one, 3), optimum(zero, one, 3)):
        assert (got.weights == 0).all()
    assert (binary(zero, one).codes == 1).all()
    assert (loss_aware.curvature(zero) == 1e-8).all()


@pytest.mark.parametrize("bits", [1, 0, -3, 17, 2.5, True, None])
def test_bits(bits):
    with pytest.raises(ValueError, match=r"^bits is .*: give an integer from 2 to 16$"):
        alternate(np.ones(3), np.ones(3), bits)


@pytest.mark.parametrize(
    ("w", "c", "message"),
    [
        ([1.0, np.nan], [1.0, 1.0], "not finite"), ([1.0], [0.0], "curvature is 0.0"),
        ([1.0], [1.0, 2.0], "one shape"), (1.0, 1.0, "one shape"),
    ],
)  # fmt: skip
def test_bad_vectors(w, c, message):
    for quantize in (binary, lambda w, c: optimum(w, c, 2), lambda w, c: alternate(w, c, 2)):
        with pytest.raises(ValueError, match=message) as caught:
            quantize(w, c)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="scale is 'mean'"):
        alternate(np.ones(2), np.ones(2), 2, "mean")
    with pytest.raises(ValueError, match="10\\^6"):
        brute_force(np.ones(9), np.ones(9), 4)
