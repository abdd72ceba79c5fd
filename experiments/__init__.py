"""The commands, and a folder for each stage of a run.

While a command is being imported, Ctrl-C ends it as `terminal.cli` does later.
"""

import os
import sys

INTERRUPTED = "stopped by Ctrl-C"


def _hook(kind, error, trace):
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print(INTERRUPTED, file=sys.stderr, flush=True)
    os._exit(130)  # else the interpreter kills itself by the signal


if sys.argv[:1] == ["-m"]:  # so while `python -m experiments.NAME` looks for its module
    sys.excepthook = _hook
