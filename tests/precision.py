"""Results from untyped arrays: python -m tests.precision FILE.npz CASE.. saves them.

Arrays that are made here without a type are float64 or int64 where JAX_ENABLE_X64 is set. Results
are not: with the same seeds they are those of the other mode.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxddim
from experiments.evaluation.features import efficientnet
from experiments.points import distances, roll
from experiments.reproduction.interpolation import between
from jaxddim import discrete, likelihood
from jaxddim.models import MLP, SimpleUNet, UNet

KEY = jax.random.key(7)
SCHEDULE = jaxddim.cosine(20)
GRID = jaxddim.timesteps(20, 4)
T, S = np.array([20, 7, 1]), np.array([9, 6, 0])
KINDS = ("eps", "x0", "v", "score")


def x(number: int = 0) -> jax.Array:
    """Three images, in the widest type of the mode."""
    return jnp.asarray(np.random.default_rng(number).uniform(-1, 1, (3, 4, 4, 2)))


def pair() -> jaxddim.Prediction:
    return jaxddim.from_v(SCHEDULE, x(0), x(1), T)


def network(x: jax.Array, index: jax.Array) -> jax.Array:
    """Of a user who wrote no types."""
    return jnp.ones(x.shape) * jnp.sin(3 * x) + jnp.linspace(0, 1, 20)[index][:, None, None, None]


DENOISE = jaxddim.as_denoiser(SCHEDULE, network, kind="v", clip_x0=False)
OTHER = jaxddim.as_denoiser(SCHEDULE, lambda x, index: 0.3 * x, kind="v", clip_x0=False)


LEARNED = jaxddim.as_denoiser(
    SCHEDULE, lambda x, index: jnp.concatenate([x, jnp.sin(x)], -1), kind="v", learned_variance=True
)


def integrated(**options: Any) -> Any:
    return jaxddim.integrate(KEY, DENOISE, SCHEDULE, jnp.asarray(np.asarray(GRID)), x(), **options)


def training(
    model: Any, shape: tuple[int, ...], accumulate: int, labels: bool, times: Any = None
) -> Any:
    """A new state, a step and its batch."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(0, 1e-3, 9)))
    state = jaxddim.create_state(KEY, model, tx, shape[1:])
    step = functools.partial(
        jaxddim.train_step,
        apply_fn=model.apply,
        tx=tx,
        schedule=SCHEDULE,
        seed=-(2**40) + 5,
        ema=np.float64(0.9),
        weighting=jaxddim.min_snr(),
        accumulate=accumulate,
        times=times,
    )
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape))
    return state, step, {"image": images} | ({"label": jnp.arange(len(images))} if labels else {})


def trained(model: Any, shape: tuple[int, ...], accumulate: int = 1, times: Any = None) -> Any:
    """The state and the metrics after three steps."""
    state, step, batch = training(model, shape, accumulate, False, times)
    step = jaxddim.jit_step(step)
    for _ in range(3):
        state, metrics = step(state, batch)
    return state, metrics


def typed(model: Any, shape: tuple[int, ...], accumulate: int = 1, labels: bool = False) -> Any:
    """The new state, and zeros in the types that a step would return."""
    state, step, batch = training(model, shape, accumulate, labels)
    after = jax.eval_shape(step, state, batch)
    return state, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), after)


def likelihoods(function: Callable[..., Any], **options: Any) -> Any:
    grid = jaxddim.timesteps(20, 4)
    return function(KEY, DENOISE, SCHEDULE, grid, x(), **options)


