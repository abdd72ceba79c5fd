"""A mistake of the user's, and how it is told from one of ours."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """A mistake of the user's: shown as one line on stderr with exit code 2, without a traceback.

    The message says what was wrong, what was expected, and what to do.
    """


@contextlib.contextmanager
def user_mistakes() -> Iterator[None]:
    """Reports a ValueError of the library as the user's mistake.

    For calls whose every argument comes from the command line, before any work is done.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error
