"""The benchmark's choice of cases, and the README's table made from its rows."""

import json

import pytest

from scripts import bench


@pytest.fixture
def cases(monkeypatch):
    """One case in place of all, so that nothing large is made."""
    case = bench.Case("cast nearest e5m2", abs, abs, (), 1)
    for maker in ("cast_cases", "dot_cases", "conv_cases", "step_cases"):
        monkeypatch.setattr(bench, maker, lambda: iter(()))
    monkeypatch.setattr(bench, "cast_cases", lambda: iter((case,)))
    return [case]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ("nearest", "nosuch")}, "no case contains nosuch: --list"),
        ({"rounds": 1}, "rounds must be at least 2, not 1"),
    ],
)
def test_mistakes(cases, options, message):
    with pytest.raises(ValueError, match=message):
        bench.choose(bench.Options(**options))
    assert bench.choose(bench.Options(only=("nearest",))) == cases
    assert cases[0].goal == 1.5


def test_table_shows_the_latest_and_marks_what_misses_its_goal(tmp_path):
    """Kills: bench.py: `if max(ratios) <= goal` -> `if min(ratios) <= goal`."""
    rows = [
        {"versions": {"jax": "1.0"}},
        {"case": "cast nearest e5m2", "ratio": 9.0},
        {"case": "cast nearest e5m2", "ratio": 1.2},
        {"case": "cast nearest e6m9", "ratio": 1.6},
        {"versions": {"jax": "2.0"}},
        {"case": "cast nearest e5m2", "ratio": 1.5},
    ]
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = bench.table(path).splitlines()
    assert lines[0].endswith("| goal | jax 1.0 | jax 2.0 |")
    assert lines[2] == "| cast of 16M values in place, nearest | 1.5 | **1.2 to 1.6** | 1.5 |"
