"""How far quantization turns a tensor: the angle theorem [banner2018scalable, M-bit theorem].

cos of the angle between W and Q(W) for N independent Gaussian elements: sqrt(2/pi) for signs, a
function of the threshold for {-1, 0, 1}, and for M bits the printed lower bound beside a sharper
estimate and the exact integral (`uniform`, from angle_integral). angle_derivation derives them.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import log_ndtr

from theory import element_law
from theory.angle_integral import Kind, Rounding, given_extremes, over_grid, uniform

__all__ = [
    "best_ternary",
    "binary",
    "bound",
    "cosine",
    "degrees",
    "estimate",
    "given_extremes",
    "over_grid",
    "predicted",
    "ternary",
    "uncorrelated",
    "uniform",
    "worst_case",
]

Family = Literal["generalized_gaussian", "log_normal"]


def cosine(w: ArrayLike, q: ArrayLike) -> float:
    """<w, q> / (|w| |q|) in float64, -1..1; neither overflows nor underflows.

    Args:
      w, q: tensors of one shape, finite, neither all zero.

    Raises:
      ValueError: other shapes, or a tensor without a direction.
    """
    w, q = np.asarray(w, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if w.shape != q.shape:
        raise ValueError(f"shapes {w.shape} and {q.shape}: an angle needs two equal ones")
    w, q = _unit(w), _unit(q)
    return float(np.clip(w @ q, -1, 1))


def _unit(x: np.ndarray) -> np.ndarray:
    largest = np.abs(x).max(initial=0.0)
    if not 0 < largest < math.inf:
        raise ValueError(
            f"largest magnitude {largest}: only a finite, non-zero tensor has a direction"
        )
    scaled = x.ravel() / largest
    return scaled / np.linalg.norm(scaled)


def degrees(cos: ArrayLike) -> np.ndarray | float:
    """Angle of a cosine, 0..180 degrees, elementwise."""
    return np.degrees(np.arccos(cos))[()]


def binary() -> float:
    """E|W| / sigma = sqrt(2/pi) = 0.7979, 37.07 degrees: Q(W) = sign W."""
    return math.sqrt(2 / math.pi)


def ternary(t: ArrayLike) -> np.ndarray | float:
    """2 phi(t) / sqrt(2 Q(t)): Q(W) = sign W where |W| > t sigma, else 0; elementwise.

    Args:
      t: threshold in sigma, >= 0, any shape; 0 gives `binary`.

    Raises:
      ValueError: t < 0 or NaN.
    """
    t = np.asarray(t, dtype=np.float64)
    if not (t >= 0).all():
        raise ValueError(f"t = {t.tolist()}: a threshold on |W| is 0 or more")
    log_cosine = math.log(2 / math.pi) / 2 - t**2 / 2 - (math.log(2) + log_ndtr(-t)) / 2
    return np.exp(log_cosine)[()]


class Ternary(NamedTuple):
    """The ternary quantizer that turns a Gaussian least."""

    threshold: float  # in sigma
    cosine: float


@functools.cache
def best_ternary() -> Ternary:
    """Threshold 0.6120, cosine 0.8999, 25.85 degrees: where the hazard phi(t)/Q(t) is 2 t."""

    def excess(t: float) -> float:
        return math.exp(-(t**2) / 2 - math.log(2 * math.pi) / 2 - log_ndtr(-t)) - 2 * t

    t = brentq(excess, 0.1, 2, xtol=1e-15)
    return Ternary(threshold=t, cosine=float(ternary(t)))


def bound(bits: ArrayLike, n: ArrayLike) -> np.ndarray | float:
    """2^M / (2^M + sqrt(ln N) / sqrt 6), the printed M-bit theorem, elementwise.

    It takes M bits for the magnitude, a step of sqrt(2 ln N) sigma / 2^M, and
    cos >= |W| / (|W| + |error|). In which sense it holds [computed], rounding to nearest:

    step max|W| / 2^M   mean cosine: always; single tensors: always, in simulation
    affine, M = 1       mean: always; up to 15 % of tensors of 3..1000 elements lie below
    affine, M = 2       mean: always; 2 in 1000 tensors of 1000 elements lie below
    affine, M >= 3      mean: always; single tensors: always, in simulation
    signed, M = 2       not: the mean lies below from about N = 20 on
    signed, M >= 3      mean: always

    "Always": N from 2 to 10^12, Gaussian. To stochastic rounding, of twice the squared error, it
    does not apply: the mean on an affine grid lies below from N = 5 at M = 1, 1000 at M = 2, 10^10
    at M = 3. Nor to peaked tensors, whose maximum is not sqrt(2 ln N) sigma.

    Args:
      bits: M >= 1.
      n: N >= 2.

    Raises:
      ValueError: an argument outside its range.
    """
    return (1 / (1 + _noise(bits, n) / 2))[()]


def estimate(bits: ArrayLike, n: ArrayLike) -> np.ndarray | float:
    """1 / sqrt(1 + e^2), e = sqrt(2 ln N / 3) / 2^M: what an affine grid of M bits does to W.

    Step 2 sqrt(2 ln N) sigma / 2^M, uniform error uncorrelated with W. Too low where the extremes
    are nearer than sqrt(2 ln N), too high where 2^M - 1 steps are fewer than 2^M; within 0.03 of
    `uniform` for M >= 2 and N in 10^4..10^6.

    Raises:
      ValueError: as `bound`.
    """
    return uncorrelated(_noise(bits, n))


def _noise(bits: ArrayLike, n: ArrayLike) -> np.ndarray:
    """Relative error e of `estimate`; `bound` takes half of it."""
    bits, n = np.asarray(bits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if not (bits >= 1).all():
        raise ValueError(f"bits = {bits.tolist()}: the theorem needs 1 or more")
    if not ((n >= 2) & np.isfinite(n)).all():
        raise ValueError(f"n = {n.tolist()}: the theorem needs 2 elements or more")
    return np.sqrt(2 * np.log(n) / 3) / 2**bits


def uncorrelated(error: ArrayLike) -> np.ndarray | float:
    """1 / sqrt(1 + e^2): cosine where the error, of norm e |W|, is orthogonal to W."""
    return (1 / np.sqrt(1 + np.square(error)))[()]


def worst_case(error: ArrayLike) -> np.ndarray | float:
    """sqrt(1 - e^2), 0..1: the least cosine over all errors of norm e |W|, e in 0..1, elementwise.

    Certain for any tensor and quantizer; above the 1 / (1 + e) of the theorem's last step only for
    e below 0.8393, so that this step is proved there (`angle_derivation.triangle_step`).

    Raises:
      ValueError: e outside 0..1, where nothing is certain.
    """
    error = np.asarray(error, dtype=np.float64)
    if not ((error >= 0) & (error <= 1)).all():
        raise ValueError(f"error = {error.tolist()}: only relative errors in 0..1 bound an angle")
    return np.sqrt((1 - error) * (1 + error))[()]


def predicted(
    w: ArrayLike,
    bits: int,
    family: Family = "generalized_gaussian",
    kind: Kind = "affine",
    rounding: Rounding = "nearest",
) -> float:
    """Cosine expected for a tensor known by its size, extremes, mean square and kurtosis.

    The law of the elements is the member of the family that has this kurtosis; log_normal spreads
    the magnitudes over more binades. Two families, since the kurtosis alone does not fix the
    cosine: where they disagree, so may the tensor.

    Args:
      w: a tensor of 2 elements or more, about symmetric around 0.
      bits, kind, rounding: as in `uniform`.

    Raises:
      ValueError: unknown family, a kurtosis that it does not have, `uniform`'s.
    """
    if family not in get_args(Family):
        raise ValueError(f"unknown family {family!r}: one of {', '.join(get_args(Family))}")
    w = np.asarray(w, dtype=np.float64)
    law = getattr(element_law, family)(element_law.kurtosis(w))
    largest = np.abs(w).max()
    rms = largest * math.sqrt(np.mean((w / largest) ** 2))
    low, high = float(w.min() / rms), float(w.max() / rms)
    return given_extremes(bits, w.size, low, high, law, kind, rounding)
