"""The exact law of a tensor core's sum of independent random products, with its error.

The running sum is a Markov chain over its own values, one fused addition per step. With
D = computed - exact, the state carries m_i(s) = E[D^i 1{sum = s}], i = 0, 1, 2: enough for the
law of the sum, its bias and its mean squared error. Given the exponent e of the alignment, the
addition is a convolution of integers: those of the sum and of L truncated products.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import fft

from theory.products import Discrete
from theory.tensor_core import TensorCore

_TAIL = 1e-12  # mass of a group's sum that may wrap around, per addition
_NEVER = -(10**6)  # exponent of a zero product
_IGNORED = 1e-15  # mass of moves that are left out, per addition and exponent


@dataclasses.dataclass(frozen=True)
class Errors:
    """Of one dot product: E s, E D and E D^2, and the exact sum's mean and variance."""

    mean: float
    bias: float
    mean_square: float
    exact_mean: float
    exact_variance: float

    @property
    def relative_rms(self) -> float:
        """sqrt(E D^2 / E S^2), S the exact sum: the norm-wise relative error of many outputs."""
        return float(np.sqrt(self.mean_square / (self.exact_variance + self.exact_mean**2)))

    @property
    def relative_bias(self) -> float:
        """E D / E S."""
        return self.bias / self.exact_mean


@dataclasses.dataclass(frozen=True, eq=False)
class _Atoms:
    """Values of a product with their exponents (int; very low for zero) and probabilities."""

    values: np.ndarray
    exponents: np.ndarray
    probs: np.ndarray


def errors(core: TensorCore, a: Discrete, b: Discrete, length: int) -> Errors:
    """The moments after `length` products of independent operands, each with its law.

    Exact for a chain but for float64 (about 1e-12 of the mass). Where the core is promoted, the
    chunks are independent and float32's rounding of their sum is left out: at most
    2^-24 of it per chunk.

    Raises:
      ValueError: length is no multiple of the products per group, or of the chunk.
    """
    chunk = min(core.chunk or length, length)
    if chunk % core.fused or length % chunk:
        raise ValueError(f"{length} is no multiple of groups of {core.fused}, chunks of {chunk}")
    atoms = _products(core, a, b)
    mean = float(atoms.probs @ atoms.values)
    variance = float(atoms.probs @ atoms.values**2) - mean**2
    n, states = length // chunk, _run(core, atoms, chunk // core.fused)
    size = 2 << core.man
    first = sum(
        float(m[0] @ np.arange(-size, size + 1)) * 2.0 ** (e - core.man) for e, m in states.items()
    )
    bias, square = (float(sum(m[i].sum() for m in states.values())) for i in (1, 2))
    return Errors(
        mean=n * first,
        bias=n * bias,
        mean_square=n * (square - bias**2) + (n * bias) ** 2,
        exact_mean=length * mean,
        exact_variance=length * variance,
    )


def _products(core: TensorCore, a: Discrete, b: Discrete) -> _Atoms:
    pairs = [
        (x * y, core.exponents(x, y) if x and y else _NEVER, p * q)
        for x, p in zip(a.values, a.probs, strict=True)
        for y, q in zip(b.values, b.probs, strict=True)
    ]
    values, exponents, probs = (np.array(column) for column in zip(*pairs, strict=True))
    keys, index = np.unique(np.stack([values, exponents]), axis=1, return_inverse=True)
    return _Atoms(keys[0], keys[1].astype(int), np.bincount(index.ravel(), weights=probs))


def _run(core: TensorCore, atoms: _Atoms, groups: int) -> dict[int, np.ndarray]:
    """States after `groups` additions: e -> (3, 2^(F+2) + 1), the moments of s = n 2^(e - F).

    n runs over -2^(F+1) .. 2^(F+1). It has F + 1 bits, except for the lowest e, which is that of
    the smallest product and holds all smaller sums: they are multiples of 2^(e - F) too, and no
    alignment is lower.
    """
    size = 2 << core.man
    bottom = int(atoms.exponents[atoms.exponents > _NEVER].min())
    top = int(atoms.exponents.max())
    kernel = functools.cache(functools.partial(_kernels, core, atoms))
    states = {bottom: np.zeros((3, 2 * size + 1))}
    states[bottom][0, size] = 1  # s = 0
    for _ in range(groups):
        after: dict[int, np.ndarray] = {}
        low = np.zeros((3, 2 * size + 1))  # all states below e, truncated to 2^(e - F)
        for e in range(bottom, max(top, *states) + 1):
            same = states.get(e, np.zeros_like(low))
            up_to, below = (
                (atoms.probs[atoms.exponents <= x].sum()) ** core.fused for x in (e, e - 1)
            )
            if same[0].sum() * up_to + low[0].sum() * (up_to - below) > _IGNORED:
                total = kernel(e).add(same, low)
                _file(total, e, bottom, core.man, after)
            low = _halve(low + same, 2.0 ** (e - core.man), size)
        states = after
    return states


