"""The commands, and a folder for each stage of a run.

While a command is being imported, a signal ends it as `terminal.interrupts` does later.
"""

import os
import signal
import sys
import threading
import time
from typing import Any

INTERRUPTED = "stopped by Ctrl-C"
_ending = threading.Lock()


def stopped_by(number: int) -> str:
    """What is said of a signal."""
    return INTERRUPTED if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"


def end(number: int = signal.SIGINT, *_: Any) -> None:
    """Says which signal has stopped the process, once, and ends it without its teardown."""
    if _ending.acquire(blocking=False):
        os.write(2, f"{stopped_by(number)}\n".encode())
    else:
        time.sleep(0.1)  # for another thread to say it
    os._exit(128 + number)


# so while `python -m experiments.NAME` looks for its module
if sys.argv[:1] == ["-m"]:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, end)
