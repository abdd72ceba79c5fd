r"""Muon for the kernels of a network, its matrices of one shape orthogonalised together.

optax.contrib.muon takes one kernel at a time, each with a chain of products of its own: 1,700 of
them for the UNet of 36 million parameters, which XLA compiles one by one, and on a GPU times one by
one. Here the kernels are stacked by the shape of their matrices, and the iterations of Newton and
Schulz are a loop: one batch of products for each shape. The numbers are the same up to rounding,
and so is the state.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

ITERATIONS = 5
"""Of Newton and Schulz, as optax's default."""
RMS = 0.2
"""Root mean square of a matrix's update at a learning rate of 1, as Adam's (arXiv 2502.16982)."""
ENDS = ("conv_in", "conv_out", "conv0", "output", "patches_in", "patches_out")
"""Layers of the networks at the image, which Muon leaves to Adam."""


def muon(
    learning_rate: optax.ScalarOrSchedule, adam_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Muon for every kernel between the first and the last layer, Adam for all else.

    A kernel is the matrix from its inputs, all axes but the last, to its features.

    Args:
      learning_rate: of Muon's part: a matrix changes by `RMS` of it a step, per entry.
      adam_rate: of Adam's part.
    Returns:
      An optimizer with the state of optax.contrib.muon.
    Source: K. Jordan's Muon; arXiv 2502.16982 for its scale.
    Example:
      >>> params = {"dense": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}
      >>> tx = muon(0.1, 0.01)
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape, float(updates["dense"]["bias"][0])
      ((4, 4), -0.0)
    """
    return optax.partition(
        {
            "muon": optax.chain(
                _stacked(optax.contrib.scale_by_muon(weight_dimension_numbers=_axes)),
                optax.identity(),  # in place of optax.contrib.muon's scale by shape
                optax.identity(),  # and of its weight decay
                optax.scale_by_learning_rate(learning_rate),
            ),
            "adam": optax.adamw(adam_rate, weight_decay=0.0, nesterov=True),
        },
        _labels,
    )


def _stacked(one: optax.GradientTransformation) -> optax.GradientTransformation:
    """scale_by_muon, of matrices stacked by shape, and its scale; the state is as without."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        looped = jnp.broadcast_to(state.ns_coeffs, (ITERATIONS, 3))
        inner = state._replace(mu=_stacks(state.mu), ns_coeffs=looped)
        answer: Any = one.update(_stacks(updates), inner, params)
        found, inner = answer
        found = {shape: RMS * max(shape) ** 0.5 * stack for shape, stack in found.items()}
        mu = _unstacked(inner.mu, updates)
        return _unstacked(found, updates), inner._replace(mu=mu, ns_coeffs=state.ns_coeffs)

    return optax.GradientTransformation(one.init, update)


def _matrix(kernel: jax.Array) -> tuple[int, int]:
    return kernel.size // kernel.shape[-1], kernel.shape[-1]


def _stacks(kernels: Any) -> dict[tuple[int, int], jax.Array]:
    """The kernels as [n, inputs, features], by the shape of their matrices."""
    groups: dict[tuple[int, int], list[jax.Array]] = {}
    for kernel in jax.tree.leaves(kernels):
        shape = _matrix(kernel)
        groups.setdefault(shape, []).append(kernel.reshape(shape))
    return {shape: jnp.stack(group) for shape, group in groups.items()}


def _unstacked(stacks: dict[tuple[int, int], jax.Array], kernels: Any) -> Any:
    """The stacked matrices in the places and shapes of the kernels."""
    next_of = {shape: iter(stack) for shape, stack in stacks.items()}
    return jax.tree.map(lambda a: next(next_of[_matrix(a)]).reshape(a.shape), kernels)


def _labels(params: Any) -> Any:
    """Which optimizer has which parameter."""

    def label(path: Any, _: jax.Array) -> str:
        names = [getattr(key, "key", "") for key in path]
        inner = names[-1] == "kernel" and not any(name in ENDS for name in names)
        return "muon" if inner else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def _axes(stacks: Any) -> Any:
    """How Muon sees stacks: as [n, inputs, features]."""
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(1, 2), stacks)
