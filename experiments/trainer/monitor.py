"""Monitoring a run: loss, speed, progress bar and stop signals."""

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

IN_FLIGHT = 2
"""Steps that may be queued on the device before the loop waits for one."""


class Diverged(Exception):
    """The loss of a step was not a finite number."""

    def __init__(self, step: int, loss: float):
        super().__init__(f"the loss became {loss} at step {step}")


class Window:
    """Metrics since the last log point, fetched late so that the device need not wait."""

    def __init__(self, batch_size: int):
        self.loss = math.nan
        self._batch_size = batch_size
        self._pending: deque[tuple[int, dict[str, jax.Array]]] = deque()
        self._done: list[dict[str, float]] = []
        self._started = time.perf_counter()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Adds a step's metrics, and waits for those from IN_FLIGHT steps earlier.

        Raises:
          Diverged: when a loss was not finite.
        """
        self._pending.append((step, metrics))
        while len(self._pending) > IN_FLIGHT:
            self._fetch()

    def wait(self) -> None:
        """Waits for every step taken so far.

        Raises:
          Diverged: when a loss was not finite.
        """
        while self._pending:
            self._fetch()

    def _fetch(self) -> None:
        step, metrics = self._pending.popleft()
        values = {name: float(np.mean(np.asarray(value))) for name, value in metrics.items()}
        self.loss = values["loss"]
        if not math.isfinite(self.loss):
            raise Diverged(step, self.loss)
        self._done.append(values)

    @property
    def rate(self) -> float:
        """Images per second since the last log point."""
        return len(self._done) * self._batch_size / (time.perf_counter() - self._started)

    def flush(self) -> dict[str, float]:
        """Mean metrics and images per second since the last log point; then starts again."""
        self.wait()
        values = {name: float(np.mean([m[name] for m in self._done])) for name in self._done[0]}
        values["images_per_second"] = self.rate
        self._done, self._started = [], time.perf_counter()
        return values

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time spent inside the block from the training time."""
        self.wait()
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yields a list that receives SIGINT or SIGTERM; a second signal has its usual effect.

    Outside the main thread, where Python sets no handler, signals have their usual effect.
    """
    received: list[int] = []
    before = {}
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handle) or signal.SIG_DFL  # None: set outside Python
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress(
    console: Console, step: int, total: int, unit: str = "images"
) -> Iterator[Callable[[int, float, float], None]]:
    """A progress bar, only on a terminal; yields ``show(step, loss, units_per_second)``."""
    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f} | {task.fields[rate]:.1f} " + f"{unit}/s |"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, completed=step, loss=math.nan, rate=0.0)
        yield lambda step, loss, rate: bar.update(task, completed=step, loss=loss, rate=rate)
