"""SQm: laws, Lemma 3, Propositions 1 and 2 beside their exact values, Monte Carlo."""

import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from theory import gradient_quantization as gq
from theory.loss_aware import levels

GRADIENTS = hnp.arrays(float, (24,), elements=st.floats(-8, 8, width=32))
BITS = st.sampled_from([2, 3, 4, 8])
ROUNDING = 1e-12  # relative: sums of 24 float64 terms, each of a few operations


@hypothesis.given(g=GRADIENTS, bits=BITS, seed=st.integers(0, 2**32))
def test_quantized_values(g, bits, seed):
    """A level next to x, the sign kept, the largest entry exact.

    Kills: gradient_quantization.py: random() less 0.5.
    """
    q, s, k = gq.quantize(g, bits, np.random.default_rng(seed)), np.abs(g).max(), levels(bits)
    assert (np.abs(q - g) <= s / k * (1 + ROUNDING)).all()
    assert (q * g >= 0).all()
    assert np.abs(q).max() == pytest.approx(s, rel=ROUNDING)
    if s > 0:
        codes = q / s * k
        np.testing.assert_allclose(codes, np.round(codes), atol=1e-9)  # k eps, times 2


@hypothesis.given(g=GRADIENTS, bits=BITS)
def test_unbiased_and_second_moment(g, bits):
    """2000 draws; each entry within 5 standard errors, P(any of 25 x 24 beyond) = 3e-4.

    An entry is two-valued with probability p: its standard error is at most s Delta / 2 / sqrt n.
    Kills: gradient_quantization.py: j * (j - 1); floor(x k + 0.9 random).
    """
    n, s = 2000, np.abs(g).max()
    q = gq.quantize(np.broadcast_to(g, (n, 24)), bits, np.random.default_rng(0))
    most = s * gq.resolution(bits) / 2 / math.sqrt(n)
    assert (np.abs(q.mean(0) - g) <= 5 * most + ROUNDING * s).all()
    squares = (q**2).sum(-1)
    allowed = 5 * squares.std() / math.sqrt(n) + ROUNDING * (g**2).sum()
    # where a rare entry was never drawn the standard error reads too low: one draw more or less
    allowed += 25 * (s * gq.resolution(bits)) ** 2 * 2 * levels(bits) / n
    assert abs(squares.mean() - gq.second_moment(g, bits)) <= allowed


@hypothesis.given(g=GRADIENTS, bits=BITS)
def test_lemma3(g, bits):
    """Exact variance; for SQ2 the bound less ||g||^2.

    Kills: gradient_quantization.py: variance_bound with the mean for the sum.
    """
    norm, bound = (g**2).sum(), gq.variance_bound(g, bits)
    variance = gq.second_moment(g, bits) - norm
    assert -ROUNDING * norm <= variance <= bound * (1 + ROUNDING)
    if bits == 2:
        assert variance == pytest.approx(bound - norm, abs=ROUNDING * bound)


@hypothesis.given(g=GRADIENTS.filter(lambda g: np.abs(g).max() > 1e-30), bits=BITS)
def test_order_of_the_constants(g, bits):
    """Enlargement <= sharp <= Lemma 3's <= printed.

    Kills: gradient_quantization.py: resolution without its square in sharp_enlargement.
    """
    sharp, lemma3, printed = (
        f(24, bits) for f in (gq.sharp_enlargement, gq.lemma3_enlargement, gq.proposition1)
    )
    assert gq.enlargement(g, bits) <= sharp * (1 + ROUNDING)
    assert sharp <= lemma3 <= printed


@hypothesis.given(d=st.integers(1, 5000), bits=st.integers(2, 12))
def test_worst_vector(d, bits):
    """Attains the sharp constant, and the norm ratio for 2 bits; so do no neighbours.

    Kills: gradient_quantization.py: worst vector for 2 bits whatever the bits; (d - 2) in
    sharp_enlargement.
    """
    g, sharp = gq.worst_vector(d, bits), gq.sharp_enlargement(d, bits)
    rounding = d * 2.0**-52
    assert gq.enlargement(g, bits) == pytest.approx(sharp, rel=rounding)
    two = gq.worst_vector(d)
    assert two.sum() / (two**2).sum() == pytest.approx(gq.norm_ratio(d), rel=rounding)
    for factor in (0.9, 1.1):
        beside = np.concatenate([[1.0], g[1:] * factor])
        assert gq.enlargement(beside, bits) <= sharp * (1 + rounding)


def test_enlargement_of_two_gaussians():
    """d = 2, SQ2: E M (|a| + |b|) = E M^2 + E|ab| = 1 + 2/pi + 2/pi; the table from mpmath."""
    assert gq.gaussian_enlargement(2, 2) == pytest.approx((1 + 4 / math.pi) / 2, rel=1e-13)
    assert gq.gaussian_enlargement(1, 3) == 1
    assert gq.gaussian_enlargement(10, 3) == pytest.approx(1.06341148749404, rel=1e-13)
    assert gq.gaussian_enlargement(1600, 2) == pytest.approx(2.84214171962906, rel=1e-13)
    assert gq.gaussian_enlargement(884736, 3) == pytest.approx(1.45912749012693, rel=1e-13)


def test_growth_is_logarithmic():
    """sqrt(2/pi) E max|Z| of d entries, about sqrt(2/pi) sqrt(2 ln d): from below, within 10 %."""
    for d in (10**4, 10**6, 2**40):
        ratio = gq.gaussian_enlargement(d, 2) / (gq.SQRT_2_PI * math.sqrt(2 * math.log(d)))
        assert 0.9 < ratio < 1


