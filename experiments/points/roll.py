r"""Points in the plane: the swiss roll, networks that learn it, and four ways to sample from them.

The roll is the spiral of scikit-learn's `make_swiss_roll`, seen along its axis, a tenth as large,

    x_0 = theta (cos theta, sin theta) / 10 + 0.02 z,    theta ~ U(1.5 pi, 4.5 pi),  z ~ N(0, I),

a curve of one and a half turns, 0.63 apart. Several networks are trained at once, by
`jaxddim.train_step` under `jax.vmap`. Each has its own weights, points and noise, so measurements
of their samples have a standard error. Every training step draws new points.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

import jaxddim
from jaxddim import Gaussian, Prediction, Schedule, TrainState, Trajectory
from jaxddim.models import MLP
from jaxddim.sampling import Solver, StepFn

FIRST, LAST = 1.5 * np.pi, 4.5 * np.pi
"""theta at the ends of the roll."""

ACROSS = 0.02
"""Deviation of the points from the curve."""

NUM_STEPS = 1000
"""The number of time steps, T."""

GAUSSIANS = 512
"""Gaussians along the curve that the exact denoiser takes the roll for: 0.017 apart."""
EXACT_UP_TO = 100
"""Evaluations up to which the exact denoiser is measured."""

KIND = (
    "v"  # at t = T almost nothing of x_0 is left, and an error in eps would dominate its estimate
)
MODEL: Any = MLP(features=(64, 64, 64), time_dim=16)
SNR = 0.3
"""Signal-to-noise ratio of the Langevin steps."""

STATE_AXES: Any = TrainState(*(None, 0, 0, 0, 0))  # pyrefly: ignore[bad-argument-type]
"""The `jax.vmap` axes of the state of several networks; they share the step."""


@functools.cache
def schedule() -> Schedule:
    """The noise schedule, created on first use, since creating an array starts JAX's backend."""
    with jax.ensure_compile_time_eval():
        return jaxddim.cosine(NUM_STEPS)


# -- data ----------------------------------------------------------------------------


def swiss_roll(key: jax.Array, num: int) -> jax.Array:
    """Independent points of the roll, [num, 2].

    Example:
      >>> swiss_roll(jax.random.key(0), 5).shape
      (5, 2)
    """
    along, across = jax.random.split(key)
    theta = jax.random.uniform(along, (num,), jnp.float32, FIRST, LAST)
    return on_the_curve(theta) + ACROSS * jax.random.normal(across, (num, 2), jnp.float32)


def on_the_curve(theta: ArrayLike) -> jax.Array:
    """The points [.., 2] of the curve at these angles, without noise."""
    theta = jnp.asarray(theta, jnp.float32)
    return theta[..., None] / 10 * jnp.stack([jnp.cos(theta), jnp.sin(theta)], -1)


def nearest_theta(points: ArrayLike) -> np.ndarray:
    """theta [n] of the point on the curve nearest to each point [n, 2].

    Example:
      >>> nearest_theta(np.array([[0.0, -0.5], [0.0, -1.1]])).round(1).tolist()
      [4.7, 11.0]
    """
    theta = np.linspace(FIRST, LAST, 600)
    curve = np.asarray(on_the_curve(theta))
    return theta[np.argmin(np.sum((np.asarray(points)[:, None] - curve) ** 2, -1), 1)]


# -- training ------------------------------------------------------------------------


def optimizer(learning_rate: float) -> optax.GradientTransformation:
    """Adam with a constant learning rate after a short warm-up.

    The running average removes the noise that a constant rate leaves in the weights.
    """
    rate = optax.warmup_constant_schedule(0.0, learning_rate, 100)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def new_state(key: jax.Array, networks: int, tx: optax.GradientTransformation) -> TrainState:
    """The initial state of several networks; every leaf except step is [networks, ..]."""

    def create(key):
        return jaxddim.create_state(key, MODEL, tx, (2,))

    return jax.vmap(create, out_axes=STATE_AXES)(jax.random.split(key, networks))


