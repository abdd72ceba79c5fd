r"""DDPM's step with a variance that the network predicts.

The variance of the reverse step lies between that of the posterior and that of the forward step,

    sigma_s^2 (1 - SNR_t / SNR_s)  and  sigma_t^2 (1 - SNR_t / SNR_s),

and a network with twice the channels says where, pixel by pixel: with v in its second half and
f = (v + 1) / 2, the logarithm of the variance is f of the way from the first to the second,

    std = sigma_t^f sigma_s^(1 - f) sqrt(1 - SNR_t / SNR_s).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.forward import direction_and_std, snr_gap
from jaxddim.numerics import safe_sqrt
from jaxddim.sampling.steps import ddpm_step
from jaxddim.schedules import Schedule
from jaxddim.types import Gaussian, LearnedPrediction, Prediction


def learned_step(
    schedule: Schedule,
    x_t: jax.Array,
    prediction: LearnedPrediction,
    t: ArrayLike,
    s: ArrayLike,
) -> Gaussian:
    """p(x_s | x_t) of DDPM with the network's own variance, for any s < t.

    Args:
      schedule: the noise schedule.
      x_t: images at time t, [b, *d].
      prediction: what ``as_denoiser(..., learned_variance=True)`` makes of the network's output.
      t: int32 times in 1..T, scalar or [b].
      s: int32 times in 0..t-1, scalar or [b].
    Returns:
      Gaussian with mean and std, [b, *d] each; std is 0 at s = 0.
    Raises:
      ValueError: when the prediction holds no variance, and as `ddpm_step`.
    Source: arXiv 2102.09672, section 3.1 and eq. 15.
    Example:
      >>> import jaxddim
      >>> schedule, x = jaxddim.linear(), jnp.ones((2, 4, 4, 3))
      >>> network = lambda x, index: jnp.concatenate([0 * x, x], -1)
      >>> fn = jaxddim.as_denoiser(schedule, network, learned_variance=True)
      >>> learned_step(schedule, x, fn(x, jnp.int32(500)), 500, 480).std.shape
      (2, 4, 4, 3)
    """
    if not isinstance(prediction, LearnedPrediction):
        raise ValueError(
            "learned_step needs a network that predicts its variance: make the denoiser with "
            f"as_denoiser(..., learned_variance=True); got {checks.described(prediction)}"
        )
    mean = ddpm_step(schedule, x_t, Prediction(*prediction[:2]), t, s).mean
    return Gaussian(mean, learned_std(schedule, prediction.fraction, t, s))


def learned_std(
    schedule: Schedule,
    fraction: jax.Array,
    t: ArrayLike,
    s: ArrayLike,
    *,
    least: ArrayLike | None = None,
) -> jax.Array:
    """The deviation at these fractions; at s = 0 from `least` in place of the posterior's 0."""
    _, sigma_t = schedule.scales(t, fraction.ndim)
    _, sigma_s = schedule.scales(s, fraction.ndim)
    drawn = safe_sqrt(-jnp.expm1(snr_gap(schedule, t, s, fraction.ndim)))
    clean = sigma_s == 0
    low = jnp.where(clean, 1.0 if least is None else least, sigma_s)
    std = jnp.exp(fraction * jnp.log(sigma_t) + (1 - fraction) * jnp.log(low)) * drawn
    return jnp.where(clean, 0.0, std) if least is None else std


def decoder_std(schedule: Schedule, fraction: jax.Array) -> jax.Array:
    """The deviation of p(x_0 | x_1), whose least one is the posterior's from t = 2 to 1."""
    if schedule.num_steps < 2:
        raise ValueError("a learned variance needs a schedule of at least 2 steps")
    _, least = direction_and_std(schedule, 2, 1, 1.0, 0)
    return learned_std(schedule, fraction, np.int32(1), np.int32(0), least=least)