DIMENSIONS = {1600: 200, 1920: 200, 73728: 30, 884736: 6}  # and how many gradients of each


@pytest.fixture(scope="module")
def draws():
    """One row of ratios ||Q(g)||^2 / ||g||^2 for every dimension, bits and clip."""
    rng, rows = np.random.default_rng(1), {}
    for d, n in DIMENSIONS.items():
        for _ in range(n):
            g = rng.standard_normal(d)
            for bits in (2, 3) if d == 884736 else (2,):
                for c in (None, 1, 2, 3):
                    q = gq.quantize(g if c is None else gq.clip(g, c), bits, rng)
                    rows.setdefault((d, bits, c), []).append((q @ q) / (g @ g))
    return {cell: np.array(row) for cell, row in rows.items()}


def test_exact_values_within_four_standard_errors(draws):
    """Ratio of means and mean of ratios differ by O(1/d), s from c sigma by exponentially little.

    The 1/d: ||g||^2 / d has variance 2/d, and sigma as the deviation from the mean varies as much.
    """
    for (d, bits, c), row in draws.items():
        exact = gq.gaussian_enlargement(d, bits) if c is None else gq.clipped_enlargement(bits, c)
        assert abs(row.mean() - exact) <= 4 * row.std() / math.sqrt(row.size) + 4 * exact / d
        assert row.mean() < gq.sharp_enlargement(d, bits)
        assert c is None or row.mean() < gq.proposition2(bits, c)


def test_table_of_the_propositions(draws):
    """The spec's section 6, single draws: each within 4 deviations of a draw, and its rounding."""
    unclipped = {(1600, 2): 2.89, (1920, 2): 2.90, (73728, 2): 3.52, (884736, 2): 3.71}
    clipped = {
        (1600, 2): (0.64, 1.58, 2.42), (1920, 2): (0.63, 1.57, 2.40),
        (73728, 2): (0.63, 1.56, 2.39), (884736, 2): (0.63, 1.56, 2.39),
        (884736, 3): (0.53, 0.99, 1.16),
    }  # fmt: skip
    table = {(*at, None): value for at, value in (unclipped | {(884736, 3): 1.40}).items()}
    table |= {
        (*at, c): v for at, row in clipped.items() for c, v in zip((1, 2, 3), row, strict=True)
    }
    for cell, printed in table.items():
        row = draws[cell]
        one = 4 * row.std() * math.sqrt(1 + 1 / row.size)  # a draw, and our own mean
        assert abs(row.mean() - printed) <= one + 0.005, cell
    bounds = {1600: (29.8, 21.5), 1920: (32.5, 23.4), 73728: (193.5, 137.3), 884736: (666.6, 471.8)}
    for d, printed in bounds.items():
        ours = (round(gq.proposition1(d, 2), 1), round(gq.lemma3_enlargement(d, 2), 1))
        assert ours == printed
    assert round(gq.proposition1(884736, 3), 1) == 222.9
    assert round(gq.lemma3_enlargement(884736, 3), 1) == 157.9
    assert [round(gq.proposition2(2, c), 2) for c in (1, 2, 3)] == [1.80, 2.60, 3.39]
    assert [round(gq.proposition2(3, c), 2) for c in (1, 2, 3)] == [1.27, 1.53, 1.80]


def test_printed_numbers():
    """F(c), the bias and the factors on the speed: the spec's section 6, all digits."""
    assert [round(gq.clip_function(c), 6) for c in (1, 2, 3)] == [0.188849, 0.014460, 0.000510]
    assert [round(gq.clip_bias(c), 6) for c in (1, 2, 3)] == [0.150680, 0.011537, 0.000407]
    factors = {2: [1.341, 1.611, 1.842], 3: [1.125, 1.238, 1.341], 4: [1.055, 1.108, 1.158]}
    for bits, row in factors.items():
        ours = [gq.slowdown(gq.proposition2(bits, c)) for c in (1, 2, 3)]
        assert [round(f, 3) for f in ours] == row


def test_zeros():
    zero = np.zeros((2, 5))
    assert (gq.quantize(zero, 2, np.random.default_rng(0)) == 0).all()
    assert (gq.clip(zero, 2.0) == 0).all()
    assert (gq.second_moment(zero, 3) == 0).all()
    assert (gq.clip(np.full(4, 3.0), 1.0) == 3).all()  # all equal: sigma = 0
    assert np.full(3, 0.1).std() > 0  # by rounding
    assert (gq.clip(np.full(3, 0.1), 1.0) == 0.1).all()
    with pytest.raises(ValueError, match="all zero"):
        gq.enlargement(np.array([[1.0, 2.0], [0.0, 0.0]]), 2)


@pytest.mark.parametrize("call", [
    lambda: gq.quantize(np.ones(3), 1, np.random.default_rng(0)),
    lambda: gq.quantize(np.ones(3), 17, np.random.default_rng(0)),
    lambda: gq.quantize(np.array([1, np.inf]), 2, np.random.default_rng(0)),
    lambda: gq.quantize(np.ones(0), 2, np.random.default_rng(0)),
    lambda: gq.clip(np.ones(3), 0),
    lambda: gq.clip(np.ones(3), -1.0),
    lambda: gq.clip(np.ones(3), math.nan),
    lambda: gq.clip_function(0.0),
    lambda: gq.proposition2(2, -3),
    lambda: gq.proposition1(0, 2),
    lambda: gq.proposition1(2.5, 2),
    lambda: gq.sharp_enlargement(10, 20),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match=r"^[^\n]*: (give|quantize) [^\n]*$"):
        call()
