"""What data-parallel workers send each other: gradient codecs and compressed collectives."""

from qtrain.wire.exchange import exchange
from qtrain.wire.pack import pack, unpack
from qtrain.wire.stochastic import Packed, Stochastic
from qtrain.wire.traffic import Transfer, traffic

__all__ = ["Packed", "Stochastic", "Transfer", "exchange", "pack", "traffic", "unpack"]
