r"""Noise schedules: how much signal and how much noise an image contains at time t.

Time runs over t = 0..T and t = 0 is clean data. A schedule is one table,

    lambda_t = log(alpha_bar_t / (1 - alpha_bar_t)),    the log signal-to-noise ratio,

from which everything else follows without loss of precision:

    alpha_bar_t = sigmoid(lambda_t)        (DDPM's symbol; **the DDIM paper writes alpha_t**)
    alpha_t     = sqrt(alpha_bar_t)        the scale of the image in x_t
    sigma_t     = sqrt(sigmoid(-lambda_t)) the scale of the noise in x_t

The table is computed in float64 NumPy and kept in float32. Storing alpha_bar
itself in float32 would leave three or four digits of 1 - alpha_bar near t = 0;
storing lambda leaves all seven.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.numerics import nan_unless, safe_sqrt, whole_number


class Schedule(NamedTuple):
    """A noise schedule, stored as its log signal-to-noise ratio.

    It is a NamedTuple, so that it passes through `jax.jit`; ``index`` and ``count`` are therefore
    the methods of a tuple and say nothing about time. Networks take the index t - 1.

    Attributes:
      log_snr: float32 [T+1], strictly decreasing, ``log_snr[0] = inf``.
    """

    log_snr: jax.Array

    @property
    def num_steps(self) -> int:
        """T, the number of training steps."""
        return self.log_snr.shape[0] - 1

    @property
    def dtype(self) -> np.dtype:
        """The type of all results: float32, unless the table was made with another one."""
        return jnp.asarray(self.log_snr).dtype

    @property
    def alpha_bar(self) -> jax.Array:
        """Product of (1 - beta) up to t, float32 [T+1]; 1 at t = 0."""
        return jax.nn.sigmoid(self.log_snr)

    def log_snr_at(self, t: ArrayLike, ndim: int = 0) -> jax.Array:
        """log_snr at t, with trailing axes of length 1 up to rank ``ndim``.

        A t outside 0..T, or one that is no whole number, raises a ValueError; a traced one
        outside yields NaN (plain indexing would wrap or clamp it silently).
        """
        checks.times(t, self.num_steps)
        known = checks.concrete(t) is not None
        t = jnp.asarray(t)
        value = jnp.asarray(self.log_snr).at[t].get(mode="clip", wrap_negative_indices=False)
        if not known:
            value = nan_unless((t >= 0) & (t <= self.num_steps), value)
        return value.reshape(t.shape + (1,) * (ndim - t.ndim)) if t.ndim else value

    def scales(self, t: ArrayLike, ndim: int = 0) -> tuple[jax.Array, jax.Array]:
        """(alpha_t, sigma_t), so that ``x_t = alpha_t * x_0 + sigma_t * eps``.

        Args:
          t: int32 times in 0..T, scalar or [b].
          ndim: rank of the images that the scales will multiply; [b] becomes [b, 1, ..].
        Returns:
          alpha_t and sigma_t, float32, scalar for a scalar t, else [b, 1, ..] of rank ndim.
        Raises:
          ValueError: when t lies outside 0..T and is not traced.
        Example:
          >>> import numpy as np
          >>> alpha, sigma = linear(1000).scales(np.array([0, 1000]), ndim=4)
          >>> alpha.shape
          (2, 1, 1, 1)
          >>> float(alpha[0, 0, 0, 0]), float(sigma[0, 0, 0, 0])
          (1.0, 0.0)
        """
        log_snr = self.log_snr_at(t, ndim)
        return safe_sqrt(jax.nn.sigmoid(log_snr)), safe_sqrt(jax.nn.sigmoid(-log_snr))


def from_betas(betas: ArrayLike) -> Schedule:
    """The schedule with ``alpha_bar_t = prod_{i <= t} (1 - beta_i)``.

    Args:
      betas: beta_1..beta_T, [T], each in (0, 1); the last may be 1.
    Returns:
      A Schedule with T steps.
    Raises:
      ValueError: when betas is not a non-empty vector of numbers in that range, or steps are so
        small that neighbours are equal in float32.
    Warns:
      UserWarning: when alpha_bar_T > 1e-3: images are still visible at t = T, so the network was
        not trained on the pure noise that sampling starts from.
    Source: arXiv 2006.11239, section 2.
    Example:
      >>> from_betas(np.linspace(1e-4, 0.02, 1000)).num_steps
      1000
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size:
        raise ValueError(f"betas must be a non-empty vector, got shape {betas.shape}")
    if not (np.all(betas > 0) and np.all(betas[:-1] < 1) and betas[-1] <= 1):
        raise ValueError("every beta must lie in (0, 1); only the last may be 1")
    with np.errstate(divide="ignore"):
        log_alpha_bar = np.cumsum(np.log1p(-betas))
    return _from_log_snr(log_alpha_bar - np.log(-np.expm1(log_alpha_bar)))


