"""Parameters of layers whose shapes are known."""

from typing import Any

import flax.errors
import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer


def param(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]) -> Any:
    """`module.param` in float32; that traces `init` in every call, only to compare shapes.

    Raises:
      flax.errors.ScopeParamShapeError: when the parameter has another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, jnp.float32)
    value = module.get_variable("params", name)
    if jnp.shape(value) != shape:
        path = "/".join(module.path)
        raise flax.errors.ScopeParamShapeError(name, path, jnp.shape(value), shape)
    return value
