"""Contents of the pictures of the swiss roll."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxddim
from experiments.points import pictures, roll

KEY = jax.random.key(0)
NUM = 500


def clouds(figure):
    """The points of each panel, [NUM, 2]."""
    return [np.asarray(axes.collections[0].get_offsets()) for axes in figure.axes if axes.axison]


def made_up(noise):
    """Points on a straight path from noise to the roll, as if drawn by a method."""
    data = roll.swiss_roll(KEY, NUM)
    t = jnp.array([1000, 800, 600, 400, 200, 0])
    x = jnp.stack([jaxddim.q_sample(roll.schedule(), data, int(time), noise) for time in t])
    return jaxddim.Trajectory(x, jnp.broadcast_to(data, x.shape), t)


@pytest.fixture
def way():
    noise = jax.random.normal(KEY, (NUM, 2))
    return {"ddpm": made_up(noise), "ddim": made_up(noise)}


def assert_equal_axes(figure):
    limits = set()
    for axes in figure.axes:
        if axes.axison:
            assert axes.get_aspect() == 1
            assert axes.get_xlim() == axes.get_ylim()
            assert axes.get_title()
            limits.add(axes.get_xlim())
    assert len(limits) == 1


def test_forward_is_the_data_the_gaussian_and_eight_between():
    data = roll.swiss_roll(KEY, NUM)
    figure = pictures.forward(data, jax.random.key(1))
    first, *_, last = panels = clouds(figure)
    assert len(panels) == 10
    np.testing.assert_array_equal(first, data)
    assert np.all(np.abs(np.cov(last.T) - np.eye(2)) < 5 * np.sqrt(2 / NUM))
    spread = [np.cov(panel.T).trace() for panel in panels]
    assert np.all(np.diff(spread) > 0)  # from 0.96 to 2
    assert_equal_axes(figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert "t = 0$" in titles[0] and "1.00" in titles[0] and "t = 1000$" in titles[-1]


def test_reverse_goes_from_the_first_state_of_a_path_to_the_last(way):
    figure = pictures.reverse(way["ddpm"])
    panels = clouds(figure)
    np.testing.assert_array_equal(panels, way["ddpm"].x)  # six states, fewer than panels
    assert_equal_axes(figure)
    colors = figure.axes[0].collections[0].get_array()
    np.testing.assert_array_equal(colors, roll.nearest_theta(panels[-1]))


def test_trajectories_start_together_and_end_where_the_points_end(way):
    params = roll.new_state(KEY, 1, roll.optimizer(1e-3)).params
    params = jax.tree.map(lambda a: a[0], params)
    figure = pictures.trajectories(way, np.asarray(way["ddim"].x[-1]), params)
    assert_equal_axes(figure)
    starts = []
    for axes, name in zip(figure.axes, ("ddim", "ddpm"), strict=True):
        _, _, lines, start, end = axes.collections
        paths = np.array(lines.get_segments())
        assert len(paths) == pictures.NUM_PATHS
        starts.append(np.asarray(start.get_offsets()))
        np.testing.assert_allclose(paths[:, 0], starts[-1], atol=1e-6)
        np.testing.assert_allclose(paths[:, -1], end.get_offsets(), atol=1e-6)
        distance = np.abs(np.asarray(way[name].x[0])[:, None] - starts[-1]).sum(-1).min(0)
        assert distance.max() == 0
    np.testing.assert_array_equal(*starts)


def test_the_animation_ends_with_the_roll_and_repeats(way, tmp_path):
    path = tmp_path / "animation.gif"
    pictures.save_gif(path, way)
    with Image.open(path) as image:
        assert image.n_frames == 6
        assert image.info["loop"] == 0
        shown = []
        for i in range(image.n_frames):
            image.seek(i)
            shown.append(np.asarray(image.convert("L"), float))
        assert image.info["duration"] == 2000
    assert all(np.abs(a - b).mean() > 0.5 for a, b in itertools.pairwise(shown))


def test_files_are_the_same_bytes_and_name_no_program(tmp_path, way):
    for name in ("a.png", "b.png"):
        pictures.save(tmp_path / name, pictures.reverse(way["ddpm"]))
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert b"atplotlib" not in content
