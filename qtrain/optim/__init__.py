"""Optimizers for narrow weights, as optax transformations: rounded updates, loss scaling."""

from qtrain.optim.adam import AdamState, adam
from qtrain.optim.axpy import apply_updates, axpy, round_params
from qtrain.optim.loss_aware import LossAware
from qtrain.optim.loss_scale import LossScaleState, loss_scaled
from qtrain.optim.sgd import SgdState, sgd
from qtrain.optim.stored import StoredState, narrow, stored

__all__ = [
    "AdamState",
    "LossAware",
    "LossScaleState",
    "SgdState",
    "StoredState",
    "adam",
    "apply_updates",
    "axpy",
    "loss_scaled",
    "narrow",
    "round_params",
    "sgd",
    "stored",
]
