"""Folders of diffusers' UNet2DModel; their schedules are read by `schedulers`.

    flat                  config.json, diffusion_pytorch_model.*, scheduler_config.json
    a pipeline            unet/ and scheduler/, with model_index.json
    a training checkpoint unet/ and unet_ema/, whose schedule stands in the folder around it

A field that a file leaves out has that library's default. A value that this project's network does
not have is an error that names it.

Source: diffusers 0.42.1, models/unets/unet_2d.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxddim.files.reading import short
from jaxddim.runs.build import build_model
from jaxddim.runs.config import Config, DiffusionConfig, ImageSize, ModelConfig
from jaxddim.weights import names, reader, schedulers
from jaxddim.weights.imported import (
    Imported,
    abstract,
    check_ranges,
    image_size,
    laid_out,
    levels_with_attention,
)

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model"
UNET: Mapping[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "time_embedding_dim": None,
    "attn_norm_num_groups": None,
}
"""Fields of UNet2DModel that may vary, with that library's defaults."""
ONLY: Mapping[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default",),
    "add_attention": (True,),
    "class_embed_type": (None,),
}
"""Fields with the values that our network has; the first is the default."""
IGNORED = {
    *("num_train_timesteps", "decay", "inv_gamma", "min_decay", "optimization_step", "power"),
    *("update_after_step", "use_ema_warmup"),
}
"""Fields that say nothing about the network: those of an average, and one of another embedding."""
EMBEDDING = "time_embedding.linear_1.weight"


def is_one(folder: Path) -> bool:
    """Whether a folder holds such a network."""
    return any((folder / part / CONFIG).is_file() for part in ("", "unet"))


def read(
    folder: Path, *, size: ImageSize | None = None, diffusion: DiffusionConfig | None = None
) -> Imported:
    """The network of a folder.

    Args:
      folder: of one of the three kinds.
      size: of its images, if the folder does not say it.
      diffusion: its schedule, if the folder has none.
    Raises:
      ValueError: for files that are damaged or missing, a network that is none of ours, or when the
        image size or the schedule is not known.
    """
    with laid_out(str(folder), "diffusers"):
        unet = folder if (folder / CONFIG).is_file() else folder / "unet"
        fields = _fields(unet / CONFIG)
        model, size = _model(fields, size, str(unet / CONFIG))
        tensors = _weights(unet)
        old = any(name.endswith(".query.weight") for name in tensors)
        form = names.diffusers(len(model.multipliers), old=old)
        wanted = abstract(build_model(model), size, fields["in_channels"])

        def variables(tensors: dict[str, np.ndarray], where: Path) -> Any:
            return names.taken(form, _sines_first(tensors, fields), wanted, str(where))

        last, notes = variables(tensors, unet), []
        averaged, ema, step = last, folder / "unet_ema", 0
        if (ema / CONFIG).is_file():
            averaged = variables(_weights(ema), ema)
            made = schedulers.fields(ema / CONFIG).get("optimization_step", 0)
            step = made if type(made) is int and made > 0 else 0
        found, told = schedulers.read(folder, diffusion)
        notes += told
        if fields["num_class_embeds"] is not None:
            notes.append(f"its label {fields['num_class_embeds'] - 1} stands for no label here")
        return Imported(
            form.title,
            model,
            found,
            size,
            fields["in_channels"],
            last,
            averaged,
            step,
            notes=tuple(notes),
        )


def _fields(path: Path) -> dict[str, Any]:
    """The fields of UNet2DModel, with the defaults of that library."""
    given = schedulers.fields(path)
    for name, value in given.items():
        if name in ONLY and value not in ONLY[name]:
            raise ValueError(_unlike(path, name, value, f"only {ONLY[name][0]!r}"))
        if name not in UNET and name not in ONLY and name not in IGNORED:
            raise ValueError(_unlike(path, name, value, "no such field"))
    return {name: given.get(name, default) for name, default in UNET.items()}


def _unlike(path: Path | str, name: str, value: Any, known: str) -> str:
    shown = f"{short(name)} = {short(json.dumps(value))}"
    return f"{path}: the network has {shown}, and a UNet here has {known}"


