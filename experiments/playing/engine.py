"""A run, and what is drawn with it while someone watches."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxddim
from experiments.data import decoding
from experiments.playing.settings import Settings
from experiments.terminal.errors import UserError
from jaxddim import checks
from jaxddim.runs import checkpoints, methods, moments
from jaxddim.runs.drawing import chunk_size, sampler, to_uint8
from jaxddim.runs.errors import run_errors
from jaxddim.runs.opened import Run, load_run
from jaxddim.sampling.conditioning import fraction_of
from jaxddim.sampling.noise import draw
from jaxddim.training.meshes import make_mesh
from jaxddim.types import DenoiseFn, Gaussian, Prediction

MOST_FRAMES, MOST_KEPT = 40, 12
"""Moments of a drawing that are kept, and compiled functions."""
BETWEEN = 8
"""Pictures from one seed to another."""


class Frame(NamedTuple):
    """A moment of a drawing.

    Attributes:
      t: the time.
      images: the network's x_0, uint8 [n, h, w, c].
    """

    t: int
    images: np.ndarray


@dataclass(frozen=True, eq=False)
class Watched(Run):
    """A run that tells the x_0 of each evaluation, [b, h, w, c] with the time."""

    told: queue.SimpleQueue = field(default_factory=queue.SimpleQueue, repr=False)

    def denoiser(self, *args: Any, **options: Any) -> DenoiseFn:
        """As `Trained.denoiser`."""
        plain = super().denoiser(*args, **options)

        def watched(x: jax.Array, t: jax.Array) -> Prediction:
            found = plain(x, t)
            jax.debug.callback(self._tell, jnp.max(t), found.x0)
            return found

        return watched

    def _tell(self, t: Any, x0: Any) -> None:
        self.told.put((np.asarray(t), np.asarray(x0)))

    def quiet(self, *args: Any, **options: Any) -> DenoiseFn:
        """The denoiser that tells nothing."""
        return super().denoiser(*args, **options)

    def listen(self, drawn: Future) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What is told until this ends, (t, x_0)."""
        while not (drawn.done() and self.told.empty()):
            with contextlib.suppress(queue.Empty):
                yield self.told.get(timeout=0.1)

    def forget(self) -> None:
        """Drops what a drawing told that nobody waited for."""
        while not self.told.empty():
            self.told.get_nowait()


