"""Data parallelism: one mesh axis "data"; JAX splits the step and adds the collectives."""

from __future__ import annotations

import contextlib
import re

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def parse(text: str) -> int:
    """The number of devices in "data=8".

    Raises:
      ValueError: any other text.
    """
    if (match := re.fullmatch(rf"{AXIS}=([1-9]\d*)", text)) is None:
        raise ValueError(f"mesh {text!r} is not of the form {AXIS}=8 (a number of devices)")
    return int(match[1])


def start(devices: int, *, coordinator: str | None, processes: int, process_id: int) -> None:
    """Prepares JAX for `devices` in all; call it before anything else touches JAX.

    CPU has as many devices as it is asked for, here an equal share per process, and sums across
    processes by gloo.

    Raises:
      ValueError: settings that contradict each other.
    """
    if devices % processes:
        raise ValueError(f"mesh {AXIS}={devices} cannot be shared by {processes} processes")
    if not 0 <= process_id < processes:
        raise ValueError(f"process_id must be 0 to {processes - 1}, not {process_id}")
    if processes > 1 and coordinator is None:
        raise ValueError(f"{processes} processes need --coordinator HOST:PORT, the same for all")
    with contextlib.suppress(RuntimeError):  # already running: `create` counts what there is
        jax.config.update("jax_num_cpu_devices", devices // processes)
        if devices > 1:
            # devices of a CPU share one pool of threads: steps begun ahead of time can take them
            # all, and then wait for ever for the device that got none
            jax.config.update("jax_cpu_enable_async_dispatch", False)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, processes, process_id)


def create(devices: int, batch_size: int) -> Mesh:
    """A mesh of the first `devices` devices.

    Raises:
      ValueError: there are fewer, or the batch cannot be split evenly.
    """
    if batch_size % devices:
        raise ValueError(f"batch size {batch_size} cannot be split over {AXIS}={devices} devices")
    if devices > jax.device_count():
        raise ValueError(
            f"mesh {AXIS}={devices} needs {devices} devices, but JAX sees {jax.device_count()}"
            f" ({jax.devices()[0].platform})"
        )
    return Mesh(jax.devices()[:devices], (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """An equal share of the first axis on each device."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def place(mesh: Mesh, tree):
    """Puts a pytree of host arrays onto every device; each process passes the same values."""
    return jax.device_put(tree, replicated(mesh))


def share(mesh: Mesh, batch):
    """A host array as one array split over the devices; each process passes the whole batch."""
    return jax.make_array_from_callback(batch.shape, split(mesh), lambda index: batch[index])
