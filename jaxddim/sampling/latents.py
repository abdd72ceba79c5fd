r"""The noise x_T as a latent code of the image: encoding, decoding and interpolation.

With eta = 0, a DDIM step from t to s is a rotation by the angle delta between the two times, where
phi = arctan(sigma / alpha),

    x_s = cos(delta) x_t - sin(delta) v_t,    v = alpha eps - sigma x_0,    delta = phi_t - phi_s,

so the grid can be followed in either direction. Decoding goes from noise to image and evaluates v
at the start of each step. Encoding goes from image to noise; to invert a decoding step exactly, it
must evaluate v at the end of its own step,

    x_t = (x_s + sin(delta) v(x_t, t)) / cos(delta).

Euler's method evaluates v at the start instead, with an error of first order in 1/S over the path.
Fixed-point iteration of this equation removes that error: each iteration multiplies the error of
the guess by tan(delta) dv/dx, of order 1/S. Extrapolating v along phi gives a first guess of second
order. The same iteration in eps,
x_t = (alpha_t / alpha_s) x_s + (sigma_t - alpha_t sigma_s / alpha_s) eps,
would not converge where alpha_t is near 0: there eps is x_t itself and the factor is 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxddim import checks
from jaxddim.numerics import images, whole_number
from jaxddim.sampling.conditioning import warn_of_clipping, warn_of_errors
from jaxddim.sampling.loop import integrate
from jaxddim.sampling.solver import Solver, StepFn
from jaxddim.sampling.steps import ddim_step
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Gaussian, Prediction, made_with

SMALLEST_COS = 0.5
"""Lower bound on cos(delta) when refining, so that large steps, as with S = 1, stay finite."""


def encode(
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    x0: jax.Array,
    *,
    refine: int = 0,
) -> jax.Array:
    """x_T, the noise that `decode` maps back to these images.

    For an exact network the reconstruction error falls like 1/S. With the linear or the cosine
    schedule, S = 50 and Gaussian data, refine = 1 makes it more than a hundred times smaller; the
    gain is less where S is too small for the schedule or the data. The error of an eps- or
    score-network is divided by alpha, so the grid must end where alpha is not yet near 0:
    ``timesteps(..., fraction=safe_fraction(schedule, kind="eps"))``. Networks are not trained at
    t = 0, so they are evaluated at t = 1 there; the answer of an x0-network is not used there.

    Args:
      denoise_fn: ``denoise_fn(x, t) -> Prediction``, **not clipped**: `as_denoiser(...,
        clip_x0=False)`.
      schedule: the noise schedule.
      timesteps: the grid that `decode` will use, int32 [S+1], decreasing to 0.
      x0: images, [b, *d].
      refine: fixed-point iterations per step; each costs one more evaluation per step.
    Returns:
      x_T, float32 [b, *d].
    Raises:
      ValueError: when refine is negative, as `integrate`, and when the grid rises or does not end
        in 0.
    Warns:
      UserWarning: when x_0 is clipped, or a step multiplies the network's error more than tenfold
        (known for denoisers of `as_denoiser`, the latter for values that are not traced).
    Source: arXiv 2010.02502, section 4.3 and 5.4.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.linear()
      >>> fn = jaxddim.as_denoiser(schedule, lambda x, index: x, clip_x0=False)
      >>> grid = jaxddim.timesteps(1000, 50)
      >>> x0 = jnp.linspace(-1, 1, 8)[None]
      >>> x_T = encode(fn, schedule, grid, x0, refine=3)
      >>> bool(jnp.allclose(decode(fn, schedule, grid, x_T), x0, atol=1e-3))
      True
    """
    refine = whole_number(refine, "refine", least=0)
    grid = checks.grid(timesteps, schedule)[::-1]
    warn_of_clipping(denoise_fn, "encode")
    warn_of_errors(denoise_fn, schedule, timesteps, encoded=not refine)
    made = made_with(denoise_fn)
    # at t = 1 the error of an x0-network is divided by sigma_1
    still = made is not None and made.kind == "x0"
    return integrate(None, denoise_fn, schedule, grid, x0, step=_encoder(refine, still))[0]


def _encoder(refine: int, still: bool) -> Solver:
    """Steps from t to s > t that decoding steps undo; the memory is the last v and its t.

    At t = 0 the network is evaluated at t = 1, or if ``still`` v is 0.
    """

    def step(
        denoise_fn: DenoiseFn,
        schedule: Schedule,
        x: jax.Array,
        t: jax.Array,
        s: jax.Array,
        before: tuple[jax.Array, jax.Array],
    ) -> tuple[Gaussian, Prediction, tuple[jax.Array, jax.Array]]:
        def velocity(prediction: Prediction, t: jax.Array) -> jax.Array:
            alpha, sigma = schedule.scales(t)
            return alpha * prediction.eps - sigma * prediction.x0

        def angle(t: jax.Array) -> jax.Array:
            alpha, sigma = schedule.scales(t)
            return jnp.arctan2(sigma, alpha)

        prediction = denoise_fn(x, jnp.maximum(t, 1))
        v, delta = velocity(prediction, t), angle(s) - angle(t)
        v = jnp.where(t == 0, 0.0, v) if still else v
        sin, cos = jnp.sin(delta), jnp.cos(delta)

        def undone(v_s: jax.Array) -> jax.Array:
            """The point that a decoding step with this v takes to x."""
            return (x + sin * v_s) / jnp.maximum(cos, SMALLEST_COS)

        if refine:
            v_before, t_before = before
            start = angle(jnp.maximum(t, 1))
            back = start - angle(jnp.maximum(t_before, 1))
            # length of this step relative to the previous one; 0 for the first step
            ahead = jnp.where(back > 0, (angle(s) - start) / jnp.where(back > 0, back, 1.0), 0.0)
            x_s = undone(v + ahead * (v - v_before))
        else:
            x_s = cos * x + sin * v
        for _ in range(refine):
            x_s = undone(velocity(denoise_fn(x_s, s), s))
        return Gaussian(x_s, np.zeros((), np.float32)), prediction, (v, t)

    return Solver(lambda x: (jnp.zeros_like(x), jnp.zeros((), jnp.int32)), step)


def decode(
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    x_T: jax.Array,
    *,
    step: StepFn | Solver = ddim_step,
) -> jax.Array:
    """x_0 from x_T, by deterministic DDIM (eta = 0) or another method that draws nothing.

    Args:
      denoise_fn: ``denoise_fn(x, t) -> Prediction``.
      schedule: the noise schedule.
      timesteps: int32 [S+1], decreasing to 0.
      x_T: noise, [b, *d].
      step: as for `integrate`, such as ``heun()``; what `encode` made is the noise of DDIM's path.
    Returns:
      x_0, float32 [b, *d].
    Raises:
      ValueError: as `integrate`, when the grid rises or does not end in 0, and when the step draws
        noise.
    Warns:
      UserWarning: as `encode` for errors; never where x_0 is clipped.
    Source: arXiv 2010.02502, section 4.3.
    """
    grid = checks.grid(timesteps, schedule)
    warn_of_errors(denoise_fn, schedule, timesteps)
    return integrate(None, denoise_fn, schedule, grid, x_T, step=step)[0]


def slerp(z0: jax.Array, z1: jax.Array, weight: jax.Array | float) -> jax.Array:
    """Spherical interpolation between noises, with one angle per example.

    ``sin((1 - w) theta) / sin(theta) z0 + sin(w theta) / sin(theta) z1`` with theta the angle
    between z0 and z1; a straight line where sin(theta) < 1e-6.

    Args:
      z0: noise, [b, *d].
      z1: noise, [b, *d].
      weight: w in [0, 1], scalar or [b].
    Returns:
      The interpolated noise, float32 [b, *d].
    Raises:
      ValueError: when z0 and z1 are not two arrays [b, *d] of one shape, or hold integers, or
        weight is neither a scalar nor [b].
    Source: arXiv 2010.02502, eq. 67.
    Example:
      >>> z0, z1 = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> slerp(z0, z1, 0.5).round(3).tolist()
      [[0.7070000171661377, 0.7070000171661377]]
    """
    z0, z1 = images(jnp.float32, z0=z0, z1=z1)
    if z0.ndim < 2 or z0.shape != z1.shape:
        raise ValueError(
            "z0 and z1 must be noises [b, *d] of one shape (a single vector z is z[None]), got "
            f"shapes {z0.shape} and {z1.shape}"
        )
    axes = tuple(range(1, z0.ndim))
    weight = jnp.asarray(weight, jnp.float32)
    if weight.shape not in ((), z0.shape[:1]):
        raise ValueError(f"weight must be a scalar or {z0.shape[:1]}, got shape {weight.shape}")
    weight = (
        weight.reshape(weight.shape + (1,) * (z0.ndim - weight.ndim)) if weight.ndim else weight
    )

    def unit(z):
        square = jnp.sum(z * z, axes, keepdims=True)
        return z / jnp.sqrt(jnp.where(square == 0, 1.0, square))

    # tan(theta / 2) = |u0 - u1| / |u0 + u1| is accurate where arccos is not
    far, near = (
        jnp.sum((unit(z0) + sign * unit(z1)) ** 2, axes, keepdims=True) for sign in (-1, 1)
    )
    parallel = far * near < 4e-12  # sin(theta) = |u0 - u1| |u0 + u1| / 2 < 1e-6
    theta = 2 * jnp.arctan2(
        jnp.sqrt(jnp.where(parallel, 2.0, far)), jnp.sqrt(jnp.where(parallel, 2.0, near))
    )
    sin = jnp.sin(theta)
    w0 = jnp.where(parallel, 1 - weight, jnp.sin((1 - weight) * theta) / sin)
    w1 = jnp.where(parallel, weight, jnp.sin(weight * theta) / sin)
    return w0 * z0 + w1 * z1


def interpolate(
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    z0: jax.Array,
    z1: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """Images decoded from noises on the arc between z0 and z1.

    Args:
      denoise_fn: ``denoise_fn(x, t) -> Prediction``.
      schedule: the noise schedule.
      timesteps: int32 [S+1], decreasing to 0.
      z0: noise, [b, *d].
      z1: noise, [b, *d].
      weights: n positions in [0, 1], [n].
    Returns:
      Images, float32 [n, b, *d].
    Raises:
      ValueError: when weights is not a vector, as `slerp`, or as `decode`.
    Warns:
      UserWarning: as `decode`.
    Source: arXiv 2010.02502, section 5.3 and figure 6.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.linear()
      >>> fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> z0, z1 = jax.random.normal(jax.random.key(0), (2, 1, 8))
      >>> interpolate(fn, schedule, jaxddim.timesteps(1000, 5), z0, z1, jnp.linspace(0, 1, 3)).shape
      (3, 1, 8)
    """
    z0, z1 = images(jnp.float32, z0=z0, z1=z1)
    weights = jnp.asarray(weights, jnp.float32)
    if weights.ndim != 1:
        raise ValueError(f"weights must be a vector [n], got shape {weights.shape}")
    z = jax.vmap(slerp, (None, None, 0))(z0, z1, weights)
    x0 = decode(denoise_fn, schedule, timesteps, z.reshape(-1, *z0.shape[1:]))
    return x0.reshape(z.shape)
