"""Sampling: one loop over a grid of times, and the steps that it takes."""

from jaxddim.sampling.editing import inpaint, sdedit
from jaxddim.sampling.heun import heun
from jaxddim.sampling.langevin import corrector, langevin_step
from jaxddim.sampling.latents import decode, encode, interpolate, slerp
from jaxddim.sampling.learned import learned_step
from jaxddim.sampling.loop import integrate, sample
from jaxddim.sampling.multistep import dpm_solver_pp_2m
from jaxddim.sampling.plms import plms
from jaxddim.sampling.solver import Solver, StepFn
from jaxddim.sampling.steps import ddim_step, ddpm_step

__all__ = [
    "Solver",
    "StepFn",
    "corrector",
    "ddim_step",
    "ddpm_step",
    "decode",
    "dpm_solver_pp_2m",
    "encode",
    "heun",
    "inpaint",
    "integrate",
    "interpolate",
    "langevin_step",
    "learned_step",
    "plms",
    "sample",
    "sdedit",
    "slerp",
]
