"""A run's network with its weights."""

from typing import Any, NamedTuple

from jaxddim.predictions import as_denoiser
from jaxddim.runs import checkpoints, record
from jaxddim.runs.build import abstract_state, build
from jaxddim.runs.config import Config
from jaxddim.schedules import Schedule
from jaxddim.training.state import variables
from jaxddim.types import DenoiseFn


class Trained(NamedTuple):
    """A run's network with its weights, ready to use.

    Attributes:
      config: configuration of the run.
      model: the Flax network.
      schedule: the noise schedule it was trained with.
      variables: parameters and statistics for the network's ``apply``.
      step: step of the checkpoint.
    """

    config: Config
    model: Any
    schedule: Schedule
    variables: Any
    step: int

    def denoiser(self, variables: Any, *, clip_x0: bool = True) -> DenoiseFn:
        """``denoise_fn(x, t)`` with these variables, which may be traced."""
        return as_denoiser(
            self.schedule,
            lambda x, index: self.model.apply(variables, x, index),
            kind=self.config.diffusion.kind,
            clip_x0=clip_x0,
        )


def restore(workdir: str, checkpoint: str = "latest", weights: str = "ema") -> Trained:
    """Restores a run's network from a checkpoint.

    Args:
      workdir: folder of the run.
      checkpoint: "latest", "best" or a step.
      weights: "ema" or "raw".
    Raises:
      RunError: when there is no run, or no such checkpoint.
    """
    setup = build(record.load(workdir))
    state = checkpoints.restore(checkpoints.manager(workdir), abstract_state(setup), checkpoint)
    return Trained(
        setup.config, setup.model, setup.schedule, variables(state, weights), int(state.step)
    )
