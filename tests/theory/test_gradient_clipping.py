"""Clipping: what it changes, Propositions 2 and 3 beside exact values, the worst gradient."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import mpmath as mp
import numpy as np
import pytest

from theory import gradient_quantization as gq
from theory.loss_aware import levels

GRADIENTS = hnp.arrays(float, (24,), elements=st.floats(-8, 8, width=32))
BITS = st.sampled_from([2, 3, 4, 8])
ROUNDING = 1e-12  # relative: sums of 24 float64 terms, each of a few operations


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("c", [0.01, 1, 3, 12])
def test_clipped_enlargement(bits, c):
    """Against mpmath's integral of h over every cell."""
    k, total = levels(bits), c**2 * mp.erfc(c / mp.sqrt(2))
    for j in range(k):
        total += mp.quad(
            lambda z, j=j: ((2 * j + 1) * z * c * k - j * (j + 1) * c**2) / mp.mpf(k) ** 2
            * mp.sqrt(2 / mp.pi) * mp.exp(-z * z / 2),
            [c * mp.mpf(j) / k, c * mp.mpf(j + 1) / k],
        )  # fmt: skip
    assert gq.clipped_enlargement(bits, c) == pytest.approx(float(total), rel=1e-12)
    assert total <= gq.proposition2(bits, c)


@hypothesis.given(c=st.floats(1e-6, 35))
def test_clip_function(c):
    """Against 60 digits. Kills: gradient_quantization.py: erfc(c / 2).

    tail - c cancels to about 2 / c^3: the error is a few ulps of c over that.
    """
    with mp.workdps(60):
        x = mp.mpf(c)
        exact = mp.sqrt(mp.pi / 2) * (1 + x**2) * mp.erfc(x / mp.sqrt(2)) - x * mp.exp(-(x**2) / 2)
    rounding = 8 * 2.0**-52 * (1 + c**4)  # and c^2/2 in exp, rounded: less
    assert gq.clip_function(c) == pytest.approx(float(exact), rel=rounding, abs=5e-324)


@hypothesis.given(g=GRADIENTS, c=st.floats(0.25, 4))
def test_clip(g, c):
    """Nothing beyond c sigma, nothing inside changed. Kills: gradient_quantization.py: c * var."""
    clipped, top = gq.clip(g, c), c * np.std(g)
    if np.ptp(g) == 0:
        assert (clipped == g).all()
        return
    assert np.abs(clipped).max() <= top
    inside = np.abs(g) <= top
    assert (clipped[inside] == g[inside]).all()
    assert (np.abs(clipped[~inside]) == top).all()
    assert (clipped * g >= 0).all()


@hypothesis.given(
    g=GRADIENTS, power=st.sampled_from([-560, -7, 560]), c=st.floats(0.25, 4), bits=BITS
)
def test_scale_of_the_gradient(g, power, c, bits):
    """A power of two goes through, though squares of g underflow or overflow; 1e-170 stays.

    Kills: gradient_quantization.py: clip and enlargement by squares of g itself.
    """
    scaled = np.ldexp(g, power)
    assert (gq.clip(scaled, c) == np.ldexp(gq.clip(g, c), power)).all()
    if np.abs(g).max() > 0:
        assert gq.enlargement(scaled, bits) == gq.enlargement(g, bits)
    assert np.abs(gq.clip(np.array([1e-170, 0.0]), 1.0)).max() == 5e-171


@hypothesis.given(
    g=GRADIENTS.filter(lambda g: np.abs(g).max() > 1e-30), bits=BITS, c=st.floats(0.25, 6)
)
def test_clipped_worst(g, bits, c):
    """For any gradient, and less than the printed bound.

    Kills: gradient_quantization.py: / 4 for / 2 in clipped_worst.
    """
    even = np.where(g > 0, 1.0, -1.0)  # close to +-sigma, the worst
    even[0] = max(c, 1.0)
    for vector in (g, even):
        enlarged = gq.second_moment(gq.clip(vector, c), bits) / (vector**2).sum()
        assert enlarged <= gq.clipped_worst(bits, c) * (1 + ROUNDING)
    if c * gq.resolution(bits) < 4.9:
        assert gq.clipped_worst(bits, c) < gq.proposition2(bits, c)


def test_clipped_worst_is_reached():
    """c Delta = 2, 2/3 and 3: attained up to O(1/d) by +-1 and one entry of 2 c."""
    for bits, c, value in ((2, 2.0, 2.0), (3, 2.0, 10 / 9), (2, 3.0, 3.0)):
        assert gq.clipped_worst(bits, c) == pytest.approx(value)
        g = np.tile([1.0, -1.0], 50_000)
        g[0] = 2 * c
        reached = gq.second_moment(gq.clip(g, c), bits) / (g**2).sum()
        assert reached == pytest.approx(value, rel=1e-3)  # (2c)^2 / d


def test_clipped_worst_below_one_sigma():
    """SQ3, c = 6/7: 1 / (c Delta) = 7/2, but c^2 is what is reached, and what no gradient exceeds.

    Up to (2c)^2 / d; the bound, 1 + (1/7)^2, is 39 % above.
    """
    c = 6 / 7
    g = np.tile([1.0, -1.0], 50_000)
    g[0] = 2 * c
    reached = gq.second_moment(gq.clip(g, c), 3) / (g**2).sum()
    assert reached == pytest.approx(c**2, rel=1e-3)
    assert gq.clipped_worst(3, c) == pytest.approx(1 + 1 / 49)
    other = np.random.default_rng(0).standard_normal(10_000)
    assert gq.second_moment(gq.clip(other, c), 3) < c**2 * (other**2).sum()


def test_bias_of_clipping():
    """Proposition 3: 100 gradients of 10^4 entries, 4 standard errors of their mean.

    A gradient's own sigma varies by 1/sqrt(2 * 10^4), which moves the mean by at most 0.4 %.
    """
    g = np.random.default_rng(2).standard_normal((100, 10**4))
    for c in (1, 2, 3):
        lost = ((gq.clip(g, c) - g) ** 2).mean(-1)
        assert abs(lost.mean() - gq.clip_bias(c)) <= 4 * lost.std() / 10 + 4e-3 * gq.clip_bias(c)
