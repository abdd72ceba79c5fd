"""Arrays on a mesh: a row of devices, of one process or of several.

A batch is split over it by rows. A state is on every device, or split: then each device keeps a
part of the parameters, of the optimizer's moments and of the averages (ZeRO, arXiv 1910.02054), and
gathers the parameters for the time of a step. One program is compiled for all devices. What it
draws depends on the position in the whole batch, so its results are those of one device, up to the
order of the sums.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxddim.cpu.runtime import compiled

AXIS = "batch"
"""The name of the axis over devices."""
SMALLEST = 1024
"""Numbers in an array from which on it is split."""


def make_mesh(most: int | None = None) -> Mesh:
    """All devices of all processes in a row, those of a process side by side; or the first ones."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices[:most]), (AXIS,))


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding of what each device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over the mesh's first."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))


def shardings(tree: Any, mesh: Mesh, *, split: bool = False) -> Any:
    """The sharding of each array of a state.

    Args:
      tree: arrays, or their shapes.
      mesh: the devices.
      split: splits arrays of at least `SMALLEST` numbers along their longest axis that divides into
        as many parts as there are devices; all others, and without it all, are on every device.
    """
    devices = mesh.shape[mesh.axis_names[0]]

    def one(leaf: Any) -> NamedSharding:
        sizes = [size if size % devices == 0 else 0 for size in leaf.shape]
        if not split or leaf.size < SMALLEST or not any(sizes):
            return everywhere(mesh)
        axis = sizes.index(max(sizes))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names[0]))

    return jax.tree.map(one, tree)


def spread(tree: Any, where: Any) -> Any:
    """Places arrays that every process has whole.

    Args:
      tree: the arrays.
      where: a sharding for all, or a tree of one for each.
    """

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if getattr(leaf, "sharding", None) == sharding:
            return leaf
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)  # jax.device_put would compare it between the processes
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    if isinstance(where, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, where), tree)
    return jax.tree.map(put, tree, where)


def gathered(tree: Any, mesh: Mesh) -> Any:
    """The arrays, each whole on every device; all processes must call it."""
    return _gather(mesh)(tree)


@functools.cache
def _gather(mesh: Mesh) -> Callable[[Any], Any]:
    """Of one mesh always the same function, so that it is traced and compiled once."""
    return jax.jit(lambda tree: tree, out_shardings=everywhere(mesh))


def on_each(fn: Callable[..., Any], mesh: Mesh, chunk: int, *, rows: int = 0) -> Callable[..., Any]:
    """A function of many images, compiled: each device runs the program of a single one.

    So the results are those of one device, bit for bit.

    Args:
      fn: ``fn(variables, first, *batches)``, for the `chunk` images from the first on.
      mesh: the devices.
      chunk: images of a device.
      rows: number of batches.
    Returns:
      ``fn(variables, first, *batches)`` for the ``chunk * mesh.size`` images from the first on. The
      variables are on every device.
    """

    def one(variables: Any, first: jax.Array, *batches: Any) -> Any:
        return fn(variables, first + chunk * lax.axis_index(AXIS), *batches)

    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    specs = {"in_specs": (whole, whole, *[split] * rows), "out_specs": split}
    # unchecked, as convolutions in a checked shard_map have XLA's own form
    return compiled(jax.shard_map(one, mesh=mesh, check_vma=False, **specs))
