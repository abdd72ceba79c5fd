"""What is wrong with a run, said to the person who asked for it."""

import contextlib
from collections.abc import Iterator


class RunError(ValueError):
    """A run that cannot be opened or built as asked.

    The message says what was wrong, what was expected and what to do. Commands show one line.
    """


@contextlib.contextmanager
def run_errors() -> Iterator[None]:
    """Turns a ValueError about what a configuration asks for into a RunError."""
    try:
        yield
    except RunError:
        raise
    except ValueError as error:
        raise RunError(str(error)) from error
