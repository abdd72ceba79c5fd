"""What training carries from step to step: weights, statistics, their averages, the optimizer's."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxddim import checks
from jaxddim.training import initial
from jaxddim.training.averages import LENGTHS

EMA = "ema_"
"""How the name of a collection's running average begins."""


class TrainState(NamedTuple):
    """Everything that training carries from step to step; arrays only, so it checkpoints as it is.

    Attributes:
      step: int32 scalar, steps taken.
      params: the network's parameters.
      model_state: the network's other collections ("batch_stats"), each followed by its running
        average ("ema_batch_stats"); empty for networks that have none.
      ema_params: running average of params.
      opt_state: the optimizer's state.
      averages: the two averages of `create_state(averages=True)`; else empty.
    """

    step: jax.Array
    params: Any
    model_state: Any
    ema_params: Any
    opt_state: Any
    averages: Any = ()


def create_state(
    key: jax.Array,
    model: Any,
    tx: optax.GradientTransformation,
    sample_shape: tuple[int, ...],
    *,
    averages: bool = False,
) -> TrainState:
    """A state before the first step.

    Args:
      key: a random key for the parameters.
      model: anything with Flax's ``init(key, x, index) -> {"params": ..., ...}``; `own_network`
        makes one of any other network.
      tx: the optimizer.
      sample_shape: [b, *d], with a batch axis of any length in front, which is best 1: [1, d],
        [1, h, w, c], [1, l, c] or [1, t, h, w, c]. Shapes of one example do where the network tells
        them apart: the network is asked first with a 1 in front of a shape of odd length that does
        not begin with 1, as [d] and [h, w, c], and with any other shape as it is; if it does not
        take that, it is asked with the other.
      averages: keep two more averages of the parameters, from which one of any length can be made
        after training: see `jaxddim.training.averages`.
    Returns:
      A TrainState at step 0.
    Raises:
      ValueError: when the key is no random key, the network cannot take data of this shape, or it
        has no such ``init``.
    Example:
      >>> import jaxddim.models
      >>> model = jaxddim.models.MLP(features=(8,))
      >>> state = create_state(jax.random.key(0), model, optax.adam(1e-3), (2,))
      >>> int(state.step)
      0
    """
    key = checks.single_key(key)
    check_optimizer(tx)
    if not hasattr(model, "init") or isinstance(model, type):
        raise ValueError(
            "create_state takes a network with init(key, x, index), such as a Flax module, got "
            f"{checks.described(model)}: jaxddim.own_network makes one of any other network"
        )
    if not isinstance(sample_shape, Sequence):
        raise ValueError(f"sample_shape must be a shape [b, *d], got {sample_shape!r}")
    jaxpr, structure = initial.traced(model.init, key, _shapes(tuple(sample_shape)))
    if not isinstance(structure, Mapping) or "params" not in structure:
        raise ValueError(
            "the network's init(key, x, index) must return a dict with its weights as 'params', "
            f"got {checks.described(structure)}: jaxddim.own_network makes one of any other network"
        )

    def create(key: jax.Array) -> TrainState:
        leaves = initial.from_one_block(jaxpr, key)
        variables = dict(jax.tree.unflatten(jax.tree.structure(structure), leaves))
        params = variables.pop("params")
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=variables | {EMA + k: v for k, v in variables.items()},
            ema_params=params,
            opt_state=tx.init(params),
            averages=(params,) * len(LENGTHS) if averages else (),
        )

    return jax.jit(create)(key)


def _shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes [b, *d] that a sample shape may mean, the likeliest first."""
    one = (1, *shape)
    if len(shape) == 1:
        return [one]
    return [one, shape] if len(shape) % 2 and shape[0] != 1 else [shape, one]


def variables(state: TrainState, weights: str = "ema") -> dict[str, Any]:
    """The variables of a state, for the network's ``apply``.

    Args:
      state: a TrainState.
      weights: "ema" for the averaged parameters and statistics, "raw" for the last ones.
    Returns:
      ``{"params": ..., "batch_stats": ...}``, without the latter if there is none.
    Raises:
      ValueError: for other values of weights, or what is no TrainState.
    """
    if weights not in ("ema", "raw"):
        raise ValueError(f'weights must be "ema" or "raw", got {weights!r}')
    if not isinstance(state, TrainState):
        raise ValueError(
            f"variables takes a TrainState as create_state makes it, got {checks.described(state)}"
        )
    prefix, params = (EMA, state.ema_params) if weights == "ema" else ("", state.params)
    names = [k for k in state.model_state if not k.startswith(EMA)]
    return {"params": params} | {k: state.model_state[prefix + k] for k in names}


def check_optimizer(tx: Any) -> None:
    """Raises a ValueError unless this is an optimizer."""
    if not hasattr(tx, "init") or not hasattr(tx, "update"):
        raise ValueError(
            f"tx must be an optimizer such as optax.adam(1e-3), got {checks.described(tx)}"
        )
