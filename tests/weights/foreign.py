"""Networks as they are elsewhere, in PyTorch, to compare with. Imports PyTorch; holds no test."""

import re

import torch

from benchmarks.contenders import torch_networks


def scramble(network, seed=0):
    """Weights of the scale 1 / sqrt(fan_in), norms about 1, biases 0.3 z: no layer is idle."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            noise = torch.randn(p.shape, generator=draws)
            if p.ndim > 1:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(0.3 * noise + (0 if name.endswith("bias") else 1))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=draws))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=draws))
    return network


def _renamed(state, rules):
    found = {}
    for name, tensor in state.items():
        name = name.removeprefix("parts.")
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[name] = tensor
    return found


class Official(torch_networks.UNet):
    """The official DDIM code's network: its names, and its order of parameters."""

    def official_state(self):
        rules = [
            (r"^temb_dense_", "temb.dense."),
            (r"^(down|up)_(\d)_(block|attn)_(\d)", r"\1.\2.\3.\4"),
            (r"^(down|up)_(\d)_(down|up)sample", r"\1.\2.\3sample.conv"),
            (r"^mid_(block|attn)_(\d)", r"mid.\1_\2"),
        ]
        state = _renamed(self.state_dict(), rules)
        return {name: state[name] for name in official_names(state) if name in state}


def official_names(state):
    """Every name that the official network of this many levels could have, in its order."""
    levels = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("down."))
    blocks = 1 + max(int(n.split(".")[3]) for n in state if n.startswith("up.0.block."))
    block = ["norm1", "conv1", "temb_proj", "norm2", "conv2", "nin_shortcut"]
    attn = ["norm", "q", "k", "v", "proj_out"]

    def side(name, last):
        for level in range(levels):
            for kind, layers in (("block", block), ("attn", attn)):
                for i in range(blocks):
                    yield from (f"{name}.{level}.{kind}.{i}.{layer}" for layer in layers)
            yield f"{name}.{level}.{last}.conv"

    modules = ["temb.dense.0", "temb.dense.1", "conv_in", *side("down", "downsample")]
    modules += [f"mid.block_1.{layer}" for layer in block]
    modules += [f"mid.attn_1.{layer}" for layer in attn]
    modules += [f"mid.block_2.{layer}" for layer in block]
    modules += [*side("up", "upsample"), "norm_out", "conv_out"]
    return [f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")]


class Seed(torch_networks.SimpleUNet):
    """The seed's network, with its names in its order."""

    def seed_state(self):
        rules = [
            (r"^time\.", "time_mlp.1."),
            (r"^(down|up)_(\d)\.", r"\1s.\2."),
            (r"\.time\.", ".time_mlp."),
            (r"\.norm(\d)\.", r".bnorm\1."),
        ]
        state = _renamed(self.state_dict(), rules)
        return {name: state[name] for name in seed_names(self.blocks)}

    def seed_parameters(self):
        """Parameters in the order of the names, as the seed's optimizer got them."""
        own = _renamed(dict(self.named_parameters()), [])
        by_tensor = {tensor.data_ptr(): own_name for own_name, tensor in own.items()}
        state = self.seed_state()
        return [own[by_tensor[t.data_ptr()]] for t in state.values() if t.data_ptr() in by_tensor]


def seed_names(blocks):
    layers = ["time_mlp", "conv1", "transform", "conv2", "bnorm1", "bnorm2"]
    modules = ["time_mlp.1", "conv0"]
    parts = [f"{side}.{i}" for side in ("downs", "ups") for i in range(blocks)]
    modules += [f"{part}.{layer}" for part in parts for layer in layers]
    modules.append("output")
    names = []
    for module in modules:
        names += [f"{module}.weight", f"{module}.bias"]
        if "bnorm" in module:
            statistics = ("running_mean", "running_var", "num_batches_tracked")
            names += [f"{module}.{statistic}" for statistic in statistics]
    return names
