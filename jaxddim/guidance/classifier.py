r"""Classifier guidance: the gradient of a classifier of noisy images, in DDIM's form.

eps = eps_u - w sigma_t g,    x_0 = x_u + w (sigma_t^2 / alpha_t) g,    g = grad log q(c | x_t).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.guidance.free import warn_of_clipping
from jaxddim.numerics import images, number
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Prediction


def classifier_guide(
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    log_prob: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    scale: ArrayLike,
) -> DenoiseFn:
    """Guidance by the gradient of a classifier of noisy images.

    Args:
      denoise_fn: ``denoise_fn(x, t)`` without the condition, not clipped.
      schedule: the noise schedule.
      log_prob: ``log_prob(x, t) -> [b]``, the log-probability of each image's class.
      scale: w; at 1, with the true classifier, it is the denoiser of the class. May be traced.
    Returns:
      A denoise_fn, not clipped.
    Raises:
      ValueError: when scale is not a number; at the first call, when log_prob does not return one
        number for each image.
    Warns:
      UserWarning: when `as_denoiser` made the denoiser with clipping.
    Source: arXiv 2105.05233, algorithm 2.
    Example:
      >>> import jaxddim
      >>> schedule, x = jaxddim.linear(), jnp.zeros((2, 8))
      >>> plain = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x, clip_x0=False)
      >>> guided = classifier_guide(plain, schedule, lambda x, t: jnp.sum(x, -1), scale=1.0)
      >>> bool(jnp.all(guided(x, jnp.int32(500)).x0 > 0))
      True
    """
    checks.schedule(schedule)
    scale = number(scale, "scale", "be a number", np.isfinite)
    warn_of_clipping(denoise_fn)

    def guided(x: jax.Array, t: jax.Array) -> Prediction:
        (x,) = images(schedule.dtype, x=x)
        value, pull_back = jax.vjp(lambda x: log_prob(x, t), x)
        if np.shape(value) != x.shape[:1]:
            raise ValueError(
                f"log_prob(x, t) must return one number for each of the {len(x)} images, got "
                f"{checks.described(value)}"
            )
        (gradient,) = pull_back(jnp.ones_like(value))
        x0, eps = denoise_fn(x, t)[:2]
        alpha, sigma = schedule.scales(t, x.ndim)
        step = scale * sigma * gradient
        nothing = alpha == 0  # of the image is left, and so is no gradient
        return Prediction(
            x0 + jnp.where(nothing, 0.0, sigma * step / jnp.where(nothing, 1.0, alpha)), eps - step
        )

    return guided
