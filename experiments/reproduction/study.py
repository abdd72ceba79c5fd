"""Shared by all parts of the reproduction: a run, its images, and saved results.

A result is saved as soon as it is computed. The file name holds a hash of its recipe: the weights,
the sampler, the seed, the number of images and whatever else it depends on. The file also stores
the recipe, which is compared on reading. So a killed command continues where it stopped, and a
result is never mistaken for another.
"""

import contextlib
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxddim
from experiments.data import cache
from experiments.evaluation import references
from experiments.evaluation.features import networks
from experiments.reproduction import texts
from experiments.terminal.files import record as read_record
from experiments.terminal.files import save_arrays, save_json
from experiments.terminal.progress import stage
from experiments.terminal.texts import brief
from jaxddim import checks
from jaxddim.files import arrays
from jaxddim.runs.flat import finite, flatten
from jaxddim.runs.methods import DrawConfig
from jaxddim.runs.trained import Trained
from jaxddim.sampling.conditioning import fraction_of

FORMAT = 2  # part of every recipe: raise it when results of the same recipe change
YOUNGER = {"diffusion.variance": "fixed"}
"""Fields that recipes leave out at these values: those of before have none."""
CHUNK = {"cpu": 64}
"""Images drawn at a time, by platform; 256 elsewhere. On CPU, twice as fast as chunks of 4."""

Spacing = Literal["linear", "quadratic"]


class Sampler(NamedTuple):
    """A row of table 1.

    Attributes:
      name: name of the row.
      method: "ddim" or "ddpm".
      eta: eta of DDIM.
      variance: variance of DDPM.
    """

    name: str
    method: Literal["ddim", "ddpm"]
    eta: float
    variance: Literal["small", "large"]


SIGMA_HAT = Sampler("sigma-hat", "ddpm", 0.0, "large")
SAMPLERS = (
    *(Sampler(f"{eta:g}", "ddim", eta, "small") for eta in (0.0, 0.2, 0.5, 1.0)),
    SIGMA_HAT,
)
DDIM = SAMPLERS[0]
SHOWN = 3
"""Samples of each cell in the picture of table 1."""


