"""Checksums over the arrays of a checkpoint as they lie on the disk, and over its small records.

    sums.json    {"files": {"default/d/1f0c...": SHA-256, ...}, "sum": SHA-256 of this list}

They are written before the checkpoint gets its name, so one that has a name has its sums. Those of
older versions have none, and are read as they are.
"""

import hashlib
import json
from pathlib import Path

NAME = "sums.json"
MARK = {"sums": "sha256"}
"""What Orbax's own metadata say of a checkpoint that has sums."""
METADATA = "_CHECKPOINT_METADATA"
LATER = {NAME, METADATA, "commit_success.txt"}
"""Files that are written after the sums, and that restoring does not read."""


def write(folder: Path) -> None:
    """Writes the sums of all that is in the folder."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in paths)
    found = {name: _sum(folder / name) for name in names if name not in LATER}
    (folder / NAME).write_text(json.dumps({"files": found, "sum": _sum_of(found)}, indent=0))


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, and in which file; None if nothing is, or without sums."""
    try:
        found = json.loads((folder / NAME).read_bytes())
        if found["sum"] != _sum_of(found["files"]):
            return f"{NAME} has changed since it was written"
        for name, expected in found["files"].items():
            if _sum(folder / name) != expected:
                return f"{name} has changed since it was written"
    except FileNotFoundError as error:
        name = Path(error.filename).relative_to(folder).as_posix()
        return f"{name} is missing" if name != NAME or _has_sums(folder) else None
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"{NAME} is no list of sums"
    return None


def are_there(folder: Path) -> bool:
    """Whether a checkpoint has sums."""
    return (folder / NAME).exists()


def _has_sums(folder: Path) -> bool:
    try:
        return b'"sums"' in (folder / METADATA).read_bytes()
    except OSError:
        return False


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum_of(found: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
