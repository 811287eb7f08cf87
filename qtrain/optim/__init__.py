"""Optimizers for narrow weights, as optax transformations: rounded updates, loss scaling."""

from qtrain.optim.adam import AdamState, adam
from qtrain.optim.axpy import apply_updates, axpy, round_params
from qtrain.optim.loss_scale import LossScaleState, loss_scaled
from qtrain.optim.sgd import SgdState, sgd

__all__ = [
    "AdamState",
    "LossScaleState",
    "SgdState",
    "adam",
    "apply_updates",
    "axpy",
    "loss_scaled",
    "round_params",
    "sgd",
]
