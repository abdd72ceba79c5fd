"""Progress bars."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.status import Status


def console(*, stderr: bool = False) -> Console:
    """Where messages are printed: names as they are, whatever brackets and colons are in them."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def status(shown: Console, text: str) -> Status:
    """A line with a spinner that the terminal's encoding has, for the time of a block."""
    ascii_only = shown.options.ascii_only
    return shown.status(escape(text), spinner="line" if ascii_only else "dots")


def tracked(items: Sequence[int], what: str) -> Iterable[int]:
    """The items, with a progress bar on stderr if that is a terminal."""
    shown = console(stderr=True)
    return track(items, escape(what), console=shown) if shown.is_terminal else items
