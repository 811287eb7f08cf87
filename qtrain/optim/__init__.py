"""Optimizers for narrow weights, as optax transformations: rounded updates, weights stored narrow
or held on a constraint, loss scaling.
"""

from qtrain.optim.adam import AdamState, adam
from qtrain.optim.axpy import apply_updates, axpy, round_params
from qtrain.optim.constrained import ConstrainedState, Constraint, constrained, deploy, project
from qtrain.optim.loss_aware import LossAware
from qtrain.optim.loss_scale import LossScaleState, loss_scaled
from qtrain.optim.paths import leaf_path
from qtrain.optim.sgd import SgdState, sgd
from qtrain.optim.stored import StoredState, narrow, stored

__all__ = [
    "AdamState",
    "ConstrainedState",
    "Constraint",
    "LossAware",
    "LossScaleState",
    "SgdState",
    "StoredState",
    "adam",
    "apply_updates",
    "axpy",
    "constrained",
    "deploy",
    "leaf_path",
    "loss_scaled",
    "narrow",
    "project",
    "round_params",
    "sgd",
    "stored",
]
