"""Contenders as processes that take turns.

A contender builds its network and then waits. The line "OP REPEATS [SAVE_PATH]" on stdin calls its
method OP that often and saves the last result. The answer is one line of JSON on stdout:
{"seconds": per call, "peak_gb": peak memory so far}. A waiting process uses no CPU, so contenders
that take turns see the same machine noise.
"""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

ROOT = Path(__file__).parent.parent


def serve(contender: Any) -> None:
    """Answers requests on stdin until it is closed."""
    for line in sys.stdin:
        op, repeats, *path = line.split()
        method, output = getattr(contender, op), None
        started = time.perf_counter()
        for _ in range(int(repeats)):
            output = method()
        seconds = (time.perf_counter() - started) / int(repeats)
        if path:
            np.save(path[0], output)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "peak_gb": peak}), flush=True)


class Died(Exception):
    """A contender failed; the message says why, usually its last line of stderr."""


class Process:
    """One contender: ``python -m module *args``, which calls `serve`."""

    def __init__(self, errors: IO[str], cache: str, module: str, *args: Any):
        self._errors = errors
        self._started = time.perf_counter()
        self._popen = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env=os.environ
            | {
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share a GPU
                "TORCHINDUCTOR_CACHE_DIR": cache,  # no contender reuses a compilation
                "JAX_ENABLE_COMPILATION_CACHE": "false",
            },
        )
        # out of memory, a contender is killed rather than another process
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._popen.pid}/oom_score_adj").write_text("1000")
        self.start_seconds: float | None = None

    def ask(self, op: str, repeats: int = 1, save: Path | None = None) -> dict[str, float]:
        """Calls a method of the contender.

        Raises:
          Died: when there is no answer.
        """
        path = [str(save)] if save else []
        try:
            print(op, repeats, *path, file=self._popen.stdin, flush=True)
            line = self._popen.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Died(self._last_words())
        answer = json.loads(line)
        if self.start_seconds is None:  # the time before the first call
            passed = time.perf_counter() - self._started
            self.start_seconds = passed - repeats * answer["seconds"]
        return answer

    def _last_words(self) -> str:
        code = self._popen.wait()
        if code < 0:
            return f"was killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        errors = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
        return (errors or lines or [f"ended with code {code}"])[-1][:300]

    def close(self) -> None:
        self._popen.kill()
        self._popen.communicate()


@contextlib.contextmanager
def process(module: str, *args: Any) -> Iterator[Process]:
    """A `Process` that is closed at the end of the block."""
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as cache:
        contender = Process(errors, cache, module, *args)
        try:
            yield contender
        finally:
            contender.close()


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)`` in a fresh process, so that this one never loads JAX or PyTorch."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()
