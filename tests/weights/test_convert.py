"""`experiments.convert`: there and back, further training, and what users get wrong."""

import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.terminal import cli
from jaxddim.runs import record
from jaxddim.weights import containers, reader
from tests import tiny
from tests.terminal.test_cli import assert_mistake

pytestmark = [
    pytest.mark.slow,  # small networks are trained, sampled and trained again
    pytest.mark.usefixtures("quick_module"),
]
root = tiny.root
UNET = ["--model.multipliers", "1", "2", "--model.attention", "4", "--train.steps", "6"]
SEED = [*tiny.SMALL, "--train.steps", "6", "--optim.clip", "0", "--optim.learning-rate", "8e-5"]


def train(root, workdir, *more):
    return tiny.command("train", *tiny.flags(root, workdir), *more)


@pytest.fixture(scope="module")
def runs(root):
    """Runs of both networks."""
    for name, flags in (("unet", UNET), ("simple_unet", SEED)):
        assert train(root, root / name, *flags).code == 0
    return {name: root / name for name in ("unet", "simple_unet")}


def fine(finished):
    assert (finished.code, tiny.complaints(finished.err)) == (0, []), finished
    return finished.out


def convert(*flags):
    return fine(tiny.command("convert", *flags))


def images(workdir, tmp_path, *flags):
    fine(
        tiny.command(
            "sample",
            "--workdir",
            workdir,
            "--num",
            4,
            "--steps",
            4,
            "--out",
            tmp_path / "a.npz",
            *flags,
        )
    )
    with np.load(tmp_path / "a.npz") as file:
        return file["images"]


@pytest.fixture(scope="module")
def folder(runs, root):
    """The unet run as diffusers has it."""
    out = root / "pipeline"
    assert "step 6" in convert("--to", "diffusers", "--workdir", runs["unet"], "--out", out)
    return out


@pytest.fixture(scope="module")
def file(runs, root):
    """The simple_unet run as the seed has it."""
    out = root / "weights" / "3.pth"
    convert("--to", "seed", "--workdir", runs["simple_unet"], "--out", out)
    return out


def places(root):
    images = ["--data.source", "rendered", "--data.num-images", "64"]
    return [*images, "--data.data-dir", root / "tfds", "--data.cache-dir", root / "images"]


def test_a_unet_comes_back_from_diffusers_with_the_same_pixels(runs, folder, tmp_path):
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "DDIMPipeline"
    told = convert("--from", folder, "--workdir", tmp_path / "run")
    assert "unet of diffusers' UNet2DModel" in told and "8x8" in told
    same = images(runs["unet"], tmp_path), images(tmp_path / "run", tmp_path)
    np.testing.assert_array_equal(*same)


def test_the_seeds_network_comes_back_with_its_optimizer(runs, file, root, tmp_path):
    convert("--from", file, "--workdir", tmp_path / "run", "--image-size", 8, "--optim.clip", 0,
            "--diffusion.schedule", "cosine", "--diffusion.kind", "v")  # fmt: skip
    before, after = tiny.state(runs["simple_unet"]), tiny.state(tmp_path / "run")
    tiny.assert_same_bits(after.params, before.params)
    tiny.assert_same_bits(after.opt_state, before.opt_state)
    stats = before.model_state["batch_stats"]
    tiny.assert_same_bits(after.model_state["batch_stats"], stats)
    assert int(after.step) == 6
    both = (runs["simple_unet"], tmp_path / "run")
    np.testing.assert_array_equal(*(images(d, tmp_path, "--weights", "raw") for d in both))


def test_an_imported_run_is_evaluated_and_trained_further_on_its_first_images(
    folder, root, tmp_path
):
    run = tmp_path / "run"
    convert("--from", folder, "--workdir", run, *places(root), "--optim.learning-rate", "1e-3")
    assert "data" not in record.read(str(run))
    asked = ["--num", 4, "--steps", 2, "--metrics", "appearance"]
    fine(tiny.command("evaluate", "--workdir", run, *asked))
    flags = ["--train.steps", "4", "--train.batch-size", "8", "--train.sample-steps", "2"]
    told = fine(tiny.command("train", "--workdir", run, *flags))
    assert "64 images" in told and "done: 4 steps" in told
    found = record.read(str(run))
    assert found["data"]["num_images"] == 64 and "first" in found["imported"]["images"]
    again = tiny.command("train", "--workdir", run, *flags, "--data.num-images", "32")
    assert_mistake(again, "data.num_images was 64, is 32")
    assert "nothing to do" in fine(tiny.command("train", "--workdir", run, *flags))


def test_a_run_is_resumed_by_its_folder_alone(runs):
    told = fine(tiny.command("train", "--workdir", runs["unet"], "--train.steps", 7))
    assert "resumed at step 6" in told and "done: 7 steps" in told


