"""PyTorch as a contender, and diffusers on it."""

import os

import numpy as np

from benchmarks.contenders.networks import (
    CHANNELS,
    EMA,
    LEARNING_RATE,
    NETWORKS,
    inputs,
    unet_options,
)

NAMES = ("eager", "channels_last", "compile", "autocast", "autocast_compile")


class Torch:
    """PyTorch: "eager", "channels_last" (with fused Adam), "compile"; on a GPU if there is one.

    Also "autocast", which is channels_last in bfloat16, and "autocast_compile".
    """

    def __init__(
        self, name: str, network: str, batch: int, weights: str, size: int | None, steps: int
    ):
        import torch

        from benchmarks.contenders import torch_networks

        self.torch, self.steps = torch, steps
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, as JAX's default
            torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        size = size or NETWORKS[network][1]
        if network == "simple":
            model = torch_networks.SimpleUNet(CHANNELS)
        else:
            model = torch_networks.UNet(**unet_options(network, size), size=size)
        torch_networks.copy_weights(model, dict(np.load(weights)))
        model = model.to(self.device)
        images, index = inputs(network, batch, size)
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(self.device)
        self.index = torch.from_numpy(index).to(self.device)
        last = name in ("channels_last", "autocast", "autocast_compile")
        self.autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=name.startswith("autocast")
        )
        if last:
            model = model.to(memory_format=torch.channels_last)
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.params = list(model.parameters())
        self.ema = [p.detach().clone() for p in self.params]
        fused = {"fused": True} if last else {}
        self.optimizer = torch.optim.Adam(self.params, LEARNING_RATE, **fused)
        self.module = model
        self.model = torch.compile(model) if name.endswith("compile") else model
        betas = np.linspace(1e-4, 0.02, 1000)
        self.alpha_bar = torch.from_numpy(np.cumprod(1 - betas)).float().to(self.device)

    def train(self) -> None:
        torch, x0 = self.torch, self.images
        self.module.train()
        t = torch.randint(0, 1000, (len(x0),), device=self.device)
        eps = torch.randn_like(x0)
        alpha_bar = self.alpha_bar[t][:, None, None, None]
        x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
        with self.autocast:
            output = self.model(x_t, t)
        loss = torch.nn.functional.mse_loss(output.float(), eps)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.params, 1 - EMA)
        loss.item()

    def forward(self) -> np.ndarray:
        self.module.eval()
        with self.torch.inference_mode(), self.autocast:
            output = self.model(self.images, self.index)
        return output.float().permute(0, 2, 3, 1).cpu().numpy()

    def ddim(self) -> np.ndarray:
        """The official code's generalized_steps at eta = 0, with DDPM's clipping."""
        torch = self.torch
        self.module.eval()
        alpha_bar = torch.cat([torch.ones(1, device=self.device), self.alpha_bar])
        times = torch.arange(self.steps + 1) * (1000 // self.steps)
        with torch.inference_mode():
            x = self.images
            for t, s in zip(times.flip(0)[:-1].tolist(), times.flip(0)[1:].tolist(), strict=True):
                a_t, a_s = alpha_bar[t], alpha_bar[s]
                with self.autocast:
                    eps = self.model(x, torch.full((len(x),), t - 1, device=self.device)).float()
                x0 = ((x - eps * (1 - a_t).sqrt()) / a_t.sqrt()).clamp(-1, 1)
                eps = (x - a_t.sqrt() * x0) / (1 - a_t).sqrt()
                x = a_s.sqrt() * x0 + (1 - a_s).sqrt() * eps
        return x.permute(0, 2, 3, 1).cpu().numpy()

    def diffusers(self) -> np.ndarray:
        """diffusers' scheduler with the same network."""
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
                with self.autocast:
                    eps = self.model(x, t.expand(len(x)).to(self.device)).float()
                x = scheduler.step(eps, t, x, use_clipped_model_output=True).prev_sample
        return x.permute(0, 2, 3, 1).cpu().numpy()
