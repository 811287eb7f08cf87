"""Loss and accuracy of a model on all test images of a data set."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from qtrain.train import mesh as meshes
from qtrain.train.data import Dataset
from qtrain.train.state import State

BATCH = 500


def evaluate(
    step: Callable[..., dict[str, jax.Array]], mesh: Mesh, data: Dataset, state: State
) -> tuple[float, float]:
    """Mean loss, and the share of images whose largest output is their label.

    `step` is a jitted `eval_step` of params, stats, images and labels. The last batch is filled
    up with images of label -1, which do not count, so that one program does for all.
    """
    images, labels = data.test_x, data.test_y
    size = -(-BATCH // mesh.size) * mesh.size
    loss, correct = 0.0, 0.0
    for start in range(0, len(labels), size):
        index = np.arange(start, start + size)
        padded = np.where(index < len(labels), labels[index % len(labels)], -1).astype(np.int32)
        batch = meshes.share(mesh, images[index % len(labels)]), meshes.share(mesh, padded)
        found = jax.device_get(step(state.params, state.stats, *batch))
        loss += found["loss"].item()
        correct += found["correct"].item()
    return loss / len(labels), correct / len(labels)
