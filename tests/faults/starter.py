"""Starts commands fast, and ends them where a test wants: a process from which others fork.

It has imported what commands import, and started no JAX backend. A line on stdin is a request:

    {"name": "train", "flags": [...], "out": FILE, "trap": [TARGET, COUNT, WHEN], "signals": [9]}

The fork sends itself these signals at the COUNT-th call of TARGET, "module:name": before it, after
it, or half through the file that it writes; or this call and all later ones say that the disk is
full ("full"). "run" is Python that runs there instead. With "seconds" it is killed after that time,
"size" limits its files in bytes, and "bound" has root obey the permissions of files as others do.
With "port" two processes of a run are forked, which meet there; the trap is in number "who", and
soon after its end the other one is killed, as a cluster does. The answer on stdout is the exit
status.
"""

import ctypes
import errno
import functools
import importlib
import json
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from typing import Any

from jax._src import compilation_cache, compiler

from experiments.terminal.processes import VARIABLES
from jaxddim.runs import build
from tests.faults import small

IMPORTED = (
    "experiments.train",
    "experiments.evaluate",
    "experiments.sample",
    "tensorboardX",
    "tyro",
    "grain.python",
    "orbax.checkpoint",
    "PIL.Image",
)


PATIENCE, HANGS = 300.0, 999
"""Seconds after which a command hangs, and the exit status of one that does."""
GRACE = 0.2
"""Seconds in which a process ends by itself after the other one."""


def half(write: Any, send: Any, *arguments: Any, **options: Any) -> None:
    """Calls a function that writes a file, and ends half-way."""
    *rest, last = arguments
    if callable(last):  # replace(path, write)

        def some(file: Any) -> None:
            last(file)
            file.flush()
            os.ftruncate(file.fileno(), file.tell() // 2)
            send()

        write(*rest, some, **options)
    elif isinstance(last, bytes):  # replace(workdir, name, content), or a line of a log
        write(*rest, last[: len(last) // 2], **options)
    send()


def set_trap(numbers: list[int], run: str, target: str, count: int, when: str) -> None:
    """Sends this process these signals, and runs this, at the count-th call of a function."""

    def send() -> None:
        exec(run)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    module, _, name = target.partition(":")
    owner = importlib.import_module(module)
    *path, name = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), []

    @functools.wraps(real)
    def trapped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if when == "full" and len(calls) >= count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if len(calls) != count or when == "full":
            return real(*arguments, **options)
        if when == "half":
            half(real, send, *arguments, **options)
        if when == "before":
            send()
        found = real(*arguments, **options)
        if when == "after":
            send()
        return found

    setattr(owner, name, trapped)


def obey_permissions() -> None:
    """Gives up what lets root read and write any file: Linux's CAP_DAC_* and CAP_FOWNER."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, in two halves
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (libc.capget, libc.capset):
        if call(header, sets):
            raise OSError(ctypes.get_errno(), "the capabilities cannot be changed")
        sets[0] &= ~0b1110


def keep_compiled() -> None:
    """What is compiled is kept by this process too: on CPU the first one's is of no use to it."""

    def write(key: str, seconds: float, name: str, backend: Any, program: Any, _: Any) -> None:
        compilation_cache.put_executable_and_time(key, name, program, backend, int(seconds))

    compiler._cache_write = write  # which leaves it to the first process


def serve(request: dict[str, Any], index: int) -> None:
    """In the fork: runs the command as a user would, with its output in a file."""
    if "port" in request:
        address = f"127.0.0.1:{request['port']}"
        os.environ |= dict(zip(VARIABLES, (address, "2", str(index)), strict=True))
        os.environ["JAX_COORDINATOR_BIND_ADDRESS"] = address
        keep_compiled()
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [request["name"], *request["flags"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may ignore it
    if "size" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["size"],) * 2)
    if "bound" in request:
        obey_permissions()
    if "trap" in request and index == request.get("who", 0):
        sent = [] if "run" in request else request.get("signals", [signal.SIGKILL])
        set_trap(sent, request.get("run", ""), *request["trap"])
    sys.modules.pop(f"experiments.{request['name']}", None)
    try:
        runpy.run_module(f"experiments.{request['name']}", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        sys.stdout.flush()
        os._exit(stop.code if isinstance(stop.code, int) else 0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def ended(child: int, seconds: float) -> int:
    """The exit status of a process, which is killed after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL if seconds < PATIENCE else HANGS


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    build.SimpleUNet = small.Small
    for line in sys.stdin:
        request = json.loads(line)
        children = []
        for index in range(2 if "port" in request else 1):
            children.append(os.fork())
            if children[-1] == 0:
                serve(request, index)
        code = ended(children.pop(request.get("who", 0)), request.get("seconds", PATIENCE))
        others = [ended(child, GRACE if code else PATIENCE) for child in children]
        print(code or max(others, default=0), flush=True)
