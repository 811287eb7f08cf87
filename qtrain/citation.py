"""The BibTeX entry behind a key that a docstring cites."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

_HERE = Path(__file__).parent
_FILES = (_HERE / "references.bib", _HERE.parent / "references.bib")  # installed, or a checkout


def entries() -> dict[str, str]:
    """Every entry of references.bib, by key.

    Raises:
      FileNotFoundError: neither the package nor a checkout around it has the file.
    """
    for file in _FILES:
        if file.exists():
            text = file.read_text(encoding="utf-8")
            found = re.findall(r"^@\w+\{([^,]+),.*?^\}", text, re.M | re.S)
            bodies = re.finditer(r"^@\w+\{.*?^\}", text, re.M | re.S)
            return dict(zip(found, (body[0] for body in bodies), strict=True))
    raise FileNotFoundError(f"references.bib is neither at {_FILES[0]} nor at {_FILES[1]}")


def cite(key: str) -> str:
    """The BibTeX entry of one work.

    Raises:
      ValueError: no such key; names the nearest.
    """
    known = entries()
    if key not in known:
        near = ", ".join(difflib.get_close_matches(key, known, n=3, cutoff=0.4))
        raise ValueError(
            f"no reference {key!r}; " + (f"did you mean {near}?" if near else "see references.bib")
        )
    return known[key]
