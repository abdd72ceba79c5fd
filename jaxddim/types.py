"""The types passed between the parts of the library.

In the notation of the README, a noisy image is

    x_t = alpha_t x_0 + sigma_t eps,    alpha_t^2 + sigma_t^2 = 1.

A network's output, whatever it was trained to predict, is converted once to the
pair (x_0, eps) that satisfies this equation. A sampling step turns the pair
into the Gaussian that the next image is drawn from; it does not draw.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import numpy as np


class Prediction(NamedTuple):
    """A consistent pair: ``x_t = alpha_t * x0 + sigma_t * eps``.

    Attributes:
      x0: predicted clean images, [b, *d].
      eps: predicted noise, [b, *d].
    """

    x0: jax.Array
    eps: jax.Array


class LearnedPrediction(NamedTuple):
    """A pair from a network that predicts its variance too.

    Attributes:
      x0: predicted clean images, [b, *d].
      eps: predicted noise, [b, *d].
      fraction: where the logarithm of the reverse step's variance lies, between 0, the posterior's,
        and 1, the forward step's, [b, *d]; see `learned_step`.
    """

    x0: jax.Array
    eps: jax.Array
    fraction: jax.Array


class Gaussian(NamedTuple):
    """A distribution with independent components, ``N(mean, std^2 I)``.

    Attributes:
      mean: [b, *d].
      std: standard deviation, a scalar, [b, 1, ..] or [b, *d]; never negative. A NumPy 0 if the
        step is always deterministic, so that no noise is drawn.
    """

    mean: jax.Array
    std: jax.Array | np.ndarray


class Trajectory(NamedTuple):
    """Snapshots of a sampling run, noise first.

    Attributes:
      x: the images x_t, [keep, b, *d].
      x0: the network's prediction of x_0 from each of them, [keep, b, *d].
      t: their times, int32 [keep].
    """

    x: jax.Array
    x0: jax.Array
    t: jax.Array


NetworkFn = Callable[[jax.Array, jax.Array], jax.Array]
"""``network(x, index) -> output``: x is [b, *d], index is t - 1 as int32 [b], the output has the
shape of x. Parameters, labels and guidance are closed over."""

DenoiseFn = Callable[[jax.Array, jax.Array], Prediction]
"""``denoise_fn(x, t) -> Prediction``: x is [b, *d], t is int32, scalar or [b], in 0..T."""

Kind = Literal["eps", "x0", "v", "score"]
"""What a network predicts."""


class Made(NamedTuple):
    """What a denoiser was made with.

    Attributes:
      kind: what its network predicts.
      clip_x0: whether x_0 is clipped.
    """

    kind: Kind
    clip_x0: bool


def made_with(denoise_fn: DenoiseFn) -> Made | None:
    """The kind of network and the clipping of what `as_denoiser` made; None for other functions.

    Example:
      >>> import jaxddim
      >>> made_with(jaxddim.as_denoiser(jaxddim.linear(), lambda x, index: 0 * x))
      Made(kind='eps', clip_x0=True)
    """
    made = getattr(denoise_fn, "made", None)
    return made if isinstance(made, Made) else None
