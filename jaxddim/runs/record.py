"""A run's records.

config.json holds its configuration, data, package versions and backend; images.json the names of
the files that its images were read from.
"""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxddim.files import reading, writing
from jaxddim.files.reading import MOST_ITEMS, short, shown
from jaxddim.runs.config import MAY_DIFFER, Classes, Config
from jaxddim.runs.errors import RunError
from jaxddim.runs.flat import finite, from_flat
from jaxddim.version import __version__

PARTS: Mapping[str, type] = {
    "command": str,
    "versions": dict,
    "data": dict,
    "data.source": str,
    "data.num_images": int,
    "data.fingerprint": str,
    "data.notes": list,
    "init": dict,
    "init.step": int,
    "imported": dict,
}
"""Types of the parts of a record; all but 'config' may be missing."""
KINDS: Mapping[type, str] = {
    str: "text",
    int: "a whole number",
    list: "a list",
    dict: "an object with fields",
}
MOST_CHANGES = 10
"""Fields that a message names."""
MOST_NAMES = 1 << 27
"""Bytes of images.json."""
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def read(workdir: str, command: str = "train") -> dict[str, Any] | None:
    """config.json of a run of this command, or None if the folder holds no run.

    Raises:
      RunError: when it cannot be read, belongs to another command, or the folder's name is no text.
    """
    path = Path(workdir) / "config.json"
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:  # Orbax would fail when it saves
        raise RunError(
            f"{workdir}: the path of the run's folder is not UTF-8 text: name another --workdir, "
            "or set PYTHONUTF8=1 if the name is right and the terminal's locale is not"
        ) from None
    if not path.exists():
        return None
    try:
        record = reading.record(path)
        _check(record)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is not the record of a run ({error}): name another --workdir, or restore the "
            "file"
        ) from None
    if (other := record.get("command", "train")) != command:
        raise RunError(
            f"{workdir} holds a run of experiments.{short(other)}: name the folder of another run"
        )
    return record


def _check(record: Any) -> None:
    """Raises a ValueError for what is no record, and for a part of another type."""
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise ValueError("it holds no 'config'")
    if not record["config"]:
        raise ValueError("'config' holds no settings")
    for name, kind in PARTS.items():
        group, _, field = name.rpartition(".")
        where = record.get(group, {}) if group else record
        if field in where and type(where[field]) is not kind:
            raise ValueError(f"{name} is {shown(where[field])}: expected {KINDS[kind]}")
    for number in (
        record.get("data", {}).get("num_images", 0),
        record.get("init", {}).get("step", 0),
    ):
        if not 0 <= number < 2**63:
            raise ValueError(f"it counts {shown(number)} images or steps")


def load(workdir: str) -> Config:
    """The configuration of an existing run.

    Raises:
      RunError: when the folder holds no run, or one that this version cannot open.
    """
    if not workdir:
        raise RunError("--workdir is missing: name the folder of a run, e.g. --workdir runs/cars")
    record = read(workdir)
    if record is None:
        around = [folder for folder in Path(workdir).parents if (folder / "config.json").exists()]
        hint = f"train one first with python -m experiments.train --workdir {workdir}"
        if around:
            hint = f"it is inside the run {around[0]}: name that"
        raise RunError(f"{workdir} holds no run (no config.json in it): {hint}")
    return configuration(workdir, record)


def configuration(workdir: str, record: dict[str, Any]) -> Config:
    """The configuration in the record of a run.

    Raises:
      RunError: when a field is missing, unknown or of another type.
    """
    try:
        return from_flat(record["config"])
    except RunError as error:
        theirs = record.get("versions")
        theirs = theirs.get("jaxddim") if isinstance(theirs, dict) else None
        written = short(str(theirs or "(unknown)"))
        raise RunError(
            f"{Path(workdir) / 'config.json'}: {error}; it was written by jaxddim {written}, "
            f"this is {__version__}: use that version, or restore the file"
        ) from None


def write(workdir: str, record: dict[str, Any]) -> None:
    """Creates a run's folder with config.json: the record, versions and backend.

    Raises:
      RunError: when the folder cannot be created or written to.
    """
    record = record | {"versions": versions(), "backend": jax.default_backend()}
    text = json.dumps(finite(record), indent=2, allow_nan=False) + "\n"
    replace(workdir, "config.json", text.encode())


