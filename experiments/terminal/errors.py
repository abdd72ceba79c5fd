"""User errors, as distinct from bugs."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """An error of the user: shown as one line on stderr with exit code 2, without a traceback.

    The message says what was wrong, what was expected, and what to do.
    """


@contextlib.contextmanager
def user_mistakes(flag: str = "") -> Iterator[None]:
    """Reports a ValueError of the library as a user error, after the flag that caused it.

    For calls whose arguments all come from the command line, before any work is done.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(f"{flag}: {error}" if flag else str(error)) from error
