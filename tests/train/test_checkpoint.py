"""A checkpoint comes back bit for bit, or is named and refused."""

import json
import shutil

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


def test_only_bad_checkpoints_is_an_error(run):
    _truncate(run.folder / "10")
    _lose_the_seal(run.folder / "20")
    with pytest.raises(ValueError, match="no usable checkpoint"):
        _restore(run)


def test_another_configuration_is_refused_field_by_field(run):
    other = json.loads(json.dumps(CONFIG))
    other["seed"], other["places"][0]["fmt"] = 7, "e4m3fn"
    with pytest.raises(ValueError, match=r"places\.0\.fmt: 'e5m2' -> 'e4m3fn'") as info:
        Checkpoints(run.folder, other).restore(_state(0), print)
    assert "seed: 0 -> 7" in str(info.value)


def test_what_a_killed_save_left_is_removed(run):
    left = run.folder / "30.orbax-checkpoint-tmp"
    left.mkdir()
    Checkpoints(run.folder, CONFIG)
    assert not left.exists()
