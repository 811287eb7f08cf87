"""No certified bound is violated by `qtrain.dot`, and each is reached to at least half."""

import functools
import math
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from strategies import finite_float32
from sums import (
    COLUMNS,
    KINDS,
    ROWS,
    SETTINGS,
    error,
    exact_products,
    inner,
    name,
    operands,
    run,
)  # fmt: skip

from qtrain import formats
from theory.bounds import pairwise, worst_case
from theory.rounding_error import exp, exponent, growth, root, round_up, unit
from theory.running_bound import running_bound


def magnitude(products) -> Fraction:
    return sum(map(abs, map(Fraction, products.tolist())), Fraction(0))


def bounds(products, setting) -> dict[str, float]:
    """Every bound that holds for one sum."""
    size, peak = magnitude(products), float(abs(products).max())
    bound = functools.partial(worst_case, size, len(products), *setting, largest=peak)
    found = {"rounded": bound(), "running": running_bound(products, *setting)}
    with np.errstate(over="ignore"):
        float32 = products.astype(np.float32)
    if ((float32 == products) & ((products == 0) | (abs(products) >= 2.0**-126))).all():
        found["exact"] = bound(products="exact")
        held = [formats.get(f) for f in (setting[3] or "float32", inner(setting))]
        if all(oracles.add(-0.0, p, f) == p for p in products.tolist() for f in held):
            found["grid"] = bound(products="grid")
    return found


@pytest.mark.parametrize("setting", SETTINGS, ids=name)
def test_never_violated(setting):
    """Kills: rounding_error.py: `align` with the constant of nearest; underflow of half a quantum
    for all; no flushing. bounds.py: no underflow; the first rounding forgotten; products not
    rounded. running_bound.py: the last divisor only; `align` by |s + p|.
    """
    dot, fmt = run(setting), inner(setting)

    @hypothesis.given(
        kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1), n=st.integers(1, 32),
        pool=st.lists(finite_float32(), max_size=3),
    )  # fmt: skip
    def check(kind, seed, n, pool):
        a, b = operands(kind, fmt, seed, pool)
        a[:, n:] = 0
        with np.errstate(all="ignore"):
            got = np.asarray(dot(a, b, seed % 2**31)).ravel()
        for y, p in zip(got, exact_products(a[:, :n], b[:n]).reshape(-1, n), strict=True):
            for how, bound in bounds(p, setting).items():
                if math.isfinite(bound):
                    assert error(y, p) <= Fraction(bound), (how, p.tolist(), y)

    check()


U = 2.0**-10  # e6m9
TINY = 1 - 2.0**-12
NEAREST = [1.0] + [U] * 31
DOWN = [1.0] + [2 * U * TINY] * 31
CHUNKED = [1.0] + [U] * 7 + ([U] + [0.0] * 7) * 3  # every addition but those to zero loses U
SUBNORMAL = [2.0**-9 * TINY] * 6 + [0.0] * 26  # each is truncated to zero
CHUNKED_DOWN = [1.0] + [2 * U * TINY] * 7 + ([2 * U] + [0.0] * 7) * 3
REACHED = {  # setting, products, what is known of them
    "nearest": (("e6m9",), NEAREST, "grid"),
    "nearest, chunks": (("e6m9", 8), CHUNKED, "grid"),
    "nearest, stagnating": (("e4m3", None), [1.0] + [2.0**-4] * 31, "grid"),
    "toward_zero": (("e6m9", None, "toward_zero"), DOWN, "exact"),
    "toward_zero, chunks": (("e6m9", 8, "toward_zero"), CHUNKED_DOWN, "exact"),
    "align": (("e6m9", None, "align"), DOWN, "exact"),
    "align, chunks": (("e6m9", 8, "align"), CHUNKED_DOWN, "exact"),
    "nearest, underflow": (("e4m3fn",), [2.0**-10] * 32, "exact"),
    "toward_zero, underflow": (("e4m3fn", None, "toward_zero"), SUBNORMAL, "exact"),
    "align, underflow": (("e4m3fn", None, "align"), SUBNORMAL, "exact"),
    "no subnormals": (("e6m9ftz",), [2.0**-30 * (1 - 2.0**-9)] * 32, "exact"),
    "products": (("e8m21", None, "nearest", "e5m2"), [1.125] * 32, "exact"),
    "intra": (("float32", 8, "toward_zero", None, "e6m9"), CHUNKED_DOWN, "exact"),
    "outer": (("e6m9", 1, "nearest", None, "e8m21"), [1.0] + [U * TINY] * 31, "exact"),
    "float32": (("float32",), [1.0] + [2.0**-24] * 31, "grid"),
}


