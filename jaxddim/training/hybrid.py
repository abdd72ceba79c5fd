r"""The hybrid loss of a network that predicts its variance.

    L_hybrid = L_simple + lambda L_vlb,    lambda = 0.001,
    L_vlb = T E_t KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)),    -log p(x_0 | x_1) at t = 1,

in bits per dimension. L_vlb has a stop-gradient at the mean: it trains the variance, and L_simple
alone the mean.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.denoisers import halves
from jaxddim.forward import q_posterior, q_sample
from jaxddim.likelihood.gaussians import discretized_log_prob, kl
from jaxddim.numerics import images, number
from jaxddim.predictions import FROM, check_kind
from jaxddim.sampling.learned import decoder_std, learned_step
from jaxddim.schedules import Schedule
from jaxddim.training.losses import Norm, Weighting, diffusion_loss
from jaxddim.types import Gaussian, Kind, LearnedPrediction


def hybrid_loss(
    schedule: Schedule,
    output: jax.Array,
    x0: jax.Array,
    t: ArrayLike,
    eps: jax.Array,
    *,
    kind: Kind = "eps",
    norm: Norm = "l2",
    weighting: Weighting | None = None,
    vlb: float = 0.001,
) -> jax.Array:
    """The loss of each example, for t drawn uniformly from 1..T.

    Args:
      schedule: the noise schedule.
      output: of a network with twice the channels, [b, .., 2 c], any float type.
      x0: 8-bit images scaled to [-1, 1], [b, .., c].
      t: int32 times in 1..T, scalar or [b].
      eps: the noise, [b, .., c].
      kind, norm, weighting: of the first half, as for `diffusion_loss`.
      vlb: lambda; 0 is `diffusion_loss` of the first half. May be traced.
    Returns:
      Float32 [b].
    Raises:
      ValueError: as `diffusion_loss`, when the output does not have twice the channels, or vlb is
        negative.
    Source: arXiv 2102.09672, eq. 16 and its code.
    Example:
      >>> import jaxddim
      >>> x0 = jnp.zeros((2, 4, 4, 3))
      >>> output = jnp.zeros((2, 4, 4, 6))
      >>> hybrid_loss(jaxddim.linear(), output, x0, 500, x0).shape
      (2,)
    """
    vlb = number(vlb, "vlb", "be at least 0", lambda vlb: vlb >= 0)
    check_kind(kind)
    first, fraction = halves(output, np.shape(x0))
    simple = diffusion_loss(schedule, first, x0, t, eps, kind=kind, norm=norm, weighting=weighting)
    checks.times(t, schedule.num_steps, low=1)
    (x0,) = images(schedule.dtype, x0=x0)
    s = jnp.asarray(t, jnp.int32) - 1
    x_t = q_sample(schedule, x0, t, eps)
    still = FROM[kind](schedule, x_t, jax.lax.stop_gradient(first), t)
    p = learned_step(schedule, x_t, LearnedPrediction(*still, fraction), t, s)
    q = q_posterior(schedule, x0, x_t, t, s)
    last = jnp.reshape(s == 0, s.shape + (1,) * (x0.ndim - s.ndim) if s.ndim else ())
    term = kl(
        Gaussian(q.mean, jnp.where(last, 1.0, q.std)), Gaussian(p.mean, jnp.where(last, 1.0, p.std))
    )
    decoder = Gaussian(p.mean, decoder_std(schedule, fraction))
    bits = jnp.where(last, -discretized_log_prob(decoder, x0), term) / math.log(2)
    return simple + vlb * schedule.num_steps * jnp.mean(bits, tuple(range(1, x0.ndim)))
