r"""The forward process: from data to noise, and its exact reversal when x_0 is known.

    q(x_t | x_0)       = N(alpha_t x_0, sigma_t^2 I)                      (`q_sample`)
    q(x_t | x_{t-1})   = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)            (`q_step`)
    q_sigma(x_s | x_t, x_0) = N(alpha_s x_0 + direction * eps, std^2 I)   (`q_posterior`)
    q_sigma(x_t | x_s, x_0) = its reversal by Bayes' rule                 (`q_forward`)

with eps = (x_t - alpha_t x_0) / sigma_t and, for s < t,

    std        = eta sigma_s sqrt(1 - SNR_t / SNR_s),
    direction  = sqrt(sigma_s^2 - std^2).

For every eta, x_s has the marginal q(x_s | x_0), since direction^2 + std^2 = sigma_s^2
(Lemma 1 of the DDIM paper). In terms of alpha_bar the same std is
eta sqrt((1 - ab_s) / (1 - ab_t)) sqrt(1 - ab_t / ab_s), the paper's eq. 16. The ratio
SNR_t / SNR_s = exp(lambda_t - lambda_s) is exact to the last digit near t = 0, where
1 - ab_t / ab_s in float32 is not.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.numerics import images, number, safe_sqrt
from jaxddim.schedules import Schedule
from jaxddim.types import Gaussian


def q_sample(schedule: Schedule, x0: jax.Array, t: ArrayLike, eps: jax.Array) -> jax.Array:
    """x_t: the clean images with the noise of time t.

    ``x_t = alpha_t x_0 + sigma_t eps``.

    Args:
      schedule: the noise schedule.
      x0: clean images, [b, *d], usually in [-1, 1].
      t: int32 times in 0..T, scalar or [b].
      eps: standard normal noise, of the shape of x0.
    Returns:
      x_t, [b, *d], float32.
    Raises:
      ValueError: when t lies outside 0..T and is not traced, shapes differ, or images hold
        integers.
    Source: arXiv 2006.11239, eq. 4; arXiv 2010.02502, eq. 4.
    Example:
      >>> import jaxddim
      >>> x0 = jnp.ones((2, 4, 4, 3))
      >>> bool(jnp.all(q_sample(jaxddim.linear(), x0, 0, 0 * x0) == x0))
      True
    """
    checks.schedule(schedule)
    x0, eps = images(schedule.dtype, x0=x0, eps=eps)
    checks.each(x0.shape[0], t=t)
    alpha, sigma = schedule.scales(t, x0.ndim)
    return alpha * x0 + sigma * eps


def q_step(schedule: Schedule, x_prev: jax.Array, t: ArrayLike, eps: jax.Array) -> jax.Array:
    """x_t from x_{t-1}: one step of the Markov chain.

    ``x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps``.

    Args:
      schedule: the noise schedule.
      x_prev: images at time t - 1, [b, *d].
      t: int32 times in 1..T, scalar or [b].
      eps: standard normal noise, of the shape of x_prev.
    Returns:
      x_t, [b, *d], float32.
    Raises:
      ValueError: when t lies outside 1..T and is not traced, shapes differ, or images hold
        integers.
    Source: arXiv 2006.11239, eq. 2.
    Example:
      >>> import jaxddim
      >>> q_step(jaxddim.linear(), jnp.ones((2, 8)), 1, jnp.zeros((2, 8))).shape
      (2, 8)
    """
    checks.schedule(schedule)
    checks.times(t, schedule.num_steps, low=1)
    x_prev, eps = images(schedule.dtype, x_prev=x_prev, eps=eps)
    checks.each(len(x_prev), t=t)
    s = jnp.asarray(t, jnp.int32) - 1
    alpha_t, sigma_t = schedule.scales(t, x_prev.ndim)
    alpha_s, _ = schedule.scales(s, x_prev.ndim)
    snr_ratio = jnp.exp(snr_gap(schedule, t, s, x_prev.ndim))
    return alpha_t / alpha_s * x_prev + sigma_t * safe_sqrt(1 - snr_ratio) * eps


def q_posterior(
    schedule: Schedule,
    x0: jax.Array,
    x_t: jax.Array,
    t: ArrayLike,
    s: ArrayLike,
    *,
    eta: float = 1.0,
) -> Gaussian:
    """q_sigma(x_s | x_t, x_0), the reverse step when the clean image is known.

    eta = 1 is the posterior of the Markov chain, eta = 0 is deterministic.

    Args:
      schedule: the noise schedule.
      x0: clean images, [b, *d].
      x_t: noisy images at time t, [b, *d].
      t: int32 times in 1..T, scalar or [b].
      s: int32 times in 0..t-1, scalar or [b].
      eta: how much of the noise is resampled, in [0, 1]; may be traced.
    Returns:
      Gaussian with mean [b, *d] and std, a scalar or [b, 1, ..].
    Raises:
      ValueError: when eta lies outside [0, 1], a time that is not traced lies outside its range,
        shapes differ, or images hold integers.
    Source: arXiv 2010.02502, eq. 7; seed eq. 9.
    Example:
      >>> import jaxddim
      >>> x0 = jnp.ones((2, 8))
      >>> mean, std = q_posterior(jaxddim.linear(), x0, x0 + 1, 500, 0)
      >>> bool(jnp.all(mean == x0)), float(std)
      (True, 0.0)
    """
    checks.schedule(schedule)
    checks.reverse(t, s, schedule.num_steps)
    x0, x_t = images(schedule.dtype, x0=x0, x_t=x_t)
    checks.each(x0.shape[0], t=t, s=s)
    alpha_t, sigma_t = schedule.scales(t, x0.ndim)
    alpha_s, _ = schedule.scales(s, x0.ndim)
    direction, std = direction_and_std(schedule, t, s, eta, x0.ndim)
    return Gaussian(alpha_s * x0 + direction / sigma_t * (x_t - alpha_t * x0), std)


def q_forward(
    schedule: Schedule,
    x0: jax.Array,
    x_s: jax.Array,
    s: ArrayLike,
    t: ArrayLike,
    *,
    eta: float,
) -> Gaussian:
    """q_sigma(x_t | x_s, x_0): the forward process of DDIM, which looks at x_0 too.

    With ``direction`` and ``std`` those of `q_posterior`,

        mean = alpha_t x_0 + (direction sigma_t / sigma_s^2) (x_s - alpha_s x_0),
        std_forward = sigma_t std / sigma_s.

    With eta = 1 it is the Markov chain (`q_step` for s = t - 1), which needs no x_0.

    Args:
      schedule: the noise schedule.
      x0: clean images, [b, *d].
      x_s: noisy images at time s, [b, *d]; they say nothing more where s = 0.
      s: int32 times in 0..t, scalar or [b].
      t: int32 times in 1..T, scalar or [b].
      eta: as in `q_posterior`, in [0, 1]; may be traced.
    Returns:
      Gaussian with mean [b, *d] and std, a scalar or [b, 1, ..].
    Raises:
      ValueError: as `q_posterior`.
    Source: arXiv 2010.02502, section 3.1; seed eq. 10.
    Example:
      >>> import jaxddim
      >>> x0 = jnp.ones((2, 8))
      >>> mean, std = q_forward(jaxddim.linear(), x0, x0, 0, 500, eta=0.0)
      >>> mean.shape, std.shape
      ((2, 8), ())
    """
    checks.schedule(schedule)
    checks.reverse(t, s, schedule.num_steps)
    x0, x_s = images(schedule.dtype, x0=x0, x_s=x_s)
    checks.each(x0.shape[0], t=t, s=s)
    alpha_t, sigma_t = schedule.scales(t, x0.ndim)
    alpha_s, sigma_s = schedule.scales(s, x0.ndim)
    direction, std = direction_and_std(schedule, t, s, eta, x0.ndim)
    clean = sigma_s == 0
    scale = sigma_t / jnp.where(clean, 1.0, sigma_s)
    noise = scale * direction / jnp.where(clean, 1.0, sigma_s) * (x_s - alpha_s * x0)
    return Gaussian(alpha_t * x0 + noise, jnp.where(clean, sigma_t, scale * std))


def snr_gap(schedule: Schedule, t: ArrayLike, s: ArrayLike, ndim: int) -> jax.Array:
    """log(SNR_t / SNR_s) = lambda_t - lambda_s, and 0 where t and s are both clean."""
    log_snr_t, log_snr_s = schedule.log_snr_at(t, ndim), schedule.log_snr_at(s, ndim)
    same = log_snr_t == log_snr_s
    return jnp.where(same, 0.0, log_snr_t - jnp.where(same, 0.0, log_snr_s))


def direction_and_std(
    schedule: Schedule, t: ArrayLike, s: ArrayLike, eta: Any, ndim: int
) -> tuple[jax.Array, jax.Array | np.ndarray]:
    """The scale of eps in the mean of a reverse step, and the step's standard deviation."""
    why = (
        ": above 1 the direction term is imaginary "
        '(for the larger variance of the paper use ddpm_step(variance="large"))'
    )
    eta = checked_eta(eta, why)
    if not isinstance(eta, jax.Array) and np.any(np.asarray(eta) > 0):
        checks.reverse(t, s, schedule.num_steps, low=0)
    _, sigma_s = schedule.scales(s, ndim)
    gap = snr_gap(schedule, t, s, ndim)
    if isinstance(eta, (int, float)) and eta == 0:
        return sigma_s, np.zeros((), np.float32)
    if isinstance(eta, jax.Array):  # may be 0, which also allows s > t
        gap = jnp.where(eta == 0, jnp.minimum(gap, 0.0), gap)
    # 1 - eta^2 (1 - exp(gap)), written so that eta = 1 leaves exp(gap) untouched
    direction = sigma_s * safe_sqrt(1 - eta**2 + eta**2 * jnp.exp(gap))
    return direction, eta * sigma_s * safe_sqrt(-jnp.expm1(gap))


def checked_eta(eta: Any, why: str = "") -> Any:
    """eta as `numerics.number` gives it; a ValueError unless it is one number, in [0, 1] if known.

    Args:
      eta: how much of the noise is resampled.
      why: the rest of the sentence.
    """
    eta = number(eta, "eta", "lie in [0, 1]", lambda eta: (eta >= 0) & (eta <= 1), why)
    if np.shape(eta):
        raise ValueError(f"eta must be a single number, got shape {np.shape(eta)}")
    return eta
