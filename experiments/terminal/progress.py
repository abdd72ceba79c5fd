"""What a command is doing: spinners and bars on a terminal, else plain lines on stderr.

A line is written when its stage begins, and ends in " ...". Stdout is left to results. A stage
that may end in a user's mistake is told only once it has taken PATIENCE seconds, so that a mistake
which is found at once is the only line.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.text import Text

from experiments.terminal.texts import printable


class _Plain(Console):
    """Prints each text on one line, with escapes for what the terminal cannot show."""

    def print(self, *objects: Any, **options: Any) -> None:
        texts = [_plain(one, self) if isinstance(one, str) else one for one in objects]
        super().print(*texts, **options)


def console(*, stderr: bool = False) -> Console:
    """Where messages are printed: names as they are, whatever brackets and colons are in them."""
    return _Plain(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def _plain(text: str, shown: Console) -> str:
    """The text on one line, with escapes for what this terminal cannot show."""
    return printable(text).encode(shown.encoding, "backslashreplace").decode(shown.encoding)


def _text(text: str, shown: Console) -> Text:
    """The text for a spinner, which would take brackets and colons of a string for markup."""
    return Text(_plain(text, shown))


PATIENCE = 2.0
"""Seconds before a stage is told that may end in a user's mistake."""
EVERY = 10.0
"""Seconds without a line before the next one about something that repeats."""
STDERR = console(stderr=True)
"""Where spinners, bars and lines go, unless a command has its own console."""

T = TypeVar("T")


class _Lines:
    """The lines of this process: one at a time, one of which may be waiting."""

    def __init__(self):
        self.latest = time.monotonic()
        self._lock = threading.RLock()
        self._waiting: threading.Timer | None = None

    def say(self, text: str) -> None:
        """Writes a line, in place of the one that is waiting."""
        with self._lock:
            self.forget()
            self.latest = time.monotonic()
            with contextlib.suppress(OSError, ValueError):  # whoever listened may be gone
                STDERR.file.write(f"{_plain(text, STDERR)} ...\n")
                STDERR.file.flush()

    def forget(self) -> None:
        """Drops the line that is waiting."""
        with self._lock:
            if self._waiting:
                self._waiting.cancel()
            self._waiting = None

    @contextlib.contextmanager
    def later(self, text: str) -> Iterator[None]:
        """Writes a line after PATIENCE seconds, if the block lasts and nothing else is said."""

        def due() -> None:
            with self._lock:
                if self._waiting is timer and not STDERR.quiet:
                    self.say(text)

        timer = threading.Timer(PATIENCE, due)
        timer.daemon = True
        with self._lock:
            self.forget()
            self._waiting = timer
            timer.start()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting is timer:
                    self.forget()


_lines = _Lines()


def say(text: str, *, every: float = 0.0) -> None:
    """Writes a line on stderr, on a terminal too: for what must run undisturbed by a spinner.

    Args:
      text: what is being done.
      every: no line if there was one less than this many seconds ago.
    """
    if not STDERR.quiet and time.monotonic() - _lines.latest >= every:
        _lines.say(text)


def mute() -> None:
    """Shows no more stages, for a process that is not the first of several."""
    STDERR.quiet = True


def heard() -> None:
    """Notes that a line has been printed elsewhere, so that none about a repetition is due yet."""
    _lines.latest = time.monotonic()


@contextlib.contextmanager
def stage(
    text: str, console: Console | None = None, *, wait: bool = False, spinner: bool = True
) -> Iterator[Callable[[str], None]]:
    """A spinner while the block runs; without a terminal, a line on stderr when it begins.

    Yields ``update(text)``, which changes the text of the spinner and does nothing without one.

    Args:
      text: what the block does.
      console: where the spinner is shown; by default stderr.
      wait: whether the line waits for PATIENCE seconds, as a user's mistake may end the block.
      spinner: whether there is one on a terminal; none where the block may show bars of others.
    """
    shown = console or STDERR
    if shown.is_terminal and spinner:
        kind = "line" if shown.options.ascii_only else "dots"
        with shown.status(_text(text, shown), spinner=kind) as status:
            yield lambda text: status.update(_text(text, shown))
    elif shown.is_terminal:
        yield _nothing
    elif wait:
        with _lines.later(text):
            yield _nothing
    else:
        say(text)
        yield _nothing


def _nothing(text: str) -> None:
    del text


def ticks(
    what: str, total: int | None, unit: str, *, every: float | None = None
) -> Callable[..., None]:
    """``tell(number, note="")``: writes a line, unless there was one less than `every` seconds ago.

    Args:
      what: what repeats.
      total: how often, if that is known.
      unit: the name of one repetition.
      every: seconds; by default EVERY.
    """

    of = "" if total is None else f" of {total}"

    def tell(number: int, note: str = "") -> None:
        say(f"{what}: {unit} {number}{of}{note}", every=EVERY if every is None else every)

    return tell


def tracked(
    items: Sequence[T],
    what: str,
    unit: str = "batch",
    *,
    compiles: bool = False,
    every: float | None = None,
    wait: bool = False,
) -> Iterable[T]:
    """The items, with a progress bar on stderr if that is a terminal, else with lines.

    Args:
      items: what is worked on.
      what: what is done.
      unit: the name of an item.
      compiles: whether work on the first item starts with compiling.
      every: seconds between lines; by default EVERY.
      wait: whether the first line waits, as in `stage`.
    """
    if STDERR.is_terminal:
        return _barred(items, _plain(what, STDERR))
    return _told(items, what, unit, "compiling, then " if compiles else "", every, wait)


def _barred(items: Sequence[T], what: str) -> Iterator[T]:
    first = TextColumn("{task.description}", markup=False)
    with Progress(first, *Progress.get_default_columns()[1:], console=STDERR) as bar:
        yield from bar.track(items, description=what)


def _told(
    items: Sequence[T], what: str, unit: str, before: str, every: float | None, wait: bool
) -> Iterator[T]:
    tell = ticks(what, len(items), unit, every=every)
    for number, item in enumerate(items, 1):
        if number == 1:
            with stage(f"{what}: {before}{unit} 1 of {len(items)}", wait=wait):
                yield item
        else:
            tell(number)
            yield item
