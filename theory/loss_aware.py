"""Loss-aware weight quantization (LAB, LAQ) and the exact optimum of its problem, in numpy.

A weight vector w becomes alpha b, with a scale alpha > 0 and codes b on a fixed grid, so that the
curvature-weighted error sum_i c_i (alpha b_i - w_i)^2 is small; c = sqrt(v), v the second moment
of an optimizer [hou2019analysis, Sec. 2]. Binary is solved exactly. For m bits the published rule
alternates between scale and codes; `optimum` finds the best pair that there is.
"""

from __future__ import annotations

import itertools
import numbers
from typing import Literal, NamedTuple

import numpy as np

MAX_BITS = 16
ITERATIONS, TOLERANCE = 10, 1e-6  # of the published rule, from its authors' code

Scale = Literal["least_squares", "published"]


class Quantized(NamedTuple):
    """alpha b: `scale` (...,), not negative, and `codes` (..., d) in [-1, 1]; float64."""

    scale: np.ndarray
    codes: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """(..., d) float64: scale times codes."""
        return self.scale[..., None] * self.codes


def levels(bits: int) -> int:
    """Positive levels of an m-bit grid: k = 2^(m-1) - 1; the codes are 0, +-1/k, +-2/k, ..., +-1.

    Raises:
      ValueError: bits is not an integer from 2 to 16.
    """
    if isinstance(bits, bool) or not isinstance(bits, numbers.Integral):
        raise ValueError(f"bits is {bits!r}: give an integer from 2 to {MAX_BITS}")
    if not 2 <= bits <= MAX_BITS:
        raise ValueError(f"bits is {bits}: give an integer from 2 to {MAX_BITS}")
    return 2 ** (int(bits) - 1) - 1


def curvature(second_moment: np.ndarray) -> np.ndarray:
    """Returns c = sqrt(v) + 1e-8 [code: LAQ], for v (..., d) >= 0; c > 0 also where v = 0."""
    return np.sqrt(second_moment) + 1e-8


def error(w: np.ndarray, c: np.ndarray, quantized: Quantized) -> np.ndarray:
    """sum_i c_i (alpha b_i - w_i)^2, (...,): what all functions here make small."""
    return (c * (quantized.weights - w) ** 2).sum(-1)


def binary(w: np.ndarray, c: np.ndarray) -> Quantized:
    """LAB: b = sign(w), alpha = sum c |w| / sum c, the exact minimum [hou2019analysis, Sec. 2].

    For any alpha > 0 the best b is the sign, and for b_i^2 = 1 the weighted least squares is this
    mean. sign(0) = 1, as in the authors' code; a vector of zeros gets scale 0.

    Args:
      w: (..., d) finite.
      c: (..., d) curvature, above 0.

    Raises:
      ValueError: shapes that do not fit, w not finite, c not above 0.
    """
    w, c = _checked(w, c)
    return Quantized((c * np.abs(w)).sum(-1) / c.sum(-1), np.where(w < 0, -1.0, 1.0))


def alternate(
    w: np.ndarray,
    c: np.ndarray,
    bits: int,
    scale: Scale = "least_squares",
    *,
    start: np.ndarray | None = None,
) -> Quantized:
    """LAQ of m bits: the scale for given codes and the nearest codes for given scale, in turn.

    At most 10 times, or until the scale moves by less than 1e-6, from the codes sign(start); as in
    the authors' code start is the previous quantized weight, by default w itself. The last scale
    is the one that the codes are nearest for. The error never grows from one iteration to the
    next with scale="least_squares"; "published" is not the least squares for m > 2, and from codes
    near the optimum it grows. The result need not be the optimum. For normal w and c = 1 the mean
    error per weight, d = 256, is [computed]

      bits            2      3      4      6
      optimum         0.191  0.0464 0.0122 0.0008
      least_squares   0.191  0.0468 0.0147 0.0059
      published       0.191  0.126  0.121  0.120

    As k grows, b -> clip(w / alpha) and the published scale has its fixed point at a small alpha:
    it clips, and more bits hardly help.

    Args:
      w: (..., d) finite.
      c: (..., d) curvature, above 0.
      bits: 2 to 16; 2 is ternary.
      scale: "least_squares" is sum c w b / sum c b^2; "published" is sum |c w b| / sum |c b|,
        equal for b in {-1, 0, 1}.
      start: (..., d), only its signs matter.

    Raises:
      ValueError: as `binary`; bits or scale unknown.
    """
    w, c = _checked(w, c)
    k, fit = levels(bits), _scale_rule(scale)
    alpha = fit(w, c, np.sign(w if start is None else start))
    codes = nearest_codes(w, alpha, k)
    running = np.ones(alpha.shape, bool)
    for _ in range(ITERATIONS):
        new = np.where(running, fit(w, c, codes), alpha)
        codes = np.where(running[..., None], nearest_codes(w, new, k), codes)
        running &= np.abs(new - alpha) >= TOLERANCE
        alpha = new
        if not running.any():
            break
    return Quantized(alpha, codes)


