"""All methods by name, and the survey's taxonomy of them.

python -m qtrain.zoo.registry        # prints the table in Markdown
"""

from __future__ import annotations

import difflib

from qtrain.zoo import (
    abc_net,
    balanced,
    binary,
    dorefa,
    exchanged,
    half_wave,
    incremental,
    iterative,
    loss_aware,
    lq_nets,
    lr_nets,
    multi_bit,
    pact,
    qil,
    qnn,
    relaxed,
    syq,
    ternary,
    uniform,
    vector,
    xnor,
)
from qtrain.zoo.method import Method

FAMILIES = (
    binary, xnor, abc_net, multi_bit, ternary, syq, loss_aware, relaxed, uniform, dorefa, qnn, pact,
    half_wave, balanced, lq_nets, qil, incremental, iterative, vector, lr_nets, exchanged,
)  # fmt: skip
METHODS: dict[str, Method] = {m.name: m for family in FAMILIES for m in family.METHODS}
NOT_BUILT: dict[str, str] = {k: v for f in FAMILIES for k, v in getattr(f, "NOT_BUILT", {}).items()}

BAR = "\\|"  # of a magnitude, inside of a Markdown table


def get(name: str) -> Method:
    """A method by name.

    Raises:
      ValueError: no such method; names those that look alike or the list of all, or says why it
        is not built.
    """
    if name in METHODS:
        return METHODS[name]
    if name in NOT_BUILT:
        raise ValueError(f"{name} is not built: {NOT_BUILT[name]}")
    near = difflib.get_close_matches(name, METHODS, n=3, cutoff=0.6)
    if not near:
        raise ValueError(f"unknown method {name!r}: `python -m qtrain.zoo.registry` lists all")
    raise ValueError(f"unknown method {name!r}: did you mean {' or '.join(near)}?")


def table() -> str:
    """The taxonomy of [guo2018survey] as a Markdown table."""
    head = ("method", "technique", "codebook", "assignment", "quantizes", "bits W / A", "start",
            "keeps wide weights", "backward", "recalled or uncertain")  # fmt: skip
    rows = [head, ("---",) * len(head), *(_row(m) for m in METHODS.values())]
    lines = [f"| {' | '.join(cell.replace('|', BAR) for cell in row)} |" for row in rows]
    left = [f"- `{name}`: {why}" for name, why in NOT_BUILT.items()]
    return "\n".join([*lines, "", "Not built:", "", *left])


def _row(m: Method) -> tuple[str, ...]:
    bits = " / ".join(_bits(b) for b in (m.weight_bits, m.activation_bits))
    return (f"`{m.name}` {m.title} ({m.source})", m.technique, m.codebook, m.assignment,
            ", ".join(m.targets), bits, m.start, "yes" if m.master else "no", m.estimator,
            m.uncertain)  # fmt: skip


def _bits(choices: tuple[int, ...]) -> str:
    return ", ".join(map(str, sorted(choices))) or "32"


if __name__ == "__main__":
    print(table())  # noqa: T201
