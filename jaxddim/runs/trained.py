"""A run's network with its weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim.guidance.networks import as_guided_denoiser
from jaxddim.predictions import as_denoiser, threshold
from jaxddim.runs import averages, checkpoints, moments, record
from jaxddim.runs.build import abstract_state, around, build
from jaxddim.runs.config import Classes, Config
from jaxddim.runs.errors import RunError
from jaxddim.runs.methods import Clip
from jaxddim.schedules import Schedule
from jaxddim.training.state import variables
from jaxddim.types import DenoiseFn, Prediction


class Trained(NamedTuple):
    """A run's network with its weights, ready to use.

    Attributes:
      config: configuration of the run.
      model: the Flax network.
      schedule: the noise schedule it was trained with.
      variables: parameters and statistics for the network's ``apply``.
      step: step of the checkpoint.
      clip: what sampling does to x_0: see `restore`.
      classes: those of its images, for a run that learned labels.
    """

    config: Config
    model: Any
    schedule: Schedule
    variables: Any
    step: int
    clip: Clip = "rederive"
    classes: Classes | None = None

    def denoiser(
        self,
        variables: Any,
        *,
        clip_x0: bool = True,
        label: jax.Array | None = None,
        guidance: ArrayLike = 1.0,
    ) -> DenoiseFn:
        """``denoise_fn(x, t)`` with these variables, which may be traced.

        Without clip_x0, x_0 is what the network says; else it is treated as `clip` says. With
        labels, int32 [b], images follow them, the more the larger `guidance` is.
        """
        clip = self.clip if clip_x0 else "none"
        schedule, apply = self.schedule, self.model.apply
        options: Any = {"kind": self.config.diffusion.kind, "clip_x0": clip == "rederive"}
        if label is None:
            plain = as_denoiser(schedule, lambda x, index: apply(variables, x, index), **options)
        else:
            null = self.config.model.num_classes
            if null is None:
                raise ValueError("this run has not learned labels: leave out label")
            plain = as_guided_denoiser(
                schedule,
                lambda x, index, label: apply(variables, x, index, label=label),
                label,
                null=null,
                scale=guidance,
                **options,
            )

        def clipped(x: jax.Array, t: jax.Array) -> Prediction:
            pair = plain(x, t)
            if clip == "dynamic":
                return threshold(schedule, x, pair, t)
            return Prediction(jnp.clip(pair.x0, -1.0, 1.0), pair.eps)

        return clipped if clip in ("dynamic", "keep") else plain


def restore(
    workdir: str,
    checkpoint: str = "latest",
    weights: str = "ema",
    clip: Clip = "rederive",
    ema: float | None = None,
) -> Trained:
    """Restores a run's network from a checkpoint.

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
    return Trained(setup.config, setup.model, setup.schedule, found, step, clip, classes)


def check_finite(workdir: str, step: int, variables: Any) -> None:
    """Raises a RunError when a variable is NaN or infinite somewhere."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not np.isfinite(leaf).all():
            raise RunError(
                f"the weights of checkpoint {step} in {workdir} are not finite "
                f"({jax.tree_util.keystr(path)}), as its training had diverged: name another "
                "--checkpoint, or train anew with a lower --optim.learning-rate"
            )
