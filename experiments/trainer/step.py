"""The training step of a run, compiled while its images and its weights are made.

XLA needs the shapes alone, and for half of its time it has work for one core only.
"""

import contextlib
import functools
import threading
from typing import Any

import jax
from jax.sharding import Mesh

import jaxddim
from experiments.terminal import processes
from jaxddim import TrainState
from jaxddim.runs.build import Setup
from jaxddim.training import meshes

VLB = 0.001
"""The weight of the variational bound where the variance is learned (arXiv 2102.09672)."""


class Step:
    """``step(state, batch)``, which waits until it is compiled.

    Attributes:
      mesh: the devices.
      jitted: the jitted step; None before `begin`.
    """

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.jitted: Any = None
        self._thread: threading.Thread | None = None

    def begin(self, setup: Setup, abstract: TrainState) -> None:
        """Traces the step and begins to compile it, once.

        Of several processes each does so when the step is first called.

        Args:
          setup: of the run.
          abstract: the shapes of its state.
        """
        if self.jitted is not None:
            return
        self.jitted = compiled_step(setup, self.mesh)
        if jax.process_count() > 1:
            return
        with contextlib.suppress(Exception):  # it is raised again by the call
            lowered = self.jitted.lower(*_shapes(setup, abstract, self.mesh))
            self._thread = threading.Thread(
                target=_compile, args=[lowered], name=processes.COMPILING
            )
            self._thread.start()

    def wait(self) -> None:
        """Returns when nothing is being compiled any more."""
        if self._thread:
            self._thread.join()

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        self.wait()
        return self.jitted(state, batch)


def _shapes(setup: Setup, abstract: TrainState, mesh: Mesh) -> tuple[TrainState, Any]:
    """State and batch without their numbers, as the step gets them."""
    config = setup.config
    where = meshes.shardings(abstract, mesh, split=config.train.split_state)
    state = jax.tree.map(lambda leaf, place: leaf.update(sharding=place), abstract, where)

    def rows(*shape: int, dtype: str) -> jax.ShapeDtypeStruct:
        size = config.train.batch_size
        return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=meshes.by_rows(mesh))

    images = rows(*config.data.shape, dtype="float32")
    if config.model.labels:
        return state, {"image": images, "label": rows(dtype="int32")}
    return state, images


def _compile(lowered: Any) -> None:
    with contextlib.suppress(Exception):  # it is raised again by the call
        lowered.compile()


def compiled_step(setup: Setup, mesh: Mesh) -> Any:
    """The training step for the devices of a mesh."""
    config = setup.config
    step_fn = functools.partial(
        jaxddim.train_step,
        apply_fn=setup.model.apply,
        tx=setup.tx,
        schedule=setup.schedule,
        seed=config.seed,
        ema=config.optim.ema,
        kind=config.diffusion.kind,
        norm=config.diffusion.norm,
        weighting=setup.weighting,
        times=setup.times,
        vlb=VLB if config.diffusion.learned_variance else None,
        accumulate=config.train.accumulate,
        null_label=config.model.num_classes if config.model.labels else None,
    )
    return jaxddim.jit_step(step_fn, mesh, split_state=config.train.split_state)
