"""From a run to foreign weights."""

import json
from pathlib import Path
from typing import Any

import jax
import optax

from experiments.terminal.errors import UserError, user_mistakes
from experiments.terminal.files import located, replace, save_text
from jaxddim.runs import checkpoints, opened, record
from jaxddim.runs.build import Setup, abstract_state, build
from jaxddim.training.state import TrainState, variables
from jaxddim.weights import containers, diffusers, official, seed
from jaxddim.weights.imported import Moments


def convert(config: Any) -> None:
    """Writes --out.

    Raises:
      UserError: for a network that the format does not have, or an --out that cannot be written to.
      RunError: for a workdir without a run or without the checkpoint.
    """
    if not config.out:
        raise UserError("--out is missing: name a folder (diffusers) or a file (ddim, seed)")
    setup = build(record.load(config.workdir))
    state = checkpoints.restore(
        checkpoints.manager(config.workdir), abstract_state(setup), config.checkpoint
    )
    opened.check_finite(config.workdir, int(state.step), variables(state, config.weights))
    out = located(config.out)
    try:
        with user_mistakes(f"--to {config.to}"):
            if config.to == "diffusers":
                write_folder(out, setup, variables(state, config.weights))
            else:
                make = official_list if config.to == "ddim" else seed_dictionary
                content = make(setup, state)
                replace(out, lambda file: containers.write(file, content))
    except OSError as error:
        raise UserError(f"--out {config.out} cannot be written ({error.strerror})") from None
    print(
        f"{config.out}: step {int(state.step)} of {config.workdir}, as {TITLES[config.to]} has it"
    )


TITLES = {"diffusers": "diffusers", "ddim": "the official DDIM code", "seed": "the seed"}


def write_folder(out: Path, setup: Setup, variables: Any) -> None:
    """A folder that `DDIMPipeline.from_pretrained` loads."""
    from safetensors.numpy import save

    texts, tensors = diffusers.files(setup.config, variables)
    for name, content in texts.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_text(path, json.dumps(content, indent=2) + "\n")
    content = save(tensors, metadata={"format": "pt"})
    replace(out / "unet" / f"{diffusers.WEIGHTS}.safetensors", lambda file: file.write(content))


def official_list(setup: Setup, state: TrainState) -> list[Any]:
    """The list of the official code.

    Raises:
      ValueError: for another network.
    """
    model = setup.config.model
    _only(model.name, "unet", "--model.name")
    for name, value in official.FIXED.items():
        _only(getattr(model, name), value, f"--model.{name.replace('_', '-')}")
    _only(setup.config.diffusion.precondition, "none", "--diffusion.precondition")
    _only(setup.config.diffusion.variance, "fixed", "--diffusion.variance")
    _only(setup.config.diffusion.kind, "eps", "--diffusion.kind")
    last, averaged = (variables(state, weights) for weights in ("raw", "ema"))
    rate = setup.config.optim.learning_rate
    return official.write(last, averaged, int(state.step), adam_moments(state), rate)


def seed_dictionary(setup: Setup, state: TrainState) -> dict[str, Any]:
    """The dictionary of the seed.

    Raises:
      ValueError: for another network.
    """
    config = setup.config
    _only(config.model.name, "simple_unet", "--model.name")
    _only(config.diffusion.precondition, "none", "--diffusion.precondition")
    _only(config.diffusion.variance, "fixed", "--diffusion.variance")
    images = (record.read(config.workdir) or {}).get("data", {}).get("num_images")
    epoch = int(state.step) * config.train.batch_size // images if images else 0
    rate = config.optim.learning_rate
    return seed.write(variables(state, "raw"), adam_moments(state), rate, epoch)


def adam_moments(state: TrainState) -> Moments | None:
    """Adam's moments; None before the first step, and of another optimizer."""
    for part in _leaves(state.opt_state):
        if isinstance(part, optax.ScaleByAdamState):
            count, mu, nu = jax.device_get((part.count, part.mu, part.nu))
            return Moments(int(count), mu, nu) if count else None
    return None


def _leaves(state: Any) -> list[Any]:
    """The optimizer's named states."""
    if hasattr(state, "_fields"):
        return [state]
    return [leaf for part in state for leaf in _leaves(part)] if isinstance(state, tuple) else []


def _only(value: Any, known: Any, flag: str) -> None:
    if value != known:
        raise ValueError(f"the run has {flag} {value}, which this format cannot say: only {known}")
