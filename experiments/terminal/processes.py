"""Several processes as one run: how they start, agree, stop and end (jax.distributed).

Each process runs the same command. JAX finds the others by SLURM, Open MPI, Kubernetes or Cloud
TPU, or by `VARIABLES`. A process that fails leaves at once, without waiting for the others; these
end when they miss it. Then XLA aborts the process, where Python cannot say anything: a small
process beside it does that, with the last words that it was given.
"""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.terminal import interrupts
from experiments.terminal.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT, SHUTDOWN = 30, 60
"""Seconds without a sign of life after which a process is given up, and of waiting at the end."""
TEXT = 1 << 16
"""Most bytes of what the processes compare."""
SHARED = ".shared-by-all"
"""The file by which the processes find out whether they see the same folder."""
COMPILING = "compiling"
"""The name of a thread that compiles, which cannot be stopped."""
_WITNESS = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
words = ""
for line in sys.stdin:
    words = line
text, _, folder = words.rstrip().partition("\\t")
if text:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = [int(name) for name in names if name.isascii() and name.isdigit()]
    last = os.path.join(folder, str(max(steps))) if steps else "none was saved"
    sys.stderr.write(text.replace("CHECKPOINT", last) + "\\n")
"""
_LOST = "(closed|reset) by peer|socket closed|broken pipe|coordination service|barrier|ncclRemote"
_witness: subprocess.Popen[str] | None = None


def start() -> None:
    """Joins the other processes; called before anything can start a JAX backend.

    Raises:
      UserError: when the variables are incomplete, or the processes are not found.
    """
    options = _by_hand()
    global _witness
    _witness = subprocess.Popen(
        [sys.executable, "-SE", "-c", _WITNESS], stdin=subprocess.PIPE, text=True
    )
    last_words("the processes of this run did not all start, or one of them has ended")
    try:
        jax.distributed.initialize(
            **options, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN
        )
    except (ValueError, RuntimeError) as error:
        last_words("")
        raise UserError(
            f"--distributed: the other processes were not found ({_first_line(error)}): start it "
            f"by SLURM, Open MPI or Kubernetes or on a Cloud TPU, or set {', '.join(VARIABLES)} "
            "in each process (docs/scale.md)"
        ) from None


def _by_hand() -> dict[str, Any]:
    found = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not found.keys() & set(VARIABLES[1:]):
        return {}
    if missing := [name for name in VARIABLES if name not in found]:
        raise UserError(f"--distributed: {', '.join(missing)} is not set, as the others are")
    address, *numbers = (found[name] for name in VARIABLES)
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise UserError(
            f"--distributed: {VARIABLES[1]} and {VARIABLES[2]} must be whole numbers, got "
            f"{numbers[0]!r} and {numbers[1]!r}"
        )
    count, index = map(int, numbers)
    if not index < count:
        raise UserError(
            f"--distributed: {VARIABLES[2]} must lie in [0, {VARIABLES[1]}), got {index} of {count}"
        )
    host, _, number = address.rpartition(":")
    if not host or not number.isascii() or not number.isdigit():
        raise UserError(f"--distributed: {VARIABLES[0]} must be HOST:PORT, got {address!r}")
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def joined() -> bool:
    """Whether this process has joined others, be it none."""
    return _witness is not None


def is_first() -> bool:
    """Whether this is the process that writes records and pictures and prints."""
    return jax.process_index() == 0


def last_words(text: str, folder: str | os.PathLike[str] = "") -> None:
    """What is printed if the process is aborted from now on; nothing for an empty text.

    CHECKPOINT in it becomes the latest step that there is in the folder then.
    """
    if _witness is not None and _witness.stdin is not None:
        _witness.stdin.write(" ".join(text.split()) + f"\t{os.fspath(folder)}\n")
        _witness.stdin.flush()


def lost(error: Exception) -> bool:
    """Whether an error says that another process cannot be reached any more.

    Example:
      >>> lost(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]"))
      True
      >>> lost(BrokenPipeError("Broken pipe"))  # of this process's own output
      False
    """
    return not isinstance(error, OSError) and bool(re.search(_LOST, str(error), re.IGNORECASE))


def end() -> None:
    """Waits for the other processes at the end of the command."""
    if joined():
        jax.distributed.shutdown()
        last_words("")


def leave(code: int) -> None:
    """Ends a process that has failed, after its message, where its teardown would wait.

    So it would for other processes, and for a command's thread that compiles.
    """
    compiling = any(thread.name == COMPILING for thread in threading.enumerate())
    if not joined() and not (compiling and interrupts.is_command()):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def gather(text: str) -> list[str]:
    """The texts of all processes, in their order; all must call it.

    Raises:
      ValueError: for a text longer than `TEXT`.
    """
    from jax.experimental import multihost_utils

    encoded = text.encode()
    if len(encoded) > TEXT:
        raise ValueError(f"{len(encoded)} bytes are too many to compare")
    padded = np.frombuffer(encoded.ljust(TEXT, b"\0"), np.uint8)
    found = np.asarray(multihost_utils.process_allgather(padded)).reshape(-1, TEXT)
    return [row.tobytes().rstrip(b"\0").decode() for row in found]


def check_equal(what: str, values: Mapping[str, Any]) -> None:
    """Checks that all processes have the same values; all must call it.

    Raises:
      UserError: in every process, naming the first that differs.
    """
    mine = "\n".join(f"{name} {value!r}" for name, value in values.items())
    for index, theirs in enumerate(texts := gather(mine)):
        if theirs != texts[0]:
            lines = zip(texts[0].splitlines(), theirs.splitlines(), strict=False)
            one, other = next((pair for pair in lines if pair[0] != pair[1]), (texts[0], theirs))
            raise UserError(
                f"process {index} was started with another {what} than process 0 ({other}, there "
                f"{one}): start all processes with the same command"
            )


def check_shared(folder: str | os.PathLike[str]) -> None:
    """Checks that all processes see the same folder; all must call it.

    Raises:
      UserError: in every process, when one does not.
    """
    path = Path(folder) / SHARED
    (word, *others) = gather(secrets.token_hex(8) if is_first() else "")
    if not others:
        return
    if is_first():
        with contextlib.suppress(OSError):  # nobody sees it then
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(word)
    gather("written")
    try:
        seen = path.read_text() == word
    except OSError:
        seen = False
    answers = gather(str(seen))
    if is_first():
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    if answers[0] == "False":
        raise UserError(f"--workdir {folder} cannot be written to: name another")
    if "False" in answers:
        raise UserError(
            f"--workdir {folder}: process {answers.index('False')} does not see the files that "
            "process 0 writes there: name a folder on a file system that all machines share"
        )


def stop_agreed(step: int) -> bool:
    """Whether all processes stop after this step, as one of them was told to (SIGTERM)."""
    from jax.experimental import multihost_utils

    return joined() and multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def interrupts_passed_on() -> Iterator[None]:
    """Makes Ctrl-C in the block the signal by which JAX tells all processes to stop.

    After it the signals end the process: JAX would ignore them.
    """
    signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
