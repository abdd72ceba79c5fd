"""Ctrl-C and SIGTERM in a command: one line, exit code 128 + n, and no file half-written.

Python raises KeyboardInterrupt wherever the main thread happens to be: in a callback of the garbage
collector, which swallows it, in a library that makes another exception of it, or in the teardown of
the process, where XLA's threads may still run. So a swallowed one is raised again, whatever is
raised after it counts as the signal, and the process ends without teardown. While the main thread
is in compiled code, which may take minutes, Python raises nothing at all: a thread watches the
signals and ends the process if that takes too long, or if there is a second one.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from experiments import end, stopped_by

AGAIN = 0.05
"""Seconds after which a swallowed interrupt is raised again."""
PATIENCE = 2.0
"""Seconds that the main thread has after a signal to tidy up."""
PACKAGES = ("benchmarks", "experiments")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Watched:
    """What the watching thread knows.

    Attributes:
      ends_itself: whether the main thread ends the process after a signal, however long it takes.
      raised: signals that this module has sent itself.
      pipe: where the system writes the number of each signal.
    """

    ends_itself = False
    raised = 0
    pipe: int | None = None


def is_command() -> bool:
    """Whether this process is one of the commands, not a notebook or a test that calls one."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in PACKAGES


@contextlib.contextmanager
def handled() -> Iterator[list[int]]:
    """Ends the process after a signal in the block; what the block has begun is tidied up first.

    Yields a list that is empty until then.

    Raises:
      SystemExit: with code 130, where the process is not a command.
    """
    arrived: list[int] = []
    inside: list[Any] = []
    numbers = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    if not is_command() or not numbers:
        try:
            yield arrived
        except KeyboardInterrupt:
            print(stopped_by(signal.SIGINT), file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        return

    def interrupt(number: int, frame: Any) -> None:
        tell(number)
        arrived.append(number)
        logging.disable()  # what libraries say of it
        if not inside:
            raise KeyboardInterrupt

    def again() -> None:
        _Watched.raised += 1
        signal.pthread_kill(main, numbers[0])

    def unraisable(found: Any) -> None:
        inside.append(found)  # Python would print what is raised in here, and lose it
        before, swallowed = len(arrived), found.exc_type is KeyboardInterrupt
        try:
            if not swallowed and not arrived:
                sys.__unraisablehook__(found)
            if swallowed or len(arrived) > before:
                threading.Timer(AGAIN, again).start()
        finally:
            inside.pop()

    def in_thread(found: Any) -> None:
        if not arrived:
            threading.__excepthook__(found)

    main = threading.get_ident()
    sys.unraisablehook, threading.excepthook = unraisable, in_thread
    watch()
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield arrived
    except BaseException:
        if not arrived:
            raise
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # all is done
        if arrived:
            with contextlib.suppress(OSError):  # a pipe whose reader has gone
                sys.stdout.flush()
            end(arrived[0])


def watch() -> None:
    """Starts the thread that sees signals also while the main thread is in compiled code."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    _Watched.pipe = write
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=[read], daemon=True, name="signals").start()


def tell(number: int) -> None:
    """Tells the thread of a signal that went elsewhere, as while Orbax's event loop runs."""
    if _Watched.pipe is None:
        return
    now = signal.set_wakeup_fd(_Watched.pipe, warn_on_full_buffer=False)
    if now != _Watched.pipe:
        signal.set_wakeup_fd(now, warn_on_full_buffer=False)
        os.write(_Watched.pipe, bytes([number]))


def _watch(read: int) -> None:
    seen = 0
    while True:
        (number,) = os.read(read, 1)
        if number not in SIGNALS:
            continue
        if _Watched.raised:
            _Watched.raised -= 1
            continue
        seen += 1
        if seen > 1:
            end(number)
        if not _Watched.ends_itself:
            timer = threading.Timer(PATIENCE, end, [number])
            timer.daemon = True
            timer.start()


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """In the block the main thread ends by itself after a signal; only a second one acts."""
    _Watched.ends_itself = True
    try:
        yield
    finally:
        _Watched.ends_itself = False
