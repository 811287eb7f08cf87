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
# Top-1 accuracy of ResNet-18 on ImageNet: method, bits W/A -> percent, its own float32. Recalled,
# not verified, but for the narrow ones of xnor and lq_nets, which were read in public sources.
PUBLISHED = {
    "xnor 1/1": (51.2, 69.3),
    "bwn 1/32": (60.8, 69.3),
    "dorefa 2/2": (62.6, 70.2),
    "dorefa 4/4": (68.1, 70.2),
    "twn 2/32": (61.8, None),
    "ttq 2/32": (66.6, None),
    "inq 4/32": (68.89, 68.27),
    "inq 2/32": (66.02, 68.27),
    "abc_net 1/1": (42.7, 69.3),
    "hwgq 1/2": (59.6, None),
    "balanced 2/2": (59.4, None),
    "pact 2/2": (64.4, 70.4),
    "pact 4/4": (69.2, 70.4),
    "syq 2/8": (67.7, None),
    "syq 1/8": (62.9, None),
    "lq_nets 1/2": (62.6, 70.3),
    "lq_nets 2/2": (64.9, 70.3),
    "lq_nets 4/4": (69.3, 70.3),
    "qil 4/4": (70.1, 70.2),
    "qil 2/2": (65.7, 70.2),
}


def measured() -> tuple[dict[str, dict[int, float]], dict[int, float], str]:
    """Percent by variant and seed, those of float32, and what is missing."""
    found = sweeps.runs(PAPER, [*ABLATIONS, "float32"])
    ours = {name: sweeps.percent(by_seed) for name, by_seed in found.items() if name != "float32"}
    return ours, sweeps.percent(found["float32"]), sweeps.missing(found)


def method(variant: str) -> registry.Method:
    """The method of a run called "name W/A"."""
    return registry.get(variant.split()[0])


def bits(variant: str) -> tuple[int, int]:
    """Bits of weights and of activations."""
    weights, activations = variant.split()[1].split("/")
    return int(weights), int(activations)
