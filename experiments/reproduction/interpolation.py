"""Figures 6 and 11-13: images between two noises on an arc, and between four on a grid.

The grid is filled by slerp along two of its sides, and then between these sides.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxddim
from experiments.evaluation.features import networks
from experiments.reproduction import plots, texts
from experiments.reproduction.study import Result, Study
from jaxddim.runs.drawing import to_uint8

PAIRS, ALONG, SIDE = 5, 11, 7
STEPS = 50


def measure(study: Study) -> dict[str, Any]:
    """Both pictures, and how evenly images change along the arcs."""
    steps, end = min(STEPS, study.max_steps, study.end), study.grid_end()
    recipe = {"steps": steps, "spacing": study.spacing, "shape": [PAIRS, ALONG, SIDE]}
    recipe |= study.features_recipe | ({"end": end["t"]} if end["t"] < end["T"] else {})

    def compute() -> Result:
        arcs, square = decoded(study, steps)
        features = networks.features(study.network, arcs.reshape(-1, *arcs.shape[2:]))
        numbers = evenness(features.reshape(PAIRS, ALONG, -1).astype(np.float64))
        return Result(numbers, {"arcs": arcs, "square": square})

    found = study.kept("figure6", recipe, compute)
    plots.save_images(study.folder / "figure6.png", found.arrays["arcs"], gap=1)
    plots.save_images(study.folder / "figure11.png", found.arrays["square"], gap=1)
    about = {"steps": steps, "pairs": PAIRS, "network": study.network.name, "grid_end": end}
    return about | found.numbers


def decoded(study: Study, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images on arcs, [pairs, along, h, w, c], and on a square, [side, side, h, w, c]."""
    run, grid = study.run, study.path(steps)

    @jaxddim.compiled
    def arcs(variables: Any, z0: jax.Array, z1: jax.Array) -> jax.Array:
        weights = jnp.linspace(0, 1, ALONG, dtype=jnp.float32)
        args = run.denoiser(variables), run.schedule, grid, z0, z1, weights
        return jaxddim.interpolate(*args)

    @jaxddim.compiled
    def square(variables: Any, corners: jax.Array) -> jax.Array:
        z = between(corners, SIDE)
        x0 = jaxddim.decode(
            run.denoiser(variables), run.schedule, grid, z.reshape(-1, *z.shape[2:])
        )
        return x0.reshape(z.shape)

    line = arcs(run.variables, *study.noise((2, PAIRS), "arcs"))
    plane = square(run.variables, study.noise((4,), "corners"))
    return to_uint8(np.swapaxes(line, 0, 1)), to_uint8(plane)


def between(corners: jax.Array, side: int) -> jax.Array:
    """Slerp of the noises of four corners, [4, *d], to a square grid, [side, side, *d].

    The corners are top left, top right, bottom left, bottom right.

    Example:
      >>> corners = jnp.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
      >>> between(corners, 3)[2, 1].round(2).tolist()
      [0.7099999785423279, 0.7099999785423279]
    """
    weights = jnp.linspace(0, 1, side, dtype=jnp.float32)
    arc = jax.vmap(jaxddim.slerp, (None, None, 0))
    left, right = (arc(corners[i : i + 1], corners[i + 2 : i + 3], weights)[:, 0] for i in (0, 1))
    return jnp.swapaxes(arc(left, right, weights), 0, 1)


def evenness(features: np.ndarray) -> dict[str, float]:
    """The sizes of the steps along arcs, in feature space.

    Args:
      features: [arcs, points, dims].
    """
    steps = np.linalg.norm(np.diff(features, axis=1), axis=2)
    ends = np.linalg.norm(features[:, -1] - features[:, 0], axis=1)
    return {
        "ends": float(ends.mean()),
        "step": float(steps.mean()),
        "largest": float(steps.max()),
    }


def lines(record: dict[str, Any]) -> list[str]:
    """Figures 6 and 11-13 and their findings, in Markdown."""
    S, ends, largest = record["steps"], record["ends"], record["largest"]
    told = texts.picture(
        "figure6.png",
        f"Interpolation by slerp. Each row runs from one x_T on the left to another on the right; "
        f"eta = 0, S = {S}.",
    )
    told += texts.picture(
        "figure11.png",
        f"Interpolation between four corners. Slerp in both directions; eta = 0, S = {S}.",
    )
    told += texts.grid_end(record)
    sentence = (
        f"In {record['network']} features, the two ends of a row are {texts.number(ends)} apart "
        f"on average, and neighbours {texts.number(record['step'])}."
    )
    share = texts.ratio(largest, ends)
    if texts.known(share):
        jumps = "does not jump" if largest < ends else "jumps at least once"
        sentence += (
            f" The largest distance between neighbours, {texts.number(largest)}, is "
            f"{share:.0%} of that between the ends: the path {jumps} from one image to another."
        )
    return [*told, sentence, ""]