def discrete_sample() -> jax.Array:
    def logits(x: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.ones((*x.shape, 5)) * jnp.arange(5)

    denoise_fn = discrete.as_denoiser(logits)
    return discrete.sample(KEY, denoise_fn, SCHEDULE, GRID, (4, 6), num_classes=5, eta=0.5)


def rolled() -> Any:
    tx = roll.optimizer(1e-3)
    state = roll.new_state(KEY, 2, tx)
    return roll.make_train_step(KEY, 2, 16, tx, 0.9)(state)


MOMENTS = jaxddim.moments(np.random.default_rng(2).uniform(-1, 1, (9, 4, 4, 2)))
HOT, TOKENS, LOGITS = np.eye(5)[[[0, 1], [2, 3], [4, 0]]], np.ones((3, 2), int), np.ones((3, 2, 5))

CASES: dict[str, Callable[[], Any]] = {
    "scales": lambda: SCHEDULE.scales(jnp.arange(21)),
    "q_sample": lambda: jaxddim.q_sample(SCHEDULE, x(0), T, x(1)),
    "q_step": lambda: jaxddim.q_step(SCHEDULE, x(0), T, x(1)),
    "q_posterior": lambda: jaxddim.q_posterior(SCHEDULE, x(0), x(1), T, S, eta=np.float64(0.3)),
    "q_forward": lambda: jaxddim.q_forward(SCHEDULE, x(0), x(1), S, T, eta=np.float64(0.3)),
    "from_log_snr": lambda: jaxddim.from_log_snr(np.linspace(9, -9, 20)),
    "timesteps by level": lambda: jaxddim.timesteps(20, 7, spacing="karras", schedule=SCHEDULE),
    "guide": lambda: jaxddim.guide(DENOISE, OTHER, scale=np.float64(2.5), rescale=0.7)(x(), T),
    "as_guided_denoiser": lambda: jaxddim.as_guided_denoiser(
        SCHEDULE,
        lambda x, index, label: jnp.ones(x.shape) * jnp.sin(x + label[:, None, None, None]),
        jnp.asarray(np.arange(3)),
        null=3,
        scale=np.float64(2.5),
        interval=(2, 12),
        kind="v",
    )(x(), jnp.asarray(T)),
    "classifier_guide": lambda: jaxddim.classifier_guide(
        DENOISE, SCHEDULE, lambda x, t: -jnp.sum(x**2, (1, 2, 3)), scale=np.float64(2.5)
    )(x(), T),
    "masked loss": lambda: jaxddim.diffusion_loss(
        SCHEDULE, x(0), x(1), T, x(2), mask=np.arange(4)[:, None] > jnp.zeros((3, 1, 1, 1))
    ),
    "clip": lambda: jaxddim.clip(SCHEDULE, x(), pair(), T, low=np.float64(-0.3), high=0.3),
    "threshold": lambda: jaxddim.threshold(SCHEDULE, x(), pair(), T, quantile=np.float64(0.9)),
    "ddim_step": lambda: jaxddim.ddim_step(SCHEDULE, x(), pair(), T, S, eta=np.float64(0.3)),
    "ddim_step, eta a JAX array": lambda: jaxddim.ddim_step(
        SCHEDULE, x(), pair(), T, S, eta=jnp.asarray(np.float64(0.3))
    ),
    "ddpm_step": lambda: jaxddim.ddpm_step(SCHEDULE, x(), pair(), T, S, variance="large"),
    "langevin_step": lambda: jaxddim.langevin_step(SCHEDULE, x(), pair(), T, snr=np.float64(0.1)),
    "integrate": lambda: integrated(keep=3),
    "integrate with noise": lambda: integrated(step=functools.partial(jaxddim.ddim_step, eta=0.5)),
    "learned_step": lambda: jaxddim.learned_step(SCHEDULE, x(), LEARNED(x(), jnp.asarray(T)), T, S),
    "hybrid_loss": lambda: jaxddim.hybrid_loss(
        SCHEDULE, jnp.concatenate([x(0), x(1)], -1), x(2), T, x(3), kind="v", vlb=np.float64(0.1)
    ),
    "inpaint": lambda: jaxddim.inpaint(
        KEY, DENOISE, SCHEDULE, GRID, x(), np.arange(4)[:, None, None] < 2, jump=1, repeats=2
    ),
    "sdedit": lambda: jaxddim.sdedit(KEY, DENOISE, SCHEDULE, GRID, x()),
    "corrector": lambda: integrated(step=jaxddim.corrector(jaxddim.ddpm_step, 1, 0.2)),
    "integrate by heun": lambda: integrated(step=jaxddim.heun(), keep=3),
    "integrate by heun with noise": lambda: integrated(step=jaxddim.heun(churn=np.float64(0.3))),
    "integrate by dpm_solver_pp_2m": lambda: integrated(
        step=jaxddim.dpm_solver_pp_2m(eta=np.float64(0.5))
    ),
    "integrate by plms": lambda: integrated(step=jaxddim.plms()),
    "sample": lambda: jaxddim.sample(KEY, DENOISE, SCHEDULE, GRID, (3, 4, 4, 2), first_index=5),
    "exact_denoiser": lambda: jaxddim.exact_denoiser(
        SCHEDULE, x(1), std=np.float64(0.1), weights=jnp.asarray(np.arange(1.0, 4.0)), block=2
    )(x(), T),
    "gaussian_x0": lambda: jaxddim.gaussian_x0(SCHEDULE, MOMENTS, x(), T),
    "gaussian_error": lambda: jaxddim.gaussian_error(MOMENTS, SCHEDULE.log_snr_at(T)),
    "lognormal": lambda: jaxddim.lognormal(SCHEDULE, mean=np.float64(-0.5), std=1.0),
    "preconditioned": lambda: jaxddim.preconditioned(
        jaxddim.own_network(lambda key: ({}, {}), lambda p, s, x, index, key: (jnp.sin(x), s)),
        SCHEDULE,
        MOMENTS,
    ).apply({"params": {}, "batch_stats": {}}, x(), jnp.asarray(T) - 1),
    "encode": lambda: jaxddim.encode(DENOISE, SCHEDULE, GRID, x(), refine=1),
    "decode": lambda: jaxddim.decode(DENOISE, SCHEDULE, GRID, x()),
    "slerp": lambda: jaxddim.slerp(x(0), x(1), np.linspace(0, 1, 3)),
    "interpolate": lambda: jaxddim.interpolate(
        DENOISE, SCHEDULE, GRID, x(0), x(1), jnp.linspace(0, 1, 4)
    ),
    "between": lambda: between(jnp.asarray(np.random.default_rng(0).normal(size=(4, 8))), 3),
    "variational_bound": lambda: likelihoods(likelihood.variational_bound),
    "ode_log_likelihood": lambda: likelihoods(likelihood.ode_log_likelihood, probe="gaussian"),
    "ode_bits_per_dim": lambda: likelihoods(likelihood.ode_bits_per_dim),
    "discretized_log_prob": lambda: likelihood.discretized_log_prob(
        jaxddim.Gaussian(x(0), np.float64(0.1)), x(1)
    ),
    "discrete.mixture": lambda: discrete.mixture(SCHEDULE, T, S, eta=np.float64(0.3)),
    "discrete.q_marginal": lambda: discrete.q_marginal(SCHEDULE, jnp.asarray(HOT), T),
    "discrete.q_posterior": lambda: discrete.q_posterior(
        SCHEDULE, jnp.asarray(HOT), jnp.asarray(HOT), T, S, eta=0.3
    ),
    "discrete.q_sample": lambda: discrete.q_sample(
        KEY, SCHEDULE, jnp.asarray(TOKENS), T, num_classes=5
    ),
    "discrete.step": lambda: discrete.step(
        SCHEDULE, jnp.asarray(TOKENS), jnp.asarray(LOGITS), T, S, eta=0.3
    ),
    "discrete.kl_loss": lambda: discrete.kl_loss(
        SCHEDULE, jnp.asarray(LOGITS), jnp.asarray(TOKENS), jnp.asarray(0 * TOKENS), T, S, eta=0.3
    ),
    "discrete.sample": discrete_sample,
    "train_step": lambda: trained(MLP(features=(8,), time_dim=8), (6, 2)),
    "train_step at drawn levels": lambda: trained(
        MLP(features=(8,), time_dim=8), (6, 2), times=np.linspace(0, 1, 20)
    ),
    "train_step in parts": lambda: trained(MLP(features=(8,), time_dim=8), (6, 2), 2),
    "train_step of SimpleUNet": lambda: typed(
        SimpleUNet(channels=(4, 4), time_dim=8), (2, 4, 4, 3), 2
    ),
    "train_step of UNet": lambda: typed(
        UNet(4, (1, 1), 1, attention=(2,), dropout=0.2, num_classes=3, groups=2),
        (2, 4, 4, 3),
        labels=True,
    ),
    "swiss roll": lambda: roll.swiss_roll(KEY, 10),
    "swiss roll, a step": rolled,
    "swiss roll, distance": lambda: distances._rows(
        *(np.asarray(roll.on_the_curve(angles)) for angles in np.linspace(5, 9, 20).reshape(2, 10))
    ),
    "depthwise convolution": lambda: efficientnet._depthwise(
        jnp.float32(x()), {"kernel": jnp.ones((3, 3, 1, 2), "f4"), "bias": jnp.ones(2, "f4")}, 2
    ),
} | {
    f"{name} {kind}": functools.partial(function, kind)
    for kind in KINDS
    for name, function in {
        "from": lambda kind: getattr(jaxddim, f"from_{kind}")(SCHEDULE, x(0), x(1), T),
        "target": lambda kind: jaxddim.target(kind, SCHEDULE, x(0), x(1), T),
        "loss": lambda kind: jaxddim.diffusion_loss(
            SCHEDULE,
            x(0),
            x(1),
            T,
            x(2),
            kind=kind,
            weighting=jaxddim.p2(np.float64(0.7), np.float64(2), kind=kind),
        ),
    }.items()
}


def results(names: list[str]) -> dict[str, np.ndarray]:
    """Every array of every result, by the name of the case and the place in the result."""
    return {
        f"{name} {jax.tree_util.keystr(path)}": np.asarray(leaf)
        for name in names
        for path, leaf in jax.tree_util.tree_leaves_with_path(CASES[name]())
    }


if __name__ == "__main__":
    np.savez(sys.argv[1], **results(sys.argv[2:]))
