"""The commands, and a folder for each stage of a run.

While a command is being imported, Ctrl-C ends it as `terminal.interrupts` does later.
"""

import os
import signal
import sys
from typing import Any

INTERRUPTED = "stopped by Ctrl-C"


def end(*_: Any) -> None:
    """Says that Ctrl-C has stopped the process, and ends it without its teardown."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(128 + signal.SIGINT)


# so while `python -m experiments.NAME` looks for its module
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end)
