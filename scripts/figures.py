"""Draws the figures of the papers into paper_figs/out/.

    python scripts/figures.py                       # all papers
    python scripts/figures.py wang2018fp8 --quick   # one, in seconds

Each figure is a module paper_figs/<paper>/<figure>.py; its docstring is its caption.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import sys
import time

from qtrain.train.host import keep_freed_pages

keep_freed_pages()


def main() -> int:
    """Draws the chosen papers' figures; returns the exit status."""
    from paper_figs import style

    papers = sorted({p.parent.name for p in style.FOLDER.glob("*/[!_]*.py")} - {"results", "out"})
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("papers", nargs="*", metavar="paper", help=f"of {', '.join(papers)}")
    parser.add_argument("--quick", action="store_true", help="fewer points: seconds, not minutes")
    parser.add_argument(
        "--out", type=pathlib.Path, default=style.OUT, help="folder for the figures"
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.papers) - set(papers)):
        print(
            f"no figures for {', '.join(unknown)}: choose from {', '.join(papers)}", file=sys.stderr
        )
        return 2
    failed = 0
    for paper in options.papers or papers:
        for path in sorted((style.FOLDER / paper).glob("[!_]*.py")):
            start = time.perf_counter()
            print(f"{paper}/{path.stem} ...", end=" ", flush=True)
            try:
                module = importlib.import_module(f"paper_figs.{paper}.{path.stem}")
                print(f"{style.make(module, options.quick, options.out)}", end=" ")
                print(f"({time.perf_counter() - start:.1f} s)")
            except (FileNotFoundError, OSError) as error:
                failed += 1
                print(f"failed: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    sys.exit(main())
