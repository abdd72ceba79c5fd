r"""Equations 13-14: the paths of DDIM and of Euler's method, in (sigma / alpha, x / alpha).

Euler's method for d(x / alpha) = eps d(sigma / alpha),

    y <- y + (sigma_s / alpha_s - sigma_t / alpha_t) eps(alpha_t y, t),    y = x / alpha,

is implemented here separately, with y in float64. The network runs in float32, on the points of
Euler's own path, so differences from DDIM's path are not corrected on the way. The network's x_0 is
used, and eps = (x_t - alpha_t x_0) / sigma_t is computed in float64: near T, sigma / alpha may be
10^4, and would amplify the rounding of an eps in float32 by as much. The times end where the
network still determines x_0 (`jaxddim.safe_fraction`). Where alpha is 0 there, sigma / alpha is
infinite, and both paths are followed from DDIM's image at the next time of the grid.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxddim
from experiments.reproduction import plots, texts
from experiments.reproduction.study import Result, Study
from jaxddim import checks

STEPS, IMAGES, PIXELS = 50, 4, 5
NEGLIGIBLE = 1 / 255
"""Half a level of 8 bits, for values in [-1, 1]."""


def measure(study: Study) -> dict[str, Any]:
    """The largest difference between the two paths, and the picture."""
    steps = min(STEPS, study.max_steps, study.end)
    grid = study.path(steps)
    recipe = {"grid": grid.tolist(), "images": IMAGES}

    def compute() -> Result:
        x_T = study.noise((IMAGES,), "ode")
        ddim, euler, scales = paths(study, grid, x_T)
        alpha, sigma = scales.T
        difference = ddim - euler * alpha[:, None]
        if len(difference) == 1:  # no step is left to compare
            difference = difference + np.nan
        per_step = np.abs(difference).max(1)
        numbers = {
            "largest": float(per_step.max()),
            "at_the_end": float(per_step[-1]),
            "typical": float(np.sqrt(np.mean(difference**2))),
            "range": [float(np.abs(ddim).max()), float((sigma / alpha).max())],
        }
        skipped = steps + 1 - len(ddim)
        numbers |= {"start": int(grid[skipped])} if skipped else {}
        pixels = np.linspace(0, ddim.shape[1] - 1, PIXELS).astype(int)
        arrays = {"euler": euler[:, pixels], "ddim": (ddim / alpha[:, None])[:, pixels]}
        return Result(numbers, arrays | {"grid": sigma / alpha})

    found = study.kept("ode", recipe, compute)
    plots.save_ode(study.folder / "ode.png", **found.arrays)
    return {"steps": steps, "images": IMAGES, "grid_end": study.grid_end()} | found.numbers


def paths(
    study: Study, grid: jax.Array, x_T: jax.Array
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DDIM's x_t and Euler's x_t / alpha_t, [n, values], and (alpha_t, sigma_t), [n, 2].

    n is S + 1, or S where alpha is 0 at the first time.
    """
    run = study.run
    schedule = run.schedule
    log_snr = np.asarray(schedule.log_snr, np.float64)[np.asarray(grid)]
    alpha, sigma = (np.exp(-np.logaddexp(0, -sign * log_snr) / 2) for sign in (1, -1))

    @jaxddim.compiled
    def ddim(variables: Any) -> jax.Array:
        no_key = checks.new_key(0)  # every step is deterministic
        args = no_key, run.denoiser(variables), schedule, grid, x_T
        _, path = jaxddim.integrate(*args, keep=grid.size)
        assert path is not None  # keep > 0
        return path.x

    @jaxddim.compiled
    def clean(variables: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        return run.denoiser(variables)(x, t).x0

    followed = np.asarray(ddim(run.variables), np.float64)
    first = int(alpha[0] == 0)
    y = followed[first] / alpha[first]
    euler = [y]
    for i, t in list(enumerate(np.asarray(grid)[:-1]))[first:]:
        x_t = alpha[i] * y
        x0 = np.asarray(clean(run.variables, jnp.asarray(x_t, jnp.float32), jnp.int32(t)))
        eps = (x_t - alpha[i] * x0) / sigma[i]
        y = y + (sigma[i + 1] / alpha[i + 1] - sigma[i] / alpha[i]) * eps
        euler.append(y)
    n = len(euler)
    scales = np.stack([alpha, sigma], 1)[first:]
    return followed[first:].reshape(n, -1), np.stack(euler).reshape(n, -1), scales


def lines(record: dict[str, Any]) -> list[str]:
    """The comparison and its verdict, in Markdown."""
    if record.get("start") == 0:
        return ["The paths could not be compared: alpha is 0 at the start of the only step.", ""]
    start = f"x at t = {record['start']}" if "start" in record else "x_T"
    largest = record["largest"]
    same = largest < NEGLIGIBLE
    verdict = "they are the same path" if same else "they are **not** the same path"
    if not texts.known(largest):
        verdict = "the paths cannot be compared: one of them is not finite"
    top, ratio = record["range"]
    told = [
        f"{record['images']} images with S = {record['steps']}, sampled from the same {start} by "
        "DDIM with eta = 0 in float32 and by Euler's method for eq. 14 in float64. The largest "
        f"difference in x_t over all pixels and steps is {texts.number(largest, 2)}, the root mean "
        f"square {texts.number(record['typical'], 2)}, and the largest difference at t = 0 "
        f"{texts.number(record['at_the_end'], 2)}, for |x_t| up to {texts.number(top, 2)} and "
        f"sigma / alpha up to {texts.number(ratio, 2)}. To within half a level of 8 bits "
        f"(0.0039) {verdict}.",
        "",
    ]
    told += texts.grid_end(record)
    title = "DDIM is Euler's method" if same else "DDIM and Euler's method"
    return told + texts.picture(
        "ode.png",
        f"{title}. Left: paths of single pixels, DDIM as points and Euler as lines; "
        "right: the largest difference between the two, over the pixels shown.",
    )
