"""A checkpoint comes back bit for bit, or is named and refused."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.train.checkpoint import SEAL, Checkpoints

CONFIG = {"type": "qtrain.X", "seed": 0, "places": [{"fmt": "e5m2"}]}


@pytest.fixture
def run(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", CONFIG)
    for step in (10, 20):
        checkpoints.save(step, _state(step))
    return checkpoints


def _state(step):
    x = jax.random.normal(jax.random.key(step), (64, 64))
    return {"params": {"w": x, "b": x[0]}, "step": jnp.int32(step), "key": jnp.uint32([0, step])}


def _restore(checkpoints):
    lines = []
    return checkpoints.restore(_state(0), lines.append), lines


def _data_file(folder):
    """The largest file: array contents."""
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_round_trip(run):
    (step, state), warnings = _restore(run)
    assert step == 20
    assert not warnings
    jax.tree.map(np.testing.assert_array_equal, state, _state(20))


def test_keeps_the_newest_two(run):
    run.save(30, _state(30))
    assert sorted(p.name for p in run.folder.iterdir()) == ["20", "30"]


def test_empty_folder_has_nothing_to_resume(tmp_path):
    assert _restore(Checkpoints(tmp_path / "new", CONFIG)) == (None, [])


def _truncate(folder):
    file = _data_file(folder)
    file.write_bytes(file.read_bytes()[:-1])


def _flip_a_bit(folder):
    file = _data_file(folder)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _lose_a_file(folder):
    _data_file(folder).unlink()


def _lose_the_seal(folder):
    (folder / SEAL).unlink()


def _garble_the_seal(folder):
    (folder / SEAL).write_text("{")


def _make_foreign(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"something else")


DAMAGE = [
    _truncate, _flip_a_bit, _lose_a_file, _lose_the_seal, _garble_the_seal, _make_foreign,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_the_previous_one_used(run, damage):
    damage(run.folder / "20")
    (step, state), warnings = _restore(run)
    assert step == 10
    jax.tree.map(np.testing.assert_array_equal, state, _state(10))
    assert len(warnings) == 1
    assert str(run.folder / "20") in warnings[0]


def test_a_checkpoint_beyond_the_metrics_is_passed_over(run):
    """Kills: checkpoint.py: `step > recorded` -> `False`."""
    lines = []
    assert run.restore(_state(0), lines.append, recorded=19)[0] == 10
    assert "20 refused: the metrics of the run end at step 19" in lines[0]
    with pytest.raises(ValueError, match=r"no usable checkpoint .*/10: the metrics .* at step 9"):
        run.restore(_state(0), lines.append, recorded=9)


def test_only_bad_checkpoints_is_an_error(run):
    _truncate(run.folder / "10")
    _lose_the_seal(run.folder / "20")
    with pytest.raises(ValueError, match=r"no usable checkpoint"):
        _restore(run)


def test_another_configuration_is_refused_field_by_field(run):
    other = json.loads(json.dumps(CONFIG))
    other["seed"], other["places"][0]["fmt"] = 7, "e4m3fn"
    with pytest.raises(ValueError, match=r"places\.0\.fmt: 'e5m2' -> 'e4m3fn'") as info:
        Checkpoints(run.folder, other).restore(_state(0), print)
    assert "seed: 0 -> 7" in str(info.value)


def test_what_a_killed_save_left_is_removed(run):
    left = [run.folder / f"{n}" for n in ("30.partial", "30.partial.orbax-checkpoint-tmp-7")]
    for folder in left:
        folder.mkdir()
    Checkpoints(run.folder, CONFIG)
    assert not any(folder.exists() for folder in left)


def _another_run(run, step):
    """A sealed checkpoint of another configuration, in the same folder."""
    Checkpoints(run.folder, {**CONFIG, "seed": 5}, keep=9).save(step, _state(step))


def test_pruning_touches_nothing_but_this_run(run):
    """Two foreign folders of higher steps, another run's checkpoint, a plain file.

    Kills: checkpoint.py: `if old <= step and self._is_mine(old)` -> ``.
    """
    for name in ("90", "100"):
        (run.folder / name).mkdir()
        (run.folder / name / "precious").write_text("x")
    (run.folder / "3").write_text("a file")
    _another_run(run, 5)
    for step in (30, 40):
        run.save(step, _state(step))
    assert sorted(p.name for p in run.folder.iterdir()) == ["100", "3", "30", "40", "5", "90"]
    (step, state), warnings = _restore(run)
    assert step == 40
    assert [w.split()[1] for w in warnings] == [str(run.folder / n) for n in ("100", "90")]
    jax.tree.map(np.testing.assert_array_equal, state, _state(40))


def test_a_stranger_in_the_way_is_moved_aside(run):
    (run.folder / "30").mkdir()
    (run.folder / "30" / "precious").write_text("x")
    run.save(30, _state(30))
    assert (run.folder / "30.refused" / "precious").read_text() == "x"
    assert _restore(run)[0][0] == 30


def test_another_run_is_passed_over(run):
    """Kills: checkpoint.py: the first other configuration raises."""
    _another_run(run, 25)
    (step, _), warnings = _restore(run)
    assert step == 20
    assert "25 refused: it is of another configuration: seed: 5 -> 0" in warnings[0]


@pytest.mark.parametrize("at", ["write_text", "rename"])
def test_a_kill_while_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch, at):
    """Before the seal, and between seal and rename: nothing that looks like a checkpoint.

    Kills: checkpoint.py: `self._items.save(partial` -> `self._items.save(path`, then a rename.
    """
    first = Checkpoints(tmp_path, CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(Path, at, _killed)
        with pytest.raises(KeyboardInterrupt):
            first.save(10, _state(10))
    assert _restore(Checkpoints(tmp_path, CONFIG)) == (None, [])
    assert not list(tmp_path.iterdir())


def _killed(*_, **__):
    raise KeyboardInterrupt
