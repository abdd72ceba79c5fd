"""`experiments.evaluate`: its metrics, repeating a record, and user errors."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import evaluate, sample
from experiments.evaluation import frechet, kid, likelihoods, manifolds, references
from experiments.evaluation import images as run_images
from experiments.evaluation.features import loading, networks
from experiments.evaluation.metrics import DEFAULT
from jaxddim.runs import drawing
from tests import tiny
from tests.evaluation.test_features import random_weights, saved
from tests.terminal.test_cli import assert_mistake

pytestmark = pytest.mark.usefixtures("quick_module")
root = tiny.root
NUM = 10  # not a multiple of the images at a time: 16 when sampling and for features
DRAW = ("--steps", "4", "--eta", "0.5", "--seed", "3")


@pytest.fixture(scope="module")
def trained(root):
    return tiny.trained(root)[0]


def run(trained, *flags):
    return tiny.command("evaluate", "--workdir", trained, *flags)


def measured(trained, *flags):
    """The record of a successful call."""
    told = run(trained, *flags)
    assert (told.code, tiny.complaints(told.err)) == (0, []), told
    return json.loads(told.out)


@pytest.fixture(scope="module")
def record(trained, root):
    """The record of a call with the default metrics, and the folder it wrote to."""
    folder = root / "evaluated"
    return measured(trained, "--num", NUM, *DRAW, "--out", folder / "a.json"), folder


@pytest.fixture(scope="module")
def images(trained, root):
    """What `experiments.sample` draws."""
    path = root / "images_of_sample.npz"
    told = tiny.command("sample", "--workdir", trained, "--num", NUM, *DRAW, "--out", path)
    assert told.code == 0
    with np.load(path) as file:
        return file["images"]


# -- what is measured --------------------------------------------------------------------


def test_the_samples_are_those_of_sample(record, images):
    told = record[0]["samples"]
    assert told == {"num": NUM, "sha256": references.pixel_hash(images), "from": "the run"}


def test_the_metrics_are_those_of_the_library(record, images, trained):
    found, network = record[0]["metrics"], loading.load("efficientnet-lite0")
    splits = run_images.splits(str(trained))
    samples = networks.features(network, images)
    training = networks.features(network, splits.images["train"])

    distance = frechet.frechet(frechet.statistics(samples), frechet.statistics(training))
    assert found["FD (EfficientNet-Lite0)"] == {
        "value": pytest.approx(distance.distance, rel=1e-6),
        "num_samples": NUM,
        "num_reference": 58,
        "rank_samples": NUM - 1,
        "rank_reference": 57,
    }
    kernel = kid.kid(samples, training, seed=3)
    assert found["KID (EfficientNet-Lite0)"] == {
        "value": pytest.approx(kernel.mean, rel=1e-6),
        "std": pytest.approx(kernel.std, rel=1e-6),
        "blocks": 100,
        "block_size": 5,
    }
    shares = manifolds.precision_recall(training[:NUM], samples)
    about = {"k": 3, "num_samples": NUM, "num_reference": NUM}
    assert found["precision (EfficientNet-Lite0)"] == {"value": shares.precision} | about
    assert found["recall (EfficientNet-Lite0)"] == {"value": shares.recall} | about
    near = found["distance to the nearest training image (EfficientNet-Lite0)"]
    expected = manifolds.nearest(samples, training, 5)
    assert near["samples"][0] == pytest.approx(expected.distances[:, 0].min(), rel=1e-5)
    assert near["samples"][-1] == pytest.approx(expected.distances[:, 0].max(), rel=1e-5)
    assert near["shown_training"] == expected.indices[near["shown_samples"]].tolist()
    assert (near["num_samples"], near["num_held_out"], near["num_training"]) == (NUM, 6, 58)

    losses = found["validation loss per noise level"]
    assert (losses["kind"], losses["norm"], losses["num_images"]) == ("v", "l2", 6)
    assert (losses["t"][0], losses["t"][-1], len(losses["t"])) == (1, 1000, 21)
    assert {len(losses[name]) for name in ("t", "log_snr", "loss", "std_error")} == {21}


def test_a_singular_covariance_is_said(record):
    first, second = record[0]["notes"]
    assert "the covariance of 10 samples is singular, rank 9 of 1280; with so few images" in first
    assert "the covariance of 58 reference images is singular, rank 57 of 1280" in second


def test_the_record_has_all_that_a_repetition_needs(record, trained):
    told, folder = record
    assert told["sampler"] == {
        "method": "ddim",
        "eta": 0.5,
        "variance": None,
        "steps": 4,
        "spacing": "linear",
        "seed": 3,
        "clip": "rederive",
        "kind": "v",
        "grid": [1000, 750, 500, 250, 0],
    }
    assert told["run"] == {
        "workdir": str(trained),
        "checkpoint": 20,
        "weights": "ema",
        "image_size": 8,
        "channels": 3,
    }
    assert told["reference"]["split"] == "train"
    splits = run_images.splits(str(trained))
    assert told["reference"]["sha256"] == references.pixel_hash(splits.images["train"])
    network = loading.load("efficientnet-lite0")
    assert told["network"]["weights_sha256"] == network.weights
    assert "224x224, bicubic" in told["network"]["resize"]
    assert told["versions"]["jax"] == jax.__version__
    assert {"jaxddim", "python", "jaxlib", "flax", "numpy"} <= told["versions"].keys()
    assert (
        told["seconds"]["total"]
        >= sum(seconds for name, seconds in told["seconds"].items() if name != "total") - 0.1
    )
    assert set(DEFAULT) <= told["seconds"].keys()
    assert told["config"]["num"] == NUM
    assert told["files"]["record"] == str(folder / "a.json")


def test_the_record_repeats_itself(record, trained, tmp_path):
    """A call with the configuration in a record gives the same numbers."""
    told, _ = record
    config = told["config"] | {"out": str(tmp_path / "b.json")}
    config["data"] = run_images.Places(**config["data"])
    evaluate.evaluate(evaluate.EvaluateConfig(**config | {"metrics": tuple(config["metrics"])}))
    again = json.loads((tmp_path / "b.json").read_text())
    assert again["metrics"] == told["metrics"]
    assert again["samples"] == told["samples"]


def test_what_is_printed_is_what_is_kept_and_speaks_of_no_other_network(record):
    told, folder = record
    text = (folder / "a.json").read_text()
    assert json.loads(text) == told
    assert "FID" not in text
    assert '\n    "grid": [1000, 750, 500, 250, 0]\n' in text


def test_the_pictures_are_beside_the_record(record, images, trained):
    told, folder = record
    assert sorted(path.name for path in folder.iterdir()) == [
        "a-distances.png",
        "a-neighbours.png",
        "a-spectrum.png",
        "a.json",
    ]
    with Image.open(told["files"]["neighbours"]) as file:
        picture = np.asarray(file)[::12, ::12]  # undo the zoom
    near = told["metrics"]["distance to the nearest training image (EfficientNet-Lite0)"]
    training = run_images.splits(str(trained)).images["train"]
    assert picture.shape == (10 * 10 - 2, 8 + 4 + 5 * 10 - 2, 3)
    for row in (0, 9):
        top = 10 * row
        shown = images[near["shown_samples"][row]]
        np.testing.assert_array_equal(picture[top : top + 8, :8], shown)
        for column in (0, 4):
            left, other = 12 + 10 * column, training[near["shown_training"][row][column]]
            np.testing.assert_array_equal(picture[top : top + 8, left : left + 8], other)
    with Image.open(told["files"]["distances"]) as file:
        assert file.size == (768, 432)


# -- other ways to call it ---------------------------------------------------------------


def test_by_default_the_record_goes_into_the_run_and_settings_keep_apart(trained):
    flags = ["--metrics", "validation_loss"]
    paths = [measured(trained, *flags, *more)["files"]["record"] for more in ([], ["--seed", "1"])]
    again = measured(trained, *flags)["files"]["record"]
    assert paths[0] == again != paths[1]
    for path in paths:
        assert path.startswith(f"{trained}/evaluations/0000020-ddim50-")


def test_a_loss_alone_draws_nothing_and_needs_no_network(trained, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(drawing, "drawn", broken)
    monkeypatch.setattr(loading, "load", broken)
    told = measured(trained, "--metrics", "validation_loss", "--out", tmp_path / "a.json")
    assert list(told["metrics"]) == ["validation loss per noise level"]
    assert not {"samples", "sampler", "network", "reference"} & told.keys()


def test_bits_per_dimension_where_they_are_asked_for(record, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(likelihoods, "IMAGES", 3)
    monkeypatch.setattr(likelihoods, "ODE_STEPS", 5)
    flags = ["--metrics", "variational_bound", "ode_likelihood", "--out", tmp_path / "a.json"]
    told = measured(trained, *flags)
    small, large, ode = told["metrics"]
    assert (small, large) == tuple(
        f"variational bound, bits per dimension ({name} variance)" for name in ("small", "large")
    )
    assert ode == "ODE, bits per dimension"
    for name, found in told["metrics"].items():
        assert found["num_images"] == 3
        assert found["value"] > 1, name  # the network has hardly learned anything
        assert not {"samples", "network"} & told.keys()
    assert not any("bits" in name for name in record[0]["metrics"])


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_images_that_are_already_there(record, images, trained, tmp_path, kind):
    path = tmp_path / ("a.npz" if kind == "npz" else "pictures")
    sample.write(path, iter([images]))
    metrics = ["--metrics", "frechet", "precision_recall"]
    told = measured(trained, "--samples", path, *metrics, "--out", tmp_path / "a.json")
    assert told["samples"] == record[0]["samples"] | {"from": str(path)}
    assert "sampler" not in told
    for name, value in told["metrics"].items():
        assert value == record[0]["metrics"][name]
    fewer = measured(trained, "--samples", path, "--num", 5, *metrics, "--out", tmp_path / "b.json")
    assert fewer["samples"]["sha256"] == references.pixel_hash(images[:5])
    assert fewer["metrics"]["FD (EfficientNet-Lite0)"]["num_samples"] == 5


def test_copies_of_training_images_are_found(trained, tmp_path):
    training = run_images.splits(str(trained)).images["train"]
    sample.write(tmp_path / "a.npz", iter([training[[7, 3, 50, 21]]]))
    flags = ["--samples", tmp_path / "a.npz", "--metrics", "neighbours"]
    told = measured(trained, *flags, "--out", tmp_path / "a.json")["metrics"]
    near = told["distance to the nearest training image (EfficientNet-Lite0)"]
    found = dict(
        zip(near["shown_samples"], (row[0] for row in near["shown_training"]), strict=True)
    )
    assert found == {0: 7, 1: 3, 2: 50, 3: 21}
    assert near["samples"][-1] < 1e-3 < near["held_out"][0]


def test_ddpm_is_recorded_with_the_eta_that_it_is(trained, tmp_path):
    flags = ["--method", "ddpm", "--steps", 2, "--num", 4, "--metrics", "frechet"]
    told = measured(trained, *flags, "--reference", "holdout", "--out", tmp_path / "a.json")
    assert (told["sampler"]["method"], told["sampler"]["eta"]) == ("ddpm", 1.0)
    assert told["metrics"]["FD (EfficientNet-Lite0)"]["num_reference"] == 6
    assert told["reference"]["split"] == "holdout"


@pytest.mark.slow  # compiles an Inception
def test_only_the_inception_of_the_fid_prints_it(trained, tmp_path):
    weights = saved(tmp_path / "inception.safetensors", random_weights())
    flags = ["--network", "inception", "--network-weights", weights, "--num", 4, "--steps", 2]
    metrics = ["--metrics", "frechet", "kid", "--reference", "holdout"]
    told = measured(trained, *flags, *metrics, "--out", tmp_path / "a.json")
    assert list(told["metrics"]) == ["FID", "KID (Inception-v3)"]
    assert told["metrics"]["FID"]["rank_samples"] == 3
    assert told["network"]["features"] == 2048


# -- user errors -------------------------------------------------------------------------

MISTAKES = {
    "--stps 4": ("unknown flag --stps", "did you mean --steps?"),
    "--eta 1.0004": ("--eta must lie in [0, 1], got 1.0004",),
    "--eta 0.5 --method ddpm": ("--eta belongs to --method ddim",),
    "--num 0": ("--num must be at least 1",),
    "--num 3": ("--num must be at least 4, got 3",),
    "--steps 0": ("--steps must be at least 1",),
    "--steps 2000": ("--steps 2000", "1000 training steps"),
    "--seed -1": ("--seed", "-1"),
    "--metrics": ("--metrics is empty", "frechet, kid"),
    "--metrics frechte": ("unknown metric 'frechte' in --metrics; did you mean frechet?",),
    "--metrics fid": ("unknown metric 'fid'", "did you mean frechet with --network inception?"),
    "--metrics kid FID": ("did you mean frechet with --network inception?",),
    "--metrics recall": ("did you mean precision_recall?",),
    "--metrics elbo": ("did you mean variational_bound?",),
    "--metrics nll": ("did you mean ode_likelihood?",),
    "--network resnet": ("'resnet'", "'efficientnet-lite0'"),
    "--network inception": ("--network-weights FILE", "6726825d.pth"),
    "--network inception --network-weights none.pth": ("none.pth: no such file",),
    "--network inception --network-weights text.pth": ("text.pth: damaged",),
    "--network-weights text.pth": ("--network-weights belongs to --network inception",),
    "--reference test": ("'test'", "holdout"),
    "--checkpoint 7": ("no checkpoint '7'", "expected latest, best or one of 15, 20"),
    "--workdir=": ("--workdir is missing",),
    "--workdir empty": ("empty holds no run",),
    "--out a.png": ("--out a.png: expected a FILE.json",),
    "--out text.pth/a.json": ("--out: text.pth cannot be made",),
    "--samples a.npz --steps 4": ("--samples and --steps exclude each other",),
    "--samples a.npz --eta 0": ("--samples and --eta exclude each other",),
    "--samples none.npz": ("--samples none.npz cannot be read", "No such file"),
    "--samples text.npz": ("--samples text.npz cannot be read",),
    "--samples unnamed.npz": ("--samples unnamed.npz cannot be read", "images"),
    "--samples large.npz": ("images is uint8 [5, 9, 9, 3], expected uint8 [n, 8, 8, 3]",),
    "--samples floats.npz": ("images is float64 [5, 8, 8, 3]",),
    "--samples few.npz": ("few.npz holds 3 images: expected 4 or more",),
    "--samples good.npz --num 6": ("good.npz holds 5 images: expected 6 or more",),
    "--samples none": ("--samples none cannot be read (no such folder)",),
    "--samples empty": ("--samples empty cannot be read (no picture in it)",),
    "--samples sizes": ("--samples sizes cannot be read",),
    "--samples textual": ("--samples textual cannot be read",),
}


@pytest.fixture
def _traps(tmp_path, monkeypatch):
    """Files and folders that the invalid calls refer to."""
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "sizes", "textual"):
        (tmp_path / name).mkdir()
    for name in ("text.pth", "text.npz", "textual/a.png"):
        (tmp_path / name).write_text("no weights, no images")
    for size in (8, 9):
        Image.new("RGB", (size, size)).save(tmp_path / "sizes" / f"{size}.png")
    np.savez(tmp_path / "unnamed.npz", pictures=np.zeros((5, 8, 8, 3), np.uint8))
    arrays = {
        "large": np.zeros((5, 9, 9, 3), np.uint8),
        "floats": np.zeros((5, 8, 8, 3)),
        "few": np.zeros((3, 8, 8, 3), np.uint8),
        "good": np.zeros((5, 8, 8, 3), np.uint8),
    }
    for name, array in arrays.items():
        np.savez(tmp_path / f"{name}.npz", images=array)


@pytest.mark.usefixtures("_traps")
@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_2_and_leaves_nothing(words, trained, tmp_path):
    before = sorted(tmp_path.iterdir())
    flags = words.split() if "--out" in words else [*words.split(), "--out", "new/a.json"]
    finished = run(trained, *flags)
    assert_mistake(finished, *MISTAKES[words])
    assert finished.out == ""
    assert not list((tmp_path / "new").glob("*"))
    assert sorted(path for path in tmp_path.iterdir() if path.name != "new") == before


def test_a_record_that_cannot_be_written(trained, tmp_path):
    (tmp_path / "a.json").mkdir()
    flags = ["--metrics", "validation_loss", "--out", tmp_path / "a.json"]
    assert_mistake(run(trained, *flags), "a.json cannot be written")


def test_help_lists_the_flags(trained):
    finished = run(trained, "--help")
    assert (finished.code, finished.err) == (0, "")
    for field in dataclasses.fields(evaluate.EvaluateConfig):
        assert f"--{field.name.replace('_', '-')}" in finished.out
