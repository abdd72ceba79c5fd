"""How a training step is compiled: `jax.jit` for one device or a mesh, `jax.pmap` for several."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxddim.cpu.runtime import compiled
from jaxddim.training.step import TrainState

AXIS = "batch"
"""The name of the axis over devices in `pmap_step`."""


def jit_step(step_fn: Callable[..., Any], mesh: Mesh | None = None) -> Callable[..., Any]:
    """``step_fn(state, batch)`` compiled, with the state's memory reused.

    The state that is passed in is donated: use the one that comes back.

    Args:
      step_fn: `train_step` with its options bound by functools.partial.
      mesh: None for one device; else a Mesh, over whose first axis the batch is split while the
        state is held by every device. The numbers are those of one device.
    Returns:
      A function of (state, batch).
    """
    jitted = functools.partial(compiled, step_fn, donate_argnums=0)
    if mesh is None:
        return jitted()
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    return jitted(in_shardings=(everywhere, split), out_shardings=everywhere)


def pmap_step(step_fn: Callable[..., Any]) -> Callable[..., Any]:
    """``step_fn(state, batch)`` on every local device, gradients averaged over all of them.

    Args:
      step_fn: `train_step` with its options bound by functools.partial. Its axis_name is set
        to "batch".
    Returns:
      A function of (state, batch). The batch is [devices, b, *d]. The state has a leading axis
      over devices; one without is given it. The state that is passed in is donated.
    """
    if "axis_name" in inspect.signature(step_fn).parameters:
        step_fn = functools.partial(step_fn, axis_name=AXIS)
    mapped = jax.pmap(step_fn, axis_name=AXIS, donate_argnums=0)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        if state.step.ndim == 0:
            state = replicate(state)
        return mapped(state, batch)

    return step


def replicate(state: TrainState) -> TrainState:
    """The state with a leading axis over the local devices, a copy on each."""
    n = jax.local_device_count()
    split = NamedSharding(Mesh(jax.local_devices(), (AXIS,)), PartitionSpec(AXIS))
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *jnp.shape(a))), state)
    return jax.device_put(stacked, split)


def unreplicate(state: TrainState) -> TrainState:
    """The first device's copy, without the leading axis."""
    return jax.tree.map(lambda a: a[0], state)
