"""What the page draws: the moments on the way, and the pixels of the commands at the end."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxddim
from experiments.playing import engine as engines
from experiments.playing.engine import Engine
from experiments.playing.settings import Settings
from experiments.terminal.errors import UserError
from jaxddim.runs.errors import RunError
from jaxddim.sampling.conditioning import fraction_of
from tests import tiny

pytestmark = pytest.mark.usefixtures("quick_module")
root = tiny.root


@pytest.fixture(scope="module")
def engine(root):
    return Engine(str(tiny.trained(root)[0]))


def last(engine, settings):
    (*_, frames) = engine.draw(settings)
    return frames


@pytest.mark.parametrize(
    "settings",
    [
        Settings(5, 3, 4),
        Settings(2, 0, 3, "ddpm", spacing="quadratic"),
        Settings(2, 1, 3, "heun"),
        Settings(20, 2, 3, "dpm++2m"),
    ],
    ids=str,
)
def test_the_last_moment_is_what_the_command_draws(engine, settings):
    frames = last(engine, settings)
    run = jaxddim.load_run(engine.run.config.workdir)
    how = {"method": settings.method, "eta": settings.eta, "spacing": settings.spacing}
    images = run.sample(settings.num, settings.steps, settings.seed, **how)
    np.testing.assert_array_equal(frames[-1].images, images)
    assert frames[-1].t == 0
    times = [frame.t for frame in frames[:-1]]
    chunk = engines.chunk_size(run)
    each = len(times) // -(-settings.num // chunk)
    assert times[:each] == sorted(times[:each], reverse=True)
    assert times[0] == run.schedule.num_steps
    assert all(frame.images.shape == images.shape for frame in frames)


def test_moments_appear_while_it_is_drawn_and_are_not_too_many(engine):
    seen = [len(frames) for frames in engine.draw(Settings(1, 0, 200))]
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert seen[-1] <= engines.MOST_FRAMES + 1


def test_a_drawing_that_nobody_waits_for_does_not_reach_the_next(engine):
    for _ in engine.draw(Settings(2, 5, 50)):
        break
    frames = last(engine, Settings(2, 5, 4))
    assert [frame.t for frame in frames][:2] == [1000, 750]


def test_the_ends_between_two_seeds_are_the_pictures_of_both(engine):
    row = engine.between(Settings(seed=4, steps=5), 9)
    assert len(row) == engines.BETWEEN
    for picture, seed in ((row[0], 4), (row[-1], 9)):
        (image,) = last(engine, Settings(1, seed, 5))[-1].images
        assert np.abs(picture.astype(int) - image).max() <= 1
    assert len({picture.tobytes() for picture in row}) == engines.BETWEEN


def test_a_picture_is_encoded_and_decoded_by_ddim(engine):
    (picture,) = last(engine, Settings(1, 0, 20))[-1].images
    code, decoded = engine.there_and_back(picture, 6)
    run = jaxddim.load_run(engine.run.config.workdir)
    fn, schedule = run.denoiser(clip_x0=False), run.schedule
    grid = jaxddim.timesteps(schedule.num_steps, 6, fraction=fraction_of(fn, schedule))
    z = jaxddim.encode(fn, schedule, grid, picture[None] / np.float32(127.5) - 1, refine=1)
    for found, expected in ((code, z / 3), (decoded, jaxddim.decode(fn, schedule, grid, z))):
        pixels = np.clip((np.asarray(expected[0]) + 1) * 127.5, 0, 255)
        np.testing.assert_allclose(found.astype(float), pixels, atol=1.1)


def test_only_what_is_painted_changes(engine):
    (picture,) = last(engine, Settings(1, 0, 5))[-1].images
    anew = np.zeros(picture.shape[:2], bool)
    anew[2:5, 3:] = True
    found = engine.inpaint(Settings(steps=12), picture, anew)
    assert found.shape == (4, *picture.shape)
    for one in found:
        np.testing.assert_array_equal(one[~anew], picture[~anew])
        assert (one[anew] != picture[anew]).any()


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(100)], ids=str)
def test_what_is_no_picture_is_a_mistake(engine, content):
    with pytest.raises(UserError, match="cannot be read as a picture"):
        engine.read(io.BytesIO(content))


def test_a_picture_is_read_as_for_training(engine):
    file = io.BytesIO()
    Image.new("LA", (30, 20), (7, 255)).save(file, format="PNG")
    picture = engine.read(file)
    assert (picture.dtype, picture.shape) == (np.uint8, engine.run.config.data.shape)
    assert (picture == 7).all()


def test_mistakes_are_errors_and_the_engine_goes_on(engine):
    for settings in (Settings(label="van"), Settings(guidance=2.0)):
        with pytest.raises(RunError):
            last(engine, settings)
    assert len(last(engine, Settings(1, 0, 3))) == 4


def test_a_later_checkpoint_is_opened_and_a_run_that_has_gone_is_told(root, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(tiny.trained(root)[0], workdir)
    shutil.move(workdir / "checkpoints" / "20", tmp_path / "20")
    engine = Engine(str(workdir))
    step, before = engine.run.step, last(engine, Settings(1, 0, 3))[-1].images
    made = engine._compiled.copy()
    assert step < 20
    shutil.move(tmp_path / "20", workdir / "checkpoints" / "20")
    after = last(engine, Settings(1, 0, 3))[-1].images
    assert engine.run.step == 20
    assert (after != before).any()
    assert (after == jaxddim.load_run(str(workdir)).sample(1, 3)).all()
    assert engine._compiled == made  # nothing was compiled anew
    again = workdir / "checkpoints" / "20"
    shutil.copytree(again, tmp_path / "new")  # as after another training of as many steps
    before = engine.run
    shutil.rmtree(again)
    shutil.move(tmp_path / "new", again)
    last(engine, Settings(1, 0, 3))
    assert engine.run is not before
    record = workdir / "config.json"
    record.write_text(record.read_text() + "\n")  # as of another run in the same folder
    shutil.copytree(again, tmp_path / "other")
    shutil.rmtree(again)
    shutil.move(tmp_path / "other", again)
    last(engine, Settings(1, 0, 3))
    assert engine._compiled.keys() == made.keys() and engine._compiled != made
    shutil.rmtree(workdir)
    with pytest.raises(RunError, match="run"):
        last(engine, Settings(1, 0, 3))


def test_only_some_compiled_functions_are_kept(engine, monkeypatch):
    monkeypatch.setattr(engines, "MOST_KEPT", 2)
    for steps in (2, 3, 2, 4):
        last(engine, Settings(1, 0, steps))
    assert [how.steps for how in engine._compiled] == [2, 4]