def write_names(workdir: str, names: Sequence[str]) -> None:
    """Writes images.json: the names of the files that a run's images were read from.

    A list that is too long to be read back is not written: the images' fingerprint is in
    config.json, and all files of the folder are used.

    Raises:
      RunError: when the folder cannot be created or written to.
    """
    text = json.dumps({"files": list(names)}, indent=0) + "\n"
    if len(text) > MOST_NAMES or text.count(",") > MOST_ITEMS - 3:
        return
    replace(workdir, "images.json", text.encode())


def read_names(workdir: str) -> tuple[str, ...]:
    """The names in images.json; empty for a run that has none.

    Raises:
      RunError: when it cannot be read.
    """
    path = Path(workdir) / "images.json"
    if not path.exists():
        return ()
    try:
        found = reading.record(path, MOST_NAMES)
        names = found.get("files") if isinstance(found, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("'files' is not a list of names")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is not a list of a run's files ({error}): restore it, or delete it to use all "
            "files of the folder"
        ) from None
    return tuple(names)


def replace(workdir: str, name: str, content: bytes) -> None:
    """Writes a file of the run atomically, and waits until it is on the disk.

    Raises:
      RunError: when the folder cannot be created or written to.
    """
    try:
        writing.replace(Path(workdir) / name, lambda file: file.write(content))
    except OSError as error:
        raise RunError(
            f"--workdir {workdir} cannot be written to ({error.strerror}): name another"
        ) from None


def versions() -> dict[str, str]:
    """Versions of jaxddim, Python and the packages that results depend on."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"jaxddim": __version__, "python": platform.python_version()} | packages


def check_same_config(workdir: str, new: dict[str, Any], old: dict[str, Any]) -> None:
    """Raises a RunError that names the fields in which two flat configurations differ."""
    new, old = finite(new), finite(old)
    names = sorted(
        name
        for name in new.keys() | old.keys()
        if name not in MAY_DIFFER | {"config"} and new.get(name) != old.get(name)
    )
    if names:
        changes = ", ".join(
            f"{short(name)} was {short(str(old.get(name)))}, is {new.get(name)}"
            for name in names[:MOST_CHANGES]
        ) + ("" if len(names) <= MOST_CHANGES else f" and {len(names) - MOST_CHANGES} more")
        free = ", ".join(sorted(MAY_DIFFER & new.keys() - {"workdir"}))
        raise RunError(
            f"{workdir} is a run of another configuration ({changes}): give the old "
            "values to resume it, or another --workdir" + (f"; only {free} may change" * bool(free))
        )


def classes(workdir: str, record: dict[str, Any]) -> Classes | None:
    """The classes of a run's images; None for a run without labels.

    Raises:
      RunError: when they are damaged.
    """
    found = record.get("classes")
    if found is None:
        return None
    try:
        names, counts = found["names"], found["counts"]
        known = all(isinstance(name, str) for name in names) and len(names) == len(counts) > 0
        if not known or not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise RunError(
            f"{Path(workdir) / 'config.json'}: the field classes must hold names and counts of the "
            "run's classes: restore the file"
        ) from None
    return Classes(tuple(names), tuple(counts))


def is_without_images(record: dict[str, Any]) -> bool:
    """Whether a run was made of foreign weights and has not been trained here yet."""
    return "imported" in record and "data" not in record


def check_images(workdir: str, fingerprint: str, count: int, record: dict[str, Any]) -> None:
    """Checks that these are the images of a run, if it has any yet.

    Args:
      workdir: folder of the run.
      fingerprint: that of the images.
      count: number of images.
      record: config.json of the run.
    Raises:
      RunError: when they are not; it says how many there were and are.
    """
    if is_without_images(record):
        return
    path, about = Path(workdir) / "config.json", record.get("data")
    about = about if isinstance(about, dict) else {}
    for name in ("fingerprint", "num_images", "source"):
        if name not in about:
            raise RunError(
                f"{path}: the field data {name} is missing, so its images are not known: "
                "restore the file, or name another --workdir"
            )
    if fingerprint != about["fingerprint"]:
        raise RunError(
            f"{workdir} was trained on other images ({about['num_images']} of {about['source']} "
            f"then, {count} now)"
            + (": as many, but some have changed" if count == about["num_images"] else "")
            + ": restore them, or name another --workdir"
        )
