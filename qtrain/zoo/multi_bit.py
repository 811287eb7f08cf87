"""Several binary codes for a weight, in the forward pass [guo2017network; xu2018alternating].

The codes are made in each step from full-precision weights, to which the gradient at the coded ones
is applied. `zoo.iterative` has the same codes without such a copy.
"""

from __future__ import annotations

from qtrain.quantize.binary_codes import BinaryCodes, Rule
from qtrain.zoo.method import Method

ITERATIONS = 2  # of the alternation in each step; recalled


def _method(rule: Rule, title: str, source: str) -> Method:
    return Method(
        name=rule,
        title=title,
        source=source,
        technique="optimization",
        codebook="adaptive",
        targets=("weight",),
        estimator="identity",
        uncertain="definitions recalled; scales per output channel",
        weight_bits=(2, 1, 3, 4),
        places=lambda bits, _: {
            "weight": BinaryCodes(bits=bits or 2, rule=rule, iterations=ITERATIONS)
        },
    )


METHODS = (
    _method("greedy", "Greedy binary codes", "guo2017network"),
    _method("refined", "Refined binary codes", "guo2017network"),
    _method("alternating", "Alternating binary codes", "xu2018alternating"),
)
