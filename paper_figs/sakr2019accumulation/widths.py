"""Mantissa bits by layer group and GEMM, plain / chunk 64: predictions beside the paper's cells.

Each cell is for the group's longest sum, as traced from our own models (batch 256 at 224x224; 128
at 32x32 for ResNet-32); the last layer is left out. Published: the VRR formula with m_p = 5, chunks
judged by their number, which fits the paper best. Exact: a tenth of the variance lost at most, for
adders that round to nearest or align. Non-zero ratio 1, and 0.5 where a heading says so. Paper:
[sakr2019accumulation, Table 1], black where a public reading confirms the cell, grey italics where
it is recalled from memory with low confidence; of the weight gradients the maximum (15, 10) is
confirmed, its place is not. AlexNet's cells are not known to us.
"""

import functools

from paper_figs import style
from theory.requirement import mantissa_bits

PAPER = "sakr2019accumulation"
WIDTH = "text"
TALL = 1.1
NETWORKS = {  # batch, shape of an image, classes, groups: label and start of the layers' paths
    "resnet18": (256, (224, 224, 3), 1000, {
        "conv 0": "stem", **{f"block {i}": f"stage{i}/" for i in (1, 2, 3, 4)},
    }),
    "resnet32": (128, (32, 32, 3), 10, {
        "conv 0": "stem", **{f"block {i}": f"stage{i}/" for i in (1, 2, 3)},
    }),
    "alexnet": (256, (224, 224, 3), 1000, {
        **{f"conv {i}": f"conv{i}" for i in (1, 2, 3, 4, 5)},
        **{f"dense {i}": f"hidden{i}" for i in (1, 2)},
    }),
}  # fmt: skip
NAMES = {"resnet18": "ResNet-18", "resnet32": "ResNet-32", "alexnet": "AlexNet"}
GEMMS = {"forward": "forward", "input_grad": "input gradient", "weight_grad": "weight gradient"}
SOURCED = {("resnet18", "forward"): ((9, 6), (7, 5), (8, 5), (8, 5), (9, 6))}
RECALLED = {  # in the order of the groups
    ("resnet18", "input_grad"): (None, (8, 6), (9, 6), (9, 6), (10, 6)),
    ("resnet18", "weight_grad"): ((15, 10), (15, 9), (12, 8), (10, 6), (9, 5)),
    ("resnet32", "forward"): ((6, 5), (6, 5), (7, 5), (7, 5)),
    ("resnet32", "input_grad"): (None, (6, 5), (7, 5), (8, 5)),
    ("resnet32", "weight_grad"): ((11, 8), (11, 8), (10, 6), (9, 6)),
}
FORMULA, EXACT = {"theory": "published"}, {"theory": "exact"}
COLUMNS = {  # heading, and what theory is asked
    "VRR": FORMULA,
    "near.": EXACT | {"rounding": "nearest"},
    "align": EXACT | {"rounding": "align"},
}
HALF = {"VRR ½": FORMULA | {"nonzero": 0.5}}


def columns(gemm: str) -> dict[str, dict]:
    """Headings and settings of one GEMM's predictions."""
    if gemm != "weight_grad":
        return COLUMNS
    halved = {f"{name} ½": COLUMNS[name] | {"nonzero": 0.5} for name in ("near.", "align")}
    return {"VRR": COLUMNS["VRR"]} | HALF | halved


def data(quick: bool) -> dict:
    """A row per network and group, its lengths and cells; `quick`: the formula for ResNet-32."""
    rows = []
    for network in ("resnet32",) if quick else NETWORKS:
        longest = lengths(network)
        for label in NETWORKS[network][-1]:
            row: dict = {"network": network, "group": label, "cells": {}, "length": {}}
            for gemm in GEMMS:
                if n := longest[gemm].get(label):
                    row["length"][gemm] = n
                    asked = {k: v for k, v in columns(gemm).items() if not quick or "VRR" in k}
                    row["cells"][gemm] = {name: _cell(n, **asked[name]) for name in asked}
            rows.append(row)
    return {"rows": rows}


def _cell(n: int, **settings) -> tuple[int, int]:
    """Bits of one plain sum, and with chunks of 64."""
    return mantissa_bits(n, **settings), mantissa_bits(n, chunk=min(64, n), **settings)


def lengths(network: str) -> dict[str, dict[str, int]]:
    """Longest sum by GEMM and layer group, from a trace of the training loss; nothing is run."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from qtrain import models, workload
    from qtrain.nn import with_scopes

    def loss(model, images, labels):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    batch, shape, classes, groups = NETWORKS[network]
    create = functools.partial(models.create, network, num_classes=classes, in_shape=shape)
    model = nnx.eval_shape(lambda: with_scopes(create(rngs=nnx.Rngs(0))))
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    found: dict[str, dict] = {gemm: {} for gemm in GEMMS}
    for gemm in workload.trace(loss, model, images, labels, grad=True):
        for label in (g for g, start in groups.items() if gemm.path.startswith(start)):
            found[gemm.role][label] = max(gemm.k, found[gemm.role].get(label, 0))
    return found


def draw(d: dict, ax) -> None:
    """A table: a row per group, three blocks of columns."""
    heads = {gemm: [*columns(gemm), "paper"] for gemm in GEMMS}
    left, places = 1.6, {}
    for gemm, names in heads.items():
        for name in names:
            places[gemm, name] = left = left + 1
        left += 0.3
        middle = (places[gemm, names[0]] + places[gemm, "paper"]) / 2
        ax.text(middle, -1.7, GEMMS[gemm], ha="center", va="center", fontsize=8)
        for name in names:
            ax.text(places[gemm, name], -0.8, name, ha="center", va="center", fontsize=6)
    y, before, rank = -1.0, None, 0
    for row in d["rows"]:
        rank = rank + 1 if row["network"] == before else 0
        y += 1.4 if before not in (None, row["network"]) else 1
        if rank == 0:
            ax.axhline(y - 0.6, color="#000000", linewidth=0.5)
            ax.text(0, y, NAMES[row["network"]], va="center", fontsize=6.5)
        before = row["network"]
        ax.text(2.05, y, row["group"], ha="right", va="center", fontsize=6.5)
        for gemm, cells in row["cells"].items():
            for name, cell in cells.items():
                color = style.LINE["nearest" if "near" in name else "align"]["color"]
                color = "#000000" if "VRR" in name else color
                ax.text(places[gemm, name], y, "{} / {}".format(*cell), color=color, **_CENTRE)
        for gemm in GEMMS:
            _paper(ax, places[gemm, "paper"], y, (row["network"], gemm), rank)
    ax.text(0, y + 1, "paper: black confirmed, grey recalled", va="center", fontsize=6.5)
    ax.set(xlim=(0, left + 0.3), ylim=(y + 1.5, -2.2))
    ax.axis("off")


_CENTRE = {"ha": "center", "va": "center", "fontsize": 6.5}


def _paper(ax, x: float, y: float, which: tuple[str, str], rank: int) -> None:
    """The paper's cell, on a pale ground."""
    for table, look in ((SOURCED, {}), (RECALLED, {"color": "#777777", "style": "italic"})):
        if which in table and (cell := table[which][rank]):
            ax.axvspan(x - 0.5, x + 0.5, color="#f2f2f2", zorder=0, linewidth=0)
            ax.text(x, y, "{} / {}".format(*cell), **_CENTRE, **look)


if __name__ == "__main__":
    style.main(__name__)