class Engine:
    """Draws with a run, for one person at a time.

    A checkpoint that is newer than the one in use is opened at the next press of a button.
    """

    def __init__(self, workdir: str, checkpoint: str = "latest"):
        self._place, self._follows = (workdir, checkpoint), checkpoint == "latest"
        self._lock, self._compiled = threading.Lock(), dict[Any, Any]()
        self._stamp, files = self._latest(), self._files()
        self._open(load_run(*self._place), files)

    def _open(self, found: Run, files: list[bytes]) -> None:
        self.run = Watched(**{f.name: getattr(found, f.name) for f in fields(found)})
        self._network, self._chunk = files, chunk_size(self.run)
        self._compiled.clear()

    def _latest(self) -> Any:
        """What tells the latest checkpoint from others, also from one of the same step."""
        store = checkpoints.manager(self._place[0])
        step = store.latest_step()
        return step is not None and (step, store.path(step).stat().st_ino)

    def _files(self) -> list[bytes]:
        """What a run's network is built from, beside its weights."""
        paths = (Path(self._place[0]) / name for name in ("config.json", moments.NAME))
        return [path.read_bytes() for path in paths if path.exists()]

    def _renewed(self) -> Watched:
        """The run with its latest weights; what was compiled is kept if its network is the same."""
        if self._follows and (stamp := self._latest()) != self._stamp:
            files, found = self._files(), load_run(*self._place)
            if files == self._network:
                self.run = replace(self.run, variables=found.variables, step=found.step)
            else:
                self._open(found, files)
            self._stamp = stamp
        return self.run

    def _how(self, settings: Settings) -> methods.DrawConfig:
        return settings.how(self._place[0])

    def _kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """A compiled function; those that were used last are kept."""
        found = self._compiled.pop(key, None) or make()
        while len(self._compiled) >= MOST_KEPT:
            del self._compiled[next(iter(self._compiled))]
        self._compiled[key] = found
        return found

    def draw(self, settings: Settings) -> Iterator[list[Frame]]:
        """Yields all moments so far whenever there are more; the last is the finished pictures.

        Raises:
          RunError: for an impossible time grid, a label that there is not, or a run that has gone.
        """
        with self._lock, ThreadPoolExecutor(1) as pool:
            run = self._renewed()
            how, chunk, num = self._how(settings), self._chunk, settings.num
            one = self._kept(how, lambda: sampler(how, run, chunk, make_mesh(1)))
            starts = range(0, num, chunk)
            every = -(-methods.evaluations(how) * len(starts) // MOST_FRAMES)
            shown, frames = np.full((num, *run.config.data.shape), 255, np.uint8), list[Frame]()
            run.forget()
            weights = run.variables
            for first in starts:
                rows = slice(first, min(first + chunk, num))
                drawn = pool.submit(
                    lambda first=first: to_uint8(one(first, settings.seed, weights))
                )
                for number, (t, x0) in enumerate(run.listen(drawn)):
                    if number % every == 0:
                        shown = shown.copy()
                        shown[rows] = to_uint8(np.nan_to_num(x0[: rows.stop - first]))
                        frames.append(Frame(int(t), shown))
                        yield list(frames)
                shown = shown.copy()
                shown[rows] = drawn.result()[: rows.stop - first]
            yield [*frames, Frame(0, shown)]

    def between(self, settings: Settings, other: int) -> np.ndarray:
        """Pictures from the first of a seed to the first of another, by DDIM without noise.

        uint8 [BETWEEN, h, w, c]; the ends are those that `experiments.sample` draws, up to
        rounding. DDIM section 5.3, equation 67.
        """
        with self._lock:
            run = self._renewed()
            how = replace(self._how(settings), method="ddim", eta=0.0)
            grid, labels = methods.time_grid(how, run.schedule), self._labels(how)

            def arc(variables: Any, seeds: jax.Array) -> jax.Array:
                unit = Gaussian(jnp.zeros((1, *run.config.data.shape), jnp.float32), jnp.float32(1))

                def x_T(seed: jax.Array) -> jax.Array:
                    keys = checks.example_keys(checks.new_key(seed), 1)
                    return draw(keys, unit, jnp.int32(0))

                label = labels(checks.new_key(seeds[0]), 1)
                fn = run.quiet(variables, label=label, guidance=how.guidance)
                share = jnp.linspace(0, 1, BETWEEN)
                ends = x_T(seeds[0]), x_T(seeds[1])
                return jaxddim.interpolate(fn, run.schedule, grid, *ends, share)[:, 0]

            made = self._kept(("between", how), lambda: jaxddim.compiled(arc))
            return to_uint8(made(run.variables, np.array([settings.seed, other], np.uint32)))

    def there_and_back(self, picture: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """A picture, uint8 [h, w, c], encoded and decoded again: its code as a picture, and it.

        DDIM equation 14; each step up is refined once.
        """
        with self._lock:
            run = self._renewed()
            schedule, fn = run.schedule, run.quiet(run.variables, clip_x0=False)
            with run_errors(f"{steps} steps"):
                grid = jaxddim.timesteps(
                    schedule.num_steps, steps, fraction=fraction_of(fn, schedule), schedule=schedule
                )

            def both(variables: Any, x0: jax.Array) -> tuple[jax.Array, jax.Array]:
                fn = run.quiet(variables, clip_x0=False)
                z = jaxddim.encode(fn, schedule, grid, x0, refine=1)
                return z, jaxddim.decode(fn, schedule, grid, z)

            made = self._kept(("back", steps), lambda: jaxddim.compiled(both))
            z, x0 = made(run.variables, picture[None] / np.float32(127.5) - 1)
            return to_uint8(z / 3)[0], to_uint8(x0)[0]

    def inpaint(self, settings: Settings, picture: np.ndarray, anew: np.ndarray) -> np.ndarray:
        """Pictures that are this one outside of `anew`, bool [h, w], uint8 [4, h, w, c]."""
        with self._lock:
            run = self._renewed()
            how = replace(self._how(settings), method="ddpm", eta=0.0)
            grid, labels = methods.time_grid(how, run.schedule), self._labels(how)

            def filled(
                variables: Any, seed: jax.Array, x0: jax.Array, mask: jax.Array
            ) -> jax.Array:
                key = checks.new_key(seed)
                fn = run.quiet(variables, label=labels(key, len(x0)), guidance=how.guidance)
                return jaxddim.inpaint(key, fn, run.schedule, grid, x0, mask, jump=10, repeats=3)

            made = self._kept(("inpaint", how), lambda: jaxddim.compiled(filled))
            x0 = np.repeat(picture[None] / np.float32(127.5) - 1, 4, axis=0)
            seed = np.uint32(settings.seed)
            return to_uint8(made(run.variables, seed, x0, ~anew[..., None]))

    def _labels(self, how: methods.DrawConfig) -> Callable[[jax.Array, int], jax.Array | None]:
        """``labels(key, num)``, those of the first images."""
        found = methods.labeller(how, self.run.config.model.num_classes, self.run.classes)
        return lambda key, num: None if found is None else found(key, jnp.arange(num))

    def read(self, file: Path | BinaryIO) -> np.ndarray:
        """An uploaded picture as for training, uint8 [h, w, c].

        Raises:
          UserError: when it is none, or larger than pictures are.
        """
        height, width, channels = self.run.config.data.shape
        with decoding.without_warnings():
            found = decoding.decode(file, (height, width), channels)
        if found.image is None:
            raise UserError(f"this file cannot be read as a picture: {found.remark}")
        return found.image
