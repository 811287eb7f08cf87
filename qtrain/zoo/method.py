"""What a method of the survey is: its places, and where it stands in the survey's taxonomy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

Technique = Literal[
    "rounding", "random rounding", "optimization", "learned", "vector quantization",
    "probabilistic", "incremental",
]  # fmt: skip
Places = Callable[[int | None, int | None], dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One way to make weights, activations or gradients narrow [guo2018survey].

    `places` maps bits of weights and of activations to settings by place: "weight", "activation"
    and "error" for every quantized layer, "wire" for the run. None: not quantized.
    """

    name: str  # as on the command line
    title: str
    source: str  # key in references.bib
    technique: Technique
    codebook: Literal["fixed", "adaptive"]
    targets: tuple[str, ...]  # of weight, activation, error, gradient (what workers exchange)
    places: Places
    assignment: Literal["hard", "soft"] = "hard"
    start: Literal["scratch", "pretrained"] = "scratch"
    master: bool = True  # keeps full-precision weights beside the narrow ones
    estimator: str = ""  # the backward rule, in words
    uncertain: str = ""  # what of its definition is recalled, reconstructed or not known
    weight_bits: tuple[int, ...] = ()  # choices, the default first; ternary counts as 2
    activation_bits: tuple[int, ...] = ()
    widen: int = 1  # layers of the model are so many times wider
    signed: bool = False  # activations need signs: hard tanh in place of the model's ReLU

    def settings(self, bits: int | None = None, activation_bits: int | None = None) -> dict:
        """The settings by place; bits that are not given are the method's own.

        Raises:
          ValueError: bits that the method does not have.
        """
        chosen = {
            "bits": _choice(self, "bits", bits, self.weight_bits),
            "activation_bits": _choice(
                self, "activation_bits", activation_bits, self.activation_bits
            ),
        }
        return self.places(chosen["bits"], chosen["activation_bits"])


def _choice(method: Method, what: str, given: int | None, known: tuple[int, ...]) -> int | None:
    if given is None:
        return known[0] if known else None
    if given not in known:
        choices = ", ".join(map(str, sorted(known))) or "none: it leaves them in float32"
        raise ValueError(f"{method.name} has no {what} {given}: choose from {choices}")
    return given
