"""One contender: python -m benchmarks.contenders NAME NETWORK BATCH WEIGHTS [SIZE] [STEPS]

Builds the network, copies the weights, and then answers as `benchmarks.processes` says. SIZE is
that of the images, STEPS the number of DDIM's.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.processes import serve

NETWORKS = {
    "simple": ("SimpleUNet 64x64", 64),
    "unet": ("UNet 32x32", 32),
}
CHANNELS = (64, 128, 256, 512, 1024)
UNET: dict[str, Any] = {
    "channels": 64,
    "multipliers": (1, 2, 2, 2),
    "num_blocks": 2,
    "attention": (16,),
}
LEARNING_RATE, EMA = 2e-4, 0.9999


def inputs(network: str, batch: int, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The same images and noise indices for every contender."""
    size = size or NETWORKS[network][1]
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)
    return images, rng.integers(0, 1000, batch).astype(np.int32)


# JAX


def jax_network(network: str, dtype: str = "float32", **options: Any) -> Any:
    import jaxddim.models

    if network == "simple":
        return jaxddim.models.SimpleUNet(channels=CHANNELS, dtype=dtype, **options)
    return jaxddim.models.UNet(**UNET | options, dtype=dtype)


def save_weights(network: str, path: str) -> None:
    """Draws weights that pass signals on at every layer (the initial ones answer zero)."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    images, index = inputs(network, 2)
    shapes = jax.eval_shape(
        jax_network(network).init, jax.random.key(0), images, jnp.asarray(index)
    )
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {}
    for collection in shapes.values():
        leaves: dict[str, Any] = flatten_dict(collection, sep="/")  # pyrefly: ignore[bad-assignment]
        for name, leaf in leaves.items():
            kind = name.rsplit("/")[-1]
            if kind == "kernel":
                fan_in = np.prod(leaf.shape[:-1])
                weights[name] = rng.standard_normal(leaf.shape) / np.sqrt(fan_in)
            else:
                weights[name] = np.full(leaf.shape, float(kind in ("scale", "var")))
    np.savez(path, **{name: value.astype(np.float32) for name, value in weights.items()})


class Jax:
    """This project; "flax": with Flax's layers and jax.jit alone; "xla": with XLA's convolutions.

    Also "bfloat16", and "remat", which stores less and computes more.
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
            from jaxddim.models import conv_forms as forms

            self.patch = functools.partial(mock.patch.object, forms, "FORMS", (forms.PLAIN,))
        dtype = "bfloat16" if name == "bfloat16" else "float32"
        options: dict[str, Any] = {"remat": True} if name == "remat" else {}
        if size and network == "unet":
            options["attention"] = (size // 2,)  # the same layers at every size
        self.model = jax_network(network, dtype, **options)
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
        """What the scan calls, as often, with nothing between."""
        x = self.images
        for _ in range(self.steps):
            x = self.forward_fn(self.variables, x, self.index)
        self.jax.block_until_ready(x)


def plain_layers():
    """Flax's own layers in the place of ours, with the same parameters."""
    import flax.linen as nn

    from jaxddim.models import simple_unet, unet

    def conv(features, kernel_size=(3, 3), **options):
        return nn.Conv(features, kernel_size, **options)

    def spread(v, *space):
        return v[:, None, None]

    def conv_transpose(features, name=None, **options):
        return nn.ConvTranspose(features, (4, 4), (2, 2), name=name, **options)

    def group_norm(groups, dtype, name):
        return nn.GroupNorm(num_groups=groups, epsilon=1e-6, dtype=dtype, name=name)

    def batch_norm(axis_name, dtype, name):
        module = nn.BatchNorm(momentum=0.9, axis_name=axis_name, dtype=dtype, name=name)
        return lambda x, train: module(x, use_running_average=not train)

    layers = {"ConvTranspose": conv_transpose, "BatchNorm": batch_norm, "GroupNorm": group_norm}
    layers |= {"Conv": conv, "Dense": nn.Dense, "spread": spread}
    stack = contextlib.ExitStack()
    for module in (simple_unet, unet):
        for name in layers.keys() & vars(module).keys():
            stack.enter_context(mock.patch.object(module, name, layers[name]))
    return stack


# PyTorch


class Torch:
    """PyTorch: "eager", "channels_last" (and Adam in one kernel), "compile"."""

    def __init__(
        self, name: str, network: str, batch: int, weights: str, size: int | None, steps: int
    ):
        import torch

        from benchmarks import torch_networks

        self.torch, self.steps = torch, steps
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        size = size or NETWORKS[network][1]
        if network == "simple":
            model = torch_networks.SimpleUNet(CHANNELS)
        else:
            model = torch_networks.UNet(**UNET | {"attention": (size // 2,)}, size=size)
        torch_networks.copy_weights(model, dict(np.load(weights)))
        images, index = inputs(network, batch, size)
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        self.index = torch.from_numpy(index)
        if name == "channels_last":
            model = model.to(memory_format=torch.channels_last)
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.params = list(model.parameters())
        self.ema = [p.detach().clone() for p in self.params]
        fused = {"fused": True} if name == "channels_last" else {}
        self.optimizer = torch.optim.Adam(self.params, LEARNING_RATE, **fused)
        self.module = model
        self.model = torch.compile(model) if name == "compile" else model
        betas = np.linspace(1e-4, 0.02, 1000)
        self.alpha_bar = torch.from_numpy(np.cumprod(1 - betas)).float()

    def train(self) -> None:
        torch, x0 = self.torch, self.images
        self.module.train()
        t = torch.randint(0, 1000, (len(x0),))
        eps = torch.randn_like(x0)
        alpha_bar = self.alpha_bar[t][:, None, None, None]
        x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
        loss = torch.nn.functional.mse_loss(self.model(x_t, t), eps)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.params, 1 - EMA)
        loss.item()

    def forward(self) -> np.ndarray:
        self.module.eval()
        with self.torch.inference_mode():
            output = self.model(self.images, self.index)
        return output.permute(0, 2, 3, 1).numpy()

    def ddim(self) -> np.ndarray:
        """The official code's generalized_steps at eta = 0, with the clipping of DDPM's."""
        torch = self.torch
        self.module.eval()
        alpha_bar = torch.cat([torch.ones(1), self.alpha_bar])
        times = torch.arange(self.steps + 1) * (1000 // self.steps)
        with torch.inference_mode():
            x = self.images
            for t, s in zip(times.flip(0)[:-1].tolist(), times.flip(0)[1:].tolist(), strict=True):
                a_t, a_s = alpha_bar[t], alpha_bar[s]
                eps = self.model(x, torch.full((len(x),), t - 1))
                x0 = ((x - eps * (1 - a_t).sqrt()) / a_t.sqrt()).clamp(-1, 1)
                eps = (x - a_t.sqrt() * x0) / (1 - a_t).sqrt()
                x = a_s.sqrt() * x0 + (1 - a_s).sqrt() * eps
        return x.permute(0, 2, 3, 1).numpy()

    def diffusers(self) -> np.ndarray:
        """diffusers' scheduler around the same network."""
        import diffusers

        self.module.eval()
        scheduler = diffusers.DDIMScheduler(
            beta_start=1e-4,
            beta_end=0.02,
            timestep_spacing="trailing",
        )
        scheduler.set_timesteps(self.steps)
        with self.torch.inference_mode():
            x = self.images
            for t in scheduler.timesteps:
                eps = self.model(x, t.expand(len(x)))
                x = scheduler.step(eps, t, x, use_clipped_model_output=True).prev_sample
        return x.permute(0, 2, 3, 1).numpy()


def main(name: str, network: str, batch: str, weights: str, size: str = "0", steps: str = "50"):
    kind = Torch if name in ("eager", "channels_last", "compile") else Jax
    serve(kind(name, network, int(batch), weights, int(size) or None, int(steps)))


if __name__ == "__main__":
    main(*sys.argv[1:])
