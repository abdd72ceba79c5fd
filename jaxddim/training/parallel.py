"""How a training step is compiled: `jax.jit` for one device or a mesh, `jax.pmap` for several."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxddim.cpu.runtime import compiled
from jaxddim.training.meshes import AXIS, by_rows, everywhere, shardings
from jaxddim.training.state import TrainState


def jit_step(
    step_fn: Callable[..., Any], mesh: Mesh | None = None, *, split_state: bool = False
) -> Callable[..., Any]:
    """``step_fn(state, batch)`` compiled, with the state's memory reused.

    The state that is passed in is donated: use the one that comes back.

    Args:
      step_fn: `train_step` with its options bound by functools.partial; it is given ``mesh=`` if it
        takes that.
      mesh: None for one device; else a Mesh: the batch is split over its first axis, the state is
        replicated. The results are those of one device.
      split_state: splits the state over the mesh too, by `shardings`; place it so, by `spread`,
        before the first step.
    Returns:
      A function of (state, batch).
    Raises:
      ValueError: at a call, when the state was given to a step before, or holds one array twice;
        for split_state without a mesh.
    Example:
      >>> import jax.numpy as jnp
      >>> from jaxddim.training.meshes import make_mesh
      >>> mesh = make_mesh()
      >>> step = jit_step(lambda state, batch: (state + jnp.sum(batch), {}), mesh)
      >>> float(step(jnp.float32(1), jnp.ones(4))[0])
      5.0
    """
    if mesh is None:
        if split_state:
            raise ValueError("split_state needs a mesh of devices to split the state over")
        return _given_once(compiled(step_fn, donate_argnums=0))
    if "mesh" in inspect.signature(step_fn).parameters:
        step_fn = functools.partial(step_fn, mesh=mesh)
    if not split_state:
        where = everywhere(mesh)
        places = {"in_shardings": (where, by_rows(mesh)), "out_shardings": where}
        return _given_once(compiled(step_fn, donate_argnums=0, **places))

    def split_step(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        whole = lax.with_sharding_constraint(state.params, everywhere(mesh))
        state, metrics = step_fn(state._replace(params=whole), batch)
        places = shardings(state, mesh, split=True)
        return lax.with_sharding_constraint((state, metrics), (places, everywhere(mesh)))

    places = {"in_shardings": (None, by_rows(mesh))}
    return _given_once(compiled(split_step, donate_argnums=0, **places))


def _given_once(jitted: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; a ValueError for a state whose memory cannot be reused."""

    @functools.wraps(jitted)
    def step(state: Any, *batch: Any) -> Any:
        _check_memory(state)
        return jitted(state, *batch)

    for name in ("trace", "lower", "eval_shape"):  # what jax.jit offers besides the call
        setattr(step, name, getattr(jitted, name))
    return step


def _check_memory(state: Any) -> None:
    """Raises a ValueError for a state that a step has used, or that holds one array twice."""
    leaves = _check_unused(state)
    if len({id(a) for a in leaves}) < len(leaves):
        raise ValueError(
            "the state holds one array twice, and its memory can be reused once: copy it, as in "
            "ema_params=jax.tree.map(jnp.copy, params)"
        )


def _check_unused(state: Any) -> list[jax.Array]:
    leaves = _arrays(state)
    if any(a.is_deleted() for a in leaves):
        raise ValueError(
            "this state was given to a step before, which reused its memory: go on with the state "
            "that came back, as in state, metrics = step(state, batch), or keep a copy"
        )
    return leaves


def _arrays(state: Any) -> list[jax.Array]:
    leaves = jax.tree.leaves(state)
    return [a for a in leaves if isinstance(a, jax.Array) and not isinstance(a, jax.core.Tracer)]


def pmap_step(step_fn: Callable[..., Any]) -> Callable[..., Any]:
    """``step_fn(state, batch)`` on every local device, gradients averaged over all of them.

    Args:
      step_fn: ``step_fn(state, batch, *, axis_name)``, which averages gradients over that axis:
        `train_step` with its options bound by functools.partial, or a function that passes its
        axis_name on to it.
    Returns:
      A function of (state, batch). The batch is [devices, b, *d]. The state has a leading axis
      over devices, which is added if missing. The state that is passed in is donated.
    Raises:
      ValueError: when step_fn takes no axis_name; at the first call, when it takes one and does
        not use it. Without averaging each device would train a network of its own. Also as
        `jit_step`.
    """
    parameters = inspect.signature(step_fn).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "axis_name" not in parameters and not takes_any:
        raise ValueError(
            "step_fn takes no axis_name, so its gradients cannot be averaged over the devices: "
            "give it the parameter axis_name and pass it on to train_step"
        )
    step_fn = functools.partial(step_fn, axis_name=AXIS)
    mapped = jax.pmap(step_fn, axis_name=AXIS, donate_argnums=0)
    checked = False

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        nonlocal checked
        _check_unused(state)
        if state.step.ndim == 0:
            state = replicate(state)
        _check_memory(state)
        if not checked:
            _check_average(step_fn, state, batch)
            checked = True
        return mapped(state, batch)

    return step


def _check_average(step_fn: Callable[..., Any], state: TrainState, batch: Any) -> None:
    """Raises a ValueError when the step is defined without the axis over devices."""
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (state, batch))
    try:
        jax.eval_shape(step_fn, *one)
    except NameError:  # the axis is not there, and was asked for
        return
    raise ValueError(
        f"step_fn does not use its axis_name={AXIS!r}, so each device would train a network of its "
        "own: pass it on to train_step, or average gradients with jax.lax.pmean"
    )


def replicate(state: TrainState) -> TrainState:
    """The state with a leading axis over the local devices and a copy on each."""
    n = jax.local_device_count()
    split = NamedSharding(Mesh(jax.local_devices(), (AXIS,)), PartitionSpec(AXIS))
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *jnp.shape(a))), state)
    return jax.device_put(stacked, split)


def unreplicate(state: TrainState) -> TrainState:
    """The first device's copy, without the leading axis."""
    return jax.tree.map(lambda a: a[0], state)
