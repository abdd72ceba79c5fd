"""This project as a contender, and Flax and XLA without it."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.contenders.networks import EMA, LEARNING_RATE, inputs, jax_network, plain_layers


class Jax:
    """This project; "flax": with Flax's layers and jax.jit alone; "xla": with XLA's convolutions.

    Also "bfloat16", and "remat", which recomputes activations to save memory.
    """

    def __init__(
        self, name: str, network: str, batch: int, weights: str, size: int | None, steps: int
    ):
        import jax
        import jax.numpy as jnp
        import optax
        from flax.traverse_util import unflatten_dict

        import jaxddim

        if name != "flax":
            jaxddim.keep_memory()
        self.jax, self.steps = jax, steps
        self.jit = jax.jit if name in ("flax", "xla") else jaxddim.compiled
        self.patch = plain_layers if name == "flax" else contextlib.nullcontext
        if name == "xla":
            from jaxddim.cpu import forms

            self.patch = functools.partial(mock.patch.object, forms, "FORMS", (forms.PLAIN,))
        dtype = "bfloat16" if name == "bfloat16" else "float32"
        options: dict[str, Any] = {"remat": True} if name == "remat" else {}
        self.model = jax_network(network, dtype, size, **options)
        images, index = inputs(network, batch, size)
        self.images, self.index = jnp.asarray(images), jnp.asarray(index)
        flat = dict(np.load(weights))
        stats = {k: v for k, v in flat.items() if k.rsplit("/")[-1] in ("mean", "var")}
        params = {k: v for k, v in flat.items() if k not in stats}
        self.variables = {"params": unflatten_dict(params, sep="/")}
        if stats:
            self.variables["batch_stats"] = unflatten_dict(stats, sep="/")
        self.variables = jax.tree.map(jnp.asarray, self.variables)
        self.schedule, self.tx = jaxddim.linear(), optax.adam(LEARNING_RATE)
        self.state = None

    def train(self) -> None:
        import jaxddim

        jax = self.jax
        if self.state is None:
            rest = {k: v for k, v in self.variables.items() if k != "params"}
            copy = functools.partial(jax.tree.map, jax.numpy.copy)
            self.state = jaxddim.TrainState(
                step=jax.numpy.zeros((), "int32"),
                params=copy(self.variables["params"]),
                model_state=copy(rest) | {f"ema_{k}": copy(v) for k, v in rest.items()},
                ema_params=copy(self.variables["params"]),
                opt_state=self.tx.init(self.variables["params"]),
            )
            step = functools.partial(
                jaxddim.train_step,
                apply_fn=self.model.apply,
                tx=self.tx,
                schedule=self.schedule,
                ema=EMA,
            )
            self.step = self.jit(step, donate_argnums=0)
        with self.patch():
            self.state, metrics = self.step(self.state, self.images)
        jax.block_until_ready((self.state, metrics))

    @functools.cached_property
    def forward_fn(self) -> Callable[..., Any]:
        return self.jit(self.model.apply)

    def forward(self) -> np.ndarray:
        with self.patch():
            return np.asarray(self.forward_fn(self.variables, self.images, self.index))

    @functools.cached_property
    def ddim_fn(self) -> Callable[..., Any]:
        import jaxddim

        grid = jaxddim.timesteps(1000, self.steps)

        def draw(variables, x_T):
            network = functools.partial(self.model.apply, variables)
            denoise_fn = jaxddim.as_denoiser(self.schedule, network)
            return jaxddim.decode(denoise_fn, self.schedule, grid, x_T)

        return self.jit(draw)

    def ddim(self) -> np.ndarray:
        with self.patch():
            return np.asarray(self.ddim_fn(self.variables, self.images))

    def forwards(self) -> None:
        """As many forward passes as `ddim` makes, with nothing in between."""
        x = self.images
        for _ in range(self.steps):
            x = self.forward_fn(self.variables, x, self.index)
        self.jax.block_until_ready(x)