class Result(NamedTuple):
    """A saved result.

    Attributes:
      numbers: for the report, as JSON; NaN for those that are not finite.
      arrays: for the pictures of the report.
    """

    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Study:
    """A run, and the settings of its report.

    Attributes:
      run: the trained network.
      splits: the run's images.
      network: the feature network.
      num: samples per cell of table 1.
      num_encoded: images that are encoded and decoded.
      max_steps: the largest S.
      spacing: spacing of the sampling times.
      seed: seed of all noise.
      folder: the folder for all outputs.
    """

    run: Trained
    splits: references.Splits
    network: networks.FeatureNetwork
    num: int
    num_encoded: int
    max_steps: int
    spacing: Spacing
    seed: int
    folder: Path

    def kept(
        self,
        name: str,
        recipe: dict[str, Any],
        compute: Callable[[], Result],
        *,
        number: str = "",
        spinner: bool = True,
    ) -> Result:
        """The result of a recipe: read from the subfolder `cells` if present, else computed.

        Args:
          name: prefix of the file names.
          recipe: what the result depends on besides the model and the seed, as JSON.
          compute: computes the result.
          number: which of how many, e.g. "cell 3 of 15", for the line that says what is computed.
          spinner: whether there may be a spinner; if not, `compute` says what it does.
        """
        recipe = json.loads(json.dumps(self.model | {"seed": self.seed} | recipe))
        stem = self.folder / "cells" / f"{name}-{cache.key(json.dumps(recipe, sort_keys=True))}"
        found = _read(stem, recipe)
        if found is not None:
            print(f"{name}: already computed", flush=True)
            return found
        began = time.perf_counter()
        told = f"{number}: {name}" if number else name
        with stage(told) if spinner else contextlib.nullcontext():
            result = compute()
        result = result._replace(numbers=texts.numbers(finite(result.numbers)))
        path, about = _files(stem)
        if result.arrays:
            save_arrays(path, **result.arrays)
        # last: its presence marks the result as complete
        names = sorted(result.arrays)
        save_json(about, {"recipe": recipe, "numbers": result.numbers, "arrays": names})
        print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
        return result

    @functools.cached_property
    def model(self) -> dict[str, Any]:
        """The part of a recipe that identifies the model."""
        config = flatten(self.run.config)
        fields = {k: v for k, v in config.items() if (k, v) not in YOUNGER.items()}
        about = {k: v for k, v in fields.items() if k.startswith(("model.", "diffusion."))}
        sha256 = weights_hash(self.run.variables)
        clip = {} if self.run.clip == "rederive" else {"clip": self.run.clip}
        return (
            {"format": FORMAT, "checkpoint": self.run.step, "weights_sha256": sha256} | about | clip
        )

    @functools.cached_property
    def features_recipe(self) -> dict[str, Any]:
        """The part of a recipe that identifies the feature network."""
        network = self.network
        weights, resize = network.weights, network.resize
        return {"network": network.name, "network_weights": weights, "resize": resize}

    def columns(self, steps: tuple[int, ...], most: int | None = None) -> list[int]:
        """Those of the numbers of steps that are below the largest S, and the largest S.

        Args:
          steps: numbers of steps.
          most: an upper limit of the largest S.
        """
        largest = min(self.max_steps, most or self.max_steps)
        return [*(s for s in steps if s < largest), largest]

    def config(self, sampler: Sampler, steps: int) -> DrawConfig:
        """The configuration of `experiments.sample` that draws the same images."""
        _, method, eta, variance = sampler
        return DrawConfig(
            steps=steps,
            method=method,
            eta=eta,
            variance=variance,
            spacing=self.spacing,
            seed=self.seed,
        )

    def chunk(self, num: int) -> int:
        """How many of `num` images are drawn at a time."""
        return min(num, CHUNK.get(jax.default_backend(), 256))

    def grid(self, steps: int) -> jax.Array:
        """The sampling times, int32 [S+1]."""
        return jaxddim.timesteps(self.run.schedule.num_steps, steps, spacing=self.spacing)

    @functools.cached_property
    def end(self) -> int:
        """The largest time at which the network still determines x_0, see `safe_fraction`."""
        schedule = self.run.schedule
        fraction = fraction_of(self.run.denoiser(self.run.variables, clip_x0=False), schedule)
        return round(fraction * schedule.num_steps)

    def path(self, steps: int) -> jax.Array:
        """The times of a path between noise and image that follows the network: up to `end`."""
        T = self.run.schedule.num_steps
        return jaxddim.timesteps(T, steps, spacing=self.spacing, fraction=self.end / T)

    def grid_end(self) -> dict[str, Any]:
        """For the record: the last time of the paths, T, and sigma / alpha at both."""
        T, end = self.run.schedule.num_steps, self.end
        log_snr = np.asarray(self.run.schedule.log_snr, np.float64)[[end, T]]
        with np.errstate(over="ignore"):
            ratios = np.exp(-log_snr / 2)
        return {"t": end, "T": T, "sigma_over_alpha": ratios.tolist()}

    def noise(self, shape: tuple[int, ...], name: str) -> jax.Array:
        """x_T for images of the run, [*shape, h, w, c]; different for each name."""
        number = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
        key = jax.random.fold_in(checks.new_key(self.seed), number)
        return jax.random.normal(key, (*shape, *self.run.config.data.shape), jnp.float32)


def _read(stem: Path, recipe: dict[str, Any]) -> Result | None:
    """The saved result; None if it is missing, damaged (which is said) or of another recipe."""
    path, about = _files(stem)
    if not about.exists():
        return None
    try:
        record = read_record(about)
        if record["recipe"] != recipe:
            return None
        if "arrays" not in record:  # an older version wrote it
            record["arrays"] = arrays.names(path) if path.exists() else []
        forms = dict.fromkeys(record["arrays"])
        return Result(texts.numbers(record["numbers"]), arrays.read(path, forms) if forms else {})
    except Exception as error:  # damaged files may raise anything
        print(f"note: {about} was damaged ({brief(error)}): computed again", file=sys.stderr)
        return None


def _files(stem: Path) -> tuple[Path, Path]:
    """Paths of the arrays and of the record; the stem may contain dots."""
    return stem.with_name(stem.name + ".npz"), stem.with_name(stem.name + ".json")


def weights_hash(variables: Any) -> str:
    """sha256 over the names, shapes and values of a network's variables."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
