"""Denoising diffusion implicit models (DDIM, arXiv 2010.02502) as pure JAX functions.

Three concepts: a `Schedule` gives the noise level at time t; a denoiser maps a noisy image
to a `Prediction` (x0, eps); a step turns that into a `Gaussian`.
Networks are in `jaxddim.models`, likelihoods in `jaxddim.likelihood`, and the discrete
(multinomial) process, with its own functions, in `jaxddim.discrete`. A trained run
is opened by `load_run`.
"""

import importlib
from typing import Any

from jaxddim import discrete, likelihood
from jaxddim.cpu.runtime import compiled, compiler_options, keep_memory
from jaxddim.denoisers import as_denoiser, clip, threshold
from jaxddim.forward import q_forward, q_posterior, q_sample, q_step
from jaxddim.grids import timesteps
from jaxddim.guidance import as_guided_denoiser, classifier_guide, guide
from jaxddim.ideal import Moments, exact_denoiser, gaussian_error, gaussian_x0, moments
from jaxddim.predictions import from_eps, from_score, from_v, from_x0, target
from jaxddim.sampling.conditioning import safe_fraction
from jaxddim.sampling.editing import inpaint, sdedit
from jaxddim.sampling.heun import heun
from jaxddim.sampling.langevin import corrector, langevin_step
from jaxddim.sampling.latents import decode, encode, interpolate, slerp
from jaxddim.sampling.learned import learned_step
from jaxddim.sampling.loop import integrate, sample
from jaxddim.sampling.multistep import dpm_solver_pp_2m
from jaxddim.sampling.plms import plms
from jaxddim.sampling.solver import Solver
from jaxddim.sampling.steps import ddim_step, ddpm_step
from jaxddim.schedules import (
    Schedule,
    const,
    cosine,
    from_alpha_bar,
    from_betas,
    from_log_snr,
    jsd,
    linear,
    quadratic,
    scaled_linear,
    sigmoid,
    zero_terminal_snr,
)
from jaxddim.training.hybrid import hybrid_loss
from jaxddim.training.levels import lognormal
from jaxddim.training.losses import diffusion_loss, min_snr, p2
from jaxddim.training.networks import own_network
from jaxddim.training.parallel import jit_step, pmap_step, replicate, unreplicate
from jaxddim.training.preconditioning import preconditioned, unit_error
from jaxddim.training.state import TrainState, create_state, variables
from jaxddim.training.step import train_step
from jaxddim.types import DenoiseFn, Gaussian, LearnedPrediction, Prediction, Trajectory
from jaxddim.version import __version__

__all__ = [
    "DenoiseFn",
    "Gaussian",
    "LearnedPrediction",
    "Moments",
    "Prediction",
    "Schedule",
    "Solver",
    "TrainState",
    "Trajectory",
    "__version__",
    "as_denoiser",
    "as_guided_denoiser",
    "classifier_guide",
    "clip",
    "compiled",
    "compiler_options",
    "const",
    "corrector",
    "cosine",
    "create_state",
    "ddim_step",
    "ddpm_step",
    "decode",
    "diffusion_loss",
    "discrete",
    "dpm_solver_pp_2m",
    "encode",
    "exact_denoiser",
    "from_alpha_bar",
    "from_betas",
    "from_eps",
    "from_log_snr",
    "from_score",
    "from_v",
    "from_x0",
    "gaussian_error",
    "gaussian_x0",
    "guide",
    "heun",
    "hybrid_loss",
    "inpaint",
    "integrate",
    "interpolate",
    "jit_step",
    "jsd",
    "keep_memory",
    "langevin_step",
    "learned_step",
    "likelihood",
    "linear",
    "lognormal",
    "min_snr",
    "moments",
    "own_network",
    "p2",
    "plms",
    "pmap_step",
    "preconditioned",
    "q_forward",
    "q_posterior",
    "q_sample",
    "q_step",
    "quadratic",
    "replicate",
    "safe_fraction",
    "sample",
    "scaled_linear",
    "sdedit",
    "sigmoid",
    "slerp",
    "target",
    "threshold",
    "timesteps",
    "train_step",
    "unit_error",
    "unreplicate",
    "variables",
    "zero_terminal_snr",
]


def __getattr__(name: str) -> Any:
    """`load_run` and `Run`, which need Flax and Orbax, when they are asked for."""
    if name not in ("Run", "load_run"):
        raise AttributeError(f"module 'jaxddim' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module("jaxddim.runs.opened"), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"jaxddim.{name} needs {error.name}, which is not installed: in a clone, pip install "
            "'.[runs]' brings it"
        ) from error
