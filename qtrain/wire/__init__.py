"""What data-parallel workers send each other: gradient codecs and compressed collectives."""

from qtrain.wire.exchange import exchange
from qtrain.wire.pack import pack, unpack
from qtrain.wire.qsgd import QSGD
from qtrain.wire.sign import Sign
from qtrain.wire.stochastic import Packed, Stochastic
from qtrain.wire.traffic import Transfer, traffic

__all__ = [
    "QSGD",
    "Packed",
    "Sign",
    "Stochastic",
    "Transfer",
    "exchange",
    "pack",
    "traffic",
    "unpack",
]
