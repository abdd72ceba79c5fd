r"""DDIM for discrete data: tokens, or pixels of K values (appendix A of the DDIM paper).

x is one-hot, 1_K is the uniform distribution, and alpha_bar is that of the rest of the package
(**the paper writes alpha_t**). A value is kept with probability alpha_bar_t and otherwise resampled
from 1_K:

    q(x_t | x_0)            = Cat(alpha_bar_t x_0 + (1 - alpha_bar_t) 1_K),
    q_sigma(x_s | x_t, x_0) = Cat(sigma x_t + (alpha_bar_s - sigma alpha_bar_t) x_0
                                  + ((1 - alpha_bar_s) - (1 - alpha_bar_t) sigma) 1_K).

For every sigma, x_s has the marginal q(x_s | x_0). The weights are non-negative for

    0 <= sigma <= (1 - alpha_bar_s) / (1 - alpha_bar_t),

At the upper bound the third weight is 0: x_s is x_t or x_0, and the step is as close to
deterministic as a discrete step can be. This is eta = 0, as in the Gaussian case:

    sigma = (1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - eta (1 - alpha_bar_t / alpha_bar_s)),

A value is then drawn from 1_K with probability eta (1 - alpha_bar_s) (1 - alpha_bar_t /
alpha_bar_s), which for a given s is smaller for shorter steps. With eta = 1, x_t has the weight
that the Markov chain's posterior gives it wherever x_t differs from x_0. No sigma gives that chain
itself: by Bayes' rule its posterior at x_t = x_0 is a product, not a mixture with these weights.

In the model, the network's distribution f(x_t) replaces x_0: p(x_s | x_t) is
q_sigma(x_s | x_t, f(x_t)). Times, schedules and grids are those of the rest of the package.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.forward import checked_eta, snr_gap
from jaxddim.numerics import safe_log
from jaxddim.schedules import Schedule
from jaxddim.types import NetworkFn

DenoiseFn = Callable[[jax.Array, jax.Array], jax.Array]
"""``denoise_fn(x_t, t) -> logits of x_0``: int32 [b, *d] and t in 0..T to [b, *d, K]."""


class Mixture(NamedTuple):
    """The weights of the mixture q_sigma(x_s | x_t, x_0), scalars or [b, 1, ..]; their sum is 1."""

    x_t: jax.Array  # sigma
    x0: jax.Array
    uniform: jax.Array


def mixture(
    schedule: Schedule, t: ArrayLike, s: ArrayLike, ndim: int = 0, *, eta: float = 0.0
) -> Mixture:
    """The three weights, the first of them sigma, of a step from t to s.

    Args:
      schedule: the noise schedule.
      t: int32 times in 1..T, scalar or [b].
      s: int32 times in 0..t-1, scalar or [b].
      ndim: rank of the array that the weights will multiply; [b] becomes [b, 1, ..].
      eta: 0 for the largest sigma, 1 for that of the Markov chain; in [0, 1]. May be traced.
    Returns:
      Mixture, scalar for scalar times, else [b, 1, ..] of rank ndim.
    Raises:
      ValueError: when eta lies outside [0, 1], or when a time that is not traced lies outside its
        range.
    Source: arXiv 2010.02502, appendix A.
    Example:
      >>> import jaxddim
      >>> mixture(jaxddim.linear(), 1000, 0)  # the step to 0 draws x_0 from what the network says
      Mixture(x_t=Array(0., dtype=float32), x0=Array(1., dtype=float32),
              uniform=Array(0., dtype=float32))
    """
    eta = checked_eta(eta)
    checks.schedule(schedule)
    checks.reverse(t, s, schedule.num_steps)
    log_snr_t, log_snr_s = schedule.log_snr_at(t, ndim), schedule.log_snr_at(s, ndim)
    noise_t, noise_s = jax.nn.sigmoid(-log_snr_t), jax.nn.sigmoid(-log_snr_s)
    # drawn = 1 - SNR_t / SNR_s, and 1 - alpha_bar_t / alpha_bar_s = noise_t * drawn: in this form
    # no weight is negative or loses digits to cancellation
    drawn = -jnp.expm1(snr_gap(schedule, t, s, ndim))
    x0 = drawn * (jax.nn.sigmoid(log_snr_s) + eta * noise_s * jax.nn.sigmoid(log_snr_t))
    uniform = eta * noise_s * noise_t * drawn
    # near 1, sigma is 1 minus the others: avoids accumulated rounding over a thousand steps
    sigma = noise_s / noise_t * (1 - eta * noise_t * drawn)
    return Mixture(jnp.where(sigma > 0.5, 1 - (x0 + uniform), sigma), x0, uniform)


def q_marginal(schedule: Schedule, x0: jax.Array, t: ArrayLike) -> jax.Array:
    """q(x_t | x_0) as probabilities.

    Args:
      schedule: the noise schedule.
      x0: probabilities of the K values, e.g. one-hot, [b, *d, K].
      t: int32 times in 0..T, scalar or [b].
    Returns:
      Probabilities, float32 [b, *d, K].
    Raises:
      ValueError: when x0 holds integers, there are not as many times as examples, or a time that is
        not traced lies outside 0..T.
    Source: arXiv 2010.02502, eq. 17.
    """
    (x0,) = _vectors(schedule, x0)
    checks.each(x0.shape[0], t=t)
    log_snr = schedule.log_snr_at(t, x0.ndim)
    return jax.nn.sigmoid(log_snr) * x0 + jax.nn.sigmoid(-log_snr) / x0.shape[-1]


def q_sample(
    key: jax.Array, schedule: Schedule, x0: jax.Array, t: ArrayLike, *, num_classes: int
) -> jax.Array:
    """x_t drawn from q(x_t | x_0).

    Args:
      key: a random key.
      x0: clean values in 0..K-1, int32 [b, *d].
      num_classes: K.
      schedule, t: as for `q_marginal`.
    Returns:
      x_t, int32 [b, *d].
    Raises:
      ValueError: when x0 holds other values than 0..K-1, a time lies outside 0..T (both where they
        are not traced), or key is no random key.
    Source: arXiv 2010.02502, eq. 17.
    Example:
      >>> import jaxddim
      >>> x0 = jnp.arange(6).reshape(2, 3)
      >>> q_sample(jax.random.key(0), jaxddim.linear(), x0, 0, num_classes=6).tolist()
      [[0, 1, 2], [3, 4, 5]]
    """
    checks.schedule(schedule)
    checks.classes(x0, num_classes, "x0")
    checks.each(x0.shape[0], t=t)
    anew, value = jax.random.split(checks.single_key(key))
    log_snr = schedule.log_snr_at(t, x0.ndim)
    drawn = jax.random.randint(value, x0.shape, 0, num_classes, jnp.int32)
    uniform = jax.random.uniform(anew, x0.shape, jnp.float32)
    return jnp.where(uniform < jax.nn.sigmoid(-log_snr), drawn, jnp.asarray(x0, jnp.int32))


def q_posterior(
    schedule: Schedule,
    x0: jax.Array,
    x_t: jax.Array,
    t: ArrayLike,
    s: ArrayLike,
    *,
    eta: float = 0.0,
) -> jax.Array:
    """q_sigma(x_s | x_t, x_0) as probabilities, linear in x_0 and in x_t.

    Args:
      x0: probabilities of the K values, e.g. one-hot, [b, *d, K].
      x_t: the same at time t.
      schedule, t, s, eta: as for `mixture`.
    Returns:
      Probabilities, float32 [b, *d, K].
    Raises:
      ValueError: when x0 or x_t holds integers, or their shapes differ; also as `mixture`.
    Source: arXiv 2010.02502, eq. 18-19.
    Example:
      >>> import jaxddim
      >>> x0, x_t = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 1.0, 0.0]])
      >>> q_posterior(jaxddim.linear(), x0, x_t, 500, 250)[0].round(3).tolist()  # x_0 or x_t
      [0.4830000102519989, 0.5170000195503235, 0.0]
    """
    x0, x_t = _vectors(schedule, x0, x_t)
    checks.each(x0.shape[0], t=t, s=s)
    w = mixture(schedule, t, s, x0.ndim, eta=eta)
    return w.x_t * x_t + w.x0 * x0 + w.uniform / x0.shape[-1]


def step(
    schedule: Schedule,
    x_t: jax.Array,
    logits: jax.Array,
    t: ArrayLike,
    s: ArrayLike,
    *,
    eta: float = 0.0,
) -> jax.Array:
    """p(x_s | x_t) as log probabilities.

    Args:
      x_t: values at time t, int32 [b, *d].
      logits: the network's output for x_0, [b, *d, K], any float type; used in float32.
      schedule, t, s, eta: as for `mixture`; at s = 0 the result is the network's distribution.
    Returns:
      Log probabilities, float32 [b, *d, K]; -inf for impossible values.
    Raises:
      ValueError: when the shapes do not match, or x_t holds other values than 0..K-1 and is not
        traced; also as `mixture`.
    Source: arXiv 2010.02502, appendix A.
    Example:
      >>> import jaxddim
      >>> x_t = jnp.zeros((2, 3), int)
      >>> step(jaxddim.linear(), x_t, jnp.zeros((2, 3, 5)), 500, 400).shape
      (2, 3, 5)
    """
    _check_logits(logits, x_t.shape, "logits")
    checks.classes(x_t, logits.shape[-1], "x_t")
    w = mixture(schedule, t, s, logits.ndim, eta=eta)
    K = logits.shape[-1]
    log_f = jax.nn.log_softmax(logits.astype(schedule.dtype))
    given = w.x_t * jax.nn.one_hot(x_t, K, dtype=schedule.dtype) + w.uniform / K
    return jnp.logaddexp(safe_log(given), safe_log(w.x0) + log_f)


def kl_loss(
    schedule: Schedule,
    logits: jax.Array,
    x0: jax.Array,
    x_t: jax.Array,
    t: ArrayLike,
    s: ArrayLike,
    *,
    eta: float = 0.0,
) -> jax.Array:
    """KL(q_sigma(x_s | x_t, x_0) || p(x_s | x_t)), one term of the variational bound.

    For s = t - 1 it is L_{t-1}; at s = 0 it is the reconstruction term ``-log p(x_0 | x_1)``, since
    q is then concentrated on x_0. The bound is T times its mean over t = 1..T, plus L_T.

    Args:
      logits: the network's output for x_t, [b, *d, K].
      x0: clean values, int32 [b, *d].
      x_t: noisy values, int32 [b, *d]; see `q_sample`.
      schedule, t, s, eta: as for `mixture`.
    Returns:
      Nats, float32 [b], the mean over the event dimensions.
    Raises:
      ValueError: when the shapes do not match, or x0 or x_t holds other values than 0..K-1 and is
        not traced; also as `mixture`.
    Source: arXiv 2010.02502, appendix A.
    Example:
      >>> import jaxddim
      >>> x0 = jnp.zeros((2, 3), int)
      >>> kl_loss(jaxddim.linear(), jnp.zeros((2, 3, 5)), x0, x0, 1, 0).round(4).tolist()  # log 5
      [1.6093999147415161, 1.6093999147415161]
    """
    if x0.shape != x_t.shape:
        raise ValueError(f"x0 and x_t must have one shape, got {x0.shape}, {x_t.shape}")
    log_p = step(schedule, x_t, logits, t, s, eta=eta)
    checks.classes(x0, logits.shape[-1], "x0")
    x0, x_t = (jax.nn.one_hot(x, logits.shape[-1], dtype=schedule.dtype) for x in (x0, x_t))
    q = q_posterior(schedule, x0, x_t, t, s, eta=eta)
    possible = q > 0
    log_ratio = jnp.log(jnp.where(possible, q, 1.0)) - jnp.where(possible, log_p, 0.0)
    kl = jnp.sum(q * log_ratio, -1)
    return jnp.mean(kl, axis=tuple(range(1, kl.ndim)))


def as_denoiser(apply_fn: NetworkFn) -> DenoiseFn:
    """Makes ``denoise_fn(x_t, t) -> logits`` from a network ``apply_fn(x_t, index) -> logits``.

    As with images, the network is called with the 0-based index t - 1 as int32 [b].

    Raises:
      ValueError: when apply_fn is no such function; at the first call, when its output is not
        [b, *d, K], or a time that is not traced is below 0.
    Example:
      >>> denoise_fn = as_denoiser(lambda x, index: jnp.zeros((*x.shape, 5)))
      >>> denoise_fn(jnp.zeros((2, 3), int), jnp.int32(500)).shape
      (2, 3, 5)
    """
    checks.network(apply_fn)

    def denoise_fn(x_t: jax.Array, t: jax.Array) -> jax.Array:
        checks.times(t, None)
        index = jnp.maximum(jnp.asarray(t, jnp.int32) - 1, 0)
        logits = apply_fn(x_t, jnp.broadcast_to(index, x_t.shape[:1]))
        _check_logits(logits, x_t.shape)
        return logits

    return denoise_fn


def sample(
    key: jax.Array,
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    shape: tuple[int, ...],
    *,
    num_classes: int,
    eta: float = 0.0,
    first_index: int | jax.Array = 0,
) -> jax.Array:
    """Samples from the model, in one `jax.lax.scan` over the grid.

    As with images, example i does not depend on the batch that it is part of.

    Args:
      denoise_fn: ``denoise_fn(x_t, t) -> logits``; t is a scalar.
      shape: [b, *d] of the result.
      num_classes: K.
      eta: as for `mixture`.
      key, schedule, timesteps, first_index: as for `jaxddim.sample`.
    Returns:
      x_0, int32 [b, *d].
    Raises:
      ValueError: when the logits are not [b, *d, K]; also as `mixture` and `jaxddim.sample`.
    Source: arXiv 2010.02502, appendix A.
    Example:
      >>> import jaxddim
      >>> denoise_fn = as_denoiser(lambda x, index: jnp.zeros((*x.shape, 5)))
      >>> grid = jaxddim.timesteps(1000, 10)
      >>> x = sample(jax.random.key(0), denoise_fn, jaxddim.linear(), grid, (2, 3), num_classes=5)
      >>> x.shape
      (2, 3)
    """
    timesteps = checks.grid(timesteps, schedule)
    keys = checks.example_keys(key, shape[0], first_index)

    def draw(log_p, t):
        folded = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        return jax.vmap(jax.random.categorical)(folded, log_p).astype(jnp.int32)

    def body(x, times):
        t, s = times
        logits = denoise_fn(x, t)
        checks.output(logits, (*shape, num_classes), "the network's logits")
        return draw(step(schedule, x, logits, t, s, eta=eta), t), None

    # no step starts at t = 0, so its fold is free for x_T
    x_T = draw(jnp.zeros((*shape, num_classes), jnp.float32), jnp.int32(0))
    return lax.scan(body, x_T, (timesteps[:-1], timesteps[1:]))[0]


def _check_logits(logits: Any, shape: tuple[int, ...], what: str = "the network's logits") -> None:
    if not hasattr(logits, "shape"):
        checks.output(logits, shape, what)
    if logits.shape[:-1] != shape:
        raise ValueError(f"{what} must be {shape} and an axis of K, got {logits.shape}")


def _vectors(schedule: Schedule, *xs: jax.Array) -> list[jax.Array]:
    """Probabilities in the schedule's type; a ValueError for values or for differing shapes."""
    checks.schedule(schedule)
    if any(not jnp.issubdtype(x.dtype, jnp.floating) for x in xs) or len({x.shape for x in xs}) > 1:
        raise ValueError(
            "expected probabilities of one shape [b, *d, K] (use jax.nn.one_hot on values), "
            f"got {', '.join(f'{x.dtype} {x.shape}' for x in xs)}"
        )
    return [x.astype(schedule.dtype) for x in xs]
