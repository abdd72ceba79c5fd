"""Floating-point operations of a network, counted in its forward jaxpr.

Only convolutions and dots count, at two operations per multiply-add, in the network with Flax's own
layers: every contender is assigned the same number, whatever it actually computes. A training step
counts as three forward passes.
"""

import math
from collections.abc import Iterator
from typing import Any

TRAINING = 3


def forward(network: str) -> float:
    """Operations of one image's forward pass; loads JAX, so call it in a separate process."""
    import jax

    from benchmarks.contenders.networks import inputs, jax_network, plain_layers

    model, example = jax_network(network), inputs(network, 1)
    variables = jax.eval_shape(model.init, jax.random.key(0), *example)
    with plain_layers():
        return count(jax.make_jaxpr(model.apply)(variables, *example).jaxpr)


def count(jaxpr: Any) -> float:
    """Operations of all convolutions and dots in a jaxpr.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> product = jax.make_jaxpr(jnp.matmul)(jnp.ones([2, 3]), jnp.ones([3, 5]))
      >>> count(product.jaxpr)
      60.0
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name, results = eqn.primitive.name, math.prod(eqn.outvars[0].aval.shape)
        if name == "conv_general_dilated":
            kernel, axes = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
            window = math.prod(kernel) / kernel[axes[0]]
            # multiplications by the zeros of a transposed convolution do not count
            total += 2 * results * window / math.prod(eqn.params["lhs_dilation"])
        elif name == "conv":  # this project's
            layer = eqn.params["layer"]
            strides = math.prod(layer.strides) if layer.transposed else 1
            total += 2 * results * math.prod(layer.kernel[:3]) / strides
        elif name == "dot_general":
            (axes, _), _ = eqn.params["dimension_numbers"]
            total += 2 * results * math.prod(eqn.invars[0].aval.shape[axis] for axis in axes)
        total += sum(map(count, _inner(eqn.params)))
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        value = getattr(value, "jaxpr", value)
        if hasattr(value, "eqns"):
            yield value