def nearest_codes(w: np.ndarray, alpha: np.ndarray, k: int) -> np.ndarray:
    """round(clip(w / alpha, -1, 1) k) / k, halves away from zero as C's round; 0 if alpha is 0."""
    alpha = np.asarray(alpha)[..., None]
    x = np.divide(np.abs(w), alpha, out=np.zeros(np.shape(w)), where=alpha > 0)
    return np.sign(w) * np.floor(np.minimum(x, 1.0) * k + 0.5) / k


def optimum(w: np.ndarray, c: np.ndarray, bits: int) -> Quantized:
    """The pair (alpha, b) of least error, over all alpha > 0 and all codes.

    The best codes for a scale change only where |w_i| / alpha = (j - 1/2) / k, j = 1..k: at d k
    scales. As alpha falls through one of them code i grows from (j - 1) / k to j / k. The sums
    P = sum c |w| b and S = sum c b^2 follow by a running sum, and the least-squares scale P / S
    leaves the error sum c w^2 - P^2 / S: the largest P^2 / S wins. O(d k log(d k)); for ternary
    it is the sorting rule of the authors' code (LATe).

    Args and errors: as `alternate`.
    """
    w, c = _checked(w, c)
    k = levels(bits)
    j = np.arange(1, k + 1)
    where = (2 * k / (2 * j - 1)) * np.abs(w)[
        ..., None
    ]  # (..., d, k): alpha at which b reaches j/k
    p = np.broadcast_to((c * np.abs(w))[..., None] / k, where.shape)
    s = c[..., None] * (2 * j - 1) / k**2
    flat = (*w.shape[:-1], w.shape[-1] * k)
    order = np.argsort(-where.reshape(flat), axis=-1, kind="stable")
    p, s = (np.cumsum(np.take_along_axis(x.reshape(flat), order, -1), -1) for x in (p, s))
    best = np.argmax(p**2 / s, axis=-1)[..., None]
    reached = np.argsort(order, axis=-1) <= best  # thresholds that the best scale lies below
    codes = np.sign(w) * reached.reshape(where.shape).sum(-1) / k
    return Quantized(least_squares_scale(w, c, codes), codes)


def brute_force(w: np.ndarray, c: np.ndarray, bits: int) -> Quantized:
    """The same optimum of one vector by trying all (2 k + 1)^d codes: the witness of `optimum`.

    Raises:
      ValueError: as `alternate`; more than 10^6 codes.
    """
    w, c = _checked(w, c)
    k = levels(bits)
    if w.ndim != 1 or (2 * k + 1) ** w.size > 10**6:
        raise ValueError(f"w has shape {w.shape}: give one vector with at most 10^6 codes")
    grid = np.arange(-k, k + 1) / k
    codes = np.array(list(itertools.product(grid, repeat=w.size)))
    tried = Quantized(np.maximum(least_squares_scale(w, c, codes), 0.0), codes)
    best = int(np.argmin(error(w, c, tried)))
    return Quantized(tried.scale[best], codes[best])


def least_squares_scale(w: np.ndarray, c: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Returns sum c w b / sum c b^2, the best scale for codes b; 0 where all codes are 0."""
    return _quotient((c * w * codes).sum(-1), (c * codes**2).sum(-1))


def published_scale(w: np.ndarray, c: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Returns sum |c w b| / sum |c b| [code: LAQ_linear]: least squares only for |b| in {0, 1}."""
    return _quotient(np.abs(c * w * codes).sum(-1), np.abs(c * codes).sum(-1))


def _scale_rule(scale: Scale):
    rules = {"least_squares": least_squares_scale, "published": published_scale}
    if scale not in rules:
        raise ValueError(f"scale is {scale!r}: give least_squares or published")
    return rules[scale]


def _quotient(p: np.ndarray, s: np.ndarray) -> np.ndarray:
    return np.divide(p, s, out=np.zeros(np.shape(s)), where=s > 0)


def _checked(w: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w, c = np.asarray(w, float), np.asarray(c, float)
    if w.ndim == 0 or w.shape[-1] == 0 or c.shape != w.shape:
        raise ValueError(f"shapes are {w.shape} and {c.shape}: give w and c of one shape (..., d)")
    if not np.isfinite(w).all():
        raise ValueError("w has an entry that is not finite: quantize finite weights")
    if not ((c > 0) & np.isfinite(c)).all():
        raise ValueError(f"the smallest curvature is {c.min()}: give finite c above 0")
    return w, c
