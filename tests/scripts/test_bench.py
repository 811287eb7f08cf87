"""The benchmark's choice of cases, and the README's table made from its rows."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from qtrain.recipes.base import baseline
from qtrain.train.data import load
from qtrain.train.state import create
from qtrain.train.step import train_step
from scripts import bench, bench_steps


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


def test_table_has_a_column_for_another_number_of_cores(tmp_path):
    """Kills: bench.py `_column`: `{suffix}` gone."""
    rows = [
        {"versions": {"jax": "1.0"}, "device": {"cores": 2}},
        {"case": "cast nearest e5m2", "ratio": 1.2},
        {"versions": {"jax": "1.0"}, "device": {"cores": 1}},
        {"case": "cast nearest e5m2", "ratio": 1.3},
    ]
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = bench.table(path).splitlines()
    assert lines[0].endswith("| goal | jax 1.0 | jax 1.0, one core |")
    assert lines[2].endswith("| 1.5 | 1.2 | 1.3 |")


def test_every_training_step_has_its_own_goal():
    """Kills: bench.py ROWS: `training step.*, wang2018fp8` -> `training step.*`."""
    goals = {
        name: bench.Case(f"training step, model, batch 128, {name}", abs, abs, (), 1).goal
        for name in (*bench_steps.recipes(), "int8 against qwix")
    }
    assert goals.pop("wang2018fp8") == 5.0
    assert goals.pop("int8 against qwix") == 1.0
    assert set(goals.values()) == {1.6}
    assert len(goals) == 6


@pytest.mark.filterwarnings("ignore::DeprecationWarning:qwix")
def test_qwix_multiplies_int8_alone():
    """In all GEMMs of its step. Kills: bench_steps.py `with_qwix`: `bwd_qtype="int8"` gone."""
    pytest.importorskip("qwix")
    recipe = baseline(bench_steps.int8())
    dataset = load(recipe.data)
    program, state = create(recipe, dataset, seed=0, steps=1)
    images, labels = jnp.asarray(dataset.train_x[:2]), jnp.asarray(dataset.train_y[:2])
    theirs = bench_steps.with_qwix(program, state, images)
    step = jax.jit(lambda state, x, y: train_step(theirs, state, x, y))
    lines = step.lower(state, images, labels).as_text().splitlines()
    gemms = [x for x in lines if "stablehlo.convolution" in x or "stablehlo.dot_general" in x]
    assert len(gemms) >= 11  # three per layer, but for the first layer's input gradient
    assert all(line.count("xi8>") == 2 for line in gemms)


class Machine:
    """Clocks that stand still but where `work` is done, and gets slower with every call."""

    def __init__(self):
        self.wall = self.cpu = self.calls = 0

    def work(self, wall: int, cpu: int):
        """A function that takes that many seconds; the first two calls a thousand times as many."""

        def run(x):
            slower = 1000 if self.calls < 4 else 2 ** (self.calls // 2)  # calls come in pairs
            self.calls += 1
            self.wall += wall * slower
            self.cpu += cpu * slower
            return x

        return run

    def jit(self, f, donate_argnums):
        """As `jax.jit`, but that f is run as it is."""
        return SimpleNamespace(lower=lambda *args: SimpleNamespace(compile=lambda: f))


def test_ratios_are_of_the_emulated_time(monkeypatch):
    """Of neighbours, on a machine that gets slower: its drift and the first rounds do not matter.

    Kills: bench.py `measure`: `e / p` -> `p / e`; `r >= 2` -> `r >= 1`.
    """
    machine = Machine()
    clocks = {"perf_counter": lambda: machine.wall, "process_time": lambda: machine.cpu}
    monkeypatch.setattr(bench, "time", SimpleNamespace(**clocks))
    fake = SimpleNamespace(jit=machine.jit, block_until_ready=lambda x: x)
    monkeypatch.setattr(bench, "jax", fake)
    case = bench.Case("conv small", machine.work(2, 1), machine.work(6, 5), (0,), 1)
    row = bench.measure(case, rounds=3)
    assert (row["ratio"], row["cpu_ratio"]) == (3, 5)
    assert (row["plain_s"], row["emulated_s"]) == (2 * 2**3, 6 * 2**3)  # of the middle round
    assert row["share_of_plain_speed"] == 1 / 3
