"""A run's network with its weights."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxddim.denoisers import as_denoiser, threshold
from jaxddim.guidance.networks import as_guided_denoiser
from jaxddim.runs.config import Classes, Clip, Config
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Prediction


@dataclass(frozen=True, eq=False)
class Trained:
    """A run's network with its weights, ready to use.

    Attributes:
      config: configuration of the run.
      model: the Flax network.
      schedule: the noise schedule it was trained with.
      variables: parameters and statistics for the network's ``apply``.
      step: step of the checkpoint.
      clip: what sampling does to x_0: see `load_run`.
      classes: those of its images, for a run that learned labels.
    """

    config: Config
    model: Any = field(repr=False)
    schedule: Schedule = field(repr=False)
    variables: Any = field(repr=False)
    step: int
    clip: Clip = "rederive"
    classes: Classes | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, their numbers where no names are known, or none."""
        if self.classes is not None:
            return self.classes.names
        return tuple(map(str, range(self.config.model.num_classes or 0)))

    def denoiser(
        self,
        variables: Any = None,
        *,
        clip_x0: bool = True,
        label: jax.Array | None = None,
        guidance: ArrayLike = 1.0,
    ) -> DenoiseFn:
        """``denoise_fn(x, t)``, for `sample`, `encode` and all else that takes one.

        Args:
          variables: weights in place of the run's; pass them where the function is jitted, as the
            run's own would be constants of it.
          clip_x0: False for the x_0 that the network says; else it is treated as `clip` says.
          label: int32 [b], the classes that images follow.
          guidance: how strongly; 1 is as learned.
        Raises:
          ValueError: for labels, when the run has not learned any.
        """
        variables = self.variables if variables is None else variables
        clip = self.clip if clip_x0 else "none"
        schedule, apply = self.schedule, self.model.apply
        options: Any = {
            "kind": self.config.diffusion.kind,
            "clip_x0": clip == "rederive",
            "learned_variance": self.config.diffusion.learned_variance,
        }
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
                return pair._replace(**threshold(schedule, x, pair, t)._asdict())
            return pair._replace(x0=jnp.clip(pair.x0, -1.0, 1.0))

        return clipped if clip in ("dynamic", "keep") else plain
