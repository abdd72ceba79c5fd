r"""Which noise levels are trained how often: the distribution of t in a training step.

With uniform t it is the schedule that decides, by how many of its times lie at a level. Here the
level is drawn by itself, and t is the time that has it:

    log(sigma_t / alpha_t) ~ N(mean, std^2),    log(sigma_t / alpha_t) = -log_snr_t / 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.schedules import Schedule


def lognormal(schedule: Schedule, *, mean: float = -1.2, std: float = 1.2) -> jax.Array:
    """Probabilities of the times 1..T when log(sigma_t / alpha_t) is normal.

    Args:
      schedule: the noise schedule; not traced.
      mean: of log(sigma / alpha). About log of the data's deviation, where noise and image are
        alike, or below.
      std: its deviation; positive.
    Returns:
      Float32 [T], for `train_step`.
    Raises:
      ValueError: when std is not positive, or no time of the schedule is near these levels.
    Source: arXiv 2206.00364, table 1.
    Example:
      >>> import jaxddim
      >>> probabilities = lognormal(jaxddim.cosine())
      >>> probabilities.shape, bool(probabilities[300] > probabilities[900])
      ((1000,), True)
    """
    if not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    log_snr = np.asarray(schedule.log_snr, np.float64)[1:]
    level = -np.where(np.isfinite(log_snr), log_snr, -np.inf) / 2
    known = np.isfinite(level)
    width = np.gradient(level[known]) if known.sum() > 1 else np.ones(known.sum())
    density = np.zeros(len(level))
    density[known] = width * np.exp(-0.5 * ((level[known] - mean) / std) ** 2)
    if not density.sum() > 0:
        raise ValueError(
            f"no time of this schedule has log(sigma / alpha) near {mean} +- {std}: they lie in "
            f"{level[known].min():.3g} to {level[known].max():.3g}"
        )
    return jnp.asarray(density / density.sum(), jnp.float32)


def draw(key: jax.Array, probabilities: ArrayLike, count: int) -> jax.Array:
    """Times with these probabilities, one from each of `count` equal parts of the distribution.

    Each time has this distribution by itself; together they cover it evenly, so the loss of a
    batch varies less than with independent ones.

    Args:
      key: a random key.
      probabilities: of 1..T, [T], up to a factor.
      count: number of times.
    Returns:
      int32 [count] in random order.
    Source: arXiv 2107.00630, appendix I.1.
    Example:
      >>> draw(jax.random.key(0), jnp.array([0.0, 1.0, 0.0]), 3).tolist()
      [2, 2, 2]
    """
    first, second = jax.random.split(key)
    share = jnp.cumsum(jnp.asarray(probabilities, jnp.float32))
    u = (jnp.arange(count) + jax.random.uniform(first, dtype=jnp.float32)) / jnp.float32(count)
    t = 1 + jnp.searchsorted(share, u * share[-1], side="right", method="compare_all")
    return jax.random.permutation(second, jnp.minimum(t, share.size).astype(jnp.int32))


def check(probabilities: ArrayLike, num_steps: int) -> None:
    """Raises a ValueError unless these are probabilities of 1..T."""
    known = checks.concrete(probabilities)
    wrong = known is not None and not (np.all(known >= 0) and np.sum(known) > 0)
    if np.shape(probabilities) != (num_steps,) or wrong:
        raise ValueError(
            f"times must be the probabilities of t = 1..{num_steps}, as lognormal(schedule) "
            f"returns, got {checks.described(probabilities)}"
        )
