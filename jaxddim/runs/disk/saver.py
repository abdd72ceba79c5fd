"""How Orbax saves a checkpoint here: summed and flushed before it has a name, and without noise."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint._src.futures import future, signaling_client  # they have no public names

from jaxddim.files.writing import flush_all
from jaxddim.runs.disk import sums

PEERS = 120
"""Seconds that a process waits for others to have saved."""
FOREVER = 10**9
"""For a process that is alone."""
CLOSED = "Event loop is closed"


class Handler(ocp.CompositeCheckpointHandler):
    """Completes a checkpoint before it gets its name."""

    records: Mapping[str, Any]

    def finalize(self, directory: Any) -> None:
        super().finalize(directory)
        folder = Path(directory)
        for name, record in self.records.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(record))
        sums.write(folder)
        flush_all(folder)


@ocp.args.register_with_handler(Handler, for_save=True, for_restore=True)
class Items(ocp.args.Composite):
    """What is saved by this handler."""


class _Steady:
    """Time for Orbax's futures, which give up when the clock is set forward meanwhile."""

    time = staticmethod(time.monotonic)


def checkpointer(handler: Handler, prefix: str) -> ocp.AsyncCheckpointer:
    """Orbax's checkpointer, which saves in the background.

    Args:
      handler: of the checkpoints.
      prefix: tells its barriers between processes from those of others.
    """
    alone = jax.process_count() == 1
    if alone:
        for module in (future, signaling_client):
            vars(module)["time"] = _Steady
    return ocp.AsyncCheckpointer(
        handler,
        async_options=ocp.AsyncOptions(
            timeout_secs=FOREVER if alone else PEERS,
            create_directories_asynchronously=False,  # so that a mistake is found at once
        ),
        multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=prefix),
    )


def quiet() -> None:
    """Drops what Orbax, asyncio and TensorStore's threads say of errors that are raised too."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    _ignore_closed_loops()


def _is_news(record: logging.LogRecord) -> bool:
    """Orbax logs tracebacks of errors that it raises, too, and asyncio those that follow them."""
    return "orbax" not in record.pathname and "never retrieved" not in record.getMessage()


def _ignore_closed_loops() -> None:
    """Drops what TensorStore's threads say when a file has failed, and others are done later."""
    before = sys.unraisablehook
    if getattr(before, "ignores", None) == CLOSED:
        return

    def hook(found: Any) -> None:
        if str(found.exc_value) != CLOSED:
            before(found)

    hook.ignores = CLOSED  # pyrefly: ignore[missing-attribute]
    sys.unraisablehook = hook