def test_the_official_list(root, tmp_path):
    network = ["--config=tiny", "--data.image-size=8", "--model.channels=32", "--model.groups=32"]
    network += ["--model.multipliers", "1"]
    diffusion = ["--diffusion.kind", "eps", "--diffusion.schedule", "linear"]
    flags = [*network, *diffusion, *tiny.LOOP, *places(root), "--train.steps", "3"]
    fine(tiny.command("train", "--workdir", tmp_path / "a", *flags))
    out = tmp_path / "ckpt.pth"
    convert("--to", "ddim", "--workdir", tmp_path / "a", "--out", out)
    assert [type(item) for item in reader.load(out)] == [dict, dict, int, int, dict]
    convert("--from", out, "--workdir", tmp_path / "b", "--image-size", 8)
    before, after = tiny.state(tmp_path / "a"), tiny.state(tmp_path / "b")
    for name in ("step", "params", "ema_params", "opt_state"):
        tiny.assert_same_bits(getattr(after, name), getattr(before, name))


def change(folder, tmp_path, where, **changes):
    """A copy of the folder with other fields in a JSON file."""
    new = tmp_path / "changed"
    for path in folder.rglob("*"):
        if path.is_file():
            (new / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (new / path.relative_to(folder)).write_bytes(path.read_bytes())
    fields = json.loads((new / where).read_text()) | changes
    (new / where).write_text(json.dumps({k: v for k, v in fields.items() if v != "gone"}))
    return new


UNET_JSON, SCHEDULER_JSON = "unet/config.json", "scheduler/scheduler_config.json"
FIELDS = {
    (UNET_JSON, "act_fn"): "mish",
    (UNET_JSON, "resnet_time_scale_shift"): "scale_shift",
    (UNET_JSON, "time_embedding_type"): "fourier",
    (UNET_JSON, "center_input_sample"): True,
    (UNET_JSON, "mid_block_type"): None,
    (UNET_JSON, "add_attention"): False,
    (UNET_JSON, "class_embed_type"): "timestep",
    (UNET_JSON, "down_block_types"): ["DownBlock2D", "SkipDownBlock2D"],
    (UNET_JSON, "up_block_types"): ["UpBlock2D", "UpBlock2D"],
    (UNET_JSON, "block_out_channels"): [4, 6],
    (UNET_JSON, "out_channels"): 6,
    (UNET_JSON, "attn_norm_num_groups"): 4,
    (UNET_JSON, "sample_size"): [8, 8, 8],
    (UNET_JSON, "layers_per_block"): "two",
    (UNET_JSON, "a_new_field"): 1,
    (SCHEDULER_JSON, "beta_schedule"): "laplace",
    (SCHEDULER_JSON, "prediction_type"): "flow",
    (SCHEDULER_JSON, "variance_type"): "learned_range",
    (SCHEDULER_JSON, "trained_betas"): [0.1, 0.2],
}


@pytest.mark.parametrize(("where", "name"), FIELDS)
def test_a_network_that_is_none_of_ours_is_named_by_its_field(where, name, folder, tmp_path):
    changed = change(folder, tmp_path, where, **{name: FIELDS[where, name]})
    finished = tiny.command("convert", "--from", changed, "--workdir", tmp_path / "run")
    assert_mistake(finished, name)
    assert not (tmp_path / "run").exists()


def test_a_field_that_is_missing_has_that_librarys_default(folder, tmp_path):
    missing = dict.fromkeys(["norm_eps", "freq_shift", "attention_head_dim"], "gone")
    changed = change(folder, tmp_path, UNET_JSON, **missing)
    convert("--from", changed, "--workdir", tmp_path / "run")
    model = record.load(str(tmp_path / "run")).model
    assert (model.epsilon, model.freq_shift, model.head_dim) == (1e-5, 0, 8)


def test_what_formats_cannot_say(runs, root, tmp_path):
    for to, name, flag in (
        ("seed", "unet", "--model.name"),
        ("ddim", "simple_unet", "--model.name"),
        ("ddim", "unet", "--model.groups"),
        ("diffusers", "simple_unet", "--model.name"),
    ):
        flags = ["--to", to, "--workdir", runs[name], "--out", tmp_path / "out"]
        assert_mistake(tiny.command("convert", *flags), f"--to {to}", flag)
    assert not (tmp_path / "out").exists()


MISTAKES = {
    "": ["--from FILE|DIR", "--to"],
    "--to seed --workdir run --out x --check": ["--check belongs to --from"],
    "--from a --to seed": ["--from FILE|DIR", "--to"],
    "--from none.pth --workdir run": ["--from none.pth", "no such file"],
    "--from folder --workdir run": ["--from folder", "config.json"],
    "--from text --workdir run": ["--from text", "damaged"],
    "--from evil.pth --workdir run": ["--from evil.pth", "which no tensor needs"],
    "--from other.pth --workdir run": ["--from other.pth", "the seed"],
    "--from half.pth --workdir run": ["--from half.pth", "missing: "],
    "--from half.pth": ["--workdir is missing"],
    "--to seed --out x": ["--workdir is missing"],
    "--to seed --workdir run": ["--out is missing"],
    "--to onnx --workdir run --out x": ["--to", "diffusers"],
    "--form x": ["did you mean --from"],
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(words, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("text")
    evil = containers.LEGACY + pickle.dumps(print)
    (tmp_path / "evil.pth").write_bytes(evil)
    state = reader.load(file)["state_dict"]
    bias = {"a": state.pop("conv0.bias")}
    for name, content in (("half", state), ("other", bias)):
        with (tmp_path / f"{name}.pth").open("wb") as out:
            containers.write(out, content)
    before = sorted(tmp_path.rglob("*"))
    assert_mistake(tiny.command("convert", *words.split()), *MISTAKES[words])
    assert sorted(tmp_path.rglob("*")) == before


def without(name):
    def change(content):
        del content["optimizer"]["param_groups"][0][name]

    return change


def weight(name, value):
    return lambda content: content["state_dict"].__setitem__(name, value)


def moment(**changes):
    def change(content):
        for entry in content["optimizer"]["state"].values():
            entry.update(changes)

    return change


LAYOUTS = {
    "no learning rate": (without("lr"), "lr"),
    "no betas": (without("betas"), "Adam"),
    "another optimizer": (lambda c: c.update(optimizer=5), "Adam"),
    "two groups": (lambda c: c["optimizer"]["param_groups"].append({}), "groups"),
    "amsgrad": (lambda c: c["optimizer"]["param_groups"][0].update(amsgrad=True), "amsgrad"),
    "no moments": (lambda c: c["optimizer"]["state"][0].pop("exp_avg"), "exp_avg"),
    "a moment that is a number": (moment(exp_avg=1.0), "laid out"),
    "a weight that is a list": (weight("output.bias", [1.0]), "laid out"),
    "a weight of whole numbers": (weight("output.bias", np.zeros(3, np.int64)), "not of floats"),
    "a weight that is not finite": (weight("output.bias", np.full(3, np.nan, "f4")), "not finite"),
    "a weight more": (weight("more", np.zeros(3, "f4")), "left over: more"),
    "a weight of another shape": (weight("output.bias", np.zeros(4, "f4")), "[4] instead of [3]"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_file_that_is_laid_out_otherwise_is_one_line(kind, file, tmp_path):
    change, told = LAYOUTS[kind]
    content = reader.load(file)
    change(content)
    with (tmp_path / "a.pth").open("wb") as out:
        containers.write(out, content)
    finished = tiny.command("convert", "--from", tmp_path / "a.pth", "--workdir", tmp_path / "run")
    assert_mistake(finished, "--from", told)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags", [("--num", "0"), ("--steps", "0"), ("--steps", "7"), ("--out", "a.jpg")]
)
def test_a_check_that_cannot_be_made_is_one_line(flags, folder):
    assert_mistake(tiny.command("convert", "--from", folder, "--check", *flags), flags[0])


def test_an_out_that_cannot_be_written_is_one_line(runs, tmp_path):
    (tmp_path / "file").write_text("")
    for to, run in (("seed", "simple_unet"), ("diffusers", "unet")):
        flags = ["--to", to, "--workdir", runs[run], "--out", tmp_path / "file" / "x"]
        assert_mistake(tiny.command("convert", *flags), "cannot be written")


def test_images_of_another_number_of_channels_are_refused(folder, tmp_path):
    changed = change(folder, tmp_path, UNET_JSON, in_channels=4, out_channels=4)
    path = changed / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    for name, axis in (("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0)):
        tensors[name] = np.concatenate([tensors[name], tensors[name].take([0], axis)], axis)
    save_file(tensors, path)
    finished = tiny.command("convert", "--from", changed, "--workdir", tmp_path / "run")
    assert_mistake(finished, "4 channels")


def test_a_run_is_not_overwritten(runs, folder):
    finished = tiny.command("convert", "--from", folder, "--workdir", runs["unet"])
    assert_mistake(finished, "holds files already")


def test_help_shows_the_flag_as_it_is_written(capsys):
    from experiments.convert import ConvertConfig

    with pytest.raises(SystemExit):
        cli.parse(ConvertConfig, ["--help"])
    shown = capsys.readouterr().out
    assert "--from " in shown and "from-" not in shown
