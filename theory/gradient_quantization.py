"""Stochastic gradient quantization SQm, clipping, and how much they enlarge a gradient.

[hou2019analysis, Sec. 3.2, 3.3] bounds E||Q(g)||^2 / ||g||^2, the number that slows convergence,
by a worst case (Prop. 1) and, clipped, for Gaussian entries (Prop. 2, 3). Beside each printed
bound stands what is sharp or exact: `gradient_quantization_derivation` derives them.

Notation: k = 2^(m-1) - 1 positive levels, Delta = 1/k, s = ||g||_inf, x_i = |g_i| / s in [0, 1].
"""

from __future__ import annotations

import math
import numbers

import numpy as np
from scipy.special import erf, erfc, erfcx, erfinv

from theory.expected_range import gauss_legendre
from theory.loss_aware import levels

SQRT_2_PI = math.sqrt(2 / math.pi)
_PANELS = 30  # of the quadrature over the largest entry


def resolution(bits: int) -> float:
    """Delta_g = 1/k: 1, 1/3, 1/7 for SQ2, SQ3, SQ4.

    Raises:
      ValueError: bits is not an integer from 2 to 16.
    """
    return 1 / levels(bits)


def quantize(g: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    """SQm: s sign(g_i) q_i, q_i one of the two levels around x_i, at random, with mean x_i.

    Unbiased, one scale s per vector along the last axis. Zeros give zeros.

    Args:
      g: (..., d) finite.
      bits: 2 to 16.

    Returns:
      (..., d) float64: multiples of s / k.

    Raises:
      ValueError: bits out of range; g not finite.
    """
    g, k = _finite(g), levels(bits)
    s, x = _scaled(g)
    return np.sign(g) * s * np.floor(x * k + rng.random(g.shape)) / k


def clip(g: np.ndarray, c: float) -> np.ndarray:
    """Entries larger than c sigma become sign(g_i) c sigma; sigma = std of a vector's entries.

    Where all entries are equal sigma is 0, and the rule would erase the gradient: it stays as it
    is. Not zero by rounding alone, so entries are compared.

    Args:
      g: (..., d) finite.
      c: above 0.

    Raises:
      ValueError: c is not above 0; g not finite.
    """
    g, c = _finite(g), _positive(c)
    exponent = np.frexp(np.abs(g).max(-1, keepdims=True))[1]  # squares of g could leave float64
    top = c * np.ldexp(np.ldexp(g, -exponent).std(-1, keepdims=True), exponent)
    return np.where(np.ptp(g, -1, keepdims=True) > 0, np.clip(g, -top, top), g)


def second_moment(g: np.ndarray, bits: int) -> np.ndarray:
    """E||Q(g)||^2 over the random bits, given g: s^2 sum_i h(x_i), (...,).

    h interpolates x^2 linearly between the levels: E q^2 = x^2 + (x - B)(B + Delta - x).
    """
    g = _finite(g)
    s, x = _scaled(g)
    return (s**2)[..., 0] * interpolated_square(x, levels(bits)).sum(-1)


def interpolated_square(x: np.ndarray, k: int) -> np.ndarray:
    """h(x) in [x^2, x]: x^2 at multiples of 1/k, linear in between; x in [0, 1]."""
    j = np.minimum(np.floor(x * k), k - 1)
    return ((2 * j + 1) * x * k - j * (j + 1)) / k**2


def variance_bound(g: np.ndarray, bits: int) -> np.ndarray:
    """Lemma 3: E||Q(g) - g||^2 <= Delta_g ||g||_inf ||g||_1, (...,) [hou2019analysis, Lemma 3].

    Never attained but by g = 0: (x - B)(B + Delta - x) is Delta x only at x = 0. For SQ2 the exact
    variance is the bound less ||g||^2.
    """
    g = np.abs(_finite(g))
    return resolution(bits) * g.max(-1) * g.sum(-1)


def enlargement(g: np.ndarray, bits: int) -> np.ndarray:
    """E||Q(g)||^2 / ||g||^2 given g, at least 1, (...,): what Propositions 1 and 2 bound.

    Raises:
      ValueError: a gradient whose entries are all zero; bits out of range.
    """
    s, x = _scaled(_finite(g))
    if (s == 0).any():
        raise ValueError("the gradient is all zero: give one for which enlargement is defined")
    return interpolated_square(x, levels(bits)).sum(-1) / (x**2).sum(-1)


def proposition1(d: int, bits: int) -> float:
    """E||Q(g)||^2 <= ((1 + sqrt(2d - 1)) / 2 Delta_g + 1) ||g||^2 [hou2019analysis, Prop. 1].

    As printed (the constant is recalled). It holds; `lemma3_enlargement` and `sharp_enlargement`
    are what remains after its two losses, about sqrt 2 and 1.
    """
    return (1 + math.sqrt(2 * _dimension(d) - 1)) / 2 * resolution(bits) + 1


def norm_ratio(d: int) -> float:
    """Largest ||g||_inf ||g||_1 / ||g||^2 over d entries: (1 + sqrt d) / 2, at `worst_vector`."""
    return (1 + math.sqrt(_dimension(d))) / 2


def lemma3_enlargement(d: int, bits: int) -> float:
    """Proposition 1 with the sharp norm ratio: (1 + sqrt d) / 2 Delta_g + 1."""
    return norm_ratio(d) * resolution(bits) + 1


def sharp_enlargement(d: int, bits: int) -> float:
    """The largest E||Q(g)||^2 / ||g||^2 there is: (1 + sqrt(1 + (d - 1) Delta_g^2)) / 2.

    For SQ2 this is (1 + sqrt d) / 2, without the 1 of Proposition 1: E||Q(g)||^2 is exactly
    ||g||_inf ||g||_1 there. Attained by `worst_vector`.
    """
    return (1 + math.sqrt(1 + (_dimension(d) - 1) * resolution(bits) ** 2)) / 2


def worst_vector(d: int, bits: int = 2) -> np.ndarray:
    """(d,) one entry 1 and the others b <= Delta_g / 2: attains `sharp_enlargement`.

    b = Delta_g / (2 R), R the enlargement. For 2 bits, 1/b = 1 + sqrt d, it attains `norm_ratio`.
    """
    g = np.full(_dimension(d), resolution(bits) / (2 * sharp_enlargement(d, bits)))
    g[0] = 1.0
    return g


def proposition2(bits: int, c: float) -> float:
    """E||Q(Clip(g))||^2 <= (sqrt(2/pi) c Delta_g + 1) E||g||^2, Gaussian g [ibid., Prop. 2].

    Free of the dimension, sigma known. `clipped_enlargement` is the exact value.
    """
    return SQRT_2_PI * _positive(c) * resolution(bits) + 1


def clipped_worst(bits: int, c: float) -> float:
    """Bounds E||Q(Clip(g))||^2 / ||g||^2 for any g, Gaussian or not, of any dimension.

    1 + (c Delta_g / 2)^2 up to c Delta_g = 2, from there c Delta_g: less than the printed bound of
    Proposition 2 up to c Delta_g = 4.9. Reached, for large d and c >= 1, where 1 / (c Delta_g) is
    half an odd number: by entries +-sigma and one of c sigma. Below c = 1 all of these are clipped
    and c^2 is the least bound: E||Q(Clip(g))||^2 <= d (c sigma)^2 <= c^2 ||g||^2.
    """
    product = _positive(c) * resolution(bits)
    return 1 + (product / 2) ** 2 if product <= 2 else product


def clipped_enlargement(bits: int, c: float) -> float:
    """E||Q(Clip(g))||^2 / E||g||^2, Gaussian g, scale s = c sigma: c^2 E h(min(|Z| / c, 1)).

    The limit of large d; below it by O(1/d) and by what s falls short of c sigma where few entries
    are clipped. Its own error is below 1e-12.
    """
    c = _positive(c)
    return c**2 * (float(_below(c, levels(bits))) + math.erfc(c / math.sqrt(2)))


def gaussian_enlargement(d: int, bits: int) -> float:
    """E||Q(g)||^2 / E||g||^2 for d Gaussian entries, not clipped: exact, by one integral.

    Given the largest |Z| = M the others are |Z| below M: E M^2 (1 + (d - 1) E[h(|Z| / M)]) / d.
    Grows as sqrt(2/pi) sqrt(2 ln d) Delta_g, not as the sqrt(d) of the worst case.

    Args:
      d: 1 to 2^40.
      bits: 2 to 16.
    """
    d, k = _dimension(d), levels(bits)
    if d == 1:
        return 1.0

    low, high = _quantiles_of_maximum(d)
    m, weight = gauss_legendre(np.linspace(low, high, _PANELS + 1))
    outside = erfc(m / math.sqrt(2))
    density = d * SQRT_2_PI * np.exp(-(m**2) / 2 + (d - 1) * np.log1p(-outside))
    others = np.array([_below(x, k) for x in m]) / (1 - outside)
    return float((density * m**2 * (1 + (d - 1) * others)) @ weight) / d


def clip_function(c: float) -> float:
    """F(c) of Proposition 3: -c exp(-c^2/2) + sqrt(pi/2) (1 + c^2)(1 - erf(c / sqrt 2)).

    [hou2019analysis, Prop. 3]. Written with the scaled erfc, so that it does not underflow early.
    """
    c = _positive(c)
    tail = math.sqrt(math.pi / 2) * (1 + c**2) * float(erfcx(c / math.sqrt(2)))
    return math.exp(-(c**2) / 2) * max(tail - c, 0.0)


def clip_bias(c: float) -> float:
    """E||Clip(g) - g||^2 / (d sigma^2) = sqrt(2/pi) F(c), Gaussian g [hou2019analysis, Prop. 3]."""
    return SQRT_2_PI * clip_function(c)


def slowdown(enlarged: float) -> float:
    """sqrt(E||Q(g)||^2 / ||g||^2): the factor on the speed term of Theorems 2 and 3.

    In steps until a given average regret this is a factor of `enlarged`, its square.
    """
    return math.sqrt(enlarged)


def _below(m: float, k: int) -> np.ndarray:
    """E[h(|Z| / m); |Z| < m] of a standard normal Z: its partial moments in each cell of h."""
    edges = np.arange(k + 1) / k
    z = m * edges
    first = SQRT_2_PI * np.diff(-np.exp(-(z**2) / 2)) / m  # E[|Z| / m] in each cell
    mass = np.where(z[:-1] < 1, np.diff(erf(z / math.sqrt(2))), -np.diff(erfc(z / math.sqrt(2))))
    j = np.arange(k)
    return (((2 * j + 1) * k * first - j * (j + 1) * mass) / k**2).sum()


def _quantiles_of_maximum(d: int) -> tuple[float, float]:
    """Where the largest of d |Z| is but for 1e-17: from mass 1e-18^(1/d) inside to the far tail."""
    low = math.sqrt(2) * float(erfinv(1e-18 ** (1 / d)))
    return max(low, 1e-9), math.sqrt(2 * math.log(d) + 90)


def _scaled(g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s = np.abs(g).max(-1, keepdims=True)
    return s, np.divide(np.abs(g), s, out=np.zeros_like(g), where=s > 0)


def _finite(g: np.ndarray) -> np.ndarray:
    g = np.asarray(g, float)
    if g.ndim == 0 or g.shape[-1] == 0:
        raise ValueError(f"the gradient has shape {g.shape}: give (..., d) with d at least 1")
    if not np.isfinite(g).all():
        raise ValueError("the gradient has an entry that is not finite: quantize finite gradients")
    return g


def _dimension(d: int) -> int:
    if isinstance(d, bool) or not isinstance(d, numbers.Integral) or not 1 <= d <= 2**40:
        raise ValueError(f"d is {d!r}: give an integer from 1 to 2^40")
    return int(d)


def _positive(c: float) -> float:
    if not (isinstance(c, numbers.Real) and 0 < c < math.inf):
        raise ValueError(f"clip is {c!r}: give a number above 0, or None for no clipping")
    return float(c)
