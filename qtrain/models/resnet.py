"""Residual networks [he2016deep]: 6n + 2 layers for CIFAR, 18 for ImageNet."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from flax import nnx

_CONV = functools.partial(nnx.Conv, kernel_size=(3, 3), padding=1, use_bias=False)


class Block(nnx.Module):
    """Two 3x3 convolutions with batch normalization and a shortcut.

    The shortcut of a block that changes shape is a strided 1x1 convolution ("option B"), or,
    with `pad_shortcut`, every second pixel and zeros for the new channels ("option A").
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int,
        *,
        pad_shortcut: bool = False,
        signed: bool = False,
        rngs: nnx.Rngs,
    ):
        """`stride` is that of the first convolution; `signed`: hard tanh in place of ReLU."""
        self.act = nnx.hard_tanh if signed else nnx.relu
        self.conv1 = _CONV(c_in, c_out, strides=stride, rngs=rngs)
        self.norm1 = nnx.BatchNorm(c_out, rngs=rngs)
        self.conv2 = _CONV(c_out, c_out, rngs=rngs)
        self.norm2 = nnx.BatchNorm(c_out, rngs=rngs)
        self.stride = stride
        self.grow = c_out - c_in
        if pad_shortcut or (stride == 1 and c_in == c_out):
            self.shortcut = None
        else:
            self.shortcut = nnx.Conv(c_in, c_out, (1, 1), strides=stride, use_bias=False, rngs=rngs)
            self.shortcut_norm = nnx.BatchNorm(c_out, rngs=rngs)

    def __call__(self, x):
        """(N, H, W, c_in) to (N, H / stride, W / stride, c_out)."""
        y = self.act(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.act(y + self._shortcut(x))

    def _shortcut(self, x):
        if self.shortcut is not None:
            return self.shortcut_norm(self.shortcut(x))
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.grow)))


class CifarResNet(nnx.Module):
    """Three stages of n blocks with 16, 32, 64 channels; option A [he2016deep, Sec. 4.2]."""

    stage1: nnx.List
    stage2: nnx.List
    stage3: nnx.List

    def __init__(
        self,
        *,
        depth: int,
        num_classes: int,
        in_shape: tuple[int, int, int],
        rngs: nnx.Rngs,
        width: int = 1,
        signed: bool = False,
    ):
        """`depth` is 6n + 2 layers; `width` multiplies the hidden channels; `signed`: hard tanh."""
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 (20, 32, 44, ...), not {depth}")
        self.act = nnx.hard_tanh if signed else nnx.relu
        c_in = 16 * width
        self.stem = _CONV(in_shape[-1], c_in, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(c_in, rngs=rngs)
        for stage, c_out in enumerate((16 * width, 32 * width, 64 * width), start=1):
            blocks = []
            for i in range((depth - 2) // 6):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(
                    Block(c_in, c_out, stride, pad_shortcut=True, signed=signed, rngs=rngs)
                )
                c_in = c_out
            setattr(self, f"stage{stage}", nnx.List(blocks))
        self.head = nnx.Linear(c_in, num_classes, rngs=rngs)

    def __call__(self, x):
        """(N, H, W, C) to (N, num_classes) logits."""
        x = self.act(self.stem_norm(self.stem(x)))
        for block in (*self.stage1, *self.stage2, *self.stage3):
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


class ResNet18(nnx.Module):
    """Four stages of two blocks for 224x224 images; option B [he2016deep, Table 1]."""

    stage1: nnx.List
    stage2: nnx.List
    stage3: nnx.List
    stage4: nnx.List

    def __init__(self, *, num_classes: int, in_shape: tuple[int, int, int], rngs: nnx.Rngs):
        """`in_shape` is (height, width, channels)."""
        self.stem = nnx.Conv(
            in_shape[-1], 64, (7, 7), strides=2, padding=3, use_bias=False, rngs=rngs
        )
        self.stem_norm = nnx.BatchNorm(64, rngs=rngs)
        c_in = 64
        for stage, c_out in enumerate((64, 128, 256, 512), start=1):
            first = Block(c_in, c_out, 1 if stage == 1 else 2, rngs=rngs)
            setattr(self, f"stage{stage}", nnx.List([first, Block(c_out, c_out, 1, rngs=rngs)]))
            c_in = c_out
        self.head = nnx.Linear(c_in, num_classes, rngs=rngs)

    def __call__(self, x):
        """(N, H, W, C) to (N, num_classes) logits."""
        x = nnx.relu(self.stem_norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for block in (*self.stage1, *self.stage2, *self.stage3, *self.stage4):
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))
