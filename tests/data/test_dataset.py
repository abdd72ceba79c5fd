"""Batches, the split, and the choice of a source."""

import hashlib
import itertools
import subprocess
import sys

import grain.python as grain
import numpy as np
import pytest

from experiments import data
from experiments.data import Dataset
from experiments.data.sources import rendered
from experiments.terminal.errors import UserError
from jaxddim.runs.config import DataConfig


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


def config(**changes):
    return DataConfig(image_size=8, **changes)


# -- batches -----------------------------------------------------------------------


def numbered(count, size=4):
    """Images that encode their number (in the left half) and whether they are flipped."""
    images = np.zeros((count, size, size, 3), np.uint8)
    images[:, :, : size // 2, 0] = np.arange(count)[:, None, None]
    images[:, :, : size // 2, 1] = 255
    return images


def take(count, images, **arguments):
    iterator = data.batches(images, **{"batch_size": 4, "seed": 0, **arguments})
    return np.stack(list(itertools.islice(iterator, count)))


def numbers(batches):
    """The numbers of the images in a stack of batches, in order."""
    levels = (batches.reshape(-1, *batches.shape[-3:]) + 1) * 127.5
    return np.round(levels[..., 0].max((1, 2))).astype(int)


def flipped(batches):
    return batches.reshape(-1, *batches.shape[-3:])[:, 0, -1, 1] > 0


def test_batches_are_float32_from_minus_one_to_one_exactly():
    images = np.zeros((4, 4, 4, 3), np.uint8)
    images[..., 1] = 255
    images[..., 2] = 51
    (batch,) = take(1, images)
    assert batch.shape == (4, 4, 4, 3)
    assert batch.dtype == np.float32
    assert np.all(batch[..., 0] == -1)
    assert np.all(batch[..., 1] == 1)
    np.testing.assert_allclose(batch[..., 2], -0.6, atol=1e-7)


@pytest.mark.parametrize("first_step", [1, 2, 7, 1000])
def test_starting_at_a_step_gives_the_batches_that_come_there(first_step):
    images = numbered(10)
    if first_step < 100:
        skipped = take(first_step + 3, images)[first_step:]
        assert np.array_equal(take(3, images, first_step=first_step), skipped)
    one, two = take(1, images, first_step=first_step), take(2, images, first_step=first_step - 1)
    assert np.array_equal(one[0], two[1])


def test_batches_depend_on_the_seed_and_on_nothing_else():
    images = numbered(50)
    assert np.array_equal(take(5, images, seed=3), take(5, images, seed=3))
    assert not np.array_equal(take(5, images, seed=3), take(5, images, seed=4))
    assert take(1, images, seed=2**40 + 3).shape == (1, 4, 4, 4, 3)


def test_consecutive_seeds_do_not_share_epochs():
    images = numbered(32)
    orders = {
        tuple(numbers(take(1, images, seed=seed, batch_size=32, first_step=epoch)))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


@pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 23])
def test_every_epoch_shows_every_image_once_in_an_order_of_its_own(batch_size):
    count, epochs = 10, 4
    stream = numbers(take(-(-count * epochs // batch_size), numbered(count), batch_size=batch_size))
    orders = stream[: count * epochs].reshape(epochs, count)
    assert np.array_equal(np.sort(orders), np.tile(np.arange(count), (epochs, 1)))
    assert len({tuple(order) for order in orders}) == epochs


def test_each_image_of_the_stream_has_a_coin_of_its_own():
    coins = flipped(take(100, numbered(200), batch_size=20))
    by_batch = coins.reshape(100, 20).mean(1)
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / np.sqrt(coins.size)
    assert abs(by_batch.std() - np.sqrt(0.25 / 20)) < 0.03  # all or none would give 0.5
    assert not np.array_equal(coins[:20], coins[20:40])


def test_flipped_images_are_mirrored_left_to_right():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    seen = take(20, images)
    either = np.concatenate([images, images[:, :, ::-1]]) / 127.5 - 1
    for image in seen.reshape(-1, 4, 6, 3):
        assert np.isclose(either, image, atol=1e-6).all((1, 2, 3)).sum() == 1


def test_without_flip_nothing_is_flipped_and_the_order_stays():
    images = numbered(10)
    plain, mixed = take(10, images, flip=False), take(10, images)
    assert not flipped(plain).any()
    assert np.array_equal(numbers(plain), numbers(mixed))


@pytest.mark.parametrize("shards", [2, 3])
def test_the_shards_together_are_the_stream_of_one_process(shards):
    images = numbered(13)
    whole = take(6, images, batch_size=4 * shards)
    parts = [take(6, images, shard=(i, shards)) for i in range(shards)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    assert len(set(numbers(np.concatenate(parts, axis=1))[:13])) == 13


@pytest.mark.parametrize("first_step", [0, 1000])
def test_the_batches_are_those_that_grain_makes_image_by_image(first_step):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 6, 3), np.uint8)
    stream = grain.MapDataset.source(images).seed(3).shuffle().repeat()
    stream = stream.random_map(lambda image, rng: image[:, ::-1] if rng.random() < 0.5 else image)
    positions = [16 * (first_step + k) + 8 + i for k in range(3) for i in range(8)]
    expected = np.stack([stream[position] for position in positions])
    seen = take(3, images, batch_size=8, seed=3, first_step=first_step, shard=(1, 2))
    np.testing.assert_allclose((seen.reshape(expected.shape) + 1) * 127.5, expected, atol=1e-4)


def test_a_single_image_can_be_trained_on():
    assert np.array_equal(np.unique(numbers(take(3, numbered(1), batch_size=5))), [0])


# -- split -------------------------------------------------------------------------


def dataset(count):
    return Dataset(numbered(count), np.arange(count, dtype=np.int32), "folder", (), "f")


@pytest.mark.parametrize(
    ("count", "holdout", "held"), [(100, 5, 5), (100, 256, 10), (7, 3, 1), (2, 9, 1)]
)
def test_split_holds_out_at_most_a_tenth_and_at_least_one(count, holdout, held):
    train, validation = data.split(dataset(count), holdout)
    assert len(validation.images) == len(validation.labels) == held
    assert sorted([*train.labels, *validation.labels]) == list(range(count))
    assert np.array_equal(train.images[:, 0, 0, 0], train.labels)


def test_split_copies_nothing():
    whole = dataset(50)
    assert all(np.shares_memory(whole.images, part.images) for part in data.split(whole, 5))


@pytest.mark.parametrize(("count", "holdout"), [(1, 1), (10, 0)])
def test_split_refuses_the_impossible(count, holdout):
    with pytest.raises(UserError):
        data.split(dataset(count), holdout)


# -- sources -----------------------------------------------------------------------


def test_auto_without_cars_draws_them_and_says_so():
    found = data.load(config(num_images=12))
    assert found.source == "rendered"
    assert found.images.shape == (12, 8, 8, 3)
    assert found.labels.dtype == np.int32
    assert "rendered" in found.notes[0]
    assert "python -m experiments.prepare --source cars196 --path" in found.notes[0]
    assert found.fingerprint == hashlib.sha256(found.images.tobytes()).hexdigest()


def test_rendered_images_are_those_that_render_draws_in_another_order():
    found = data.load(config(source="rendered", num_images=12))
    drawn = rendered.render(range(12), size=8, seed=0)
    assert found.notes == ()
    assert {i.tobytes() for i in found.images} == {i.tobytes() for i in drawn}


def test_auto_refuses_a_path_without_cars(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UserError, match=r"--data.source folder"):
        data.load(config(path=str(tmp_path / "photos")))
    with pytest.raises(UserError, match="no such folder"):
        data.load(config(path=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("source", "words"),
    [("cars196", ("cars_train.tgz", "experiments.prepare")), ("cifar10", ("cifar-10-binary",))],
)
def test_a_named_source_that_is_absent_fails_with_instructions(source, words):
    with pytest.raises(UserError) as caught:
        data.load(config(source=source))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_path_means_nothing_to_rendered_cars(tmp_path):
    with pytest.raises(UserError, match=r"leave out --data.path"):
        data.load(config(source="rendered", path=str(tmp_path)))


def test_importing_data_imports_nothing_heavy():
    heavy = "['tensorflow_datasets', 'grain', 'PIL', 'scipy', 'pyarrow', 'tensorflow', 'jax']"
    code = f"import sys, experiments.data; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
