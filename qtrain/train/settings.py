"""What a person says about one run beside its recipe, and what comes out of the run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qtrain.train.state import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is carried out; nothing here changes its numbers except seed, steps and devices."""

    folder: Path
    seed: int = 0
    steps: int | None = None  # stop there instead of after the recipe's epochs
    devices: int = 1  # data-parallel
    resume: bool = False
    checkpoint_every: int | None = None  # steps; None: each epoch
    quiet: bool = False
    starts: Path | None = None  # where runs to begin with are kept; None: starts/ in `folder`

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("checkpoint_every", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < 2**32:  # a JAX key keeps 32 bits
                raise ValueError(f"{name} must be at least {least} and below 2^32, not {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What came out of a run; test loss and accuracy are None if it was interrupted before."""

    key: str
    folder: Path
    step: int
    steps: int
    loss: float | None
    accuracy: float | None
    skipped: int  # steps that the loss scale left out
    step_seconds: float | None  # mean over all sittings; steps alone
    compile_seconds: float | None  # None if no step was left
    sent: float | None  # bytes a worker sends in each step; where a codec is at work and compiled
    params: int  # number of weights
    interrupted: bool
    final: State  # weights, statistics and the optimizer's memory
    before: tuple[float, float] | None  # loss and accuracy of the weights that are not shipped
