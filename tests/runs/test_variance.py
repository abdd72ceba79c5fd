"""A learned variance through the commands: trained, resumed, drawn, guided, measured, exported."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from PIL import Image

import jaxddim
from jaxddim.runs import record
from tests import tiny
from tests.terminal.test_cli import assert_mistake

pytestmark = pytest.mark.usefixtures("quick_module")
root = tiny.root
DDPM = ("--method", "ddpm", "--steps", 5)
LEARNED = (*DDPM, "--variance", "learned")
KINDS = {
    "labels": ("--model.labels",),
    "simple_unet": ("--model.name", "simple_unet", "--model.multipliers", "1", "1"),
    "dit": ("--model.name", "dit", "--model.channels", "8", "--diffusion.kind", "eps"),
    "gaussian": (
        *("--diffusion.kind", "x0", "--diffusion.precondition", "gaussian"),
        *("--diffusion.levels", "lognormal", "--optim.name", "muon"),
    ),
}


def flags(root, kind, name):
    common = ["--data.source=rendered", "--diffusion.variance=learned", "--train.steps", 10]
    common += ["--diffusion.num-steps", 50]  # the variational bound has a term for each
    return [*tiny.flags(root, root / "learned" / name), *common, *KINDS[kind]]


def run_of(root, kind):
    """The folder of such a run, trained where it is not there."""
    folder = root / "learned" / kind
    if not folder.exists():
        told = tiny.command("train", *flags(root, kind, kind))
        assert told.code == 0, told
    return folder


@pytest.fixture(scope="module", params=KINDS)
def trained(request, root):
    return run_of(root, request.param)


def drawn(workdir, out, *more):
    told = tiny.command("sample", "--workdir", workdir, "--num", 4, "--out", out, *more)
    assert told.code == 0, told
    with np.load(out) as file:
        return file["images"]


def test_it_is_trained_kept_and_drawn(trained, tmp_path):
    config = json.loads((trained / "config.json").read_text())["config"]
    assert config["diffusion.variance"] == "learned"
    run = jaxddim.load_run(str(trained))
    assert np.isfinite([line["loss"] for line in tiny.metrics(trained) if "loss" in line]).all()
    shape = (2, *run.config.data.shape)
    pair = run.denoiser()(jax.random.normal(jax.random.key(0), shape), jnp.int32(25))
    assert pair.fraction.shape == shape
    assert jnp.abs(pair.fraction - 0.5).max() > 0  # it was initialised to the middle
    small, large, learned = (
        drawn(trained, tmp_path / f"{name}.npz", *DDPM, "--variance", name)
        for name in ("small", "large", "learned")
    )
    assert (learned != small).any() and (learned != large).any()
    assert (run.sample(4, steps=5, method="ddpm", variance="learned") == learned).all()
    for clip in ("keep", "dynamic", "none"):
        drawn(trained, tmp_path / "clipped.npz", *LEARNED, "--clip", clip)
    for method in ("ddim", "heun", "dpm++2m"):
        drawn(trained, tmp_path / "other.npz", "--method", method, "--steps", 4)


def test_a_run_that_goes_on_ends_as_one_that_did_not_stop(root):
    command = flags(root, "gaussian", "half")
    for steps in (5, 10):
        assert tiny.command("train", *command, "--train.steps", steps).code == 0
    whole = run_of(root, "gaussian")
    tiny.assert_same_bits(tiny.state(root / "learned" / "half"), tiny.state(whole))


def test_its_bound_is_measured_beside_the_others(trained):
    out = trained / "bound.json"
    told = tiny.command(
        *("evaluate", "--workdir", trained, "--metrics", "variational_bound", "--out", out)
    )
    assert told.code == 0, told
    found = json.loads(out.read_text())["metrics"]
    values = {name: found[f"variational bound, bits per dimension ({name} variance)"] for name in
              ("small", "large", "learned")}  # fmt: skip
    assert all(np.isfinite(value["value"]) for value in values.values())
    ends = [values[name]["prior"] for name in values]
    assert ends == ends[:1] * 3


def test_guidance_an_edit_and_a_file_of_it(root, tmp_path):
    workdir = run_of(root, "labels")
    guided = ("--label", 0, "--guidance", 3)
    plain = drawn(workdir, tmp_path / "plain.npz", *LEARNED, "--label", 0)
    assert (drawn(workdir, tmp_path / "guided.npz", *LEARNED, *guided) != plain).any()
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.fromarray(plain[0]).save(image)
    white = np.zeros(plain.shape[1:3], np.uint8)
    white[:4] = 255
    Image.fromarray(white).save(mask)
    edited = tmp_path / "edited.npz"
    told = tiny.command("edit", "--workdir", workdir, "--image", image, "--mask", mask,
                        *LEARNED, "--num", 2, "--out", edited)  # fmt: skip
    assert told.code == 0, told
    with np.load(edited) as file:
        assert (file["images"][:, 4:] == plain[0, 4:]).all()
    out = tmp_path / "sampler.jaxexport"
    told = tiny.command("export", "--workdir", workdir, *LEARNED, "--batch", 4, "--out", out)
    assert told.code == 0, told
    function = export.deserialize(bytearray(out.read_bytes()))
    labels = jnp.zeros(4, jnp.int32)
    images = np.asarray(function.call(jnp.uint32(0), jnp.int32(0), labels))
    assert np.abs(images.astype(int) - plain).max() <= 1


def test_mistakes_are_one_line(root, trained, tmp_path):
    fixed = root / "learned" / "fixed"
    if not fixed.exists():
        more = ["--data.source=rendered", "--train.steps", 1]
        assert tiny.command("train", *tiny.flags(root, fixed), *more).code == 0
    out = ("--out", tmp_path / "a.png")
    told = tiny.command("sample", "--workdir", fixed, *LEARNED, *out)
    assert_mistake(told, "has not learned a variance", "--diffusion.variance learned")
    for workdir in (fixed, trained):
        told = tiny.command("sample", "--workdir", workdir, "--variance", "learned", *out)
        assert_mistake(told, "--variance learned belongs to --method ddpm; DDIM has --eta")
    command = [*flags(root, trained.name, trained.name), "--diffusion.variance=fixed"]
    assert_mistake(tiny.command("train", *command), "diffusion.variance")
    init = [
        *tiny.flags(root, root / "learned" / "new"),
        *KINDS[trained.name],
        "--data.source=rendered",
    ]
    told = tiny.command("train", *init, "--train.init-from", trained)
    assert_mistake(
        told, "diffusion.variance was learned, is fixed", "give its --diffusion.variance"
    )
    told = tiny.command(
        "convert", "--workdir", trained, "--to", "diffusers", "--out", tmp_path / "d"
    )
    assert_mistake(told)


def test_a_record_of_before_has_a_fixed_variance(root):
    workdir = run_of(root, "labels")
    kept = (workdir / "config.json").read_text()
    found = json.loads(kept)
    del found["config"]["diffusion.variance"]
    (workdir / "config.json").write_text(json.dumps(found))
    try:
        assert not record.load(str(workdir)).diffusion.learned_variance
    finally:
        (workdir / "config.json").write_text(kept)