@pytest.mark.parametrize("case", REACHED)
def test_reached(case):
    """Kills: bounds.py: any bound more than twice as large; no additions between chunks."""
    setting, products, known = REACHED[case]
    setting = (*setting, *(None, "nearest", None, None)[len(setting) - 1 :])
    products = np.array(products)
    a, b = np.zeros((ROWS, 32), np.float32), np.ones((32, COLUMNS), np.float32)
    a[0] = products
    lost = error(run(setting)(a, b, 0)[0, 0], products)
    for bound in (
        worst_case(magnitude(products), 32, *setting, products=known, largest=products.max()),
        running_bound(products, *setting),
    ):
        assert Fraction(bound) / 2 <= lost <= Fraction(bound)


def test_float32_products_reached():
    """One product whose float32 rounding is a tie. Kills: bounds.py: a product's error doubled."""
    a = np.array([[1 + 2.0**-12]], np.float32)
    p = exact_products(a, a.T).reshape(-1)
    lost = error(run(("float32", None, "nearest", None, None))(a, a.T, 0)[0, 0], p)
    for bound in (worst_case(p[0], 1, "float32"), running_bound(p, "float32")):
        assert Fraction(bound) / 2 <= lost <= Fraction(bound)


@pytest.mark.parametrize(("chunk", "products"), [(None, [1.0] + [U / 2**12] * 31), (8, CHUNKED)])
def test_stochastic_reached(chunk, products):
    """All random bits ones: the oracle of `qtrain.dot`, since chance would take 2^31 sums or more.

    Kills: bounds.py: a power with twice the exponent.
    """
    fmt, products = formats.get("e6m9"), np.array(products)
    y = oracles.total(products.tolist(), fmt, chunk, "stochastic", word=lambda *_: 2**14 - 1)
    lost, size = error(y, products), magnitude(products)
    bound = worst_case(size, 32, fmt, chunk, "stochastic", products="grid")
    share = Fraction(1, 2) if chunk is None else Fraction(1, 4)  # ties: half an ulp up, not one
    assert share * Fraction(bound) <= lost <= Fraction(bound)
    bound = running_bound(products, fmt, chunk, "stochastic")
    assert share * Fraction(bound) <= lost <= Fraction(bound)


def tree(values: list[float], fmt, rounding: str) -> float:
    """A balanced tree of rounded additions."""
    while len(values) > 1:
        tail = values[len(values) & ~1 :]
        pairs = zip(values[::2], values[1::2], strict=False)
        values = [oracles.add(x, y, fmt, rounding, 2**13) for x, y in pairs] + tail
    return values[0]


@pytest.mark.parametrize("rounding", ["nearest", "toward_zero", "align", "stochastic"])
@hypothesis.given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1), n=st.integers(1, 32))
def test_pairwise_never_violated(rounding, kind, seed, n):
    """Kills: bounds.py: no rounding of the leaves."""
    fmt = formats.get(["e6m9", "e4m3fn", "e4m3ftz"][seed % 3])
    a, b = operands(kind, fmt, seed)
    for p in exact_products(a[:, :n], b[:n]).reshape(-1, n):
        p = p.astype(np.float32).astype(np.float64)
        leaves = [oracles.add(-0.0, x, fmt, rounding, 2**13) for x in p.tolist()]
        bound = pairwise(magnitude(p), n, fmt, rounding, grid=False)
        if math.isfinite(bound):
            assert error(tree(leaves, fmt, rounding), p) <= Fraction(bound)
        held = np.array(leaves)
        bound = pairwise(magnitude(held), n, fmt, rounding) if np.isfinite(held).all() else math.inf
        if math.isfinite(bound):
            assert error(tree(leaves, fmt, rounding), held) <= Fraction(bound)


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize(("rounding", "lost"), [("nearest", U), ("toward_zero", 1.998 * U)])
def test_pairwise_reached(rounding, lost, n):
    """1 meets a subtree of sum `lost` at each level.

    Kills: bounds.py: twice the levels; floor(log2 n) of them.
    """
    fmt, values = formats.get("e6m9"), np.zeros(n)
    values[0], values[2 ** np.arange((n - 1).bit_length())] = 1, oracles.add(-0.0, lost, fmt)
    bound = pairwise(magnitude(values), n, fmt, rounding)
    got = error(tree(values.tolist(), fmt, rounding), values)
    assert Fraction(bound) / 2 <= got <= Fraction(bound)


@hypothesis.given(seed=st.integers(0, 2**32 - 1), rounding=st.sampled_from(["nearest", "align"]))
def test_running_sees_more(seed, rounding):
    """Exact sums cost nothing, and cancellation counts. Kills: running_bound.py: no divisor."""
    rng = np.random.default_rng(seed)
    small = rng.integers(-16, 17, 32) / 8  # partial sums below 64 in steps of 1/8: 9 bits
    assert running_bound(small, "e6m9", None, rounding) == 0
    spread = rng.normal(size=256)
    assert running_bound(spread, "e6m9", 16, rounding) < worst_case(
        abs(spread).sum(), 256, "e6m9", 16
    )


