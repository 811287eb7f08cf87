"""A data set and recipes small enough that a test trains in a second."""

import dataclasses

import numpy as np

from qtrain.recipes import wang2018fp8
from qtrain.recipes.base import Momentum, Recipe, baseline
from qtrain.train.data import Dataset
from qtrain.train.text import Text, windows


def dataset(train: int = 96, test: int = 20) -> Dataset:
    """Ten classes of 8x8 images: noise with a bright row or column that tells the class."""
    rng = np.random.default_rng(7)

    def images(labels):
        x = rng.integers(0, 128, (len(labels), 8, 8, 1))
        for image, label in zip(x, labels, strict=True):
            line = image[label % 8] if label < 8 else image[:, label - 8]
            line += 127
        return x.astype(np.uint8)

    y, test_y = (np.arange(n, dtype=np.int32) % 10 for n in (train, test))
    return Dataset(
        name="tiny", train_x=images(y), train_y=y, test_x=images(test_y), test_y=test_y,
        num_classes=10, mean=(0.25,), std=(0.15,),
    )  # fmt: skip


def text(train: int = 96, test: int = 20, length: int = 8) -> Text:
    """So many windows of sentences of few words in an order that is hard to tell."""
    words = np.random.default_rng(7).choice(["a", "cat", "sat", "on", "the", "mat."], 1000)
    prose = " ".join(words)
    cut = train * length + 1
    return windows("tiny text", prose[:cut], prose[cut : cut + test * length + 1], length)


def fp8(**changes) -> Recipe:
    """The whole FP8 recipe on an MLP."""
    settings = {"model": "mlp", "batch_size": 16, "epochs": 2, **changes}
    return dataclasses.replace(wang2018fp8.recipe(), **settings)


def float32(**changes) -> Recipe:
    """The same in float32."""
    return baseline(fp8(**changes))


def diverging() -> Recipe:
    """Overflows within a few steps."""
    return float32(optimizer=Momentum(lr=1e30, schedule="constant"))
