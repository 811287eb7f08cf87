"""The whole grid of settings in which sums by `qtrain.dot` are held against the exact theory.

    python -m paper_figs.sakr2019accumulation._grid      # hours; cheap settings first, resumable

The slow test tests/theory/test_against_dot.py::test_exact_theory_on_the_grid compares the same
settings; this keeps what it sees. A row of results/sakr2019accumulation/grid.jsonl has the
distance of each statistic from theory in standard errors, and "ok" if all are within 4.
"""

from __future__ import annotations

import json
import math

from paper_figs import style
from tests.theory import test_against_dot as against

PAPER, NAME = "sakr2019accumulation", "grid"


def main() -> None:
    """Measures what is missing."""
    path = style.RESULTS / PAPER / f"{NAME}.jsonl"
    rows = style.rows(PAPER, NAME) if path.exists() else []
    done = {(row["law"], *row["setting"]) for row in rows}
    settings = sorted(against.grid(), key=lambda s: (s[1] > 7, s[0] * 2 ** s[1]))
    cases = [(law, *s) for s in settings for law in against.grid_laws(*s)]
    cases = [case for case in cases if case not in done]
    for i, (law, n, m, rounding, chunk) in enumerate(cases):
        long = n > 2**12 and m > 7 and chunk is None  # as the test: the chain would take minutes
        compare = against.against_estimate if long else against.against_chain
        found = compare(law, n, m, rounding, chunk, against.grid_samples(n))
        row = {"law": law, "setting": [n, m, rounding, chunk], "by": compare.__name__,
               "ok": bool(against.passes(found)), **_rounded(found)}  # fmt: skip
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{i + 1}/{len(cases)} {law} {n} {m} {rounding} {chunk}: {row['ok']}", flush=True)


def _rounded(found: dict[str, float]) -> dict[str, float | None]:
    """Three digits will do; None where too few rows decide."""
    return {k: None if math.isnan(z) else float(f"{z:.3g}") for k, z in found.items()}


if __name__ == "__main__":
    main()
