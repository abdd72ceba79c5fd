r"""Editing: part of an image, or all that is below some noise level, is drawn anew.

**Inpainting** (RePaint): what is known is noised to each level of the path, and the rest is that of
the sampler,

    x_s = mask (alpha_s x_0 + sigma_s z) + (1 - mask) x'_s,    x'_s ~ step(x_t),

one Gaussian with independent components, so the loop draws it as any other. The rest does not know
yet what it was joined with. So x_s is noised back, from q(x_t | x_s), and drawn again several
times, on a grid that jumps back: the rest and the known part come to agree.

**SDEdit**: an image is noised to a level in between and drawn from there. What is coarser than the
noise stays.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.forward import q_forward
from jaxddim.numerics import images, whole_number
from jaxddim.sampling.loop import integrate
from jaxddim.sampling.noise import draw
from jaxddim.sampling.solver import Solver, StepFn, as_solver
from jaxddim.sampling.steps import ddim_step, ddpm_step
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Gaussian, Prediction


def inpaint(
    key: jax.Array,
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    known: jax.Array,
    mask: ArrayLike,
    *,
    step: StepFn = ddpm_step,
    jump: int = 10,
    repeats: int = 10,
    first_index: int | jax.Array = 0,
) -> jax.Array:
    """Images whose known pixels are kept, exactly, and whose others are drawn to fit them.

    Args:
      key: a random key; image i draws from ``fold_in(key, first_index + i)``.
      denoise_fn: ``denoise_fn(x, t) -> Prediction``.
      schedule: the noise schedule.
      timesteps: int32 [S+1], decreasing to 0, with concrete values.
      known: images, [b, *d]; their unknown pixels are not used.
      mask: True where they are known, booleans that broadcast to [b, *d], such as [h, w, 1].
      step: the sampler's step, such as `ddpm_step` or `ddim_step`.
      jump: how many steps of the grid a jump takes back.
      repeats: how often each stretch of the grid is gone through; 1 is without jumps, and the cost
        grows in proportion.
      first_index: as for `sample`.
    Returns:
      x_0, float32 [b, *d].
    Raises:
      ValueError: as `sample`, and when mask is not boolean or does not broadcast to the images,
        jump or repeats is below 1, or step is a Solver.
    Source: arXiv 2201.09865, algorithm 1 and section 4.2.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.linear()
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> known, mask = jnp.ones((2, 4, 4, 3)), np.arange(4)[:, None, None] < 2
      >>> grid = jaxddim.timesteps(1000, 10)
      >>> x = inpaint(jax.random.key(0), denoise_fn, schedule, grid, known, mask, repeats=2, jump=2)
      >>> bool(jnp.all(x[:, :2] == 1))
      True
    """
    grid = jumping(checks.grid(timesteps, schedule), jump, repeats)
    (known,) = images(schedule.dtype, known=known)
    keys = checks.example_keys(key, len(known), first_index)
    solver = repaint(step, known, mask)
    unit = Gaussian(jnp.zeros_like(known), jnp.float32(1))
    x_T = draw(keys, unit, jnp.int32(0)).astype(known.dtype)
    return integrate(keys, denoise_fn, schedule, jnp.asarray(grid), x_T, step=solver)[0]


def repaint(step: StepFn, known: jax.Array, mask: ArrayLike) -> Solver:
    """A step whose known part comes from q(x_s | x_0), and which goes back up where s > t.

    Arguments and errors as for `inpaint`; for `integrate` on a grid of `jumping`.
    """
    if isinstance(step, Solver):
        raise ValueError("inpainting takes a step such as ddpm_step, got a Solver")
    if jnp.result_type(mask) != jnp.bool_:
        raise ValueError(f"mask must be booleans, True where known, got {checks.described(mask)}")
    try:
        mask = jnp.broadcast_to(jnp.asarray(mask), known.shape)
    except ValueError:
        raise ValueError(
            f"mask must broadcast to the images, {known.shape}, got shape {np.shape(mask)}"
        ) from None
    once: Any = as_solver(step).step

    def repainted(denoise_fn, schedule, x, t, s, memory):
        def down() -> tuple[Gaussian, Prediction]:
            (mean, std), pair, _ = once(denoise_fn, schedule, x, t, s, ())
            alpha, sigma = schedule.scales(s)
            mean = jnp.where(mask, alpha * known, mean)
            std = jnp.where(mask, sigma, std).astype(x.dtype)
            return Gaussian(mean, std), Prediction(*pair[:2])

        def up() -> tuple[Gaussian, Prediction]:
            mean, std = q_forward(schedule, 0 * x, x, t, s, eta=1.0)
            return Gaussian(mean, jnp.broadcast_to(std, x.shape)), Prediction(0 * x, 0 * x)

        gaussian, pair = lax.cond(s > t, up, down)
        # of use for snapshots alone: without them the compiler removes it
        pair = lax.cond(s > t, lambda: Prediction(*denoise_fn(x, t)[:2]), lambda: pair)
        return gaussian, pair, memory

    return Solver(lambda x: (), repainted, learned=True)


def jumping(timesteps: ArrayLike, jump: int, repeats: int) -> np.ndarray:
    """The grid that goes through its stretches of `jump` steps `repeats` times.

    Example:
      >>> jumping([50, 40, 30, 20, 10, 0], 2, 2).tolist()
      [50, 40, 30, 50, 40, 30, 20, 10, 30, 20, 10, 0]
    """
    jump, repeats = whole_number(jump, "jump"), whole_number(repeats, "repeats")
    grid = checks.concrete(timesteps)
    if grid is None:
        raise ValueError("a grid with jumps needs times that are not traced: make it outside jit")
    times = grid.tolist()[::-1]  # clean first, so that a jump goes up by `jump` places
    left = dict.fromkeys(range(1, len(times) - jump, jump), repeats - 1)
    at, path = len(times) - 1, [times[-1]]
    while at:
        at -= 1
        path.append(times[at])
        if left.get(at):
            left[at] -= 1
            at += jump
            path.append(times[at])
    return np.asarray(path, np.int32)


def sdedit(
    key: jax.Array,
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    x0: jax.Array,
    *,
    step: StepFn | Solver = ddim_step,
    first_index: int | jax.Array = 0,
) -> jax.Array:
    """Images drawn anew from the level ``timesteps[0]`` of noise on x_0.

    Args:
      key: a random key; image i draws from ``fold_in(key, first_index + i)``.
      denoise_fn: ``denoise_fn(x, t) -> Prediction``.
      schedule: the noise schedule.
      timesteps: the grid, ``jaxddim.timesteps(T, S, fraction=strength)``: the larger the strength,
        the less stays of x_0.
      x0: images, [b, *d].
      step: as for `integrate`.
      first_index: as for `sample`.
    Returns:
      Images, float32 [b, *d].
    Raises:
      ValueError: as `sample`.
    Source: arXiv 2108.01073, algorithm 1.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.linear()
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> grid = jaxddim.timesteps(1000, 10, fraction=0.5)
      >>> sdedit(jax.random.key(0), denoise_fn, schedule, grid, jnp.ones((2, 4, 4, 3))).shape
      (2, 4, 4, 3)
    """
    grid = checks.grid(timesteps, schedule)
    (x0,) = images(schedule.dtype, x0=x0)
    keys = checks.example_keys(key, len(x0), first_index)
    alpha, sigma = schedule.scales(grid[0])
    x = draw(keys, Gaussian(alpha * x0, sigma), jnp.int32(0)).astype(x0.dtype)
    return integrate(keys, denoise_fn, schedule, grid, x, step=step)[0]