def from_log_snr(log_snr: ArrayLike) -> Schedule:
    """The schedule with these log signal-to-noise ratios.

    Args:
      log_snr: lambda_1..lambda_T, [T], falling; the last may be -inf. Or [T+1], with lambda_0 = inf
        in front, as a Schedule has it.
    Returns:
      A Schedule with T steps.
    Raises:
      ValueError: when log_snr is not such a vector, or neighbours are equal in float32.
    Warns:
      UserWarning: as `from_betas`.
    Source: arXiv 2107.00630, section 3.1.
    Example:
      >>> schedule = from_log_snr(np.linspace(10, -10, 1000))
      >>> schedule.num_steps, float(schedule.log_snr[1000])
      (1000, -10.0)
    """
    table = np.asarray(log_snr, np.float64)
    start = int(table.ndim == 1 and table.size > 0 and table[0] == np.inf)
    if table.ndim != 1 or table.size <= start or np.isnan(table).any():
        raise ValueError(
            "log_snr must be a vector [T] of falling numbers, or [T+1] with inf in front, got "
            f"{checks.described(table)}" + " with NaN" * bool(np.isnan(table).any())
        )
    return _from_log_snr(table[start:], stacklevel=3)


def _from_log_snr(log_snr: np.ndarray, stacklevel: int = 4) -> Schedule:
    """Prepends t = 0, checks the table and rounds it to float32."""
    table = np.concatenate([[np.inf], log_snr]).astype(np.float32)
    if not np.all(table[1:] < table[:-1]):
        raise ValueError(
            "log_snr must be strictly decreasing in float32, but some betas are too small: "
            "use fewer or larger steps"
        )
    alpha_bar = 1 / (1 + np.exp(-float(table[-1]))) if np.isfinite(table[-1]) else 0.0
    if alpha_bar > 1e-3:
        warnings.warn(
            f"alpha_bar_T = {alpha_bar:.2g} > 1e-3: at t = T = {table.size - 1} images still show "
            f"through the noise (scale {alpha_bar**0.5:.2g}), while sampling starts from pure "
            "noise; use more steps or larger betas",
            UserWarning,
            stacklevel=stacklevel,
        )
    return Schedule(jnp.asarray(table))


def from_alpha_bar(
    fn: Callable[[float], float], num_steps: int, *, max_beta: float = 0.999
) -> Schedule:
    """The schedule that follows a continuous curve ``alpha_bar = fn(t / T)``.

    ``beta_t = min(1 - fn(t / T) / fn((t - 1) / T), max_beta)``.

    Args:
      fn: decreasing, from 1 (or a little less) at 0 towards 0 at 1.
      num_steps: T.
      max_beta: upper limit of each beta; keeps the last steps away from a singularity.
    Returns:
      A Schedule with num_steps steps.
    Raises:
      ValueError: when fn does not decrease, or num_steps < 1.
    Source: arXiv 2102.09672, section 3.2.
    Example:
      >>> from_alpha_bar(lambda u: 0.999 - 0.9985 * u, 10).num_steps
      10
    """
    edges = np.arange(whole_number(num_steps, "num_steps") + 1) / num_steps
    alpha_bar = np.array([fn(u) for u in edges], np.float64)
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


