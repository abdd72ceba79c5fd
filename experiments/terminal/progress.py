"""Progress bars."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import track


def tracked(items: Sequence[int], what: str) -> Iterable[int]:
    """The items, with a progress bar on stderr if that is a terminal."""
    console = Console(stderr=True, highlight=False)
    return track(items, what, console=console) if console.is_terminal else items
