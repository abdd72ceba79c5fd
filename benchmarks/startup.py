"""python -m benchmarks.startup: how long a user waits for the first training step.

Everything is measured in new processes with a temporary home folder, on images that were drawn
before. "cold" starts with an empty compilation cache; "warm" is the same again, the median of three
runs. CPU seconds count all threads; if they are far below wall-clock seconds, the machine was busy
or slow to read its files.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIGS = ("demo", "cars")
TIMES = {"cold": 1, "warm": 3}
BATCH = 8  # images of the step whose compilation is timed
REPOSITORY = Path(__file__).parent.parent
DRAW = """
import sys
from experiments import data
from jaxddim.runs.presets import PRESETS
data.load(PRESETS[sys.argv[1]]().data)
"""


def measure() -> dict[str, float]:
    """Seconds, as {"demo first step, cold": wall, "demo compile, warm, cpu": cpu, ...}."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as home:
        for config in CONFIGS:
            subprocess.run([sys.executable, "-c", DRAW, config], check=True, **_where(home, "draw"))
            for measured in (first_step, compile_step):
                for cache, times in TIMES.items():
                    runs = [measured(home, config) for _ in range(times)]
                    for name in runs[0]:
                        seconds = statistics.median(run[name] for run in runs)
                        found[f"{config} {name}, {cache}"] = seconds
    return found


def first_step(home: str, config: str) -> dict[str, float]:
    """Seconds from the start of an `experiments.train` process to the end of its first step."""
    workdir = tempfile.mkdtemp(dir=home)
    command = [sys.executable, "-m", "experiments.train", "--config", config, "--workdir", workdir]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, **_where(home, config)
    ) as process:
        assert process.stdout is not None
        try:
            if not any("first step" in line for line in process.stdout):
                raise RuntimeError(f"{' '.join(command)} ended before its first step")
            return {"first step": time.perf_counter() - began}
        finally:
            process.kill()


def compile_step(home: str, config: str) -> dict[str, float]:
    """Seconds to trace, lower and compile a training step of `BATCH` images."""
    command = [sys.executable, "-m", "benchmarks.startup", config]
    where = _where(home, f"{config}-step")
    lines = subprocess.run(command, check=True, capture_output=True, text=True, **where).stdout
    pairs = (line.rsplit(" ", 1) for line in lines.splitlines())
    return {name: float(seconds) for name, seconds in pairs}


def _where(home: str, cache: str) -> dict:
    """Working folder and environment of a user with an empty home and a compilation cache."""
    ours = ("XDG_CACHE_HOME", "TFDS_DATA_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in ours and k[:4] != "JAX_"}
    new = {"HOME": home, "XDG_CACHE_HOME": "", "PYTHONUNBUFFERED": "1"}
    new["JAX_COMPILATION_CACHE_DIR"] = str(Path(home) / "compiled" / cache)
    return {"env": environment | new, "cwd": REPOSITORY}


def _time_compilation(config: str) -> None:
    """Prints the times that `compile_step` reads; runs in a separate process."""
    import jax
    import jax.numpy as jnp

    import jaxddim
    from jaxddim.runs.build import abstract_state, build
    from jaxddim.runs.presets import PRESETS

    jaxddim.keep_memory()
    setup = build(PRESETS[config]())
    diffusion, shape = setup.config.diffusion, setup.config.data.shape

    def step(state: jaxddim.TrainState, batch: jax.Array):
        return jaxddim.train_step(
            state,
            batch,
            apply_fn=setup.model.apply,
            tx=setup.tx,
            schedule=setup.schedule,
            kind=diffusion.kind,
            norm=diffusion.norm,
        )

    batch = jax.ShapeDtypeStruct((BATCH, *shape), jnp.float32)
    state = abstract_state(setup)
    jitted = jaxddim.jit_step(step)
    stage = jitted
    for name in ("trace", "lower", "compile"):
        wall, cpu = time.perf_counter(), time.process_time()
        stage = getattr(stage, name)(*((state, batch) if name == "trace" else ()))
        print(f"{name} {time.perf_counter() - wall}")
        print(f"{name} (cpu) {time.process_time() - cpu}")


if __name__ == "__main__":
    if sys.argv[1:]:
        _time_compilation(sys.argv[1])
    else:
        for name, seconds in measure().items():
            print(f"{name:32} {seconds:7.2f} s")
