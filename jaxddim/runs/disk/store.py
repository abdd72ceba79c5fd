"""Checkpoints in a folder, each under its step (Orbax), saved while training goes on.

    FOLDER/STEP/default/      a tree of arrays
    FOLDER/STEP/packed.json   how they lie in a few arrays, unless they are split over devices
    FOLDER/STEP/NAME          small records, as JSON
    FOLDER/STEP/sums.json     checksums over all of these

A checkpoint is written under a temporary name, summed, flushed to the disk and renamed; only then
are older ones deleted. So a run that is killed, or whose disk is full, has the one before. In
several processes all save at the same steps, and the first renames and deletes.
"""

import contextlib
import errno
import functools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxddim.files.writing import flush
from jaxddim.runs.disk import packed, saver, sums
from jaxddim.runs.errors import RunError

PACKED = "packed.json"
DELETED = ".deleted-"
"""How the name of a checkpoint begins that is being deleted."""
LEFT = (f"{DELETED}*", "*.orbax-checkpoint-tmp*")
"""What a process leaves that is killed while it saves or deletes."""


class SaveError(RunError):
    """A checkpoint that could not be saved."""


class Damaged(RunError):
    """A checkpoint that cannot be read."""


class Store:
    """The checkpoints in a folder, which is made when the first is saved.

    Args:
      directory: the folder.
      keep: ``keep(steps)``, those that are kept of the steps that there are, in rising order.
    Attributes:
      directory: the folder.
      saving: the step that is being saved; None if none is.
    """

    def __init__(self, directory: Path, keep: Callable[[list[int]], set[int]]):
        self.directory = Path(directory).absolute()
        self._keep = keep
        self.saving: int | None = None
        self._failed = False
        saver.quiet()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    @functools.cached_property
    def _handler(self) -> saver.Handler:
        return saver.Handler()

    @functools.cached_property
    def _orbax(self) -> ocp.AsyncCheckpointer:
        return saver.checkpointer(self._handler, self.directory.name)

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.directory / str(step)

    def all_steps(self) -> list[int]:
        """The steps of complete checkpoints, damaged or not, in rising order."""
        if not self.directory.is_dir():
            return []
        names = (path.name for path in self.directory.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def latest_step(self) -> int | None:
        """The last of these; None if there is none."""
        return max(self.all_steps(), default=None)

    def record(self, step: int, name: str) -> Any:
        """A small record of a checkpoint; None if it has none, or one that cannot be read."""
        try:
            return json.loads((self.path(step) / name).read_bytes())
        except (OSError, ValueError):
            return None

    def save(self, step: int, tree: Any, records: Mapping[str, Any] | None = None) -> None:
        """Begins to save a tree of arrays, with small records; waits for the save before.

        The arrays may be reused as soon as this returns. A checkpoint of this step is replaced.

        Raises:
          SaveError: when this save, or the one before, fails; older checkpoints are left alone.
        """
        self.wait()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._handler.records = dict(records or {})
            if packed.can_be(tree):
                tree, self._handler.records[PACKED] = packed.pack(tree)
            self._orbax.save(
                self.path(step),
                args=saver.Items(default=ocp.args.StandardSave(tree)),
                custom_metadata=sums.MARK,
                force=True,
            )
        except Exception as error:  # a full disk raises errors of several kinds
            raise self._failure(step, error) from None
        self.saving = step

    def finished(self) -> int | None:
        """The step of a save that has ended since the last call; None while none has.

        Raises:
          SaveError: when it has failed.
        """
        step = self.saving
        if step is None:
            return None
        try:
            self._orbax.check_for_errors()
        except Exception as error:
            raise self._failure(step, error) from None
        if not self.path(step).exists():
            return None
        self.wait()
        return step

    def wait(self) -> None:
        """Waits until the last save is on the disk, then deletes what is no longer kept.

        Raises:
          SaveError: when it has failed; nothing is deleted then.
        """
        step = self.saving
        if step is None:
            return
        try:
            self._orbax.wait_until_finished()
            flush(self.directory)
        except Exception as error:
            raise self._failure(step, error) from None
        self.saving = None
        steps = self.all_steps()
        self.delete(set(steps) - self._keep(steps))

    def delete(self, steps: set[int]) -> None:
        """Deletes checkpoints; one that is half deleted has no step any more."""
        if jax.process_index() != 0:
            return
        for step in sorted(steps):
            aside = self.directory / f"{DELETED}{step}"
            with contextlib.suppress(OSError):  # tidied up by the next start
                self.path(step).rename(aside)
                shutil.rmtree(aside)

    def tidy(self) -> None:
        """Removes what a killed process left; only for who writes to this folder."""
        if jax.process_index() != 0:
            return
        for pattern in LEFT:
            for path in self.directory.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Waits for the last save, and ends what this has started.

        Raises:
          SaveError: when that save has failed.
        """
        self.wait()
        if "_orbax" in self.__dict__:
            self._orbax.close()
            self._forget()
        if self._failed:
            self.tidy()  # again: what was still being written then

    def _forget(self) -> None:
        for name in ("_orbax", "_handler"):
            self.__dict__.pop(name, None)

    def _failure(self, step: int, error: Exception) -> SaveError:
        """The error of a failed save, of which nothing is left: no files, no threads."""
        self.saving = None
        with contextlib.suppress(Exception):
            self._orbax.close()
        self._forget()
        self._failed = True
        self.tidy()
        last = self.latest_step()
        return SaveError(
            f"checkpoint {step} cannot be saved in {self.directory} ({reason(error)}); "
            + ("there is none before" if last is None else f"the last good one is {last}")
            + ": free some space or mend the folder, then the same command goes on"
        )

    def damage(self, step: int) -> str | None:
        """What the sums of a checkpoint say is wrong with it; None if nothing."""
        return sums.damage(self.path(step))

    def check(self, step: int) -> None:
        """Raises a Damaged when the sums of a checkpoint say that it is."""
        if told := self.damage(step):
            raise self._damaged(step, told)

    def _damaged(self, step: int, told: str) -> Damaged:
        return Damaged(f"checkpoint {step} in {self.directory} is damaged: {told}")

    def restore(self, step: int, abstract: Any) -> Any:
        """A tree of arrays; `check` comes first.

        Args:
          step: of the checkpoint.
          abstract: shapes, types and shardings.
        Raises:
          Damaged: when it cannot be read, and no sums say that its files are sound.
          RunError: when it cannot be read although they are, as for want of memory.
        """
        try:
            return self._read(self.path(step) / "default", self.record(step, PACKED), abstract)
        except Exception as error:  # damaged files may raise anything
            if not sums.are_there(self.path(step)):  # or it was deleted meanwhile
                raise self._damaged(step, reason(error)) from None
            raise RunError(
                f"checkpoint {step} in {self.directory} cannot be restored, though its files are "
                f"sound: {reason(error)}"
            ) from None

    def _read(self, folder: Path, layout: Any, abstract: Any) -> Any:
        if layout is None:
            with ocp.StandardCheckpointer() as reader:
                return reader.restore(folder, abstract)
        with ocp.PyTreeCheckpointer() as reader:
            return packed.unpack(reader.restore(folder), layout, abstract)

    def shapes(self, step: int) -> Any:
        """The tree of a checkpoint with shapes for arrays; None where Orbax does not tell it."""
        try:
            if layout := self.record(step, PACKED):
                return packed.shapes(layout)
            with ocp.StandardCheckpointer() as reader:
                found: Any = reader.metadata(self.path(step) / "default")
            return found.item_metadata.tree
        except Exception:  # damaged files may raise anything: restoring tells
            return None


def reason(error: BaseException) -> str:
    """Why something could not be read or written, in a few words."""
    text = " ".join(str(error).split())
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
        if os.strerror(number) in text:
            return os.strerror(number)
    return (text[:157] + "...") if len(text) > 160 else text or type(error).__name__
