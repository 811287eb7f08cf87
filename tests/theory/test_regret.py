"""The bounds as functions: limits, order, what each argument does, bad input."""

import dataclasses
import math

import hypothesis
import hypothesis.strategies as st
import pytest

from theory import regret
from theory.regret import Constants, sgd, theorem1, theorem2, theorem3

ONE = Constants(
    d=64, steps=1000, eta=0.1, beta=0.99, gradient=2.0, gradient_inf=1.0, diameter=16.0,
    diameter_inf=2.0, smoothness=3.0, weight_norm=8.0, scale=0.5, weight_bits=2,
)  # fmt: skip
CONSTANTS = st.builds(
    Constants, d=st.integers(1, 10**6), steps=st.integers(1, 10**6), eta=st.floats(1e-3, 10),
    beta=st.floats(0, 0.999), gradient=st.floats(1, 100), gradient_inf=st.floats(1, 50),
    diameter=st.floats(1, 100), diameter_inf=st.floats(0.1, 10), smoothness=st.floats(0.1, 10),
    weight_norm=st.just(0.5), scale=st.floats(0, 1), weight_bits=st.sampled_from([None, 2, 3, 8]),
    workers=st.integers(1, 16),
)  # fmt: skip


@hypothesis.given(at=CONSTANTS, bits=st.integers(2, 8), c=st.floats(0.5, 3))
def test_printed_is_above_corrected_without_gaps(at, bits, c):
    """G_inf >= 1, max ||w|| <= D, no binary weights, c Delta <= 4.9.

    Kills: regret.py: all noise averaged away in printed; diameter and weight_norm exchanged.
    """
    pairs = [
        [theorem1(at, form) for form in ("printed", "corrected")],
        [theorem2(at, bits, form) for form in ("printed", "corrected")],
        [theorem3(at, bits, c, 0.1, form, 0.1) for form in ("printed", "corrected")],
    ]
    for printed, corrected in pairs:
        assert corrected.speed <= printed.speed * (1 + 1e-12)
        assert corrected.floor <= printed.floor * (1 + 1e-12)
    assert (pairs[0][0].floor == 0) == (at.weight_bits is None)


@hypothesis.given(at=CONSTANTS, bits=st.integers(2, 7))
def test_quantization_and_workers(at, bits):
    """Fewer bits are slower; workers take it back, as 1/N; the floor is what it was.

    Kills: regret.py: enlargement / workers without the 1 kept; speed times enlargement.
    """
    full, coarse, fine = theorem1(at), theorem2(at, bits), theorem2(at, bits + 1)
    assert full.speed <= fine.speed <= coarse.speed
    assert full.floor == fine.floor == coarse.floor
    many = theorem2(dataclasses.replace(at, workers=10**12), bits)
    assert many.speed == pytest.approx(full.speed, rel=1e-6)
    alone = dataclasses.replace(at, workers=1)
    squares = [(theorem2(a, bits).speed / full.speed) ** 2 - 1 for a in (alone, at)]
    assert squares[0] == pytest.approx(squares[1] * at.workers, rel=1e-9)


@hypothesis.given(at=CONSTANTS, factor=st.floats(0.01, 100))
def test_homogeneous(at, factor):
    """Losses times a factor: G, G_inf and L with it, and so the corrected bound. Not the printed.

    Kills: regret.py: G_inf in the corrected rate.
    """
    scaled = dataclasses.replace(
        at, gradient=at.gradient * factor, gradient_inf=at.gradient_inf * factor,
        smoothness=at.smoothness * factor,
    )  # fmt: skip
    expected = theorem1(at, "corrected").total * factor
    assert theorem1(scaled, "corrected").total == pytest.approx(expected, rel=1e-12)


def test_rates():
    """1 / sqrt T for the speed; nothing falls in floor and clip."""
    late = dataclasses.replace(ONE, steps=4000)
    for bound in (
        theorem1, lambda at: theorem2(at, 3), lambda at: theorem3(at, 3, 2.0, 0.1),
        lambda at: sgd(at, 1.7, 0.3),
    ):  # fmt: skip
        early, later = bound(ONE), bound(late)
        assert later.speed == pytest.approx(early.speed / 2)
        assert later[1:] == early[1:]
        assert early.total == sum(early)


def test_smaller_clip_is_faster_and_higher():
    bounds = [theorem3(ONE, 2, c, 0.1) for c in (1, 2, 3)]
    assert bounds[0].speed < bounds[1].speed < bounds[2].speed
    assert bounds[0].clip > bounds[1].clip > bounds[2].clip


def test_binary_resolution():
    """Printed 1, in fact 2, on the same constants otherwise."""
    binary = dataclasses.replace(ONE, weight_bits=1, weight_norm=0.0)
    inside = 64 * 0.25 / 4
    assert regret.weight_floor(binary, "corrected") == 3 * 16 * math.sqrt(4 * inside)
    assert regret.weight_floor(binary, "printed") == 3 * 16 * math.sqrt(256 + inside)
    widths = [regret.weight_resolution(b, "corrected") for b in (None, 1, 2, 3, 4)]
    assert widths == [0, 2, 1, 1 / 3, 1 / 7]


@pytest.mark.parametrize(
    "change",
    [
        {"d": 0}, {"steps": 2.5}, {"workers": True}, {"eta": 0.0}, {"eta": math.inf}, {"beta": 1.0},
        {"gradient": -1.0}, {"smoothness": math.nan}, {"weight_bits": 0}, {"weight_bits": 17},
        {"weight_bits": True},
    ],
)  # fmt: skip
def test_bad_constants(change):
    with pytest.raises(ValueError, match=r"^[^\n]*: give [^\n]*$"):
        dataclasses.replace(ONE, **change)


def test_bad_arguments():
    for call in (
        lambda: theorem1(ONE, "exact"), lambda: theorem2(ONE, 1), lambda: theorem3(ONE, 2, 0, 0.1),
        lambda: theorem3(ONE, 2, 1.0, 0.1, "corrected"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^[^\n]*: give [^\n]*$"):
            call()
