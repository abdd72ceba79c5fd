"""Labels: learned by a run, recorded with their names, and drawn by name, number or in turn."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import export
from PIL import Image

from experiments.cars.designs import BODY_TYPES
from experiments.evaluation.images import splits
from experiments.evaluation.levels import loss_per_level
from experiments.terminal import pictures
from jaxddim import checks
from jaxddim.runs import record
from jaxddim.runs.config import Classes
from jaxddim.runs.errors import RunError
from jaxddim.runs.methods import DrawConfig, labeller
from jaxddim.runs.opened import load_run
from tests import tiny
from tests.terminal.test_cli import assert_mistake

pytestmark = pytest.mark.usefixtures("quick_module")
root = tiny.root
CLASSES = Classes(("Audi TT", "audi tt", "BMW X5", "van"), (10, 0, 30, 60))
INDEX = jnp.arange(5)


def labels_of(label, num_classes=4, classes=CLASSES, index=INDEX, **more):
    given = labeller(DrawConfig("runs/cars", label=label, **more), num_classes, classes)
    key = checks.new_key(more.get("seed", 0))
    return None if given is None else np.asarray(given(key, index)).tolist()


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("van", [3] * 5),
        ("Van", [3] * 5),
        ("audi tt", [1] * 5),
        ("AUDI TT", [0] * 5),
        ("2", [2] * 5),
        ("all", [0, 1, 2, 3, 0]),
    ],
)
def test_a_label_is_a_name_a_number_or_all(label, expected):
    assert labels_of(label) == expected


@pytest.mark.parametrize(
    ("label", "classes", "message"),
    [
        ("vans", CLASSES, "did you mean van"),
        ("bmw x", CLASSES, "did you mean BMW X5"),
        ("zzz", CLASSES, "expected Audi TT, audi tt, BMW X5, van"),
        ("4", CLASSES, "expected a number of 0 to 3, all, or a name such as Audi TT"),
        ("-1", CLASSES, "expected Audi TT"),
        ("²", CLASSES, "expected Audi TT"),
        ("van", None, "the names are not known: give a number of 0 to 3"),
        ("9", None, "expected a number of 0 to 3, all$"),
    ],
)
def test_another_label_is_an_error_with_the_nearest(label, classes, message):
    with pytest.raises(RunError, match=message):
        labels_of(label, classes=classes)


def test_without_a_label_classes_come_as_often_as_in_the_images():
    index = jnp.arange(4000)
    drawn = np.array(labels_of(None, index=index))
    counts = np.bincount(drawn, minlength=4)
    assert counts[1] == 0
    expected = np.array([400, 1200, 2400])
    assert scipy.stats.chisquare(counts[[0, 2, 3]], expected).pvalue > 1e-3
    assert labels_of(None, index=index[1000:1005]) == drawn[1000:1005].tolist()
    assert labels_of(None, index=index, seed=1) != drawn.tolist()


def test_a_network_without_labels_or_names_of_them():
    assert labels_of(None, num_classes=None, classes=None) is None
    assert labels_of(None, classes=None) is None
    for more in ({"label": "van"}, {"label": None, "guidance": 2.0}):
        with pytest.raises(RunError, match="has not learned labels"):
            labels_of(num_classes=None, classes=None, **more)
    with pytest.raises(RunError, match="--guidance needs a --label"):
        labels_of(None, classes=None, guidance=2.0)


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        [],
        3,
        {"names": 1},
        {"names": ["a"]},
        {"names": ["a"], "counts": [1, 2]},
        {"names": [1], "counts": [1]},
        {"names": ["a"], "counts": [-1]},
        {"names": ["a"], "counts": ["1"]},
    ],
)
def test_damaged_classes_of_a_record_are_an_error(damaged):
    with pytest.raises(RunError, match="the field classes must hold names and counts"):
        record.classes("runs/cars", {"classes": damaged})


@pytest.fixture(scope="module")
def trained(root):
    workdir = root / "labelled"
    flags = [*tiny.flags(root, workdir), "--data.source=rendered", "--model.labels"]
    flags += ["--optim.learning-rate", "0.05"]
    told = tiny.command("train", *flags, "--train.steps", 5, "--train.num-samples", 21)
    assert told.code == 0, told
    return workdir, flags


def draw(workdir, path, *flags):
    told = tiny.command("sample", "--workdir", workdir, "--steps", 4, "--out", path, *flags)
    assert (told.code, tiny.complaints(told.err)) == (0, []), told
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    with np.load(path) as file:
        return file["images"]


def test_a_run_records_its_classes_resumes_and_draws_a_row_of_each(trained):
    workdir, flags = trained
    found = json.loads((workdir / "config.json").read_text())
    assert found["classes"]["names"] == list(BODY_TYPES)
    held_out = found["config"]["data.holdout"]
    assert 0 < sum(found["classes"]["counts"]) <= found["data"]["num_images"] < 64 + held_out
    assert found["config"]["model.num_classes"] == len(BODY_TYPES) == 7
    assert tiny.command("train", *flags, "--train.steps", 6).code == 0
    grid = np.asarray(Image.open(workdir / "samples" / "0000005.png"))
    assert grid.shape[0] > 2 * grid.shape[1]  # 7 rows of 3


def test_a_label_decides_and_guidance_strengthens_it(trained, tmp_path):
    workdir, _ = trained
    path = tmp_path / "images.npz"
    every = draw(workdir, path, "--num", 14, "--label", "all")
    vans = draw(workdir, path, "--num", 14, "--label", BODY_TYPES[3])
    assert np.array_equal(every[[3, 10]], vans[[3, 10]])
    assert not np.array_equal(every[4], vans[4])
    guided = draw(workdir, path, "--num", 4, "--label", 3, "--guidance", 4)
    assert not np.array_equal(guided, vans[:4])
    run = load_run(str(workdir))
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    label, null = jnp.full(2, 3), jnp.full(2, 7)
    pairs = [
        run.denoiser(run.variables, label=which, guidance=scale, clip_x0=False)(x, jnp.int32(500))
        for which, scale in ((label, 1.0), (label, 0.0), (label, 3.0), (null, 1.0))
    ]
    with_label, without, thrice, nothing = (np.asarray(pair.x0) for pair in pairs)
    np.testing.assert_allclose(without, nothing, atol=1e-5)
    np.testing.assert_allclose(thrice, nothing + 3 * (with_label - nothing), atol=1e-4)


def test_the_grid_of_all_labels_has_a_row_of_each(trained, tmp_path):
    workdir, _ = trained
    images = draw(workdir, tmp_path / "images.npz", "--num", 14, "--label", "all")
    grid = draw(workdir, tmp_path / "grid.png", "--num", 14, "--label", "all")
    by_class = images.reshape(2, 7, *images.shape[1:]).swapaxes(0, 1).reshape(images.shape)
    zoom = pictures.zoom(images)
    assert np.array_equal(grid[::zoom, ::zoom], pictures.grid(by_class, 2))


FEATURES = ["--metrics", "frechet", "kid", "precision_recall"]


def evaluated(workdir, path, *flags):
    told = tiny.command("evaluate", "--workdir", workdir, "--steps", 4, "--out", path, *flags)
    assert (told.code, tiny.complaints(told.err)) == (0, []), told
    return json.loads(path.read_text())


def test_each_class_is_compared_with_its_own_images(trained, tmp_path):
    workdir, _ = trained
    counts = dict(zip(BODY_TYPES, load_run(str(workdir)).classes.counts, strict=True))
    flags = ["--num", 29, "--label", "all", *FEATURES]
    found = evaluated(workdir, tmp_path / "all.json", *flags)["metrics"]["by class"]
    assert list(found) == list(BODY_TYPES)
    assert [numbers["num_samples"] for numbers in found.values()] == [5, *[4] * 6]
    assert {name: numbers["num_reference"] for name, numbers in found.items()} == counts
    name = max(counts, key=lambda name: (counts[name], name != BODY_TYPES[0]))
    alone = evaluated(workdir, tmp_path / "one.json", "--num", 8, "--label", name, *FEATURES)
    assert alone["reference"]["num"] == counts[name]
    assert alone["sampler"]["label"] == name and "by class" not in alone["metrics"]
    assert set(alone["metrics"]) == set(found[name]) - {"num_samples", "num_reference"}


def test_the_distance_of_a_class_is_that_of_its_samples_alone(trained, tmp_path):
    workdir, _ = trained
    samples = draw(workdir, tmp_path / "images.npz", "--num", 28, "--label", "all")
    run = load_run(str(workdir))
    number = int(np.argmax(run.classes.counts))
    name = BODY_TYPES[number]
    np.savez(tmp_path / "ours.npz", images=samples[number::7])
    flags = ["--num", 28, "--label", "all", "--metrics", "frechet"]
    found = evaluated(workdir, tmp_path / "all.json", *flags)["metrics"]["by class"][name]
    data, theirs = splits(str(workdir)), tmp_path / "theirs.npz"
    np.savez(theirs, images=data.images["train"][data.labels["train"] == number])
    files = ["--samples", tmp_path / "ours.npz", "--reference", theirs, "--metrics", "frechet"]
    told = tiny.command("evaluate", "--workdir", workdir, "--out", tmp_path / "b.json", *files)
    assert told.code == 0, told
    alone = json.loads((tmp_path / "b.json").read_text())["metrics"]["FD (EfficientNet-Lite0)"]
    assert alone["num_samples"] == 4 and alone["num_reference"] == run.classes.counts[number]
    assert found["FD (EfficientNet-Lite0)"]["value"] == pytest.approx(alone["value"], rel=1e-4)


def test_the_loss_by_level_is_that_of_the_images_labels(trained, tmp_path):
    workdir, _ = trained
    found = evaluated(workdir, tmp_path / "loss.json", "--metrics", "validation_loss")
    run, data = load_run(str(workdir)), splits(str(workdir))
    images, labels = data.images["holdout"], data.labels["holdout"]
    levels = {
        name: [level.loss for level in loss_per_level(run, images, given)]
        for name, given in (("right", labels), ("none", None), ("wrong", (labels + 1) % 7))
    }
    loss = found["metrics"]["validation loss per noise level"]["loss"]
    np.testing.assert_allclose(loss, levels["right"], rtol=1e-5)
    assert not np.allclose(loss, levels["none"]) and not np.allclose(loss, levels["wrong"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label", "vna"], "did you mean van?"),
        (["--label", "7"], "expected a number of 0 to 6"),
        (["--label", "van", "--samples", "x.npz"], "--samples"),
        (["--label", "van", "--reference", "holdout"], "fewer than 4 images of --label van"),
    ],
)
def test_mistakes_with_labels_in_evaluate(trained, flags, message):
    assert_mistake(tiny.command("evaluate", "--workdir", trained[0], "--num", 4, *flags), message)


def test_the_exported_sampler_takes_labels(trained, tmp_path):
    workdir, _ = trained
    out = tmp_path / "s.jaxexport"
    flags = ["--workdir", workdir, "--steps", 4, "--out", out, "--batch", 7, "--guidance", 2]
    assert tiny.command("export", *flags).code == 0
    function = export.deserialize(out.read_bytes())
    found = np.asarray(function.call(np.uint32(0), np.int32(0), np.arange(7, dtype=np.int32)), int)
    flags = ["--num", 7, "--label", "all", "--guidance", 2]
    expected = draw(workdir, tmp_path / "images.npz", *flags)
    assert np.abs(found - expected).max() <= 1
    assert_mistake(tiny.command("export", "--workdir", workdir, "--out", out, "--label", "0"))


def test_what_has_no_labels_cannot_learn_them(root, tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), 60 * i, np.uint8)).save(place / f"{i}.png")
    flags = [*tiny.flags(root, tmp_path / "run"), "--model.labels"]
    folder = ["--data.source", "folder", "--data.path", place]
    told = tiny.command("train", *flags, *folder)
    assert_mistake(told, "--model.labels: the images of folder have no classes")
    told = tiny.command("train", *flags, *folder, "--model.name", "simple_unet")
    assert_mistake(told, "simple_unet, the seed's network, takes no labels")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def imported(root, trained):
    """The labelled run's network, given to diffusers and read from there: it has no names."""
    workdir = root / "exported"
    flags = [*tiny.flags(root, workdir), "--data.source=rendered", "--model.labels"]
    flags += ["--diffusion.kind=eps", "--diffusion.schedule=linear", "--train.steps", 1]
    assert tiny.command("train", *flags).code == 0
    folder, found = root / "for-diffusers", root / "imported"
    for command in (
        ("--workdir", workdir, "--to", "diffusers", "--out", folder),
        ("--from", folder, "--workdir", found),
    ):
        told = tiny.command("convert", *command)
        assert told.code == 0, told
    return found


