"""Helpers for the text of messages."""

from collections.abc import Sequence


def count(number: int, what: str) -> str:
    """A number of things.

    Example:
      >>> count(1, "image"), count(1200, "image")
      ('1 image', '1,200 images')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def brief(error: BaseException, most: int = 80) -> str:
    """An error's text on one line, shortened to `most` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else text[: most - 3] + "..."


def printable(name: str) -> str:
    """A name on one line, with escapes for what cannot be printed, such as undecodable bytes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names in sorted order, and how many more there are."""
    first = map(printable, sorted(names)[:most])
    return ", ".join(first) + (f" and {len(names) - most} more" if len(names) > most else "")
