"""Formats and float32 arrays on which a rounding can go wrong, drawn or enumerated."""

import hypothesis.strategies as st
import numpy as np

from qtrain.formats import Codebook, Fixed, Float, Format, Int

TOPS = ("ieee", "fn", "fnuz", "finite")
SHAPE = (64,)  # drawn arrays have one shape, so XLA compiles each operation once
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-40, 1.17549435e-38, 3.4028235e38],
    np.float32,
)


def possible(*args, **kwargs) -> Float | None:
    """Float(...) where such a format exists, else None."""
    try:
        return Float(*args, **kwargs)
    except ValueError:
        return None


def all_floats(max_bits: int) -> list[Float]:
    """Every float format of the default bias with at most `max_bits` bits, every top."""
    widths = [(e, m) for e in range(2, 9) for m in range(max_bits - e) if m < 24]
    return [f for e, m in widths for t in TOPS if (f := possible(e, m, top=t))]


def _limits(fmt: Format) -> tuple[float, float]:
    return getattr(fmt, "min", -fmt.max), fmt.max


def points(fmt: Format) -> np.ndarray:
    """The values of a format (of a wide one, some), and what is just beyond both ends."""
    low, high = _limits(fmt)
    if fmt.bits <= 12:
        values = fmt.values
    else:
        powers = 2.0 ** np.arange(-149, 128)
        values = np.concatenate([powers, powers * (1 + getattr(fmt, "eps", 0.5)), [high]])
        values = values[values <= high]
    ulp = high - values[-2] if fmt.bits <= 12 else high * getattr(fmt, "eps", 2.0**-fmt.bits)
    beyond = high + ulp * np.array([0.25, 0.5, 0.75, 1, 1.5, 2, 3])
    return np.concatenate([values, beyond, low - (beyond - high)])


def hard_inputs(fmt: Format, size: int, seed: int = 0) -> np.ndarray:
    """`size` float32 numbers: all points, midpoints, the float32s beside them, specials, noise.

    Beyond `size`, points are dropped at random; noise (random bit patterns, and normals around
    the smallest and the largest value) fills at least an eighth.
    """
    rng = np.random.default_rng(seed)
    p = np.sort(points(fmt))
    with np.errstate(over="ignore"):
        exact = np.unique(np.concatenate([p, -p, (p[1:] + p[:-1]) / 2]).astype(np.float32))
        beside = [np.nextafter(exact, np.float32(s)) for s in (np.inf, -np.inf)]
    chosen = np.concatenate([exact, *beside])
    room = size - size // 8 - SPECIAL.size
    if chosen.size > room:
        chosen = rng.choice(chosen, room, replace=False)
    left = size - chosen.size - SPECIAL.size
    tiny = getattr(fmt, "min_normal", getattr(fmt, "step", fmt.max))
    noise = [
        rng.integers(0, 2**32, left, dtype=np.uint32).view(np.float32),
        (rng.normal(size=left) * 2 * tiny).astype(np.float32),
        np.clip(rng.normal(size=left) * fmt.max / 2, -3.4e38, 3.4e38).astype(np.float32),
    ]
    pick = rng.integers(0, 3, left)
    return np.concatenate([SPECIAL, chosen, np.choose(pick, noise)]).astype(np.float32)


@st.composite
def float_formats(draw, max_bits: int = 32, **fixed) -> Float:
    """Any Float of at most `max_bits` bits: bias, subnormals, top and saturation vary too."""
    exp = draw(st.integers(2, min(8, max_bits - 1)))
    man = draw(st.integers(0, min(23, max_bits - 1 - exp)))
    options = {
        "bias": draw(st.none() | st.integers(-20, 150)),
        "subnormals": draw(st.booleans()),
        "top": draw(st.sampled_from(TOPS)),
        "saturate": draw(st.booleans()),
    } | fixed
    # a bias or a top that float32 cannot carry falls back to the plain format
    return possible(exp, man, **options) or Float(exp, man, subnormals=options["subnormals"])


def integer_formats() -> st.SearchStrategy[Int]:
    """Any Int up to 12 bits."""
    signed = st.builds(Int, st.integers(2, 12), st.just(True), st.booleans())
    return signed | st.builds(Int, st.integers(1, 12), st.just(False))


def fixed_formats() -> st.SearchStrategy[Fixed]:
    """Any Fixed up to 12 bits."""
    return st.builds(Fixed, st.integers(1, 6), st.integers(0, 6))


def codebooks() -> st.SearchStrategy[Codebook]:
    """Two to nine levels, multiples of 2^-10 below 4: their midpoints are float32 numbers."""
    levels = st.sets(st.integers(-(2**12), 2**12), min_size=2, max_size=9)
    return levels.map(lambda s: Codebook(tuple(v / 1024 for v in sorted(s))))


def formats() -> st.SearchStrategy[Format]:
    """A format of any kind."""
    return float_formats() | integer_formats() | fixed_formats() | codebooks()


def finite_float32(limit: float = 3.4028234663852886e38) -> st.SearchStrategy[float]:
    """Finite float32 numbers up to `limit`, subnormals and both zeros included."""
    return st.floats(-limit, limit, width=32, allow_subnormal=True)


def arrays(fmt: Format, *, specials: bool = True) -> st.SearchStrategy[np.ndarray]:
    """float32 arrays of SHAPE: points of the format, ties, neighbours, anything else."""
    seeds = st.integers(0, 2**32 - 1)
    pool = st.lists(finite_float32(), min_size=4, max_size=4)

    def build(seed, extra):
        hard = hard_inputs(fmt, 4 * SHAPE[0], seed)
        if not specials:
            hard = hard[np.isfinite(hard)]
        x = np.random.default_rng(seed).choice(hard, SHAPE[0])
        x[: len(extra)] = extra
        return x

    return st.builds(build, seeds, pool)


def same(got, want) -> np.ndarray:
    """Where two float32 arrays have the same bits, any NaN counting as any other."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype == np.float32
    return (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))


def assert_same(got, want, x) -> None:
    """Fails with the first input on which the bits differ."""
    ok = same(got, want)
    if not ok.all():
        i = int(np.flatnonzero(~ok)[0])
        raise AssertionError(
            f"{(~ok).sum()} of {ok.size} differ; first {float(x[i])!r}"
            f" ({float(x[i]).hex()}): got {np.asarray(got)[i]!r}, want {np.asarray(want)[i]!r}"
        )
