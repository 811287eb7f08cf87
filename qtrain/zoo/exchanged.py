"""Random rounding: of every operand (fixed point), or of what workers exchange.

The codecs themselves are in `qtrain.wire`.
"""

from __future__ import annotations

from typing import Any

from qtrain.quantize import Cast
from qtrain.wire import QSGD, Sign, Stochastic
from qtrain.zoo.method import Method

TERNGRAD = Stochastic(bits=2, clip=2.5)  # s sign(g) Bernoulli(|g| / s), s = max|g|, per tensor


def fixed_point(bits: int, before: int) -> Cast:
    """Two's complement of `bits` bits, `before` of them before the point, stochastic rounding.

    Between neighbours at a distance of 2^-(bits - before) without bias; values beyond the range
    saturate [gupta2015limited, recalled]. The gradient is the identity's.
    """
    return Cast(f"fixed{before}.{bits - before}", "stochastic")


def _fixed_places(bits: Any, activation_bits: Any) -> dict[str, Any]:
    """Weights in [-2, 2), activations in [-8, 8), errors in [-1, 1): the split is ours."""
    return {
        "weight": fixed_point(bits, 2),
        "activation": fixed_point(activation_bits, 4),
        "error": fixed_point(activation_bits, 1),
    }


def _codec(codec: Any, **fields: Any) -> Method:
    """A method that only changes what is exchanged."""
    return Method(
        codebook="adaptive",
        targets=("gradient",),
        places=lambda bits, activation_bits: {"wire": codec},
        **fields,
    )


METHODS = (
    Method(
        name="gupta", title="Fixed point with stochastic rounding", source="gupta2015limited",
        technique="random rounding", codebook="fixed", targets=("weight", "activation", "error"),
        places=_fixed_places, estimator="identity",
        uncertain="recalled; how many bits are before the point is our choice, and the source"
        " keeps weights in fixed point too, with no wider ones beside them",
        weight_bits=(16, 8, 12), activation_bits=(16, 8, 12),
    ),
    _codec(
        TERNGRAD, name="terngrad", title="TernGrad", source="wen2017terngrad",
        technique="random rounding", uncertain="recalled; each worker has its own scale",
    ),
    _codec(
        QSGD(), name="qsgd", title="QSGD", source="alistarh2017qsgd", technique="random rounding",
        uncertain="recalled; without buckets and entropy coding",
    ),
    _codec(
        Sign(), name="signsgd", title="signSGD", source="bernstein2018signsgd",
        technique="rounding", uncertain="recalled; workers' signs are averaged, without a vote",
    ),
)  # fmt: skip
