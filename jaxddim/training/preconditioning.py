r"""A network around which stands what is known of the images beforehand.

    x_0(x_t, t) = W_t(x_t) + c_t F( (x_t - alpha_t mean) / r_t, t - 1 ),
    r_t^2 = alpha_t^2 s^2 + sigma_t^2,   c_t^2 = E |x_0 - W_t(x_t)|^2,

W is the answer for Gaussian images with the data's mean and variances (`gaussian_x0`), s their
deviation. So input and target of the network F have variance 1 at every noise level, F = 0 already
samples images with the data's mean and power spectrum, and F learns only what a Gaussian does not
have. With one variance for all coefficients W is ``mean + alpha_t s^2 (x_t - alpha_t mean) / r^2``,
c_t is ``sigma_t s / r_t``, and this is the preconditioning of Karras et al.

The whole is a network that predicts x_0: train it with ``kind="x0"`` and the weighting
``unit_error(moments)``, which gives the error of F the weight 1 at every level.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxddim.ideal import Moments, gaussian_error, gaussian_x0
from jaxddim.numerics import images
from jaxddim.schedules import Schedule
from jaxddim.training.losses import CLEAN, Weighting
from jaxddim.training.networks import OwnNetwork


def preconditioned(network: Any, schedule: Schedule, of: Moments) -> OwnNetwork:
    """A network that predicts x_0, made of one whose input and output have variance 1.

    Args:
      network: anything with Flax's ``init`` and ``apply``; see `own_network`. Of one with twice the
        channels the second half, for the variance, is left as it is.
      schedule: the noise schedule that it is trained and used with.
      of: the moments of the training images.
    Returns:
      An OwnNetwork with the same variables, to be used with ``kind="x0"``.
    Source: arXiv 2206.00364, table 1 and appendix B.6, with a filter in place of one factor.
    Example:
      >>> import jaxddim, jaxddim.models, numpy as np
      >>> found = jaxddim.moments(np.random.default_rng(0).normal(size=(64, 8, 8, 3)))
      >>> unet = jaxddim.models.UNet(
      ...     channels=8, multipliers=(1, 2), num_blocks=1, attention=(), groups=4)
      >>> network = preconditioned(unet, jaxddim.cosine(), found)
      >>> x, index = jnp.zeros((2, 8, 8, 3)), jnp.array([0, 999])
      >>> variables = jax.jit(network.init)(jax.random.key(0), x, index)
      >>> network.apply(variables, x, index).shape
      (2, 8, 8, 3)
    """
    s = of.std

    def apply(variables: Any, x: jax.Array, index: jax.Array, **options: Any) -> Any:
        (x,) = images(schedule.dtype, x=x)
        t = index + 1
        alpha, sigma = schedule.scales(t, x.ndim)
        r = jnp.sqrt((alpha * s) ** 2 + sigma**2)
        found = network.apply(variables, (x - alpha * of.mean) / r, index, **options)
        output, updates = found if options.get("mutable") else (found, None)
        c = jnp.sqrt(gaussian_error(of, jnp.minimum(schedule.log_snr_at(t, x.ndim), CLEAN)))
        found, *variance = jnp.split(output.astype(x.dtype), output.shape[-1] // x.shape[-1], -1)
        x0 = gaussian_x0(schedule, of, x, t) + c * found
        if variance:
            x0 = jnp.concatenate([x0, *variance], -1)
        return x0 if updates is None else (x0, updates)

    return OwnNetwork(network.init, apply)


def unit_error(of: Moments) -> Weighting:
    """The weighting of an x0-loss that gives the error of a preconditioned network's F weight 1.

    Example:
      >>> import jaxddim, numpy as np
      >>> found = jaxddim.moments(np.random.default_rng(0).normal(size=(1000, 4, 4, 1)))
      >>> round(float(unit_error(found)(jnp.float32(0.0))), 1)
      2.0
    """
    return lambda log_snr: 1 / gaussian_error(of, jnp.minimum(log_snr, CLEAN))