def linear(num_steps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Linearly spaced betas, as in DDPM and DDIM.

    Source: arXiv 2006.11239, section 4.

    Example:
      >>> float(linear().alpha_bar[-1]) < 1e-4
      True
    """
    first, last = float(beta_start), float(beta_end)  # a float32 would make the line float32
    return from_betas(np.linspace(first, last, whole_number(num_steps, "num_steps")))


def quadratic(
    num_steps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Schedule:
    """Betas with linearly spaced square roots ("quad" in the official DDIM code)."""
    steps = whole_number(num_steps, "num_steps")
    first, last = float(beta_start), float(beta_end)
    return from_betas(np.linspace(first**0.5, last**0.5, steps) ** 2)


def scaled_linear(
    num_steps: int = 1000, *, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Schedule:
    """`quadratic` with the betas of latent diffusion.

    Source: arXiv 2112.10752 and its code.
    """
    return quadratic(num_steps, beta_start=beta_start, beta_end=beta_end)


def const(num_steps: int = 1000, *, beta_end: float = 0.02) -> Schedule:
    """All betas equal ("const" in the official DDIM code)."""
    return from_betas(np.full(whole_number(num_steps, "num_steps"), beta_end))


def jsd(num_steps: int = 1000) -> Schedule:
    """``beta_t = 1 / (T - t + 1)``, so alpha_bar falls linearly to exactly 0 at T.

    Its last step has no signal: use it with x0- or v-networks.

    Source: arXiv 1503.03585, section 2.4.1 ("jsd" in the official DDIM code).
    """
    return from_betas(1.0 / np.arange(whole_number(num_steps, "num_steps"), 0, -1))


def sigmoid(num_steps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Betas on a logistic curve over [-6, 6] ("sigmoid" in the official DDIM code)."""
    curve = 1 / (1 + np.exp(-np.linspace(-6, 6, whole_number(num_steps, "num_steps"))))
    first, last = float(beta_start), float(beta_end)
    return from_betas(curve * (last - first) + first)


def cosine(num_steps: int = 1000, *, offset: float = 0.008) -> Schedule:
    """``alpha_bar = cos^2((t / T + offset) / (1 + offset) * pi / 2)``.

    Source: arXiv 2102.09672, eq. 17.

    Example:
      >>> round(float(cosine().alpha_bar[500]), 2)
      0.49
    """
    offset = float(offset)
    return from_alpha_bar(lambda u: np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2, num_steps)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule rescaled so that x_T is pure noise.

    sqrt(alpha_bar) is shifted to 0 at T and stretched to keep its value at t = 1.
    At t = T, eps carries no information about the image: use an x0- or v-network.

    Args:
      schedule: any Schedule with concrete (not traced) values and at least 2 steps.
    Returns:
      A Schedule of the same length with ``log_snr[T] = -inf``.
    Raises:
      ValueError: when the schedule has a single step.
    Source: arXiv 2305.08891, algorithm 1.
    Example:
      >>> float(zero_terminal_snr(linear()).log_snr[-1])
      -inf
    """
    checks.schedule(schedule)
    if schedule.num_steps < 2:
        raise ValueError("zero_terminal_snr needs a schedule with at least 2 steps")
    log_snr = np.asarray(schedule.log_snr, np.float64)[1:]
    alpha = np.sqrt(1 / (1 + np.exp(-np.maximum(log_snr, -700.0))))
    alpha_T = 0.0 if log_snr[-1] == -np.inf else alpha[-1]
    alpha = (alpha - alpha_T) * (alpha[0] / (alpha[0] - alpha_T))
    alpha[-1] = 0.0
    with np.errstate(divide="ignore"):
        return _from_log_snr(2 * np.log(alpha) - np.log1p(-(alpha**2)))