def make_train_step(
    key: jax.Array, networks: int, batch_size: int, tx: optax.GradientTransformation, ema: float
) -> Callable[[TrainState], tuple[TrainState, dict[str, jax.Array]]]:
    """``step(state) -> (state, metrics)``: `jaxddim.train_step` of every network, on new points.

    Args:
      key: key of the points, the times and the noise.
      networks: number of networks.
      batch_size: points per step and network.
      tx: the optimizer.
      ema: the decay of the running average of the weights, after its warm-up.
    Returns:
      A compiled function. Its input state is donated; metrics are [networks].
    """
    keys = jax.random.split(key, networks)
    seeds = jax.vmap(functools.partial(jax.random.bits, dtype=jnp.uint32))(keys)
    one = functools.partial(
        jaxddim.train_step, apply_fn=MODEL.apply, tx=tx, schedule=schedule(), ema=ema, kind=KIND
    )
    each = jax.vmap(
        lambda state, points, seed: one(state, points, seed=seed),
        in_axes=(STATE_AXES, 0, 0),
        out_axes=(STATE_AXES, 0),
    )

    def step(state, keys):
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, state.step)
        points = jax.vmap(lambda key: swiss_roll(key, batch_size))(now)
        return each(state, points, seeds)

    compiled = jaxddim.jit_step(step)
    return lambda state: compiled(state, keys)


# -- sampling ------------------------------------------------------------------------


def annealed_langevin(
    schedule: Schedule, x: jax.Array, prediction: Prediction, t: jax.Array, s: jax.Array
) -> Gaussian:
    """A Langevin step at each time of the grid; the last transition, to s = 0, returns x_0."""
    walk = jaxddim.langevin_step(schedule, x, prediction, t, snr=SNR)
    clean = Gaussian(prediction.x0, jnp.float32(0))
    return jax.tree.map(lambda at_0, before: jnp.where(s == 0, at_0, before), clean, walk)


class Method(NamedTuple):
    """A way to sample.

    Attributes:
      title: its name in tables and pictures.
      step: the `step` of `jaxddim.integrate`.
      cost: network evaluations at each time of the grid.
    """

    title: str
    step: StepFn | Solver
    cost: int = 1

    def grid(self, evaluations: int) -> jax.Array:
        """The time grid for at most this many network evaluations."""
        return jaxddim.timesteps(NUM_STEPS, evaluations // self.cost)

    def made(self, evaluations: int) -> int:
        """The actual number of evaluations: one less if the cost is 2 and `evaluations` is odd."""
        return evaluations // self.cost * self.cost


METHODS = {
    "ddpm": Method("DDPM", jaxddim.ddpm_step),
    "ddim": Method("DDIM", jaxddim.ddim_step),
    "langevin": Method("annealed Langevin", annealed_langevin),
    "predictor_corrector": Method(
        "predictor-corrector", jaxddim.corrector(jaxddim.ddim_step, 1, SNR), cost=2
    ),
}


def denoiser(params: Any) -> jaxddim.DenoiseFn:
    """The denoiser with these parameters, or with None the exact one; x_0 is not clipped."""
    if params is None:
        edges = jnp.linspace(FIRST, LAST, GAUSSIANS + 1)
        centers = on_the_curve((edges[1:] + edges[:-1]) / 2)
        return jaxddim.exact_denoiser(schedule(), centers, std=ACROSS)
    return jaxddim.as_denoiser(
        schedule(),
        lambda x, index: MODEL.apply({"params": params}, x, index),
        kind=KIND,
        clip_x0=False,
    )


def make_sampler(method: Method, num: int) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """``draw(params, keys, grid) -> [n, num, 2]``, for n networks: params and keys are [n, ..].

    With None for params the exact denoiser stands for every network.
    """

    @jaxddim.compiled
    def draw(params, keys, grid):
        def one(params, key):
            shape = (num, 2)
            return jaxddim.sample(key, denoiser(params), schedule(), grid, shape, step=method.step)

        return jax.vmap(one)(params, keys)

    return draw


def paths(params: Any, key: jax.Array, method: Method, evaluations: int, num: int) -> Trajectory:
    """Every state of `num` points on their path from noise, for one network.

    The noise at t = T depends only on the key, so it is the same for every method.
    """

    @jaxddim.compiled
    def follow(params, key, grid):
        start, way = jax.random.split(key)
        x_T = jax.random.normal(start, (num, 2), jnp.float32)
        return jaxddim.integrate(
            way, denoiser(params), schedule(), grid, x_T, step=method.step, keep=grid.size
        )[1]

    path = follow(params, key, method.grid(evaluations))
    assert path is not None  # keep > 0
    return path
