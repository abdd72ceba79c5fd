"""config.json in a run's folder: the configuration, data, package versions and backend."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import jax

from jaxddim.runs.config import MAY_DIFFER, Config, from_flat
from jaxddim.runs.errors import RunError
from jaxddim.version import __version__

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
        record = json.loads(path.read_text())
        if not isinstance(record["config"], dict) or not record["config"]:
            raise ValueError("'config' is empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is not the record of a run ({error}): name another --workdir"
        ) from None
    if record.get("command", "train") != command:
        raise RunError(
            f"{workdir} holds a run of experiments.{record.get('command', 'train')}: name the "
            "folder of another run"
        )
    return record


def load(workdir: str) -> Config:
    """The configuration of an existing run.

    Raises:
      RunError: when the folder holds no run.
    """
    if not workdir:
        raise RunError("--workdir is missing: name the folder of a run, e.g. --workdir runs/cars")
    record = read(workdir)
    if record is None:
        raise RunError(
            f"{workdir} holds no run (no config.json in it): train one first with "
            f"python -m experiments.train --workdir {workdir}"
        )
    return from_flat(record["config"])


def write(workdir: str, record: dict[str, Any]) -> None:
    """Creates a run's folder with config.json: the record, versions and backend.

    Raises:
      RunError: when the folder cannot be created or written to.
    """
    record = record | {"versions": versions(), "backend": jax.default_backend()}
    path = Path(workdir) / "config.json"
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(record, indent=2) + "\n")
        part.replace(path)
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
    names = sorted(
        name
        for name in new.keys() | old.keys()
        if name not in MAY_DIFFER | {"config"} and new.get(name) != old.get(name)
    )
    if names:
        changes = ", ".join(f"{name} was {old.get(name)}, is {new.get(name)}" for name in names)
        raise RunError(
            f"{workdir} is a run of another configuration ({changes}): give the old "
            "values to resume it, or another --workdir"
        )


def check_images(workdir: str, fingerprint: str, record: dict[str, Any]) -> None:
    """Raises a RunError when the fingerprint is not that of the run's images."""
    if fingerprint != record["data"]["fingerprint"]:
        raise RunError(
            f"{workdir} was trained on other images ({record['data']['num_images']} of "
            f"{record['data']['source']}): restore them, or name another --workdir"
        )
