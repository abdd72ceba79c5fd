r"""The mean of predictions of several points of a path, as one prediction for x_t.

DDIM's step from t to s is Euler's, in either of two forms:

    x_s / alpha_s = x_t / alpha_t + (sigma_s / alpha_s - sigma_t / alpha_t) eps,
    x_s / sigma_s = x_t / sigma_t + (alpha_s / sigma_s - alpha_t / sigma_t) x_0.

A method of higher order puts a weighted mean of eps, or of x_0, of several points in its place.
The published Heun's method and PLMS take the mean of eps. In x_s its error is multiplied by

    g = sin(phi_t - phi_s) / alpha_t,    phi = arctan(sigma / alpha),

which has no bound where alpha_t is near 0: with cosine(1000) and S = 50, g = 631 in the first step.
The factor of x_0, sin(phi_t - phi_s) / sigma_t, is at most 1. Hence the mean is that of x_0 where
g > 2, and that of eps elsewhere: with linear(1000) in all steps of every grid of S >= 10.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxddim.predictions import from_x0
from jaxddim.schedules import Schedule
from jaxddim.types import Prediction

LARGEST = 2.0
"""The largest g of a mean of eps, that of the grids of `safe_fraction`."""


def mean_prediction(
    schedule: Schedule,
    x_t: jax.Array,
    predictions: Sequence[Prediction],
    weights: Sequence[ArrayLike] | jax.Array,
    t: ArrayLike,
    s: ArrayLike,
) -> Prediction:
    """The consistent pair for x_t with the mean of eps, or of x_0, for a DDIM step from t to s.

    Args:
      schedule: the noise schedule.
      x_t: images at time t, [b, *d].
      predictions: pairs for points of the path, [b, *d] each.
      weights: one for each of them; their sum is 1.
      t: int32 time of x_t.
      s: int32 time that the step leads to.
    Returns:
      Prediction with ``x_t = alpha_t x0 + sigma_t eps``.
    Example:
      >>> import jaxddim
      >>> schedule, x = jaxddim.linear(), jnp.ones((2, 8))
      >>> pairs = [jaxddim.from_eps(schedule, x, e * x, 500) for e in (1, 3)]
      >>> float(mean_prediction(schedule, x, pairs, (0.5, 0.5), 500, 400).eps[0, 0])
      2.0
    """
    x0, eps = (
        sum((weight * part for weight, part in zip(weights, parts, strict=True)), jnp.zeros(()))
        for parts in zip(*predictions, strict=True)
    )
    alpha, sigma = schedule.scales(t, x_t.ndim)
    alpha_s, sigma_s = schedule.scales(s, x_t.ndim)
    by_x0 = sigma * alpha_s - alpha * sigma_s > LARGEST * alpha
    of_eps = (x_t - sigma * eps) / jnp.where(by_x0, 1.0, alpha)
    return Prediction(
        jnp.where(by_x0, x0, of_eps), jnp.where(by_x0, from_x0(schedule, x_t, x0, t).eps, eps)
    )
