"""Errors that tell the user what is wrong with a run."""

import contextlib
from collections.abc import Iterator


class RunError(ValueError):
    """A run that cannot be opened or built as asked.

    The message says what was wrong, what was expected and what to do. Commands print it as one
    line.
    """


@contextlib.contextmanager
def run_errors(flag: str = "") -> Iterator[None]:
    """Turns a ValueError about a configuration into a RunError, after the flag that caused it."""
    try:
        yield
    except RunError:
        raise
    except ValueError as error:
        raise RunError(f"{flag}: {error}" if flag else str(error)) from error