def test_an_imported_network_with_classes_learns_labels_further(imported, root, tmp_path):
    copy = shutil.copytree(imported, tmp_path / "run")
    before = load_run(str(copy))
    assert before.config.model.num_classes == 7 and not before.config.model.labels
    common = [*tiny.LOOP, "--data.source=rendered", "--data.num-images=64", "--workdir", copy]
    common += ["--data.data-dir", root / "tfds", "--data.cache-dir", root / "images"]
    labels = ["--model.labels", "--train.steps"]
    told = tiny.command("train", *common, *labels, before.step + 2)
    assert told.code == 0, told
    run = load_run(str(copy))
    assert run.config.model.labels and run.class_names == BODY_TYPES
    assert run.sample(1, steps=2, label=BODY_TYPES[1]).shape == (1, 8, 8, 3)
    assert tiny.command("train", *common, *labels, before.step + 3).code == 0  # resumes
    without = tiny.command("train", *common, "--model.no-labels", "--train.steps", 9)
    assert_mistake(without, "model.labels was")


def test_a_new_run_can_start_from_such_a_network(imported, root, tmp_path):
    flags = [*tiny.flags(root, tmp_path / "new"), "--data.source=rendered", "--model.labels"]
    source = load_run(str(imported)).config.model
    flags += ["--diffusion.kind=eps", "--model.epsilon", source.epsilon]
    told = tiny.command(
        "train", *flags, "--train.init-from", imported, "--train.steps", 1, "--model.head-dim",
        source.head_dim, "--model.downsample-padding", source.downsample_padding,
    )  # fmt: skip
    assert told.code == 0, told


def test_other_classes_than_the_networks_are_a_mistake(imported, root, tmp_path):
    copy = shutil.copytree(imported, tmp_path / "run")
    folder = tmp_path / "two"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.full((8, 8, 3), 30 * number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    told = tiny.command(
        "train", "--workdir", copy, "--model.labels", "--data.source=folder",
        "--data.path", folder, "--data.cache-dir", root / "images", "--train.batch-size", 4,
        "--train.steps", 9,
    )  # fmt: skip
    assert_mistake(told, "--model.labels", "has 7 classes, and the images have 2")
