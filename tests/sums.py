"""Sums that provoke rounding errors, and their exact values."""

from fractions import Fraction

import jax
import numpy as np

import qtrain as qt
from qtrain import formats

ROWS, LENGTH, COLUMNS = 4, 32, 2
KINDS = ["normal", "spread", "cancel", "ties", "swamped", "tiny", "huge", "narrow"]

# fmt, chunk, rounding, product, intra
SETTINGS = [
    ("e6m9", None, "nearest", None, None),
    ("e4m3fn", 8, "nearest", None, None),
    ("e6m9ftz", 5, "nearest", None, None),
    ("e5m10", None, "nearest", "e5m2", "e6m9"),
    ("bfloat16", 8, "nearest", None, None),
    ("float32", None, "nearest", None, None),
    ("e5m2", None, "toward_zero", None, None),
    ("float32", 8, "toward_zero", None, "e8m13"),
    ("e4m3", None, "align", None, None),
    ("e6m9", 5, "align", None, None),
    ("e4m3fn", None, "stochastic", None, None),
    ("e6m9", 8, "stochastic", "e4m3fn", "e5m7"),
]


def name(setting) -> str:
    return "-".join(str(s) for s in setting)


def operands(kind: str, fmt, seed: int, pool=()) -> tuple[np.ndarray, np.ndarray]:
    """(ROWS, LENGTH) and (LENGTH, COLUMNS) float32, none of them subnormal; `pool` is mixed in."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(ROWS, LENGTH)), rng.normal(size=(LENGTH, COLUMNS))
    u = 2.0 ** -(fmt.man + 1)
    if kind == "spread":
        a, b = a * 2.0 ** rng.integers(-14, 15, a.shape), b * 2.0 ** rng.integers(-9, 10, b.shape)
    elif kind == "cancel":
        a, b[LENGTH // 2 :] = np.concatenate([a[:, :16], -a[:, :16]], 1), b[: LENGTH // 2]
        a = a * (1 + u * rng.integers(-2, 3, a.shape))
    elif kind == "ties":
        a, b = rng.integers(-6, 7, a.shape) * u, np.ones_like(b)
        a[:, 0] = 1
    elif kind == "swamped":  # terms near half an ulp or one ulp of the first
        beside = 1 + rng.choice([-1, 0, 1], (ROWS, 1)) / 2**12
        part = u * rng.choice([-2, -1, 1, 2], (ROWS, 1)) * beside
        a, b = part * np.ones_like(a), np.ones_like(b) * rng.choice([1, -1], (1, COLUMNS))
        a[:, 0] = rng.choice([1, 1.5, -1], ROWS)
    elif kind in ("tiny", "huge"):  # around the smallest numbers and the largest
        # with 8 exponent bits, products are normal float32 numbers whose sums may not be
        low = max(fmt.emin - fmt.man - 1, -127) if kind == "tiny" else fmt.emax - 9
        steps = rng.integers(1 + (low == -127), 2 ** (2 + seed % 8), a.shape)
        half = low // 2
        a = steps * rng.choice([1, -1], a.shape) * (1 - rng.choice([0, 2.0**-12])) * 2.0**half
        b = np.full_like(b, 2.0 ** (low - half))
    elif kind == "narrow":
        a, b = (np.round(x * 4) / 4 for x in (a, b))
    a.reshape(-1)[rng.permutation(a.size)[: len(pool)]] = pool
    a, b = a.astype(np.float32), b.astype(np.float32)
    return np.where(abs(a) < 2.0**-126, 0, a).astype(np.float32), b


def run(setting):
    """The jitted dot of a setting: (a, b, seed) -> (ROWS, COLUMNS)."""
    fmt, chunk, rounding, product, intra = setting
    accum = qt.Accumulator(fmt, chunk, rounding, product, intra)

    def dot(a, b, seed):
        return qt.dot(a, b, accum=accum, key=jax.random.key(seed) if accum.needs_key else None)

    return jax.jit(dot)


def exact_products(a, b) -> np.ndarray:
    """(ROWS, COLUMNS, LENGTH) a_k b_k, which float64 holds."""
    return a[:, None, :].astype(np.float64) * b.T[None].astype(np.float64)


def error(got: float, products) -> Fraction:
    """|got - sum of products|."""
    return abs(Fraction(float(got)) - sum(map(Fraction, products.tolist()), Fraction(0)))


def inner(setting):
    return formats.get(setting[4] or setting[0])
