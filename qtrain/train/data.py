"""The training sets, proved by pinned hashes at every load, and the order in which they are seen.

Nothing is downloaded here and nothing falls back to another set: scripts/fetch_data.py gets the
full sets, and the embedded ones are used only under their own names, fashion-mnist-8k and sotu-1m.
The pins are SHA-256 of content whose official hashes were checked first: MD5 of the MNIST and
Fashion-MNIST archives, SHA-1 of the CIFAR-10 binary batches.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from qtrain.train import text

EMBEDDED = "fashion-mnist-8k"
EMBEDDED_FILE = Path(__file__).parent / "embedded" / f"{EMBEDDED}.npz"
EMBEDDED_ROWS = {"train": 8000, "test": 2000}  # the first of each split
# SHA-256 over the bytes of train_x, train_y, test_x, test_y, one after the other
EMBEDDED_PIN = "fbe4a50813aaac1c1a53b0534b6f0506f958091b50507d92e313137933ba2980"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images and labels of one set.

    train_x, test_x: uint8 (N, H, W, C). train_y, test_y: int32 (N,), 0 to num_classes - 1.
    mean, std: per channel over all training pixels scaled to 0..1; std divides by N.

    Raises:
      ValueError: other shapes or dtypes (so no NaN either), a label out of range, a channel
        that is constant.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    unit: ClassVar[str] = "images"  # what a batch holds

    def __post_init__(self) -> None:
        splits = {"train": (self.train_x, self.train_y), "test": (self.test_x, self.test_y)}
        for split, (x, y) in splits.items():
            if x.dtype != np.uint8 or x.ndim != 4:
                raise ValueError(
                    f"{self.name}: {split} images must be uint8 (N, H, W, C), not {x.dtype}"
                    f" {x.shape}"
                )
            if y.shape != x.shape[:1]:
                raise ValueError(f"{self.name}: {len(x)} {split} images but labels {y.shape}")
            if bad := np.flatnonzero((y < 0) | (y >= self.num_classes)).tolist():
                raise ValueError(
                    f"{self.name}: label {y[bad[0]]} of {split} image {bad[0]} is not in 0 to"
                    f" {self.num_classes - 1}"
                )
        if not all(0 < s < 1 for s in self.std) or not np.isfinite(self.mean).all():
            raise ValueError(
                f"{self.name}: cannot normalize by mean {self.mean} and standard deviation"
                f" {self.std}: a channel is constant or not finite"
            )


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one full set and where below the data folder they may lie."""

    pins: Mapping[str, str]  # file name -> SHA-256 of its decompressed content
    folders: tuple[str, ...]  # the first is where fetch_data.py writes
    image_shape: tuple[int, int, int]


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")  # fmt: skip
_CIFAR = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

