"""Whether a run that was killed many times is the run that was not."""

import json
from pathlib import Path
from typing import Any

from jaxddim.runs import averages, checkpoints
from tests import tiny


def events(workdir: Path) -> list[tuple[int, str, Any]]:
    """What TensorBoard shows: each start hides what earlier files hold from its step on."""
    shown: list[tuple[int, str, Any]] = []
    for event in tiny.events(workdir, cut=True):
        if event.HasField("session_log"):
            shown = [one for one in shown if one[0] < event.step]
        for value in event.summary.value:
            if value.tag not in tiny.MEASURED:
                seen = value.image.encoded_image_string or value.simple_value
                shown.append((event.step, value.tag, seen))
    return shown


def assert_same(killed: Path, whole: Path) -> None:
    """Fails unless both hold the same: states, averages, records, pictures, and nothing else."""
    assert tiny.computed(killed) == tiny.computed(whole)
    assert events(killed) == events(whole)
    assert tiny.saved(killed) == tiny.saved(whole)
    for step in tiny.saved(whole):
        tiny.assert_same_bits(tiny.state(killed, str(step)), tiny.state(whole, str(step)))
        stores = [checkpoints.manager(workdir) for workdir in (killed, whole)]
        assert len({store.damage(step) for store in stores} | {None}) == 1
        assert len({checkpoints.loss(store, step) for store in stores}) == 1
    pairs = [averages.manager(workdir) for workdir in (killed, whole)]
    assert pairs[0].all_steps() == pairs[1].all_steps()
    ours, theirs = names(killed), names(whole)
    assert ours == theirs
    for name in theirs:
        if name.startswith("samples/"):
            assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    records = [json.loads((workdir / "config.json").read_text()) for workdir in (killed, whole)]
    for record in records:
        del record["config"]["workdir"]
    assert records[0] == records[1]


def names(workdir: Path) -> set[str]:
    """The files of a run besides those whose names are their own in each run."""
    found = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*")}
    mine = ("events.", "checkpoints/", "averages/")
    return {name for name in found if not name.startswith(mine)} | {
        "/".join(name.split("/")[:2]) for name in found if name.startswith(mine[1:])
    }
