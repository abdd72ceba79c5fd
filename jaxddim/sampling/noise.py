"""The noise of a step: one draw for each example, from a key of its own."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxddim.types import Gaussian


def draw(keys: jax.Array | None, gaussian: Gaussian, number: jax.Array) -> jax.Array:
    """One draw per example, from ``fold_in(keys[i], number)``; the mean for a constant std of 0."""
    mean, std = gaussian
    if isinstance(std, (float, np.ndarray)) and np.all(std == 0):
        return mean
    if keys is None:
        raise ValueError(
            "this step draws noise, so key must be a random key, such as jax.random.key(0), got "
            "None: only a step that draws nothing, such as ddim_step with eta=0, needs no key"
        )

    def noise(key: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, number), mean.shape[1:], jnp.float32)

    return mean + std * jax.vmap(noise)(keys)
