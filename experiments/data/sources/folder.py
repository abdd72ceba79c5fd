"""A folder tree of pictures as a source; other files in it are skipped.

Hidden files and folders are ignored, and so are the folders of runs, which hold samples.
Every other regular file goes to the decoder, which skips what is not a picture. Files are
sorted by name, so two machines with the same files see the same pictures. The folders
directly below the root are the classes.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.data.decoding import Pictures
from experiments.terminal.errors import UserError
from experiments.terminal.files import located
from experiments.terminal.texts import listed

GIVE = "give the folder that holds the images, as --data.path (as --path in experiments.prepare)"
WRITTEN = ("checkpoints", "evaluations", "paper", "samples")  # folders in the folder of a run
LOGS = ("config.json", "images.json", "metrics.jsonl", "events.out.tfevents.")
"""How the names of the files in the folder of a run begin."""
MOST_FILES = 2**24

Stamp = tuple[int, int, int, int]


class Listing(NamedTuple):
    """The files of a folder tree."""

    root: Path
    names: tuple[str, ...]  # relative to root, with slashes, sorted
    stamps: tuple[Stamp, ...]  # of each
    skipped: tuple[str, ...]  # folders and files that cannot be read
    runs: tuple[str, ...] = ()  # folders that runs were written to, which are left out


def scan(path: str | os.PathLike[str]) -> Listing:
    """Every visible regular file below `path`.

    Symbolic links to folders are followed, but not to those around `path` or seen before, and not
    into the folders of the system's devices and processes.

    Args:
      path: the folder.
    Returns:
      The listing in the order of sorted names.
    Raises:
      UserError: when `path` does not exist, is not a folder, or holds no file.
    """
    root = existing(path)
    skipped: list[str] = []
    runs: list[str] = []
    found = sorted(walk(root, skipped, runs=runs))
    if not found:
        trouble = f" (cannot read {skipped[0]})" if skipped else ""
        trouble += f" ({runs_note(runs)})" if runs else ""
        raise UserError(f"{root}: no files in it{trouble}; --data.path takes a folder of images")
    return Listing(
        root,
        tuple(name for name, _ in found),
        tuple(stamp for _, stamp in found),
        tuple(sorted(skipped)),
        tuple(sorted(runs)),
    )


def stamp(status: os.stat_result) -> Stamp:
    """What changes with a file's content: bytes, both times in ns, and the number of the file."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def runs_note(runs: Sequence[str]) -> str:
    """One line on the folders of runs that are left out."""
    return f"images: left out what runs have written ({listed(runs)})"


def only(listing: Listing, names: Sequence[str]) -> Listing:
    """The listing without files other than these.

    Raises:
      UserError: when some of them are not there.
    """
    stamps = dict(zip(listing.names, listing.stamps, strict=True))
    gone = [name for name in names if name not in stamps]
    if gone:
        raise UserError(
            f"{listing.root}: the run's images were {len(names)} files, there are "
            f"{len(stamps)} now and {len(gone)} of the run's are gone ({listed(gone)}): restore "
            "them, or name the folder that holds them with --data.path"
        )
    return listing._replace(names=tuple(names), stamps=tuple(stamps[name] for name in names))


def existing(path: str | os.PathLike[str]) -> Path:
    """The folder `path`, which must exist.

    Raises:
      UserError: when it does not exist or is not a folder.
    """
    root = located(path)
    if root.is_dir():
        return root
    if root.exists():
        raise UserError(f"{root} is a file; {GIVE}")
    raise UserError(f"{root}: no such folder; {GIVE}")


def walk(
    root: Path, skipped: list[str], *, depth: int = 64, runs: list[str] | None = None
) -> Iterator[tuple[str, Stamp]]:
    """Yield (relative name, stamp); append what cannot be read to `skipped`.

    The folders of runs are left out, and appended to `runs`. Where `root` itself is one, what a
    run writes there is left out.
    """

    def relative(path: str | os.PathLike[str]) -> str:
        return Path(os.path.relpath(path, root)).as_posix()

    def unreadable(error: OSError) -> None:
        skipped.append(f"{relative(error.filename)} (folder cannot be opened)")

    around = root.resolve().parents if root.is_dir() else ()
    seen = {_identity(os.stat(place)) for place in around}
    system = _system()
    count = 0
    for folder, subfolders, files in os.walk(root, onerror=unreadable, followlinks=True):
        status = os.stat(folder)
        if status.st_dev in system:
            skipped.append(f"{relative(folder)} (a folder of the system)")
        if _identity(status) in seen or status.st_dev in system:
            subfolders.clear()
            continue
        seen.add(_identity(status))
        count += len(files)
        if count > MOST_FILES:
            raise UserError(f"{root} holds more than {MOST_FILES:,} files; {GIVE}")
        below = sorted(name for name in subfolders if not name.startswith("."))
        if "config.json" in files and "checkpoints" in below:
            mine = [name for name in WRITTEN if name in below] if Path(folder) == root else []
            if runs is not None:
                runs += mine or [relative(folder)]
            if not mine:
                subfolders.clear()
                continue
            below = [name for name in below if name not in mine]
            files = [name for name in files if not name.startswith(LOGS)]
        subfolders[:] = below if relative(folder).count("/") < depth else []
        for name in files:
            if name.startswith("."):
                continue
            path = Path(folder, name)
            try:
                status = path.stat()
            except OSError:
                skipped.append(f"{relative(path)} (broken link)")
                continue
            if path.is_file():  # not a pipe or a device, where reading would hang
                yield relative(path), stamp(status)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _system() -> set[int]:
    """The devices of files that are none: processes, settings of the kernel, other devices."""
    places = [place for place in ("/proc", "/sys", "/dev") if os.path.isdir(place)]
    return {os.stat(place).st_dev for place in places} - {os.stat("/").st_dev}


def class_names(listing: Listing) -> tuple[str, ...]:
    """The sorted names of the folders directly below the root that hold files."""
    return tuple(sorted({name.split("/")[0] for name in listing.names if "/" in name}))


def pictures(listing: Listing) -> Pictures:
    """The listed files, ready to decode; the label is the index of the class, or -1."""
    classes = class_names(listing)
    position = {name: label for label, name in enumerate(classes)}

    def read(index: int) -> tuple[Path, int]:
        name = listing.names[index]
        top, slash, _ = name.partition("/")
        return listing.root / name, position[top] if slash else -1

    return Pictures(listing.names, read, classes, listing.skipped)
