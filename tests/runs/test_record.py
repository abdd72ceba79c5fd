"""Records of a run: what an older or a newer version wrote, and numbers that are not finite."""

import json
import math

import pytest

from jaxddim.runs import record
from jaxddim.runs.config import LATER, MAY_DIFFER
from jaxddim.runs.errors import RunError
from jaxddim.runs.flat import finite, flatten, from_flat
from jaxddim.runs.presets import PRESETS
from tests import tiny
from tests.terminal.test_cli import assert_mistake

TINY = flatten(PRESETS["tiny"]())
LATEST = LATER[-1] if len(LATER[-1]) == 1 else set()  # without it a record is of the version before
FREE = MAY_DIFFER | {"config"} | LATEST


def written(workdir, config, **more):
    """A run with this flat configuration, as its folder."""
    workdir.mkdir(exist_ok=True)
    about = {"config": config, "versions": {"jaxddim": "9.9"}} | more
    (workdir / "config.json").write_text(json.dumps(about))
    return str(workdir)


@pytest.mark.parametrize("field", TINY)
def test_a_missing_field_is_named_unless_it_changes_nothing_that_was_trained(field, tmp_path):
    folder = written(tmp_path, {name: value for name, value in TINY.items() if name != field})
    if field in FREE:
        assert record.load(folder).model == PRESETS["tiny"]().model
    else:
        with pytest.raises(RunError, match=rf"config.json: the field {field} is missing; .* 9.9"):
            record.load(folder)


@pytest.mark.parametrize("newest", range(len(LATER) + 1))
def test_an_older_record_lacks_what_came_later_and_nothing_else(newest, tmp_path):
    """A field that is lost from a record must not be taken for one that came later."""
    older = {k: v for k, v in TINY.items() if k not in set().union(*LATER[newest:])}
    assert record.load(written(tmp_path, older)) == PRESETS["tiny"]()
    for field in set().union(*LATER[:newest]) if newest and len(LATER[newest - 1]) > 1 else ():
        kept = {name: value for name, value in older.items() if name != field}
        with pytest.raises(RunError, match=rf"the field {field} is missing"):
            record.load(written(tmp_path, kept))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.num_heads", 4),
        ("optim.weight_decay", 0.0),
        ("sampler", None),
        ("data", {}),
        ("model.name", "mlp"),
        ("model.name", None),
        ("model.name", ["unet"]),
        ("model.dtype", "float8"),
        ("data.source", "lsun"),
        ("diffusion.schedule", "edm"),
        ("diffusion.kind", "flow"),
        ("diffusion.norm", 2),
        ("diffusion.weighting", ""),
        ("seed", "0"),
        ("seed", True),
        ("seed", -1),
        ("seed", 2**32),
        ("workdir", 5),
        ("data.image_size", 16.0),
        ("data.image_size", 0),
        ("data.num_images", "64"),
        ("data.flip", 1),
        ("data.flip", "true"),
        ("data.classes", "car"),
        ("data.classes", [1]),
        ("data.path", ["images"]),
        ("model.channels", None),
        ("model.channels", "8"),
        ("model.multipliers", 1),
        ("model.multipliers", [1, "2"]),
        ("model.multipliers", [1, 2.5]),
        ("model.dropout", "0"),
        ("model.dropout", False),
        ("model.remat", 0),
        ("diffusion.num_steps", 0),
        ("diffusion.zero_terminal_snr", "no"),
        ("optim.ema", [0.9]),
        ("optim.clip", {}),
        ("train.batch_size", 0),
        ("train.accumulate", -1),
        ("train.steps", 1.5),
        ("train.init_from", 3),
        ("data.channels", 2),
        ("data.channels", True),
        ("data.image_size", [8, 8, 3]),
        ("data.image_size", [8, 0]),
        ("data.image_size", "8x8"),
        ("optim.learning_rate", None),
        ("optim.ema", 5.0),
        ("optim.clip", -1),
        ("optim.decay_steps", -1),
        ("optim.warmup_steps", -5),
    ],
)
def test_an_unknown_field_or_value_is_named(field, value, tmp_path):
    with pytest.raises(RunError, match=rf"config.json: .*\b{field}\b") as caught:
        record.load(written(tmp_path, TINY | {field: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("optim.learning_rate", 1, 1.0),  # JSON of another writer has no 1.0
        ("optim.clip", None, math.inf),  # null is how a record keeps it
        ("optim.clip", math.inf, math.inf),  # and as older versions wrote it
        ("data.num_images", None, None),
        ("data.image_size", [8, 12], (8, 12)),
        ("data.image_size", [8, 8], 8),
        ("model.attention", [], ()),
    ],
)
def test_values_come_back_as_the_type_of_their_field(field, value, expected):
    group, name = field.split(".")
    found = getattr(getattr(from_flat(TINY | {field: value}), group), name)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("command", ["sample", "evaluate", "paper", "train"])
@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model.num_heads": 4}, "model.num_heads"),
        ({"diffusion.kind": "flow"}, "diffusion.kind"),
        ({"model.channels": "8"}, "model.channels"),
        (None, "diffusion.schedule is missing"),
    ],
)
def test_every_command_tells_it_in_one_line(command, change, part, tmp_path):
    kept = TINY | (change or {})
    if change is None:
        del kept["diffusion.schedule"]
    folder = written(tmp_path / "run", kept)
    out = {"sample": ["--out", tmp_path / "a.png"], "train": ["--config", "tiny"]}
    finished = tiny.command(command, "--workdir", folder, *out.get(command, []))
    assert_mistake(finished, part, "config.json")


