"""Files: the size is the size claimed, and a damaged one never gives another model."""

import json
import re
import sys

import numpy as np
import pytest

from qtrain.export import file
from qtrain.export.codes import encode, plain
from qtrain.export.file import Export, header_size, read, write


def small() -> Export:
    rng = np.random.default_rng(0)
    kernel = rng.choice(np.array([-0.25, -0.0, 0.25], np.float32), (7, 5))
    channels = rng.integers(0, 4, (40, 3)) * np.float32(0.1) + np.array([-1, 0, 1], np.float32)
    return Export(
        about={"model": "net", "widths": [1, 2]},
        tensors={
            "a/kernel": encode(kernel),
            "b/kernel": encode(channels.astype(np.float32)),
            "a/bias": plain(rng.normal(size=5).astype(np.float32)),
            "steps": plain(np.int32(7)),
        },
    )  # fmt: skip


def same(got: Export, want: Export) -> bool:
    arrays, wanted = got.arrays(), want.arrays()
    equal = arrays.keys() == wanted.keys() and all(
        (x.dtype, x.shape, x.tobytes()) == (w.dtype, w.shape, w.tobytes())
        for x, w in ((arrays[name], wanted[name]) for name in wanted)
    )
    return equal and got.about == want.about


def test_read_is_what_was_written(tmp_path):
    path = tmp_path / "model"
    write(path, small())
    assert same(read(path), small())
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_size_is_the_size_claimed(tmp_path):
    """8 bytes, the header, and what the tensors claim; not a byte of padding between them.

    Kills: export/file.py: `8 + int.from_bytes` -> `int.from_bytes`.
    """
    path = tmp_path / "model"
    size = write(path, small())
    claimed = sum(coded.nbytes for coded in small().tensors.values())
    assert path.stat().st_size == size == header_size(path) + claimed
    assert small().nbytes == claimed
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert max(t["data_offsets"][1] for k, t in header.items() if k != "__metadata__") == claimed


def test_the_same_model_is_the_same_file(tmp_path):
    for name in "ab":
        write(tmp_path / name, small())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_one_changed_byte_never_gives_another_model(tmp_path):
    """Each byte of the file, with one bit of it flipped.

    Kills: export/file.py: `total.update(array.tobytes())` removed; `json.dumps(manifest,
    sort_keys=True).encode()` -> `b""` in `_digest`.
    """
    path = tmp_path / "model"
    write(path, small())
    whole = path.read_bytes()
    refused = 0
    for i, byte in enumerate(whole):
        path.write_bytes(whole[:i] + bytes([byte ^ 1 << i % 8]) + whole[i + 1 :])
        try:
            found = read(path)
        except ValueError as error:
            refused += "\n" not in str(error)
        else:
            assert same(found, small()), i
    assert refused >= len(whole) - 8  # the header may be padded with any white space


@pytest.mark.parametrize("kept", [0, 4, 30, -1])
def test_a_cut_file_is_refused(kept, tmp_path):
    path = tmp_path / "model"
    write(path, small())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="is damaged, or no safetensors file"):
        read(path)


def test_another_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "VERSION", 99)
    write(tmp_path / "model", small())
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is of version 99; this qtrain reads version 1: export"):
        read(tmp_path / "model")


def test_a_strange_file_is_named(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "model")
    with pytest.raises(ValueError, match="was not written by qtrain"):
        read(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no file {tmp_path / 'x'}")):
        read(tmp_path / "x")


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*: No such file.*; choose another --out"):
        write(tmp_path / "no" / "model", small())


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ValueError, match="a package that is missing: pip install safetensors"):
        write(tmp_path / "model", small())
