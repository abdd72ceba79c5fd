r"""One reverse step, from time t to an earlier time s, as a distribution.

DDIM (arXiv 2010.02502, eq. 12) substitutes the network's pair (x_0, eps) into
q_sigma(x_s | x_t, x_0):

    mean = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps,
    std  = eta sigma_s sqrt(1 - SNR_t / SNR_s).

With eta = 0 no noise is drawn, and the step is Euler's for the ODE of x / alpha
in sigma / alpha (eq. 13), so it also runs backwards (s > t) and encodes.

DDPM (arXiv 2006.11239, eq. 6-7) writes the mean with x_t in place of eps,

    mean = alpha_s x_0 + (alpha_t sigma_s^2) / (alpha_s sigma_t^2) (x_t - alpha_t x_0),

the posterior of the Markov chain, equal to DDIM's with eta = 1. Its variance is
either the posterior's ("small") or that of the forward step ("large", which the
DDIM paper calls sigma-hat).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.forward import direction_and_std, snr_gap
from jaxddim.numerics import images, safe_sqrt
from jaxddim.schedules import Schedule
from jaxddim.types import Gaussian, Prediction


def ddim_step(
    schedule: Schedule,
    x_t: jax.Array,
    prediction: Prediction,
    t: ArrayLike,
    s: ArrayLike,
    *,
    eta: float = 0.0,
) -> Gaussian:
    """p(x_s | x_t) of DDIM.

    Args:
      schedule: the noise schedule.
      x_t: images at time t, [b, *d].
      prediction: the network's pair (x0, eps) for x_t.
      t: int32 times to go from, scalar or [b].
      s: int32 times to go to, scalar or [b]; s < t samples, s > t encodes (eta = 0 only).
      eta: 0 is deterministic, 1 is DDPM; may be traced.
    Returns:
      Gaussian with mean [b, *d] and std, a scalar or [b, 1, ..]; std is 0 at s = 0.
    Raises:
      ValueError: when eta lies outside [0, 1], the prediction is no pair of the shape of x_t, a
        time that is not traced lies outside 0..T, s is above t and eta above 0, or images hold
        integers.
    Source: arXiv 2010.02502, eq. 12 and 16; seed eq. 12.
    Example:
      >>> import jaxddim
      >>> schedule, x = jaxddim.linear(), jnp.ones((2, 8))
      >>> pair = jaxddim.from_eps(schedule, x, 0 * x, 1000)
      >>> ddim_step(schedule, x, pair, 1000, 980).mean.shape
      (2, 8)
    """
    checks.schedule(schedule)
    checks.pair(prediction, np.shape(x_t))  # which determines x_t
    x0, eps = images(schedule.dtype, x0=prediction[0], eps=prediction[1])
    checks.each(x0.shape[0], t=t, s=s)
    direction, std = direction_and_std(schedule, t, s, eta, x0.ndim)
    alpha_s, _ = schedule.scales(s, x0.ndim)
    return Gaussian(alpha_s * x0 + direction * eps, std)


def ddpm_step(
    schedule: Schedule,
    x_t: jax.Array,
    prediction: Prediction,
    t: ArrayLike,
    s: ArrayLike,
    *,
    variance: Literal["small", "large"] = "small",
) -> Gaussian:
    """p(x_s | x_t) of DDPM, for any s < t.

    Args:
      schedule: the noise schedule.
      x_t: images at time t, [b, *d].
      prediction: the network's pair (x0, eps) for x_t.
      t: int32 times in 1..T, scalar or [b].
      s: int32 times in 0..t-1, scalar or [b].
      variance: "small" is the posterior's, ``sigma_s^2 (1 - SNR_t / SNR_s)``; "large" is the
        forward step's, ``sigma_t^2 (1 - SNR_t / SNR_s) = 1 - ab_t / ab_s``.
    Returns:
      Gaussian with mean [b, *d] and std, a scalar or [b, 1, ..]; std is 0 at s = 0.
    Raises:
      ValueError: for an unknown variance, a prediction that does not have the shape of x_t, a time
        that is not traced and lies outside its range, or images that hold integers.
    Source: arXiv 2006.11239, eq. 7 and section 3.2; arXiv 2010.02502, appendix D.3.
    Example:
      >>> import jaxddim
      >>> schedule, x = jaxddim.linear(), jnp.ones((2, 8))
      >>> pair = jaxddim.from_eps(schedule, x, 0 * x, 1000)
      >>> ddpm_step(schedule, x, pair, 1000, 999, variance="large").std.shape
      ()
    """
    if variance not in ("small", "large"):
        raise ValueError(f'variance must be "small" or "large", got {variance!r}')
    checks.schedule(schedule)
    checks.pair(prediction, np.shape(x_t))
    checks.reverse(t, s, schedule.num_steps)
    x_t, x0 = images(schedule.dtype, x_t=x_t, x0=prediction[0])
    checks.each(x_t.shape[0], t=t, s=s)
    alpha_t, sigma_t = schedule.scales(t, x_t.ndim)
    alpha_s, sigma_s = schedule.scales(s, x_t.ndim)
    drawn = -jnp.expm1(snr_gap(schedule, t, s, x_t.ndim))
    of_x_t = alpha_t / alpha_s * (sigma_s / sigma_t) ** 2
    sigma = sigma_s if variance == "small" else jnp.where(sigma_s == 0, 0.0, sigma_t)
    return Gaussian(
        alpha_s * x0 + of_x_t * (x_t - alpha_t * x0),
        sigma * safe_sqrt(drawn),
    )
