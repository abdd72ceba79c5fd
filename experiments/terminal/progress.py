"""Progress bars."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.status import Status

from experiments.terminal.texts import printable


class _Plain(Console):
    """Prints each text on one line, with escapes for what the terminal cannot show."""

    def print(self, *objects: Any, **options: Any) -> None:
        def shown(one: Any) -> Any:
            if not isinstance(one, str):
                return one
            return printable(one).encode(self.encoding, "backslashreplace").decode(self.encoding)

        super().print(*map(shown, objects), **options)


def console(*, stderr: bool = False) -> Console:
    """Where messages are printed: names as they are, whatever brackets and colons are in them."""
    return _Plain(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def status(shown: Console, text: str) -> Status:
    """A line with a spinner that the terminal's encoding has, for the time of a block."""
    ascii_only = shown.options.ascii_only
    return shown.status(escape(printable(text)), spinner="line" if ascii_only else "dots")


def tracked(items: Sequence[int], what: str) -> Iterable[int]:
    """The items, with a progress bar on stderr if that is a terminal."""
    shown = console(stderr=True)
    return track(items, escape(printable(what)), console=shown) if shown.is_terminal else items
