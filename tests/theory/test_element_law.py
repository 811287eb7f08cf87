"""Laws of elements: moments against densities, quantiles, kurtosis."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import integrate, stats

from theory.element_law import (
    GAUSSIAN,
    LAPLACE,
    GeneralizedGaussian,
    LogNormal,
    generalized_gaussian,
    kurtosis,
    log_normal,
    moments,
    upper_quantile,
)

SHAPES = st.floats(0.4, 8)
LAWS = st.one_of(
    SHAPES.map(lambda b: GeneralizedGaussian(shape=b)),
    st.floats(0.2, 1.5).map(lambda s: LogNormal(spread=s)),
)


def density(law, x):
    """scipy's, scaled to variance 1; |W| log-normal is half on either side."""
    if isinstance(law, LogNormal):
        return stats.lognorm.pdf(abs(x), law.spread, scale=math.exp(-(law.spread**2))) / 2
    scale = 1 / stats.gennorm.std(law.shape)
    return stats.gennorm.pdf(x, law.shape, scale=scale)


@given(LAWS, st.floats(-4, 4))
@example(GAUSSIAN, 0.0)
@example(LogNormal(spread=1), 0.0)
def test_moments(law, x):
    """1e-8: what quadrature reaches beside the peak. Kills: no sign for x < 0 at k = 1, k s - z ->
    s - z in LogNormal, orders (k + 1) -> k + 2."""
    for k in range(3):
        below, _ = integrate.quad(
            lambda w, k=k: w**k * density(law, w), 0, x, limit=200, epsabs=1e-10
        )
        at_zero = moments(law, 0.0)[k]
        assert moments(law, x)[k] - at_zero == pytest.approx(below, abs=1e-8)
    np.testing.assert_allclose(moments(law, np.array([-np.inf, np.inf])).T, [[0, 0, 0], [1, 0, 1]])
    np.testing.assert_allclose(moments(law, 0.0)[[0, 2]], 0.5, rtol=1e-12)


@given(LAWS, st.floats(-40, -1e-3).map(lambda e: 2.0**e))
@example(GAUSSIAN, 1 - 2.0**-20)
def test_quantile(law, p):
    """In relative terms far out. Kills: 2 min(p, 1 - p) -> 2 p."""
    x = upper_quantile(law, p)
    above = law.tail(abs(x))[0] / 2
    assert (above if x >= 0 else 1 - above) == pytest.approx(p, rel=1e-9)
    assert (x >= 0) == (p <= 0.5)


@given(st.floats(1.9, 1e5))
@example(3.0)
@example(6.0)
def test_member_of_a_kurtosis(wanted):
    """Kills: / 2 dropped in `log_normal`."""
    assert generalized_gaussian(wanted).kurtosis == pytest.approx(wanted, rel=1e-9)
    assert log_normal(wanted).kurtosis == pytest.approx(wanted, rel=1e-9)


def test_known_members():
    assert GAUSSIAN.kurtosis == pytest.approx(3, rel=1e-14)
    assert LAPLACE.kurtosis == pytest.approx(6, rel=1e-14)
    assert generalized_gaussian(6).shape == pytest.approx(1, rel=1e-9)


@given(LAWS)
def test_kurtosis_of_a_law(law):
    """The fourth moment that scipy gives. Kills: 5 / b -> 4 / b."""
    if isinstance(law, LogNormal):
        want = stats.lognorm.moment(4, law.spread, scale=math.exp(-(law.spread**2)))
    else:
        want = stats.gennorm.stats(law.shape, moments="k") + 3
    assert law.kurtosis == pytest.approx(want, rel=1e-9)


@given(st.sampled_from([1e-200, 1e-3, 1.0, 1e200]))
def test_kurtosis_of_a_tensor(scale):
    """(1 + 1 + 16) / 3 over 2^2. Kills: no division by the largest, which overflows here."""
    assert kurtosis(scale * np.array([1.0, -1.0, 2.0])) == pytest.approx(1.5, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GeneralizedGaussian(shape=0), "shape = 0: 0.1 to 100"),
        (lambda: LogNormal(spread=5), "spread = 5"),
        (lambda: generalized_gaussian(1.5), "kurtosis = 1.5"),
        (lambda: log_normal(1.0), "kurtosis = 1.0"),
        (lambda: kurtosis([]), "largest magnitude 0.0"),
        (lambda: kurtosis([0.0, 0.0]), "largest magnitude 0.0"),
        (lambda: kurtosis([1.0, math.nan]), "largest magnitude nan"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