def _model(
    fields: dict[str, Any], given: ImageSize | None, where: str
) -> tuple[ModelConfig, ImageSize]:
    def expect(fine: bool, name: str, known: str) -> None:
        if not fine:
            raise ValueError(_unlike(where, name, fields[name], known))

    def whole(name: str, least: int = 1) -> int:
        value = fields[name]
        expect(type(value) is int and value >= least, name, "a whole number there")
        return value

    def share(name: str) -> float:
        value = fields[name]
        expect(type(value) in (int, float) and 0 <= value <= 1, name, "a number in [0, 1] there")
        return float(value)

    widths = fields["block_out_channels"]
    listed = isinstance(widths, list) and widths and all(type(w) is int and w > 0 for w in widths)
    expect(bool(listed), "block_out_channels", "numbers of channels there")
    expect(all(w % widths[0] == 0 for w in widths), "block_out_channels", "multiples of the first")
    attends = {}
    for name in ("down_block_types", "up_block_types"):
        kind = "DownBlock2D" if name.startswith("down") else "UpBlock2D"
        known = {kind: False, f"Attn{kind}": True}
        blocks = fields[name]
        fine = isinstance(blocks, list) and all(block in list(known) for block in blocks)
        expect(fine and len(blocks) == len(widths), name, f"{kind} or Attn{kind} at each size")
        attends[kind] = [known[block] for block in blocks]
    same = attends["DownBlock2D"] == attends["UpBlock2D"][::-1]
    expect(same, "up_block_types", "attention at the same sizes on both ways")
    levels = [level for level, there in enumerate(attends["DownBlock2D"]) if there]
    size = _size(fields["sample_size"], given, where)
    same = fields["out_channels"] == whole("in_channels")
    expect(same, "out_channels", "as many as in_channels")
    usual = fields["time_embedding_dim"] in (None, 4 * widths[0])
    expect(usual, "time_embedding_dim", "four times the channels")
    groups, norms = whole("norm_num_groups"), fields["attn_norm_num_groups"]
    expect(norms in (None, groups), "attn_norm_num_groups", "norm_num_groups")
    for name in ("freq_shift", "downsample_padding"):
        expect(fields[name] in (0, 1), name, "0 or 1")
    head, classes = fields["attention_head_dim"], fields["num_class_embeds"]
    model = ModelConfig(
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        num_blocks=whole("layers_per_block"),
        attention=levels_with_attention(size, levels),
        dropout=share("dropout"),
        groups=groups,
        epsilon=share("norm_eps"),
        head_dim=None if head is None else whole("attention_head_dim"),
        freq_shift=fields["freq_shift"],
        downsample_padding=fields["downsample_padding"],
        num_classes=None if classes is None else whole("num_class_embeds", 2) - 1,
    )
    check_ranges(model, size, where)
    return model, size


def _size(found: Any, given: ImageSize | None, where: str) -> ImageSize:
    if found is None:
        return image_size(given, where)
    sides = found if isinstance(found, list) else [found]
    if not 1 <= len(sides) <= 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(_unlike(where, "sample_size", found, "pixels, or [height, width]"))
    height, width = sides[0], sides[-1]
    return height if height == width else (height, width)


def _weights(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a network's folder: one file, or the parts that an index names."""
    for suffix in (".safetensors", ".bin", ".fp16.safetensors", ".fp16.bin"):
        path = folder / f"{WEIGHTS}{suffix}"
        if path.is_file():
            return reader.read(path)
        index = folder / f"{path.name}.index.json"
        if index.is_file():
            found: dict[str, np.ndarray] = {}
            parts = schedulers.fields(index).get("weight_map")
            if not isinstance(parts, dict):
                raise ValueError(f"{index} names no files: restore it")
            for part in sorted(set(map(str, parts.values()))):
                if Path(part).name != part:
                    raise ValueError(f"{index} names a file outside of its folder: {part}")
                tensors = reader.read(folder / part)
                if found.keys() & tensors.keys():
                    raise ValueError(
                        f"{index}: two of its files hold {min(found.keys() & tensors)}"
                    )
                found |= tensors
            return found
    raise ValueError(
        f"{folder} holds no weights: {WEIGHTS}.safetensors or {WEIGHTS}.bin is expected"
    )


def _sines_first(tensors: dict[str, np.ndarray], fields: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights for an embedding of sines, then cosines; theirs may have the cosines first."""
    if not fields["flip_sin_to_cos"] or EMBEDDING not in tensors:
        return tensors
    cosines, sines = np.split(tensors[EMBEDDING], 2, axis=1)
    return tensors | {EMBEDDING: np.concatenate([sines, cosines], axis=1)}


# -- the way out -----------------------------------------------------------------------


def files(
    config: Config, variables: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """What `DDIMPipeline.from_pretrained` loads: JSON files by their path, and the weights.

    Args:
      config: the run's.
      variables: its network's, {"params": ..}.
    Raises:
      ValueError: when the network or its schedule is none of that library's.
    """
    model, diffusion = config.model, config.diffusion
    for flag, value, known in (
        ("--model.name", model.name, "unet"),
        ("--model.patch", model.patch, 1),
        ("--model.multipliers", model.multipliers[0], 1),
        ("--diffusion.precondition", diffusion.precondition, "none"),
        ("--diffusion.variance", diffusion.variance, "fixed"),
    ):
        if value != known:
            raise ValueError(
                f"diffusers' UNet2DModel has no {flag} {value}: only a network with {known} can be "
                "given to it"
            )
    height, width, channels = config.data.shape
    attends = [
        min(height, width) // 2**level in model.attention for level in range(len(model.multipliers))
    ]
    unet = {
        "_class_name": "UNet2DModel",
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels,
        "freq_shift": model.freq_shift,
        "flip_sin_to_cos": False,
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "block_out_channels": [model.channels * factor for factor in model.multipliers],
        "layers_per_block": model.num_blocks,
        "downsample_padding": model.downsample_padding,
        "dropout": model.dropout,
        "attention_head_dim": model.head_dim,
        "norm_num_groups": model.groups,
        "norm_eps": model.epsilon,
        "num_class_embeds": None if model.num_classes is None else model.num_classes + 1,
        **{name: known[0] for name, known in ONLY.items()},
    }
    index = {
        "_class_name": "DDIMPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    form = names.diffusers(len(model.multipliers))
    written = {
        f"unet/{CONFIG}": unet,
        f"scheduler/{schedulers.NAME}": schedulers.written(diffusion),
        "model_index.json": index,
    }
    return written, names.given(form, {"params": variables["params"]})
