"""Ctrl-C in a command: one line, exit code 130, and no file half-written.

Python raises KeyboardInterrupt wherever the main thread happens to be: in a callback of the garbage
collector, which swallows it, in a library that makes another exception of it, or in the teardown of
the process, where XLA's threads may still run. So a swallowed one is raised again, whatever is
raised after it counts as Ctrl-C, and the process ends without teardown.
"""

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from experiments import INTERRUPTED, end

AGAIN = 0.05
"""Seconds after which a swallowed interrupt is raised again."""
PACKAGES = ("benchmarks", "experiments")


def is_command() -> bool:
    """Whether this process is one of the commands, not a notebook or a test that calls one."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in PACKAGES


@contextlib.contextmanager
def handled() -> Iterator[list[int]]:
    """Ends the process after Ctrl-C in the block; what the block has begun is tidied up first.

    Yields a list that is empty until Ctrl-C.

    Raises:
      SystemExit: with code 130, where the process is not a command.
    """
    arrived: list[int] = []
    if not is_command() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        try:
            yield arrived
        except KeyboardInterrupt:
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        return

    def interrupt(number: int, frame: Any) -> None:
        arrived.append(number)
        logging.disable()  # what libraries say of it
        raise KeyboardInterrupt

    def unraisable(found: Any) -> None:
        if found.exc_type is KeyboardInterrupt:
            threading.Timer(AGAIN, signal.pthread_kill, [main, signal.SIGINT]).start()
        elif not arrived:
            sys.__unraisablehook__(found)

    def in_thread(found: Any) -> None:
        if not arrived:
            threading.__excepthook__(found)

    main = threading.main_thread().ident
    sys.unraisablehook, threading.excepthook = unraisable, in_thread
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield arrived
    except BaseException:
        if not arrived:
            raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done
        if arrived:
            with contextlib.suppress(OSError):  # a pipe whose reader has gone
                sys.stdout.flush()
            end()
