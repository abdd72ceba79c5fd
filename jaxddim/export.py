"""A run's whole sampler as one function, for `jax.export`: network, schedule, grid and loop.

    (seed uint32, first_index int32) -> images uint8 [b, h, w, c]     a static batch
    (seed uint32, index int32 [b]) -> images uint8 [b, h, w, c]       any batch
    (x_T float32 [b, h, w, c], first_index int32) -> images           from given noise; what the
                                                                      steps draw has the run's seed

A network with labels takes label int32 [b] after these, where num_classes stands for none. Each may
take the weights as a first argument, {name: array}, in place of holding them. The file is
for cpu, cuda and tpu, and is run with jax and flatbuffers alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxddim import checks
from jaxddim.runs.methods import DrawConfig, stepper, time_grid
from jaxddim.runs.trained import Trained
from jaxddim.sampling.loop import integrate
from jaxddim.sampling.noise import draw
from jaxddim.types import Gaussian

PLATFORMS = ("cpu", "cuda", "tpu")


def exported(
    config: DrawConfig,
    run: Trained,
    batch: int | None,
    *,
    from_noise: bool = False,
    beside: bool = False,
) -> export.Exported:
    """The sampler of a run, lowered.

    Args:
      config: how it draws.
      run: the network and its weights.
      batch: images a call; None for any number.
      from_noise: the first argument is x_T in place of a seed.
      beside: the weights are an argument before all others, as `named` has them.
    Returns:
      The function, to be serialised.
    Raises:
      RunError: for an impossible time grid, or a variance that there is not.
    """
    grid, step = time_grid(config, run.schedule), stepper(config, run.config.diffusion)
    shape = run.config.data.shape

    def images(variables: Any, keys: jax.Array, x_T: jax.Array, *label: jax.Array) -> jax.Array:
        given: Any = {"label": label[0], "guidance": config.guidance} if label else {}
        denoise_fn = run.denoiser(variables, **given)
        x, _ = integrate(keys, denoise_fn, run.schedule, grid, x_T, step=step)
        return jnp.round(jnp.clip((x + 1) * 127.5, 0, 255)).astype(jnp.uint8)

    def keys_of(seed: jax.Array | int, index: jax.Array) -> jax.Array:
        key = checks.new_key(seed)
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)

    def from_seed(
        variables: Any, seed: jax.Array, index: jax.Array, *label: jax.Array
    ) -> jax.Array:
        keys = keys_of(seed, index if batch is None else index + jnp.arange(batch))
        unit = Gaussian(jnp.zeros((*keys.shape, *shape), jnp.float32), jnp.float32(1))
        return images(variables, keys, draw(keys, unit, jnp.int32(0)), *label)

    def from_given(
        variables: Any, x_T: jax.Array, first_index: jax.Array, *label: jax.Array
    ) -> jax.Array:
        keys = keys_of(config.seed, first_index + jnp.arange(x_T.shape[0]))
        return images(variables, keys, x_T, *label)

    many = export.symbolic_shape("b")[0] if batch is None else batch
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    if from_noise:
        function, inputs = from_given, [jax.ShapeDtypeStruct((many, *shape), jnp.float32), scalar]
    else:
        index = scalar if batch is not None else jax.ShapeDtypeStruct((many,), jnp.int32)
        function, inputs = from_seed, [jax.ShapeDtypeStruct((), jnp.uint32), index]
    if run.config.model.num_classes is not None:
        inputs.append(jax.ShapeDtypeStruct((many,), jnp.int32))
    if not beside:
        return _exported(lambda *rest: function(run.variables, *rest), inputs)
    weights = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), named(run))
    return _exported(
        lambda weights, *rest: function(_variables(weights, run.variables), *rest),
        [weights, *inputs],
    )


def _exported(function: Callable[..., jax.Array], inputs: list[Any]) -> export.Exported:
    return export.export(jax.jit(function), platforms=PLATFORMS)(*inputs)


def named(run: Trained) -> dict[str, np.ndarray]:
    """The weights by name, such as "params/conv_in/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(run.variables)
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def _name(path: Any) -> str:
    return "/".join(key.key for key in path)


def _variables(weights: Mapping[str, jax.Array], like: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: weights[_name(path)], like)
