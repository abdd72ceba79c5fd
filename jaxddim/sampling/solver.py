"""How a sampler goes from one time of its grid to the next: by a step, or a solver with memory.

A step sees only the network's prediction for x_t. A solver calls the network itself, any number of
times, and passes a memory to its next step: Heun's method calls it twice, a multistep method keeps
earlier predictions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxddim import checks
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Gaussian, Prediction

StepFn = Callable[..., Gaussian]
"""``step(schedule, x_t, prediction, t, s) -> Gaussian``."""


class Solver(NamedTuple):
    """A sampling method that may use earlier steps.

    Attributes:
      init: ``init(x) -> memory`` before the first step; any pytree of arrays, or () for none.
      step: ``step(denoise_fn, schedule, x_t, t, s, memory) -> (Gaussian, Prediction, memory)``: the
        distribution of x_s, the prediction for x_t, and the memory for the next step, of the same
        shapes and types.
      stays: how many steps with s = t are taken at each time of the grid before it is left.
    Example:
      >>> import jax.numpy as jnp, jaxddim
      >>> def averaged(denoise_fn, schedule, x, t, s, before):  # with the last two x_0
      ...     pair = denoise_fn(x, t)
      ...     x0 = jnp.where(t == 1000, pair.x0, (pair.x0 + before) / 2)
      ...     mean = jaxddim.from_x0(schedule, x, x0, t)
      ...     return jaxddim.ddim_step(schedule, x, mean, t, s), pair, pair.x0
      >>> solver = Solver(jnp.zeros_like, averaged)
      >>> schedule, grid = jaxddim.linear(), jaxddim.timesteps(1000, 10)
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> jaxddim.sample(jax.random.key(0), denoise_fn, schedule, grid, (4, 2), step=solver).shape
      (4, 2)
    """

    init: Callable[[jax.Array], Any]
    step: Callable[..., tuple[Gaussian, Prediction, Any]]
    stays: int = 0


def checked(denoise_fn: DenoiseFn) -> DenoiseFn:
    """The same denoiser; a ValueError when it returns no Prediction of the shape of x."""
    if not callable(denoise_fn):
        raise ValueError(
            "denoise_fn must be a function (x, t) -> Prediction, such as jaxddim.as_denoiser "
            f"makes, got {checks.described(denoise_fn)}"
        )

    def call(x: jax.Array, t: jax.Array) -> Prediction:
        prediction = denoise_fn(x, t)
        checks.pair(prediction, x.shape)
        return Prediction(*prediction)

    return call


def as_solver(step: StepFn | Solver) -> Solver:
    """A solver that takes this step with one prediction and has no memory."""
    if isinstance(step, Solver):
        return step
    if not callable(step):
        raise ValueError(
            f"step must be a function such as ddim_step, or a Solver, got {type(step).__name__}"
        )

    def once(
        denoise_fn: DenoiseFn,
        schedule: Schedule,
        x: jax.Array,
        t: jax.Array,
        s: jax.Array,
        memory: Any,
    ) -> tuple[Gaussian, Prediction, Any]:
        prediction = denoise_fn(x, t)
        return step(schedule, x, prediction, t, s), prediction, memory

    return Solver(lambda x: (), once)
