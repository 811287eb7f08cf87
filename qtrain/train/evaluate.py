"""Loss and accuracy of a model on all test images, or all test text, of a data set."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from qtrain.train import mesh as meshes
from qtrain.train.data import Dataset
from qtrain.train.state import State
from qtrain.train.text import Text

BATCH = 500


def evaluate(
    step: Callable[..., dict[str, jax.Array]], mesh: Mesh, data: Dataset | Text, state: State
) -> tuple[float, float]:
    """Mean loss per label, and the share of labels whose output is the largest.

    `step` is a jitted `eval_step` of params, stats, images and labels. The last batch is filled
    up with images of label -1, which do not count, so that one program does for all; the same
    holds for windows of text, which have a label per character.
    """
    images, labels = data.test_x, data.test_y
    size = -(-BATCH // mesh.size) * mesh.size
    loss, correct = 0.0, 0.0
    for start in range(0, len(labels), size):
        index = np.arange(start, start + size)
        padded = labels[index % len(labels)].astype(np.int32)
        padded[index >= len(labels)] = -1
        batch = meshes.share(mesh, images[index % len(labels)]), meshes.share(mesh, padded)
        found = jax.device_get(step(state.params, state.stats, *batch))
        loss += found["loss"].item()
        correct += found["correct"].item()
    return loss / labels.size, correct / labels.size
