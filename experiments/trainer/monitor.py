"""Monitoring a run: loss, speed, progress bar and stop signals."""

import gc
import math
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.terminal import interrupts, processes
from experiments.terminal.progress import ticks

IN_FLIGHT = 2
"""Steps that may be queued on the device before the loop waits for one."""


class Diverged(Exception):
    """A metric of a step was not a finite number."""

    def __init__(self, step: int, value: float, name: str = "loss"):
        self.step = step
        super().__init__(f"the {name.replace('_', ' ')} became {value} at step {step}")


class Window:
    """Metrics since the last log point, fetched late so that the device need not wait.

    The rate is that of finished steps over the time that they took. Before there is one, it and
    the loss are None.

    Args:
      batch_size: images in a step.
      since: metrics of earlier steps since the last log point, of a run that is resumed.
    """

    def __init__(self, batch_size: int, since: Sequence[dict[str, float]] = ()):
        self.loss: float | None = None
        self.rate: float | None = None
        self._batch_size = batch_size
        self._pending: deque[tuple[int, dict[str, jax.Array]]] = deque()
        self._done = list(since)
        self._steps, self._seconds = 0, 0.0
        self._mark = time.perf_counter()

    def begin(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Adds a process's first step, whose time is not counted: most of it is compilation.

        Raises:
          Diverged: when a metric was not finite.
        """
        with self.paused():
            self._done.append(self._read(step, metrics))

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Adds a step's metrics, and waits for those from IN_FLIGHT steps earlier.

        Raises:
          Diverged: when a metric was not finite.
        """
        self._pending.append((step, metrics))
        while len(self._pending) > IN_FLIGHT:
            self._fetch()

    @property
    def since(self) -> list[dict[str, float]]:
        """The metrics of each step since the last log point, as far as they were waited for."""
        return list(self._done)

    def wait(self) -> None:
        """Waits for every step taken so far.

        Raises:
          Diverged: when a metric was not finite.
        """
        while self._pending:
            self._fetch()

    def _fetch(self) -> None:
        self._done.append(self._read(*self._pending.popleft()))
        now = time.perf_counter()
        self._steps, self._seconds = self._steps + 1, self._seconds + now - self._mark
        self._mark = now
        if self._seconds > 0:
            self.rate = self._steps * self._batch_size / self._seconds

    def _read(self, step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
        values = read(step, metrics)
        self.loss = values["loss"]
        return values

    def flush(self) -> dict[str, float]:
        """Mean metrics and images per second since the last log point; then starts again.

        There is no number of images per second where no time was counted, as after `begin` alone.
        """
        self.wait()
        values = {name: float(np.mean([m[name] for m in self._done])) for name in self._done[0]}
        if self._seconds > 0:
            values["images_per_second"] = self._steps * self._batch_size / self._seconds
        self._done, self._steps, self._seconds = [], 0, 0.0
        return values

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time spent inside the block from the training time."""
        self.wait()
        yield
        self._mark = time.perf_counter()


def peak_memory() -> float:
    """The most memory so far, in GiB: of the device that has used most, else of this process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
    if not peaks:
        unit = 1 if sys.platform == "darwin" else 1024
        peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit]
    return max(peaks) / 2**30


def read(step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    """The metrics of a step, which are waited for.

    Raises:
      Diverged: when one of them is not finite.
    """
    values = {name: float(np.mean(np.asarray(value))) for name, value in metrics.items()}
    for name in sorted(values, key=lambda name: name != "loss"):
        if not math.isfinite(values[name]):
            raise Diverged(step, values[name], name)
    return values


@contextmanager
def settled() -> Iterator[None]:
    """In the block garbage collections pass over what there is at its start.

    Tracing and compiling leave hundreds of thousands of objects that stay, and a step makes
    thousands, its arrays, which have Python look through all of them every few dozen steps.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yields a list that receives SIGINT or SIGTERM; a second signal has its usual effect.

    In a command that is to end the process at once. Of several processes JAX takes the signals, see
    `processes.stop_agreed`.

    Outside the main thread, where Python sets no handler, signals have their usual effect.
    """
    received: list[int] = []
    before = {}
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    if processes.joined():
        with interrupts.patience(), processes.interrupts_passed_on():
            yield received
        return

    def handle(number: int, frame: Any) -> None:
        del frame
        interrupts.tell(number)
        received.append(number)
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handle) or signal.SIG_DFL  # None: set outside Python
    try:
        with interrupts.patience():
            yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress(
    console: Console, step: int, total: int, unit: str = "images"
) -> Iterator[Callable[[int, float | None, float | None], None]]:
    """A progress bar, or lines on stderr; yields ``show(step, loss, units_per_second)``.

    What is None is not shown.
    """
    if not console.is_terminal:
        tell = ticks("training", total, "step")
        yield lambda step, loss, rate: tell(step, numbers(loss, rate, unit))
        return
    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, completed=step, numbers="")

        def show(step: int, loss: float | None, rate: float | None) -> None:
            bar.update(task, completed=step, numbers=numbers(loss, rate, unit).removeprefix(" | "))

        yield show


def numbers(loss: float | None, rate: float | None, unit: str = "images", digits: int = 4) -> str:
    """Those that there are, each after a rule.

    Example:
      >>> numbers(0.25, 77.72), numbers(0.25, None)
      (' | loss 0.2500 | 77.7 images/s', ' | loss 0.2500')
    """
    told = "" if loss is None else f" | loss {loss:.{digits}f}"
    return told + ("" if rate is None else f" | {rate:.1f} {unit}/s")