@pytest.mark.parametrize(
    ("rounding", "products"),
    [
        ("nearest", [1.25] + [-(2.0**-4)] * 20),  # stays at 1.25 while the exact sum goes to zero
        ("align", [0.9375, 1.875 - 2.0**-10]),  # both lose bits, and the carry does
    ],
)
def test_running_follows_the_computed_sum(rounding, products):
    """Kills: running_bound.py: an ulp of the exact sum; `align` as toward_zero."""
    y = oracles.total(products, formats.get("e4m3"), None, rounding)
    lost, bound = error(y, np.array(products)), running_bound(products, "e4m3", None, rounding)
    assert Fraction(bound) / 2 <= lost <= Fraction(bound)


@pytest.mark.parametrize("name", ["e4m3fn", "e4m3finite", "e5m2sat", "e6m9"])
@pytest.mark.parametrize("rounding", ["nearest", "toward_zero", "align", "stochastic"])
def test_range(name, rounding):
    """Infinite where a format saturates or overflows, finite just inside.

    Kills: bounds.py: the range of the last sum only.
    """
    assert worst_case(600, 2, "e6m9", None, rounding, intra="e4m3fn") == math.inf
    assert running_bound([300, 300], "e6m9", None, rounding, intra="e4m3fn") == math.inf
    top = formats.get(name).max
    for p in ([top, top], [top, top / 2, -top / 2], [top, top / 2, -top]):
        assert worst_case(magnitude(np.array(p)), len(p), name, None, rounding) == math.inf
        assert running_bound(p, name, None, rounding) == math.inf
    assert worst_case(top / 2, 2, name, None, rounding, products="grid") < math.inf
    assert worst_case(2, 2, "e6m9", None, rounding, "e2m1finite", largest=7) == math.inf
    assert worst_case(2, 2, "e6m9", None, rounding, "e2m1finite") < math.inf
    assert running_bound([7.0], "e6m9", None, rounding, "e2m1finite") == math.inf


@pytest.mark.parametrize("rounding", ["nearest", "toward_zero", "align", "stochastic"])
def test_constants(rounding):
    """The largest relative error over pairs of a small format, and terms just beside zero: the
    stated constant is not passed, and approached to a tenth.

    Kills: rounding_error.py: stochastic with the constant of toward_zero.
    """
    fmt = formats.get("e4m3")
    sums = [x for x in fmt.values if 0.0625 <= abs(x) <= 4]
    v, worst = unit(fmt, rounding), Fraction(0)
    for s in sums:
        for p in [*sums, 2.0**-20, -(2.0**-20)]:
            if rounding == "align" and abs(p) > abs(s) and p not in sums:
                continue  # not on the grid
            exact = Fraction(s) + Fraction(p)
            lost = abs(Fraction(oracles.add(s, p, fmt, rounding, 2**20 - 1)) - exact)
            size = abs(Fraction(s)) + abs(Fraction(p)) if rounding == "align" else abs(exact)
            worst = max(worst, lost / size) if size else worst
    assert v * Fraction(9, 10) <= worst <= v


def test_align_forgets_what_cancels():
    """No relative error of the sum bounds `align`: 1 - 15/16 becomes 1/8."""
    assert oracles.add(1.0, -(1 - 2.0**-4), formats.get("e4m3"), "align") == 2.0**-3


@hypothesis.given(x=st.fractions(0, 10**6), v=st.fractions(0, 1), k=st.integers(0, 60))
def test_directed_arithmetic(x, v, k):
    """Kills: rounding_error.py: growth rounded down; round_up to nearest."""
    assert x <= Fraction(round_up(x))
    assert x == 0 or Fraction(round_up(x)) <= x * (1 + 2.0**-52)
    grown = growth(v, k)
    assert (1 + v) ** k - 1 <= grown <= ((1 + v) ** k - 1) + Fraction(k + 1, 2**100) * (1 + v) ** k
    assert x <= root(x) ** 2 <= x + Fraction(1, 2**200)
    low, high = exp(v)
    assert low <= high
    assert high - low < Fraction(1, 2**200)
    assert abs(float(low) - math.exp(v)) < 1e-14
    e = exponent(x)
    assert x == 0 or Fraction(2) ** e <= x < Fraction(2) ** (e + 1)


def test_refused():
    """One line with the value and the remedy."""
    for wrong in (
        {"rounding": "up"}, {"n": 0}, {"chunk": 0}, {"products": "x"}, {"fmt": "e5m2b150"},
        {"abs_sum": -1.0}, {"abs_sum": math.nan},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"."):
            worst_case(**({"abs_sum": 1.0, "n": 2, "fmt": "e6m9"} | wrong))
    assert worst_case(math.inf, 2, "e6m9") == math.inf
    assert jnp.isfinite(worst_case(1.0, 2**40, "e6m9", 64))
