"""Training: losses, one pure step, and how it is compiled for one device or several."""

from jaxddim.training.losses import Norm, Weighting, diffusion_loss, min_snr, p2
from jaxddim.training.networks import OwnNetwork, own_network
from jaxddim.training.parallel import AXIS, jit_step, pmap_step, replicate, unreplicate
from jaxddim.training.state import TrainState, create_state, variables
from jaxddim.training.step import train_step

__all__ = [
    "AXIS",
    "Norm",
    "OwnNetwork",
    "TrainState",
    "Weighting",
    "create_state",
    "diffusion_loss",
    "jit_step",
    "min_snr",
    "own_network",
    "p2",
    "pmap_step",
    "replicate",
    "train_step",
    "unreplicate",
    "variables",
]