@dataclasses.dataclass(frozen=True, eq=False)
class _Kernels:
    """Spectra of L truncated products with their losses, (3, N / 2 + 1) each.

    up_to: of products with exponents up to e; exactly: with e among them.
    """

    up_to: np.ndarray
    exactly: np.ndarray
    length: int  # N

    def add(self, same: np.ndarray, low: np.ndarray) -> np.ndarray:
        """Moments of the sums, (3, N), 0 in the middle: sums of binade e and of those below."""
        total = sum(
            _product(fft.rfft(_wrap(source, self.length)), spectra)
            for source, spectra in ((same, self.up_to), (low, self.exactly))
        )
        return fft.fftshift(fft.irfft(total, self.length), axes=1)


def _product(s: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Of E[D^i] and E[loss^i]: those of D - loss."""
    return np.stack([s[0] * k[0], s[1] * k[0] - s[0] * k[1],
                     s[2] * k[0] - 2 * s[1] * k[1] + s[0] * k[2]])  # fmt: skip


def _wrap(x: np.ndarray, length: int) -> np.ndarray:
    """(3, 2 size + 1) with 0 in the middle to (3, length) with 0 in front."""
    middle = x.shape[1] // 2
    wrapped = np.zeros((3, length))
    wrapped[:, : middle + 1], wrapped[:, -middle:] = x[:, middle:], x[:, :middle]
    return wrapped


def _kernels(core: TensorCore, atoms: _Atoms, e: int) -> _Kernels:
    ulp = 2.0 ** (e - core.man)
    steps = np.trunc(atoms.values / ulp)
    loss = atoms.values - steps * ulp
    inside, below = atoms.exponents <= e, atoms.exponents < e
    reach = _reach(steps[inside], atoms.probs[inside], core.fused)
    length = fft.next_fast_len(2 * (int(reach) + (2 << core.man) + 2), real=True)
    length += length % 2

    def spectra(chosen):
        where = steps[chosen].astype(int) % length
        f = [
            fft.rfft(np.bincount(where, atoms.probs[chosen] * loss[chosen] ** i, length))
            for i in range(3)
        ]
        n = core.fused
        rest = f[0] ** max(n - 2, 0)  # of L products, one or two carry the loss
        pair = n * (n - 1) * f[1] ** 2 * rest
        return np.stack([f[0] ** n, n * f[1] * f[0] ** (n - 1), n * f[2] * f[0] ** (n - 1) + pair])

    up_to, lower = spectra(inside), spectra(below)
    return _Kernels(up_to, up_to - lower, length)


def _reach(steps: np.ndarray, probs: np.ndarray, n: int) -> float:
    """Some x with P(|sum of n steps| > x) < _TAIL: the best of many Chernoff bounds."""
    most = max(np.abs(steps).max(initial=0), 1)
    best = float(n * most)
    for theta in np.geomspace(1e-4, 100, 100) / most:
        moments = [np.log(probs @ np.exp(theta * sign * steps)) for sign in (1, -1)]
        best = min(best, (n * max(moments) - np.log(_TAIL / 2)) / theta)
    return max(best, 0.0)


def _halve(m: np.ndarray, ulp: float, size: int) -> np.ndarray:
    """Truncates n to a multiple of 2, (3, 2 size + 1) to the same; n ulp loses at most ulp."""
    middle = m.shape[1] // 2
    n = np.arange(-middle, middle + 1)
    half = np.trunc(n / 2).astype(int)
    lost = (n - 2 * half) * ulp
    moved = np.stack([m[0], m[1] - lost * m[0], m[2] - 2 * lost * m[1] + lost**2 * m[0]])
    return np.stack([np.bincount(half + size, x, 2 * size + 1) for x in moved])


def _file(total: np.ndarray, e: int, bottom: int, man: int, states: dict[int, np.ndarray]) -> None:
    """Adds the sums n 2^(e - F) to `states`: each in its own binade, truncated to F + 1 bits."""
    size = 2 << man
    middle = (total.shape[1] - 1) // 2
    total = total[:, total.shape[1] // 2 - middle :][:, : 2 * middle + 1]
    n = np.arange(-middle, middle + 1)

    def put(exponent, m, chosen, places):
        into = states.setdefault(exponent, np.zeros((3, 2 * size + 1)))
        into[:, places[chosen] + size] += m[:, chosen]

    put(bottom, total, n == 0, n)
    for down in range(min(e - bottom, man + 1) + 1):  # below the alignment's binade: exact
        least = 1 if down == e - bottom else size >> down + 1
        put(e - down, total, (abs(n) >= max(least, 1)) & (abs(n) < size >> down), n << down)
    while middle >= size:
        total = _halve(np.where(abs(n) >= size, total, 0.0), 2.0 ** (e - man), middle // 2)
        e, middle = e + 1, middle // 2
        n = np.arange(-middle, middle + 1)
        put(e, total, abs(n) < size, n)
