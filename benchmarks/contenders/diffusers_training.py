"""diffusers' own example of unconditional training, on a folder of images of one size.

python -m benchmarks.contenders.diffusers_training train IMAGES.npy STATE.pt STEPS BATCH WIDTHS
python -m benchmarks.contenders.diffusers_training sample STATE.pt NUM STEPS OUT.npz

`train` goes on from STATE.pt, prints "step N RATE" every 10 steps, and saves on SIGTERM and at the
end. Network, noise, optimizer, schedule of the learning rate, clipping and averaging are the
defaults of examples/unconditional_image_generation/train_unconditional.py, without accelerate,
which on one processor adds nothing: UNet2DModel with attention at the second smallest size,
DDPMScheduler (linear, eps), AdamW (1e-4, betas 0.95 and 0.999, weight decay 1e-6), cosine decay
after 500 steps, gradients clipped to 1, EMA of power 3/4 up to 0.9999, flips. `sample` is
DDIMScheduler with the training's settings, so x_0 is clipped and eps kept.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

LEARNING_RATE, BETAS, DECAY, WARMUP, CLIP = 1e-4, (0.95, 0.999), 1e-6, 500, 1.0
EMA = {"decay": 0.9999, "use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75}


def network(size: int, channels: int, widths: tuple[int, ...]) -> Any:
    """The example's UNet2DModel with these widths."""
    from diffusers import UNet2DModel

    down, up = ["DownBlock2D"] * len(widths), ["UpBlock2D"] * len(widths)
    down[-2], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=widths,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
    )


def train(images: str, state: str, steps: str, batch: str, widths: str) -> None:
    """Trains to the given step, from the saved state if there is one."""
    import torch
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    data = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2).contiguous()
    shape, total, size = tuple(map(int, widths.split(","))), int(steps), int(batch)
    model = network(data.shape[2], data.shape[1], shape)
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, betas=BETAS, weight_decay=DECAY
    )
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=WARMUP, num_training_steps=total)
    ema, scheduler, step = EMAModel(model.parameters(), **EMA), DDPMScheduler(1000), 0
    if Path(state).exists():
        saved = torch.load(state, weights_only=False)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        rate.load_state_dict(saved["rate"])
        ema.load_state_dict(saved["ema"])
        torch.set_rng_state(saved["rng"])
        step = saved["step"]
    print(f"parameters {sum(p.numel() for p in model.parameters())}", flush=True)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    model.train()
    began = time.perf_counter()
    while step < total and not stopped:
        x0 = data[torch.randint(len(data), (size,))].float() / 127.5 - 1
        flips = torch.rand(size) < 0.5
        x0[flips] = x0[flips].flip(-1)
        noise, t = torch.randn_like(x0), torch.randint(0, 1000, (size,))
        found = model(scheduler.add_noise(x0, noise, t), t).sample
        loss = torch.nn.functional.mse_loss(found, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        step += 1
        if step % 10 == 0:
            images_per_second = 10 * size / (time.perf_counter() - began)
            began = time.perf_counter()
            print(
                f"step {step} | loss {loss.item():.4f} | {images_per_second:.1f} images/s",
                flush=True,
            )
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rate": rate.state_dict(),
        "ema": ema.state_dict(),
        "rng": torch.get_rng_state(),
        "step": step,
        "shape": tuple(data.shape[1:]),
        "widths": shape,
    }
    torch.save(saved, state + ".part")
    Path(state + ".part").replace(state)
    print(f"saved step {step}", flush=True)


def sample(state: str, num: str, steps: str, out: str) -> None:
    """Draws images with the averaged weights by DDIM, eta = 0."""
    import torch
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.training_utils import EMAModel

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    saved = torch.load(state, weights_only=False)
    channels, size, _ = saved["shape"]
    model = network(size, channels, saved["widths"])
    ema = EMAModel(model.parameters(), **EMA)
    ema.load_state_dict(saved["ema"])
    ema.copy_to(model.parameters())
    model.eval()
    scheduler = DDIMScheduler.from_config(DDPMScheduler(1000).config)
    scheduler.set_timesteps(int(steps))
    torch.manual_seed(0)
    found = []
    with torch.inference_mode():
        for first in range(0, int(num), 64):
            x = torch.randn(min(64, int(num) - first), *saved["shape"])
            for t in scheduler.timesteps:
                x = scheduler.step(model(x, t).sample, t, x).prev_sample
            pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            found.append(pixels.permute(0, 2, 3, 1).numpy())
            print(f"sampled {first + len(x)}", flush=True)
    np.savez(out, images=np.concatenate(found))


if __name__ == "__main__":
    {"train": train, "sample": sample}[sys.argv[1]](*sys.argv[2:])
