"""How a sampler goes from one time of its grid to the next: by a step, or a solver with memory.

A step sees only the network's prediction for x_t. A solver calls the network itself, any number of
times, and passes a memory to its next step: Heun's method calls it twice, a multistep method keeps
earlier predictions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxddim import checks
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
      learned: whether denoise_fn may return a LearnedPrediction; else it is the pair alone.
    Examples:
      Heun's method asks the network twice. At s = 0 the denoisers of `as_denoiser` answer as at
      t = 1, so the last step needs no case of its own.

      >>> import jax.numpy as jnp, jaxddim
      >>> def heun(denoise_fn, schedule, x, t, s, memory):
      ...     pair = denoise_fn(x, t)
      ...     ahead = jaxddim.ddim_step(schedule, x, pair, t, s).mean
      ...     slope = jaxddim.from_eps(schedule, x, (pair.eps + denoise_fn(ahead, s).eps) / 2, t)
      ...     return jaxddim.ddim_step(schedule, x, slope, t, s), pair, memory
      >>> solver = Solver(lambda x: (), heun)

      A multistep method remembers:

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
    learned: bool = False


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
        return prediction if len(prediction) == 3 else Prediction(*prediction)

    return call


def as_solver(step: StepFn | Solver) -> Solver:
    """The solver, or one that takes this step with one prediction and has no memory.

    Raises:
      ValueError: when a function of it takes other arguments; and once it is used, when one returns
        something else.
    """
    if isinstance(step, Solver):
        return _checked_solver(step)
    if not checks.takes(step, 5):
        arguments = ", not of (schedule, x_t, prediction, t, s)" if callable(step) else ""
        raise ValueError(
            "step must be a function such as ddim_step, or a Solver, got "
            f"{checks.shown(step)}{arguments}"
        )

    def once(denoise_fn, schedule, x, t, s, memory):
        prediction = denoise_fn(x, t)
        gaussian = step(schedule, x, prediction, t, s)
        _check_gaussian(gaussian, x.shape)
        return gaussian, prediction, memory

    return Solver(lambda x: (), once)


def _checked_solver(solver: Solver) -> Solver:
    of = "of a Solver must be a function"
    expected = (
        f"step {of} (denoise_fn, schedule, x_t, t, s, memory) -> (Gaussian, Prediction, memory)"
    )
    if not checks.takes(solver.init, 1):
        raise ValueError(
            f"init {of} x -> memory, lambda x: () for none, got {checks.shown(solver.init)}"
        )
    if not checks.takes(solver.step, 6):
        raise ValueError(f"{expected}, got {checks.shown(solver.step)}")

    def step(denoise_fn, schedule, x, t, s, memory):
        def pair(x: jax.Array, t: jax.Array) -> Prediction:
            found = denoise_fn(x, t)
            return found if solver.learned else Prediction(*found[:2])

        found = solver.step(pair, schedule, x, t, s, memory)
        if not isinstance(found, tuple) or len(found) != 3:
            raise ValueError(f"{expected}, got a result of {checks.described(found)}")
        gaussian, prediction, after = found
        _check_gaussian(gaussian, x.shape)
        checks.pair(prediction, x.shape)
        if checks.form(memory) != checks.form(after):
            raise ValueError(
                "a Solver's step must return a memory of the shapes and types that it is given: "
                f"{checks.form(memory)}, got {checks.form(after)}"
            )
        return gaussian, Prediction(*prediction), after

    return solver._replace(step=step)


def _check_gaussian(gaussian: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(gaussian, tuple) or len(gaussian) != 2:
        raise ValueError(
            "a step must return Gaussian(mean, std), the distribution of x_s, got "
            f"{checks.described(gaussian)}"
        )
    checks.output(gaussian[0], shape, "the mean of a step's Gaussian")
    std = np.shape(gaussian[1])
    if std and (len(std) != len(shape) or np.broadcast_shapes(std, shape) != shape):
        raise ValueError(
            f"the std of a step's Gaussian must be a scalar or [b, 1, ..], of rank {len(shape)} "
            f"here, got shape {std}"
        )
