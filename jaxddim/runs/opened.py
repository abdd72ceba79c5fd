"""A run, opened: what a notebook or a program of one's own does with it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from jaxddim.runs import averages, checkpoints, moments, record
from jaxddim.runs.build import abstract_state, around, build
from jaxddim.runs.config import Clip
from jaxddim.runs.drawing import chunk_size, in_chunks, sampler
from jaxddim.runs.errors import RunError
from jaxddim.runs.methods import DrawConfig, Method, Spacing
from jaxddim.runs.trained import Trained
from jaxddim.training.state import variables


@dataclass(frozen=True, eq=False)
class Run(Trained):
    """A trained run: its `config`, its `schedule`, its network, and images of it."""

    _samplers: dict[DrawConfig, Callable[..., jax.Array]] = field(default_factory=dict, repr=False)

    def sample(
        self,
        num: int = 16,
        steps: int = 50,
        seed: int = 0,
        *,
        method: Method = "ddim",
        eta: float = 0.0,
        variance: Literal["small", "large"] = "small",
        spacing: Spacing = "linear",
        label: str | int | None = None,
        guidance: float = 1.0,
    ) -> np.ndarray:
        """Draws images; they are those of ``python -m experiments.sample``, pixel for pixel.

        The first call with these steps and this method compiles; others take other seeds at once.

        Args:
          num: number of images.
          steps: sampling steps, S.
          seed: of the noise. Image i depends on the weights, the seed, i and the method alone.
          method: "ddim", "ddpm", "heun", "dpm++2m", "dpm++2m-sde" or "plms".
          eta: noise of "ddim": 0 is deterministic, 1 is DDPM.
          variance: of "ddpm": "small" is the posterior's, "large" the DDIM paper's sigma-hat,
            "learned" the network's, for a run that has learned it.
          spacing: of the sampling times, as `timesteps` has them.
          label: name or number of a class, or "all" by turns, for a run that has learned labels.
          guidance: how strongly images follow their labels; 1 is as learned.
        Returns:
          uint8 [num, height, width, channels].
        Raises:
          RunError: for a number, eta or seed out of range, an impossible time grid, an unknown
            label, or images that are not finite.
        Example:
          >>> import jaxddim
          >>> images = jaxddim.load_run("runs/demo").sample(4, seed=1)  # doctest: +SKIP
          >>> images.shape  # doctest: +SKIP
          (4, 32, 32, 3)
        """
        for name, value in (("num", num), ("steps", steps)):
            if value < 1:
                raise RunError(f"{name} must be at least 1, got {value}")
        if not 0 <= eta <= 1:
            raise RunError(f"eta must lie in [0, 1], got {eta}")
        if not 0 <= seed < 2**32:
            raise RunError(f"seed must lie in [0, 2^32), got {seed}")
        config = DrawConfig(
            self.config.workdir, steps, method, eta, variance, spacing,
            label=None if label is None else str(label), guidance=guidance,
        )  # fmt: skip
        draw = self._samplers.get(config) or sampler(config, self, chunk_size(self))
        self._samplers[config] = draw
        chunks = in_chunks(lambda first: draw(first, seed), num, chunk_size(self))
        return np.concatenate(list(chunks))[:num]


def load_run(
    workdir: str,
    checkpoint: str = "latest",
    weights: str = "ema",
    clip: Clip = "rederive",
    ema: float | None = None,
) -> Run:
    """Opens a run: its network with the weights of a checkpoint.

    Args:
      workdir: folder of the run.
      checkpoint: "latest", "best" or a step.
      weights: "ema" or "raw".
      clip: what sampling does to the network's x_0: "rederive" clips it to [-1, 1] and derives eps
        from it anew, "keep" clips it and keeps the network's eps, as diffusers does, "dynamic"
        thresholds each image at a quantile of its own (`threshold`), "none" is the papers'.
      ema: length of another average of the parameters, as a share of the training, in place of
        that of `weights`; for runs with --optim.averages.
    Raises:
      RunError: when there is no run, no such checkpoint, no average of this length, or weights are
        not finite.
    Example:
      >>> import jaxddim
      >>> run = jaxddim.load_run("runs/demo")  # doctest: +SKIP
      >>> denoise_fn, schedule = run.denoiser(), run.schedule  # doctest: +SKIP
    """
    setup = build(record.load(workdir))
    classes = record.classes(workdir, record.read(workdir) or {})
    setup = around(setup, moments.read(workdir, setup.config))
    abstract = abstract_state(setup)
    state = checkpoints.restore(checkpoints.manager(workdir), abstract, checkpoint)
    found, step = variables(state, weights), int(state.step)
    check_finite(workdir, step, found)
    if ema is not None:
        if weights != "ema":
            raise RunError(f"--ema {ema:g} names an average: leave out --weights {weights}")
        found |= {"params": averages.params(workdir, ema, step, abstract)}
    config = dataclasses.replace(setup.config, workdir=workdir)  # it may have been moved
    return Run(config, setup.model, setup.schedule, found, step, clip, classes)


def check_finite(workdir: str, step: int, variables: Any) -> None:
    """Raises a RunError when a variable is NaN or infinite somewhere."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not np.isfinite(leaf).all():
            raise RunError(
                f"the weights of checkpoint {step} in {workdir} are not finite "
                f"({jax.tree_util.keystr(path)}), as its training had diverged: name another "
                "--checkpoint, or train anew with a lower --optim.learning-rate"
            )