@pytest.mark.parametrize(
    ("about", "part"),
    [
        (None, "fingerprint"),
        ([], "fingerprint"),
        ({"source": "folder", "num_images": 60}, "fingerprint"),
        ({"fingerprint": "a", "source": "folder"}, "num_images"),
        ({"fingerprint": "a", "num_images": 60}, "source"),
        ({"fingerprint": "b", "num_images": 60, "source": "folder"}, "60 of folder then, 61 now"),
    ],
)
def test_a_record_of_other_or_unknown_images_is_told(about, part):
    with pytest.raises(RunError, match=part):
        record.check_images("runs/x", "a", 61, {"config": TINY, "data": about})


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": 1}', '{"files": [1]}', '{"fil', "\xff"])
def test_a_damaged_list_of_files_is_told(text, tmp_path):
    (tmp_path / "images.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=r"images\.json is not a list"):
        record.read_names(str(tmp_path))


def test_a_list_of_files_comes_back(tmp_path):
    names = ("a.png", "ä/b c.jpg", "\udcff.png")
    record.write_names(str(tmp_path / "new"), names)
    assert record.read_names(str(tmp_path / "new")) == names
    assert record.read_names(str(tmp_path)) == ()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["images.json"]


# -- numbers that are not finite ---------------------------------------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null_and_the_rest_is_kept(number):
    value = {"a": number, "b": [1, (number, 2.5)], "c": {"d": "nan", "e": True, "f": None}}
    expected = {"a": None, "b": [1, [None, 2.5]], "c": {"d": "nan", "e": True, "f": None}}
    assert finite(value) == expected


def test_a_run_with_an_infinite_setting_is_recorded_read_and_resumed(tmp_path):
    config = from_flat(TINY | {"optim.clip": math.inf})
    record.write(str(tmp_path), {"config": flatten(config), "data": {"loss": math.nan}})

    def refused(name):
        raise AssertionError(name)

    kept = json.loads((tmp_path / "config.json").read_text(), parse_constant=refused)
    assert (kept["config"]["optim.clip"], kept["data"]["loss"]) == (None, None)
    assert record.load(str(tmp_path)).optim.clip == math.inf
    record.check_same_config("runs/x", flatten(config), kept["config"])
    record.check_same_config("runs/x", flatten(config), TINY | {"optim.clip": math.inf})
    with pytest.raises(RunError, match=r"optim\.clip was None, is 1\.0"):
        record.check_same_config("runs/x", TINY | {"optim.clip": 1.0}, kept["config"])


def test_a_record_of_another_network_than_the_checkpoint_is_one_line(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
            patch.setenv(name, str(tmp_path / name))
        workdir = tmp_path / "run"
        flags = [*tiny.NETWORK, "--train.steps", "1", "--train.batch-size", "8"]
        assert tiny.command("train", "--workdir", workdir, *flags).code == 0
        whole = (workdir / "config.json").read_text()
        for name, value in (("model.channels", 8), ("model.num_blocks", 2), ("data.channels", 1)):
            kept = json.loads(whole)
            kept["config"][name] = value
            (workdir / "config.json").write_text(json.dumps(kept))
            told = tiny.command("sample", "--workdir", workdir, "--out", tmp_path / "a.png")
            assert told.code == 2
            assert "of another network than config.json describes" in told.err
        kept = json.loads(whole)
        for name in set().union(*LATER):
            del kept["config"][name]
        (workdir / "config.json").write_text(json.dumps(kept))
        again = tiny.command("train", "--workdir", workdir, "--config=tiny", *flags)
        assert (again.code, "nothing to do" in again.out) == (0, True)
        bare = tiny.command("train", "--workdir", workdir, "--config=demo", "--train.steps", "2")
        assert bare.code == 2
        assert f"{workdir} is a run of another configuration" in bare.err
