"""What the figures of the zoo share: runs by method and width, and what they are compared with."""

from __future__ import annotations

from paper_figs import sweeps
from qtrain.recipes.guo2018survey import ABLATIONS
from qtrain.zoo import registry

PAPER = "guo2018survey"
COLORS = {  # by technique
    "rounding": "#0072B2",
    "random rounding": "#56B4E9",
    "optimization": "#D55E00",
    "learned": "#009E73",
    "vector quantization": "#E69F00",
    "probabilistic": "#CC79A7",
    "incremental": "#000000",
}
# Top-1 accuracy of ResNet-18 on ImageNet: method, bits W/A -> percent, its own float32, how known.
# "read": in a public source; "recalled": not verified. A pair is known as its weaker part: the
# accuracies of xnor and lq_nets were read, but not those of their float32.
PUBLISHED = {
    "xnor 1/1": (51.2, 69.3, "recalled"),
    "bwn 1/32": (60.8, 69.3, "recalled"),
    "dorefa 2/2": (62.6, 70.2, "recalled"),
    "dorefa 4/4": (68.1, 70.2, "recalled"),
    "twn 2/32": (61.8, None, "recalled"),
    "ttq 2/32": (66.6, None, "recalled"),
    "inq 4/32": (68.89, 68.27, "recalled"),
    "inq 2/32": (66.02, 68.27, "recalled"),
    "abc_net 1/1": (42.7, 69.3, "recalled"),
    "hwgq 1/2": (59.6, None, "recalled"),
    "balanced 2/2": (59.4, None, "recalled"),
    "pact 2/2": (64.4, 70.4, "recalled"),
    "pact 4/4": (69.2, 70.4, "recalled"),
    "syq 2/8": (67.7, None, "recalled"),
    "syq 1/8": (62.9, None, "recalled"),
    "lq_nets 1/2": (62.6, 70.3, "recalled"),
    "lq_nets 2/2": (64.9, 70.3, "recalled"),
    "lq_nets 4/4": (69.3, 70.3, "recalled"),
    "qil 4/4": (70.1, 70.2, "recalled"),
    "qil 2/2": (65.7, 70.2, "recalled"),
}


def measured() -> tuple[dict[str, dict[int, float]], dict[int, float], str]:
    """Percent by variant and seed, those of float32, and what is missing."""
    found = sweeps.runs(PAPER, [*ABLATIONS, "float32"])
    ours = {name: sweeps.percent(by_seed) for name, by_seed in found.items() if name != "float32"}
    lines = sweeps.missing(found).splitlines()
    missing = "\n".join(lines) if len(lines) < 5 else f"runs of {len(lines) - 1} variants missing"
    return ours, sweeps.percent(found["float32"]), missing


def method(variant: str) -> registry.Method:
    """The method of a run called "name W/A"."""
    return registry.get(variant.split()[0])


def bits(variant: str) -> tuple[int, int]:
    """Bits of weights and of activations."""
    weights, activations = variant.split()[1].split("/")
    return int(weights), int(activations)
