"""Reference statistics: cached with their recipe, and recomputed if anything differs."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation import images, references
from experiments.evaluation.features import networks
from experiments.evaluation.frechet import statistics
from jaxddim.runs import record as records
from jaxddim.runs.errors import RunError
from tests import tiny

root = tiny.root


@pytest.fixture
def asked():
    """The number of images in each call of the network."""
    return []


@pytest.fixture
def network(asked):
    """A network with two features: the mean and the spread of the pixels."""

    def embed(params, images):
        asked.append(len(images))
        pixels = images.astype(jnp.float32) * params
        return jnp.stack([pixels.mean((1, 2, 3)), pixels.std((1, 2, 3))], 1)

    return networks.FeatureNetwork("Mean-and-Spread", 2, "none", "w0", 1.0, embed)


@pytest.fixture
def splits(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), np.uint8)
    by_name = {"train": images[:30], "holdout": images[30:], "all": images}
    return references.Splits("folder", by_name, tmp_path / "features")


def kept(splits):
    return sorted(splits.cache.glob("*"))


def test_the_reference_is_all_of_the_split_and_exactly_that(network, splits):
    found = references.reference(network, splits, "train")
    pixels = splits.images["train"].reshape(30, -1).astype(np.float64)
    expected = np.stack([pixels.mean(1), pixels.std(1)], 1)
    np.testing.assert_allclose(found.features, expected, rtol=1e-5)
    assert found.statistics.count == 30
    np.testing.assert_allclose(found.statistics.covariance, np.cov(expected.T), rtol=1e-4)
    assert found.recipe == {
        "source": "folder",
        "split": "train",
        "num": 30,
        "shape": [4, 4, 3],
        "sha256": references.pixel_hash(splits.images["train"]),
        "network": "Mean-and-Spread",
        "network_weights": "w0",
        "resize": "none",
        "format": references.FORMAT,
    }


def test_it_is_computed_once_and_read_back_bit_for_bit(network, splits, asked):
    first = references.reference(network, splits, "train")
    asked.clear()
    second = references.reference(network, splits, "train")
    assert asked == []
    tiny.assert_same_bits(tuple(second), tuple(first))
    assert len(kept(splits)) == 1


def changed_pixel(network, splits):
    images = splits.images["train"].copy()
    images[3, 2, 1, 0] ^= 1
    return network, splits._replace(images=splits.images | {"train": images})


CHANGES = {
    "a pixel": changed_pixel,
    "one image less": lambda network, splits: (
        network,
        splits._replace(images=splits.images | {"train": splits.images["train"][:-1]}),
    ),
    "source": lambda network, splits: (network, splits._replace(source="rendered")),
    "weights": lambda network, splits: (network._replace(weights="w1", params=2.0), splits),
    "name": lambda network, splits: (network._replace(name="Other"), splits),
    "resize": lambda network, splits: (network._replace(resize="bilinear"), splits),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_computes_it_anew_and_keeps_the_other(network, splits, asked, what):
    before = references.reference(network, splits, "train")
    asked.clear()
    other = CHANGES[what](network, splits)
    after = references.reference(*other, "train")
    assert sum(asked) >= len(other[1].images["train"])
    assert after.recipe != before.recipe
    assert after.statistics.count == len(other[1].images["train"])
    asked.clear()
    for pair in ((network, splits), other):
        references.reference(*pair, "train")
    assert asked == []


def test_another_format_computes_it_anew(network, splits, asked, monkeypatch):
    references.reference(network, splits, "train")
    asked.clear()
    monkeypatch.setattr(references, "FORMAT", references.FORMAT + 1)
    references.reference(network, splits, "train")
    assert asked


def test_splits_are_kept_apart(network, splits):
    counts = {s: references.reference(network, splits, s).statistics.count for s in splits.images}
    assert counts == {"train": 30, "holdout": 10, "all": 40}
    assert len(kept(splits)) == 3


def test_a_file_with_another_recipe_or_cut_short_is_not_believed(network, splits, asked, capsys):
    expected = references.reference(network, splits, "train")
    references.reference(network, splits, "holdout")
    train, holdout = sorted(kept(splits), key=lambda path: "holdout" in path.name)
    whole = train.read_bytes()
    for content in (holdout.read_bytes(), whole[:-100], b"", b"no archive"):
        train.write_bytes(content)
        asked.clear()
        tiny.assert_same_bits(
            tuple(references.reference(network, splits, "train")), tuple(expected)
        )
        assert asked
        assert train.read_bytes() == whole
        told = capsys.readouterr().err
        assert told.count(f"{train} was damaged") == (content != holdout.read_bytes())
    references.reference(network, splits, "train")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["features", "mean", "scatter", "count", "recipe"])
def test_a_file_without_an_array_or_with_one_of_another_shape_is_damage(
    network, splits, asked, capsys, name
):
    expected = references.reference(network, splits, "train")
    (path,) = kept(splits)
    with np.load(path) as file:
        arrays = dict(file)
    array = arrays.pop(name)
    for changed in (arrays, arrays | {name: array[:1]} if array.ndim else arrays):
        np.savez(path, **changed)
        asked.clear()
        again = references.reference(network, splits, "train")
        tiny.assert_same_bits(tuple(again), tuple(expected))
        assert asked
        assert "was damaged" in capsys.readouterr().err


def test_where_nothing_can_be_kept_it_is_computed_all_the_same(network, splits, tmp_path):
    (tmp_path / "file").write_text("")
    found = references.reference(network, splits._replace(cache=tmp_path / "file" / "x"), "train")
    np.testing.assert_array_equal(found.statistics.mean, statistics(found.features).mean)


def test_the_hash_is_of_shape_and_pixels():
    images = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
    digest = references.pixel_hash(images)
    assert digest == references.pixel_hash(images.copy())
    assert digest != references.pixel_hash(images.reshape(2, 2, 8, 3))
    assert digest != references.pixel_hash(images[::-1])
    assert len(digest) == 64


# -- a run's images ----------------------------------------------------------------------


def test_the_splits_are_those_that_the_run_was_trained_and_validated_on(root):
    workdir, _ = tiny.trained(root)
    found = images.splits(str(workdir))
    assert {name: len(images) for name, images in found.images.items()} == {
        "train": 58,
        "holdout": 6,
        "all": 64,
    }
    together = np.concatenate([found.images["train"], found.images["holdout"]])
    np.testing.assert_array_equal(together, found.images["all"])
    assert found.source == "rendered"
    assert found.cache == root / "images" / "features"


def test_images_are_found_in_another_place(root, tmp_path):
    workdir, _ = tiny.trained(root)
    there = images.Places(data_dir=str(root / "tfds"), cache_dir=str(tmp_path / "new"))
    found = images.splits(str(workdir), there)
    assert found.cache == tmp_path / "new" / "features"
    assert (tmp_path / "new").is_dir()


def test_other_images_than_the_runs_are_refused(root, monkeypatch):
    workdir, _ = tiny.trained(root)
    record = records.read(str(workdir))
    record["data"]["fingerprint"] = "0"
    monkeypatch.setattr(records, "read", lambda workdir: record)
    with pytest.raises(
        RunError, match=r"was trained on other images \(64 of rendered then, 64 now\)"
    ):
        images.splits(str(workdir))
