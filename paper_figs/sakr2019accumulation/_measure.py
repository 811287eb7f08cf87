"""Retention of real emulated sums, for `retention.py` to hold against both theories.

    python -m paper_figs.sakr2019accumulation._measure       # about 5 minutes on two cores

Standard normal products rounded to 5 mantissa bits, summed by `qtrain.dot` in (1,8,m). Rows go to
results/sakr2019accumulation/retention.jsonl; those that are there already are not repeated.
"""

from __future__ import annotations

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np

import qtrain as qt
from paper_figs import style
from qtrain.train import metrics

PAPER = "sakr2019accumulation"
BITS, ROUNDINGS = (4, 6, 8), ("nearest", "stochastic", "toward_zero", "align")
LENGTHS = [2**k for k in range(4, 15, 2)]
SAMPLES, ROWS = 4096, 2048  # ROWS sums at a time


def main() -> None:
    """Measures what is missing."""
    path = style.RESULTS / PAPER / "retention.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = style.rows(PAPER, "retention") if path.exists() else []
    done = {(r["rounding"], r["chunk"], r["m"], r["n"]) for r in rows}
    about = {k: v for k, v in metrics.provenance({}).items() if k in ("commit", "versions")}
    settings = [(r, None) for r in ROUNDINGS] + [("nearest", 64)]
    cases = [(*s, m, n) for s, m, n in itertools.product(settings, BITS, LENGTHS)]
    cases = [c for c in cases if c not in done and (c[1] is None or c[1] < c[3])]
    for i, (rounding, chunk, m, n) in enumerate(cases):
        retention, error = measure(rounding, chunk, m, n)
        row = {"rounding": rounding, "chunk": chunk, "m": m, "n": n, "samples": SAMPLES,
               "retention": retention, "se": error, **about}  # fmt: skip
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{i + 1}/{len(cases)} {rounding} chunk {chunk} m {m} n {n}: {retention:.4f}")


def measure(rounding: str, chunk: int | None, m: int, n: int) -> tuple[float, float]:
    """E[s^2] / n from SAMPLES sums, and its standard error."""
    accum = qt.Accumulator(f"e8m{m}", chunk=chunk, rounding=rounding)
    dot = jax.jit(lambda x, key: qt.dot(x, jnp.ones((n, 1)), accum=accum, key=key))
    squares = []
    for part in range(SAMPLES // ROWS):
        key = jax.random.fold_in(jax.random.key(n), part)
        x = qt.cast(jax.random.normal(key, (ROWS, n)), "e8m5")
        sums = np.asarray(dot(x, jax.random.fold_in(key, 1)), np.float64)
        squares.append(sums.ravel() ** 2 / n)
    squares = np.concatenate(squares)
    return float(squares.mean()), float(squares.std() / np.sqrt(len(squares)))


if __name__ == "__main__":
    main()