SETS: dict[str, Files] = {
    "fashion-mnist": Files(
        folders=("fashion-mnist", "FashionMNIST/raw"),
        image_shape=(28, 28, 1),
        pins=dict(zip(_IDX, (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ), strict=True)),
    ),
    "mnist": Files(
        folders=("mnist", "MNIST/raw"),
        image_shape=(28, 28, 1),
        pins=dict(zip(_IDX, (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ), strict=True)),
    ),
    "cifar10": Files(
        folders=("cifar10", "cifar-10-batches-bin"),
        image_shape=(32, 32, 3),
        pins=dict(zip((f"{name}.bin" for name in _CIFAR), (
            "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        ), strict=True)),
    ),
}  # fmt: skip


def load(name: str, data_dir: str | Path | None = None) -> Dataset | text.Text:
    """Reads a set and proves it.

    Args:
      name: "fashion-mnist-8k" or "sotu-1m" (in the package), or a key of `SETS`.
      data_dir: folder that holds the full sets; default $QTRAIN_DATA.

    Raises:
      ValueError: unknown name, or a file whose content is not the pinned one.
      FileNotFoundError: a file is missing; says where it was sought and how to get it.
    """
    if name == EMBEDDED:
        return _embedded()
    if name == text.NAME:
        return text.load()
    if name not in SETS:
        known = (EMBEDDED, text.NAME, *SETS)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"unknown data set {name!r}: {hint}There are {', '.join(known)}")
    files = {file: _find(name, file, data_dir) for file in SETS[name].pins}
    contents = {file: read(name, file, path) for file, path in files.items()}
    return _dataset(
        name, *(_cifar if name == "cifar10" else _idx)(contents, SETS[name].image_shape)
    )


def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of 0..n-1, int64 (n,), in which an epoch sees the training set.

    Philox is counter-based: any epoch's order follows from (seed, epoch) alone, on any machine.
    """
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)


def normalize(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """uint8 (..., C) to float32 (x / 255 - mean) / std; without a mean, as text is, x itself."""
    if not mean:
        return x
    return (x.astype(jnp.float32) / 255 - jnp.asarray(mean, jnp.float32)) / jnp.asarray(
        std, jnp.float32
    )


def read(name: str, file: str, path: Path) -> bytes:
    """The decompressed content of one file of a full set, proved by its hash.

    Raises:
      ValueError: it cannot be decompressed, or is not the pinned content.
    """
    remedy = (
        f"delete it and run: python scripts/fetch_data.py {name} --data-dir {path.parent.parent}"
    )
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from None
    if (found := hashlib.sha256(content).hexdigest()) != SETS[name].pins[file]:
        raise ValueError(
            f"{path} is not the {file} of {name}: {len(content)} bytes with SHA-256"
            f" {found[:12]}..., expected {SETS[name].pins[file][:12]}...; {remedy}"
        )
    return content


def _find(name: str, file: str, data_dir: str | Path | None) -> Path:
    root = data_dir or os.environ.get("QTRAIN_DATA")
    if root is None:
        raise FileNotFoundError(
            f"{name} is not part of the package: say where it lies with --data-dir or $QTRAIN_DATA;"
            f" python scripts/fetch_data.py {name} --data-dir DIR gets it"
        )
    tried = [Path(root) / f / (file + z) for f in (*SETS[name].folders, ".") for z in ("", ".gz")]
    for path in tried:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{name}: no {file}[.gz] in {', '.join(dict.fromkeys(str(p.parent) for p in tried))};"
        f" python scripts/fetch_data.py {name} --data-dir {root} gets it"
    )


def _embedded() -> Dataset:
    try:
        with np.load(EMBEDDED_FILE, allow_pickle=False) as file:
            arrays = [file[key] for key in ("train_x", "train_y", "test_x", "test_y")]
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{EMBEDDED_FILE} is damaged ({error}); install qtrain again") from None
    if digest(arrays) != EMBEDDED_PIN:
        raise ValueError(f"{EMBEDDED_FILE} is not {EMBEDDED}; install qtrain again")
    return _dataset(EMBEDDED, *arrays)


def digest(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over the bytes of all arrays, one after the other."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _idx(contents: Mapping[str, bytes], shape: tuple[int, int, int]) -> list[np.ndarray]:
    """The IDX format: a header of 16 bytes before images, 8 before labels."""
    flat = [np.frombuffer(content, np.uint8) for content in contents.values()]
    return [
        flat[0][16:].reshape(-1, *shape),
        flat[1][8:],
        flat[2][16:].reshape(-1, *shape),
        flat[3][8:],
    ]


def _cifar(contents: Mapping[str, bytes], shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Rows of one label byte and 3072 bytes of pixels, channel first."""
    height, width, channels = shape
    rows = [
        np.frombuffer(c, np.uint8).reshape(-1, 1 + height * width * channels)
        for c in contents.values()
    ]
    parts = []
    for part in (np.concatenate(rows[:-1]), rows[-1]):
        pixels = part[:, 1:].reshape(-1, channels, height, width)
        parts += [np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), part[:, 0]]
    return parts


def _dataset(name: str, train_x, train_y, test_x, test_y) -> Dataset:
    """Per-channel statistics from the histogram: exact sums of integers, then one division."""
    channels = train_x.shape[-1]
    counts = [np.bincount(train_x[..., c].ravel(), minlength=256) for c in range(channels)]
    level = np.arange(256) / 255
    mean = [float(level @ c / c.sum()) for c in counts]
    std = [
        float(np.sqrt((level - m) ** 2 @ c / c.sum())) for c, m in zip(counts, mean, strict=True)
    ]
    return Dataset(
        name=name, train_x=train_x, train_y=train_y.astype(np.int32), test_x=test_x,
        test_y=test_y.astype(np.int32), num_classes=10, mean=tuple(mean), std=tuple(std),
    )  # fmt: skip
