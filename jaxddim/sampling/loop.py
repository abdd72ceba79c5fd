r"""The sampling loop: a grid of times, a denoiser and a step, in one `jax.lax.scan`.

For each pair (t, s) of neighbours in the grid

    x_s = mean + std * z,    (mean, std) = step(schedule, x_t, denoise_fn(x_t, t), t, s).

Steps draw no noise, the loop does. Example i draws the noise of the transition from time t
from ``fold_in(key_i, t)``, where ``key_i = fold_in(key, i)``. Hence image i does not
depend on the batch size, and a run that is stopped at some time of its grid and
resumed there draws the same noise as an uninterrupted one.

A grid may return to a time, or stay at it, as in Langevin dynamics. The (n + 1)th transition from
t draws its own noise from ``fold_in(key_i, t + n (T + 1))``. (Such a run can be stopped and resumed
before the first visit to a time, but not between two visits.)

Sampling, encoding (with the grid reversed), decoding and interpolation in `latents` all use this
loop. Methods that need more than the current prediction are solvers, see `solver`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxddim import checks
from jaxddim.numerics import images
from jaxddim.sampling.noise import draw
from jaxddim.sampling.solver import Solver, StepFn, as_solver, checked
from jaxddim.sampling.steps import ddim_step
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Gaussian, Prediction, Trajectory


def integrate(
    key: jax.Array | None,
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    x: jax.Array,
    *,
    step: StepFn | Solver = ddim_step,
    keep: int = 0,
    record: Callable[[jax.Array, Prediction, jax.Array], Any] | None = None,
) -> tuple[jax.Array, Any]:
    """Follows the grid from ``timesteps[0]`` to ``timesteps[-1]``.

    Compiles once for each length of the grid; its times may change.

    Args:
      key: a random key, or [b] keys, one per example; None where the steps draw nothing.
      denoise_fn: ``denoise_fn(x, t) -> Prediction``; t is a scalar.
      schedule: the noise schedule.
      timesteps: int32 [S+1], in the order of the steps.
      x: images at time ``timesteps[0]``, [b, *d].
      step: `ddim_step` or `ddpm_step` (bind options with functools.partial), any function of the
        same signature, or a `Solver`, such as `heun` returns.
      keep: how many evenly spaced snapshots to return: the first is x, the last is the result
        (keep = 1: only the result). Memory grows with keep, not with S.
      record: ``record(x_t, prediction, t)``, called in every step; what it returns, a pytree of
        arrays, is kept in place of snapshots.
    Returns:
      The images at time ``timesteps[-1]``, [b, *d] float32, and a Trajectory of keep snapshots, or
      the records of all steps, [S, ..] each, or None.
    Raises:
      ValueError: when the grid is not a vector of at least 2 whole numbers in 0..T, keep does not
        lie in 0..S+1 or comes with record, step is neither a function nor a Solver, denoise_fn
        returns no Prediction of the shape of x, key is neither a random key nor one for each
        example, or None where noise is drawn, or x holds integers.
    Source: arXiv 2010.02502, section 4.2.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.linear()
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> x_T = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
      >>> grid = jaxddim.timesteps(1000, 10)
      >>> x, path = integrate(jax.random.key(1), denoise_fn, schedule, grid, x_T, keep=3)
      >>> x.shape, path.t.tolist()
      ((2, 4, 4, 3), [1000, 500, 0])
    """
    timesteps = checks.grid(timesteps, schedule, falls=False)
    S = timesteps.size - 1
    if not 0 <= keep <= S + 1:
        raise ValueError(f"keep must lie in 0..{S + 1} for {S} steps, got {keep}")
    if record and (keep or not checks.takes(record, 3)):
        raise ValueError(
            "record must be a function (x_t, prediction, t) -> what to keep, with keep=0, got "
            f"{checks.shown(record)} with keep={keep}"
        )
    solver, denoise_fn = as_solver(step), checked(denoise_fn)
    (x,) = images(schedule.dtype, x=x)
    if not x.ndim:
        raise ValueError("x must be images [b, *d], got a single number")
    keys = None if key is None else checks.example_keys(key, x.shape[0])
    kept = np.round(np.linspace(S, 0, keep)).astype(int)[::-1]
    visits = solver.stays + 1  # steps at each time of the grid
    slots = np.full((S, visits), keep)  # slot of the state before each step; `keep` drops it
    for slot, i in enumerate(kept):
        if i < S:
            slots[i, 0] = slot

    def body(carry, inputs):
        x, memory, visited, snapshots = carry
        t, s, slot = inputs
        gaussian, prediction, memory = solver.step(denoise_fn, schedule, x, t, s, memory)
        if keep:
            pair = x, prediction.x0.astype(x.dtype)
            snapshots = jax.tree.map(
                lambda all_, one: all_.at[slot].set(one, mode="drop"), snapshots, pair
            )
        recorded = record(x, prediction, t) if record else None
        x = draw(keys, gaussian, t + (schedule.num_steps + 1) * visited[t]).astype(x.dtype)
        return (x, memory, visited.at[t].add(1), snapshots), recorded

    t = jnp.repeat(timesteps[:-1], visits)
    s = jnp.append(t[1:], timesteps[-1])
    visited = jnp.zeros(schedule.num_steps + 1, jnp.int32)
    empty = jnp.zeros((keep, *x.shape), x.dtype)
    start = x, solver.init(x), visited, (empty, empty) if keep else None
    inputs = t, s, jnp.asarray(slots.ravel(), jnp.int32)
    (x, *_, snapshots), records = lax.scan(body, start, inputs)
    if not keep:
        return x, records
    xs, x0s = (snapshot.at[-1].set(x) for snapshot in snapshots)
    return x, Trajectory(xs, x0s, timesteps[kept])


def sample(
    key: jax.Array,
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    shape: tuple[int, ...],
    *,
    step: StepFn | Solver = ddim_step,
    first_index: int | jax.Array = 0,
) -> jax.Array:
    """Samples images from pure noise.

    All noise of image i comes from ``fold_in(key, first_index + i)``: the image does not depend on
    the batch that it is part of.

    Args:
      key: a random key.
      denoise_fn: ``denoise_fn(x, t) -> Prediction``.
      schedule: the noise schedule.
      timesteps: int32 [S+1], decreasing to 0; see `jaxddim.timesteps`.
      shape: [b, *d] of the images.
      step: as for `integrate`.
      first_index: the index of the first image of this batch; may be traced.
    Returns:
      x_0, float32 [b, *d].
    Raises:
      ValueError: as `integrate`, when the grid rises or does not end in 0, and for an impossible
        shape.
    Source: arXiv 2010.02502, section 4.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.linear()
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> grid = jaxddim.timesteps(1000, 10)
      >>> sample(jax.random.key(0), denoise_fn, schedule, grid, (2, 4, 4, 3)).shape
      (2, 4, 4, 3)
    """
    timesteps = checks.grid(timesteps, schedule)
    sizes = shape if isinstance(shape, Sequence) and shape else [0]
    if any(not isinstance(n, (int, np.integer)) or n < 1 for n in sizes):
        raise ValueError(f"shape must be [b, *d], whole numbers of at least 1, got {shape!r}")
    keys = checks.example_keys(key, shape[0], first_index)
    # no sampling step starts at t = 0, so its fold is free for x_T
    unit = Gaussian(jnp.zeros(shape, jnp.float32), jnp.float32(1))
    x_T = draw(keys, unit, jnp.int32(0))
    return integrate(keys, denoise_fn, schedule, timesteps, x_T, step=step)[0]
