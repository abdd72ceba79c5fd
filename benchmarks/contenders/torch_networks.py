"""The two networks in PyTorch, layer for layer, with weights copied from ours, for comparison.

Written like the official code (convolutions for the 1x1 layers, GroupNorm as a module), but with
PyTorch's fused attention, its fastest here. Modules have the same names as ours, so one rule copies
all weights.
"""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Positions(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        half = features // 2
        rates = torch.exp(-math.log(10000.0) / (half - 1) * torch.arange(half))
        self.register_buffer("rates", rates)

    def forward(self, index):
        angles = index.float()[:, None] * self.rates[None]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ResnetBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, c_time: int, dropout: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, c_in, eps=1e-6)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.temb_proj = nn.Linear(c_time, c_out)
        self.norm2 = nn.GroupNorm(32, c_out, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x, temb):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


class Attention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        b, c, height, width = x.shape
        h = self.norm(x)
        q, k, v = (
            layer(h).reshape(b, 1, c, height * width).transpose(2, 3)
            for layer in (self.q, self.k, self.v)
        )
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.transpose(2, 3).reshape(b, c, height, width))


class UNet(nn.Module):
    """`jaxddim.models.UNet` with `patch=1`, without labels."""

    def __init__(self, channels, multipliers, num_blocks, attention, size, dropout=0.1):
        super().__init__()
        widths = [channels * m for m in multipliers]
        c_time, last = 4 * channels, len(widths) - 1
        self.num_blocks, self.last = num_blocks, last
        parts = {}
        self.positions = Positions(channels)
        parts["temb_dense_0"] = nn.Linear(channels, c_time)
        parts["temb_dense_1"] = nn.Linear(c_time, c_time)
        parts["conv_in"] = nn.Conv2d(3, channels, 3, padding=1)
        skips, c = [channels], channels
        for level, width in enumerate(widths):
            for i in range(num_blocks):
                parts[f"down_{level}_block_{i}"] = ResnetBlock(c, width, c_time, dropout)
                if size in attention:
                    parts[f"down_{level}_attn_{i}"] = Attention(width)
                c = width
                skips.append(c)
            if level != last:
                parts[f"down_{level}_downsample"] = nn.Conv2d(c, c, 3, stride=2)
                skips.append(c)
                size //= 2
        parts["mid_block_1"] = ResnetBlock(c, c, c_time, dropout)
        parts["mid_attn_1"] = Attention(c)
        parts["mid_block_2"] = ResnetBlock(c, c, c_time, dropout)
        for level in reversed(range(len(widths))):
            for i in range(num_blocks + 1):
                width = widths[level]
                parts[f"up_{level}_block_{i}"] = ResnetBlock(
                    c + skips.pop(), width, c_time, dropout
                )
                if size in attention:
                    parts[f"up_{level}_attn_{i}"] = Attention(width)
                c = width
            if level:
                parts[f"up_{level}_upsample"] = nn.Conv2d(c, c, 3, padding=1)
                size *= 2
        parts["norm_out"] = nn.GroupNorm(32, c, eps=1e-6)
        parts["conv_out"] = nn.Conv2d(c, 3, 3, padding=1)
        self.parts = nn.ModuleDict(parts)

    def forward(self, x, index):
        part = self.parts
        temb = part["temb_dense_0"](self.positions(index))
        temb = part["temb_dense_1"](F.silu(temb))
        h = part["conv_in"](x)
        skips = [h]
        for level in range(self.last + 1):
            for i in range(self.num_blocks):
                h = part[f"down_{level}_block_{i}"](h, temb)
                if f"down_{level}_attn_{i}" in part:
                    h = part[f"down_{level}_attn_{i}"](h)
                skips.append(h)
            if level != self.last:
                h = part[f"down_{level}_downsample"](F.pad(h, (0, 1, 0, 1)))
                skips.append(h)
        h = part["mid_block_2"](part["mid_attn_1"](part["mid_block_1"](h, temb)), temb)
        for level in reversed(range(self.last + 1)):
            for i in range(self.num_blocks + 1):
                h = part[f"up_{level}_block_{i}"](torch.cat([h, skips.pop()], dim=1), temb)
                if f"up_{level}_attn_{i}" in part:
                    h = part[f"up_{level}_attn_{i}"](h)
            if level:
                h = part[f"up_{level}_upsample"](F.interpolate(h, scale_factor=2.0))
        return part["conv_out"](F.silu(part["norm_out"](h)))


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, c_time: int, up: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.time = nn.Linear(c_time, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(c_out)
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        self.transform = kind(c_out, c_out, 4, stride=2, padding=1)

    def forward(self, x, time):
        h = self.norm1(F.relu(self.conv1(x)))
        h = h + F.relu(self.time(time))[:, :, None, None]
        h = self.norm2(F.relu(self.conv2(h)))
        return self.transform(h)


class SimpleUNet(nn.Module):
    """`jaxddim.models.SimpleUNet`."""

    def __init__(self, channels, time_dim=32):
        super().__init__()
        self.positions = Positions(time_dim)
        blocks = len(channels) - 1
        parts = {"time": nn.Linear(time_dim, time_dim)}
        parts["conv0"] = nn.Conv2d(3, channels[0], 3, padding=1)
        for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
            parts[f"down_{i}"] = Block(c_in, c_out, time_dim, up=False)
        for i in range(blocks):
            c_in, c_out = channels[blocks - i], channels[blocks - 1 - i]
            parts[f"up_{i}"] = Block(2 * c_in, c_out, time_dim, up=True)
        parts["output"] = nn.Conv2d(channels[0], 3, 1)
        self.blocks, self.parts = blocks, nn.ModuleDict(parts)

    def forward(self, x, index):
        part = self.parts
        time = F.relu(part["time"](self.positions(index)))
        h = part["conv0"](x)
        skips = []
        for i in range(self.blocks):
            h = part[f"down_{i}"](h, time)
            skips.append(h)
        for i in range(self.blocks):
            h = part[f"up_{i}"](torch.cat([h, skips.pop()], dim=1), time)
        return part["output"](h)


NAMES = {"scale": "weight", "kernel": "weight", "bias": "bias", "mean": "running_mean"}
NAMES |= {"var": "running_var"}


def copy_weights(network: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Copies weights named "down_0/conv1/kernel", in Flax's layouts, into a network of this file.

    Raises:
      ValueError: when a weight has no counterpart in the network, or the other way round.
    """
    places = dict(network.named_parameters()) | dict(network.named_buffers())
    places = {k: v for k, v in places.items() if "rates" not in k and "num_batches" not in k}
    with torch.no_grad():
        for path, value in weights.items():
            *modules, leaf = path.split("/")
            value = torch.from_numpy(np.asarray(value))
            name = ".".join(["parts", *modules, NAMES[leaf]])
            if name not in places:
                raise ValueError(f"PyTorch's network has no {name}")
            if leaf == "kernel":
                transposed = isinstance(
                    network.get_submodule(".".join(["parts", *modules])), nn.ConvTranspose2d
                )
                if transposed:
                    value = value.permute(2, 3, 0, 1).flip(2, 3)
                elif value.ndim == 4:
                    value = value.permute(3, 2, 0, 1)
                else:
                    value = value.T.reshape(places[name].shape)
            places.pop(name).copy_(value)
    if places:
        raise ValueError(f"no weights for {sorted(places)}")
