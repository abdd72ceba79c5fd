"""The parts of `experiments.paper`: measurements and sentences with known answers."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxddim
from experiments import paper
from experiments.data import cache
from experiments.reproduction import (
    consistency,
    findings,
    interpolation,
    ode,
    plots,
    reconstruction,
    study,
    texts,
    timing,
)
from jaxddim.runs.config import Config, DataConfig

SCALE = 0.5
SIZE = 4


def gaussian(schedule, clip=None):
    """The exact denoiser for images whose pixels are N(0, SCALE^2)."""

    def denoise_fn(x, t):
        alpha, sigma = schedule.scales(t)
        x0 = alpha * SCALE**2 / (alpha**2 * SCALE**2 + sigma**2) * x
        x0 = x0 if clip is None else jnp.clip(x0, -clip, clip)
        return jaxddim.from_x0(schedule, x, x0, t)

    return denoise_fn


@pytest.fixture
def make(tmp_path):
    """A study of an exactly known model; its weights are a number that it ignores."""

    def build(schedule=None, weights=1.0, images=4, **settings):
        schedule = schedule or jaxddim.linear(1000)
        config = Config()
        config = SimpleNamespace(
            **{name: getattr(config, name) for name in ("model", "diffusion")},
            data=DataConfig(image_size=SIZE),
        )
        run = SimpleNamespace(
            clip="rederive",
            config=config,
            schedule=schedule,
            variables={"w": np.float32(weights)},
            step=20,
            denoiser=lambda variables, clip_x0=True: gaussian(schedule),
        )
        pixels = 127.5 * (1 + SCALE * np.random.default_rng(0).normal(size=(images, SIZE, SIZE, 3)))
        held_out = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
        settings = {
            "num": 4,
            "num_encoded": images,
            "max_steps": 100,
            "spacing": "linear",
            "seed": 0,
            "folder": tmp_path,
        } | settings
        splits = SimpleNamespace(images={"holdout": held_out})
        return study.Study(run, splits, SimpleNamespace(), **settings)

    return build


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """Takes the model's recipe from the stand-in configuration."""
    monkeypatch.setattr(study, "flatten", lambda config: {"model.name": config.model.name})


# -- what is kept ------------------------------------------------------------------------


@pytest.fixture
def computed():
    """Every value that had to be computed."""
    return []


def ask(of, name, recipe, computed, value=1.5):
    def compute():
        computed.append((name, value))
        return study.Result({"value": value}, {"a": np.full(3, value)})

    return of.kept(name, recipe, compute)


def test_a_result_is_computed_once(make, computed, capsys):
    first = ask(make(), "cell", {"steps": [3, 2]}, computed)
    again = ask(make(), "cell", {"steps": (3, 2)}, computed, value=9.0)
    assert computed == [("cell", 1.5)]
    assert again.numbers == first.numbers == {"value": 1.5}
    np.testing.assert_array_equal(again.arrays["a"], [1.5, 1.5, 1.5])
    assert capsys.readouterr().out.splitlines()[-1] == "cell: already computed"


def test_every_part_of_the_recipe_counts(make, computed):
    ask(make(), "cell", {"steps": 3}, computed)
    for other, name, recipe in (
        (make(weights=1.1), "cell", {"steps": 3}),
        (make(seed=1), "cell", {"steps": 3}),
        (make(), "cell", {"steps": 4}),
        (make(), "another", {"steps": 3}),
    ):
        ask(other, name, recipe, computed)
    assert len(computed) == 5


def test_names_with_dots_do_not_collide(make, computed):
    for name in ("table1-0.2-10", "table1-0.5-10", "table1-0.2-10"):
        ask(make(), name, {"name": name}, computed, value=float(name.split("-")[1]))
    assert [value for _, value in computed] == [0.2, 0.5]


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "emptied": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "text": lambda path: path.write_text("no result"),
}


@pytest.mark.parametrize("kind", ["json", "npz"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_result_is_computed_anew_once_with_a_line(
    make, computed, damage, kind, tmp_path, capsys
):
    ask(make(), "cell", {}, computed)
    (file,) = (tmp_path / "cells").glob(f"*.{kind}")
    DAMAGE[damage](file)
    assert ask(make(), "cell", {}, computed, value=2.5).numbers == {"value": 2.5}
    told = capsys.readouterr().err
    assert told.count("was damaged") == ((damage, kind) != ("missing", "json"))
    assert ask(make(), "cell", {}, computed, value=3.5).arrays["a"].tolist() == [2.5] * 3
    assert capsys.readouterr().err == ""
    assert len(computed) == 2


def test_a_result_of_another_recipe_is_computed_anew(make, computed, tmp_path):
    ask(make(), "cell", {}, computed)
    (record,) = (tmp_path / "cells").glob("*.json")
    record.write_text(json.dumps({"recipe": {"other": 1}, "numbers": {"value": 7.0}}))
    assert ask(make(), "cell", {}, computed, value=2.5).numbers == {"value": 2.5}


def test_a_result_without_a_list_of_its_arrays_is_still_read(make, computed, tmp_path):
    ask(make(), "cell", {}, computed)
    (path,) = (tmp_path / "cells").glob("*.json")
    record = json.loads(path.read_text())
    assert record.pop("arrays") == ["a"]
    path.write_text(json.dumps(record))
    assert ask(make(), "cell", {}, computed, value=2.5).arrays["a"].tolist() == [1.5] * 3


def test_a_result_that_fails_leaves_nothing_that_is_taken_for_one(make, computed):
    def broken():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        make().kept("cell", {}, broken)
    assert ask(make(), "cell", {}, computed).numbers == {"value": 1.5}


def test_columns_end_with_the_largest_number_of_steps(make):
    assert make().columns((10, 20, 100)) == [10, 20, 100]
    assert make(max_steps=30).columns((10, 20, 100)) == [10, 20, 30]
    assert make(max_steps=5).columns((10, 20, 100)) == [5]


@pytest.mark.parametrize(
    "schedule, kind, end, infinite",
    [
        (jaxddim.linear, "eps", 1000, False),
        (jaxddim.cosine, "eps", 952, False),
        (jaxddim.cosine, "score", 952, False),
        (jaxddim.cosine, "v", 1000, False),
        (jaxddim.cosine, "x0", 1000, False),
        (jaxddim.jsd, "v", 1000, True),  # alpha is 0
        (lambda: jaxddim.zero_terminal_snr(jaxddim.linear()), "x0", 1000, True),
    ],
)
def test_paths_end_where_the_network_determines_the_image(make, schedule, kind, end, infinite):
    of = make(schedule(), max_steps=1000)
    of.run.denoiser = lambda variables, clip_x0=True: jaxddim.as_denoiser(
        of.run.schedule, lambda x, index: x, kind=kind, clip_x0=clip_x0
    )
    assert of.path(10)[0] == of.grid_end()["t"] == of.end == end
    assert of.grid(10)[0] == 1000  # of plain sampling
    assert of.columns((10, 20), of.end) == [10, 20, end]
    at_end, at_T = of.grid_end()["sigma_over_alpha"]
    assert at_end > 1 and np.isinf(at_T) == infinite


def test_noises_are_unit_and_their_own(make):
    one, other = (make().noise((50,), name) for name in ("arcs", "corners"))
    assert one.shape == (50, SIZE, SIZE, 3)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1
    assert float(jnp.std(one)) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(one, make().noise((50,), "arcs"))


def test_noise_does_not_depend_on_the_format_of_the_image_cache(make, monkeypatch):
    before = make().noise((1,), "arcs")
    monkeypatch.setattr(cache, "FORMAT", 99)
    np.testing.assert_array_equal(make().noise((1,), "arcs"), before)


# -- table 1 -----------------------------------------------------------------------------

ETAS = ("0", "0.2", "0.5", "1", "sigma-hat")
CIFAR10 = {  # DDIM, table 1
    10: (13.36, 14.04, 16.66, 41.07, 367.43),
    100: (4.16, 4.25, 4.46, 5.78, 9.99),
    1000: (4.04, 4.09, 4.29, 4.73, 3.17),
}
CELEBA = {
    10: (17.33, 17.66, 19.86, 33.12, 299.71),
    1000: (3.51, 3.64, 4.28, 5.98, 3.26),
}


def table1(columns, std=0.01, held_out=None, num=5000):
    """The record of a table whose KID is a hundredth of its FD."""
    cells = [
        {"eta": eta, "steps": s, "fd": fd, "kid": fd / 100, "kid_std": std, "kid_block": 1000}
        for s, row in columns.items()
        for eta, fd in zip(ETAS, row, strict=True)
    ]
    return {
        "num": num,
        "spacing": "linear",
        "T": 1000,
        "reference": 50000,
        "dims": 2048,
        "labels": {"FD": "FID", "KID": "KID (Inception-v3)"},
        "cells": cells,
        "held_out": held_out,
    }


@pytest.mark.parametrize("columns", [CIFAR10, CELEBA], ids=["CIFAR10", "CelebA"])
def test_the_papers_findings_hold_for_the_papers_tables(columns):
    text = "\n".join(findings.lines(table1(columns)))
    few = texts.listed(s for s in columns if s < 1000)
    assert f"| eta = 0 is below every other row at S = {few} | yes" in text
    assert (
        "| at S = 10 each row is worse than the one above, σ̂ last | yes (4 of 4) | yes (4 of 4)"
        in text
    )
    assert "| at S = T = 1000 σ̂ is below every other row | yes (4 of 4)" in text
    n = len(columns) - 1
    assert f"| with eta = 0 each S is better than the one before | yes ({n} of {n})" in text
    assert f"* Lowest FD in each column: eta = 0 at S = {few}; σ̂ at S = 1000." in text
    assert "network's own error" not in text.split("The paper's findings")[0].split("falls from")[1]
    assert "At S = 10 σ̂ is the worst of 5 rows by FD" in text
    assert "At S = 1000 σ̂ is the best of 5 rows by FD" in text


def test_the_papers_table_is_printed():
    text = findings.lines(table1(CIFAR10))
    assert "| eta | S = 10 | S = 100 | S = 1000 |" in text
    assert "| σ̂ | 367 | 9.99 | 3.17 |" in text
    assert "| 0 | 0.134 ± 0.010 | 0.042 ± 0.010 | 0.040 ± 0.010 |" in text
    assert "is 27.50 times that" not in "\n".join(text)


def test_a_table_of_another_shape_is_told_as_it_is():
    """With the rows reversed the paper's findings fail, and the text says so."""
    upside_down = {s: row[::-1] for s, row in CIFAR10.items()}
    text = "\n".join(findings.lines(table1(upside_down)))
    assert "Lowest FD in each column: σ̂ at S = 10 and 100; eta = 0 at S = 1000." in text
    assert (
        "| at S = 10 each row is worse than the one above, σ̂ last | no (0 of 4) | no (0 of 4) |"
        in text
    )
    assert "| at S = T = 1000 σ̂ is below every other row | no (3 of 4)" in text
    assert "At S = 10 σ̂ is the best of 5 rows" in text
    assert "| no (0 of 4) | no (0 of 4) | 0 of 4 | 3 of 4 |" in text


def test_a_table_that_worsens_with_more_steps_says_so():
    worse = {10: CIFAR10[1000], 100: CIFAR10[100], 1000: CIFAR10[10]}
    text = "\n".join(findings.lines(table1(worse, std=0.001)))
    assert (
        "| with eta = 0 each S is better than the one before | no (0 of 2) | no (0 of 2) | 0 of 2 "
        "| 1 of 2 |"
    ) in text  # 0.0404 and 0.0416 are within the sum of both deviations


def test_differences_within_the_spread_are_not_called_clear():
    wide = "\n".join(findings.lines(table1(CIFAR10, std=10.0)))
    assert "none at S = 10; none at S = 100; none at S = 1000" in wide
    assert "is not clearly above" in wide
    assert wide.count("| 0 of ") == 8  # four findings, neither clearly so nor reversed
    sharp = "\n".join(findings.lines(table1(CIFAR10, std=1e-6)))
    assert "eta = 0.2, eta = 0.5, eta = 1 and σ̂ at S = 10" in sharp
    assert "is clearly above" in sharp


def test_the_best_cell_stands_beside_real_images():
    real = {"fd": 1.585, "kid": 0.001, "kid_std": 0.01, "kid_block": 10}
    text = "\n".join(findings.lines(table1(CIFAR10, held_out=real)))
    assert "the lowest FD of the table, 3.17 (σ̂, S = 1000), is 2.00 times that" in text
    assert "no real images to compare with" in "\n".join(findings.lines(table1(CIFAR10)))


def test_few_samples_are_said_to_bias_the_distance():
    assert "biased upwards" in "\n".join(findings.lines(table1(CIFAR10, num=64)))
    assert "biased upwards" not in "\n".join(findings.lines(table1(CIFAR10, num=50000)))


# -- figure 4 ----------------------------------------------------------------------------


def test_a_line_through_points_on_it_and_through_a_hill():
    line = timing.fitted([10, 20, 1000], [1.7, 2.2, 51.2])
    assert line == pytest.approx((0.05, 1.2, 1.0), abs=1e-9)
    assert timing.fitted([0, 1, 2], [0.0, 1.0, 0.0]).r2 == 0  # no better than a constant


def timed(seconds, ddim, ddpm):
    steps = [10, 100, 1000]
    return {
        "steps": steps,
        "batch": 4,
        "device": "cpu: x",
        "num": 64,
        "labels": {"FD": "FID", "KID": "KID"},
        "seconds": seconds,
        "compiling": [1.0, 1.0, 1.0],
        "ddpm_seconds": 100.0,
        "rounds": [[1.0]],
        "line": timing.fitted(steps, seconds)._asdict(),
        "ddim": [
            {"steps": s, "fd": k, "kid": k, "kid_std": 0.1}
            for s, k in zip(steps, ddim, strict=True)
        ],
        "ddpm": [{"eta": "1", "fd": ddpm, "kid": ddpm, "kid_std": 0.1}],
    }


def test_linear_or_not_is_read_from_the_fit():
    text = "\n".join(timing.lines(timed([1.0, 10.0, 100.0], [5, 4, 3], 3.0)))
    assert "Time is linear in S: seconds = 0.000 + 0.10000 S with R² = 1.00000" in text
    text = "\n".join(timing.lines(timed([1.0, 80.0, 100.0], [5, 4, 3], 3.0)))
    assert "Time is **not** linear in S" in text
    text = "\n".join(timing.lines(timed([1.0, 80.0, 100.0], [5, 4, 3], 3.0) | {"line": None}))
    assert "linear in S" not in text


@pytest.mark.parametrize(
    "ddim, told",
    [
        ((5, 2.9, 2), "10 times as fast at S = 100, with a KID better than DDPM's (2.900"),
        (
            (5, 3.1, 2),
            "10 times as fast at S = 100, with a KID within the spread of DDPM's (3.100",
        ),
        ((2, 5, 5), "100 times as fast at S = 10"),
        ((5, 4, 2), "does not reach its KID of 3.000 ± 0.100"),
    ],
)
def test_the_speed_up_is_that_at_equal_quality(ddim, told):
    text = "\n".join(timing.lines(timed([1.0, 10.0, 100.0], ddim, 3.0)))
    assert told in text
    assert "| DDIM, S = 10 | 1.000 | 100.0 |" in text
    assert "| DDPM (eta = 1), S = 1000 | 100.000 | 1.0 |" in text


# -- figure 5 ----------------------------------------------------------------------------


def test_distances_to_the_last_row():
    last = np.array([[0.0, 0.0], [6.0, 8.0], [0.0, 10.0]])
    near, swapped = last + np.array([3.0, 0.0]), last[[1, 0, 2]]
    found = consistency.distances(np.stack([swapped, near, last]))
    assert found["distance"] == pytest.approx([20 / 3, 3, 0])
    assert found["found"] == pytest.approx([1 / 3, 1, 1])
    assert found["between"] == pytest.approx((10 + 10 + np.hypot(6, 2)) / 3)


def test_consistency_is_told_from_its_numbers():
    record = {"steps": [10, 50, 1000], "num": 64, "network": "X", "std": [0.1, 0.1, 0]}
    record |= {"distance": [2.0, 1.0, 0.0], "found": [0.75, 1.0, 1.0], "between": 8.0}
    text = "\n".join(consistency.lines(record))
    assert "| 10 | 2.00 ± 0.100 | 0.25 | 75% |" in text
    assert "The distance falls with every increase of S. At S = 10 it is 25%" in text
    text = "\n".join(consistency.lines(record | {"distance": [2.0, 3.0, 0.0]}))
    assert "The distance does not fall with S." in text


# -- figures 6 and 11-13 -----------------------------------------------------------------


def test_a_square_has_its_corners_and_arcs_for_sides():
    corners = jax.random.normal(jax.random.key(0), (4, 3, 5))
    square = interpolation.between(corners, 5)
    assert square.shape == (5, 5, 3, 5)
    np.testing.assert_allclose(square[[0, 0, -1, -1], [0, -1, 0, -1]], corners, atol=1e-5)
    for side, (a, b) in {
        "top": (square[0], (0, 1)),
        "bottom": (square[-1], (2, 3)),
        "left": (square[:, 0], (0, 2)),
        "right": (square[:, -1], (1, 3)),
    }.items():
        middle = jaxddim.slerp(corners[b[0]][None], corners[b[1]][None], 0.5)[0]
        np.testing.assert_allclose(a[2], middle, atol=1e-5, err_msg=side)


def test_the_pictures_of_a_known_model(make, monkeypatch):
    """Its images are SCALE times the noise, so an arc of noise is an arc of images."""
    of = make(jaxddim.cosine(1000))
    arcs, square = interpolation.decoded(of, 100)
    z0, z1 = of.noise((2, interpolation.PAIRS), "arcs")
    assert arcs.shape == (interpolation.PAIRS, interpolation.ALONG, SIZE, SIZE, 3)
    middle = jaxddim.slerp(z0, z1, 0.5)
    for image, noise in ((arcs[:, 0], z0), (arcs[:, -1], z1), (arcs[:, 5], middle)):
        expected = np.clip(127.5 * (1 + SCALE * np.asarray(noise)), 0, 255)
        assert abs(image - expected).max() < 4
    corners = of.noise((4,), "corners")
    expected = np.clip(127.5 * (1 + SCALE * np.asarray(corners)), 0, 255)
    assert abs(square[[0, 0, -1, -1], [0, -1, 0, -1]] - expected).max() < 4


def test_evenness_of_a_straight_path_and_of_a_jump():
    even = np.linspace([0.0, 0], [3, 4], 6)[None]
    assert interpolation.evenness(even) == pytest.approx({"ends": 5, "step": 1, "largest": 1})
    jump = np.array([[[0.0], [0], [0], [6]]])
    assert interpolation.evenness(jump) == pytest.approx({"ends": 6, "step": 2, "largest": 6})
    record = {"steps": 50, "pairs": 1, "network": "X"}
    assert "does not jump" in "\n".join(interpolation.lines(record | interpolation.evenness(even)))
    assert "jumps at least once" in "\n".join(
        interpolation.lines(record | interpolation.evenness(jump))
    )


# -- table 2 -----------------------------------------------------------------------------


def test_black_for_white_is_an_error_of_one():
    black, white = np.full((1, 2, 2, 3), -1.0), jnp.ones((1, 2, 2, 3))
    assert reconstruction.squared(black, white) == [1.0]
    assert reconstruction.squared(black, black + 0.2) == pytest.approx([0.01])


def test_a_known_model_reconstructs_better_with_more_steps_and_with_refinement(make):
    record = reconstruction.measure(make(max_steps=100))
    assert record["steps"] == [10, 20, 50, 100]
    plain, once, thrice = (row["error"] for row in record["rows"])
    assert texts.falling(plain)
    # Euler's error is of first order, its square of second
    assert plain[2] / plain[3] == pytest.approx(4, rel=0.3)
    assert plain[2] > 100 * once[2] > 0
    assert once[0] > 100 * thrice[0]
    text = "\n".join(reconstruction.lines(record))
    assert "* refine = 0: the error falls with every increase of S" in text
    assert "times smaller, at least the expected 10 times" in text


def test_errors_that_do_not_behave_are_told():
    rows = [
        {"refine": 0, "error": [0.1, 0.02, 0.03], "worst": [0.1, 0.1, 0.1]},
        {"refine": 1, "error": [0.1, 0.01, 0.005], "worst": [0.1, 0.1, 0.1]},
    ]
    text = "\n".join(reconstruction.lines({"steps": [10, 20, 50], "num": 4, "rows": rows}))
    assert "refine = 0: the error does **not** fall from S = 20 to 50 (0.020 to 0.030)" in text
    assert "refine = 1: the error falls with every increase of S, from 0.10 to 0.0050" in text
    assert (
        "refine = 1 makes the error 6.0 times smaller, **less than** the expected 10 times" in text
    )


# -- equations 13-14 ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddim_is_euler_for_a_known_model(make, name):
    record = ode.measure(make(getattr(jaxddim, name)(1000)))
    assert record["largest"] < 1e-4
    assert "they are the same path" in "\n".join(ode.lines(record))


SINGULAR = {
    "jsd": (jaxddim.jsd(1000), 980),
    "zero terminal SNR": (jaxddim.zero_terminal_snr(jaxddim.cosine(1000)), 980),
    "T = 2": (jaxddim.jsd(2), 1),
    "T = 1": (jaxddim.jsd(1), 0),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_where_alpha_is_0_at_T_the_paths_are_compared_from_the_next_time_on(make, name, capsys):
    schedule, start = SINGULAR[name]
    of = make(schedule, max_steps=schedule.num_steps)
    first, again = (ode.measure(of) for _ in range(2))
    assert capsys.readouterr().out.endswith("ode: already computed\n")
    assert first["start"] == again["start"] == start
    text = "\n".join(ode.lines(first))
    assert text == "\n".join(ode.lines(again))
    if start:
        assert first == again
        assert first["largest"] < 1e-4
        assert f"from the same x at t = {start} by DDIM" in text
        assert "they are the same path" in text
    else:
        assert "could not be compared" in text
    for path in of.folder.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_kept_as_null_and_is_nan_both_times(make, number, capsys):
    of = make()
    for _ in range(2):
        numbers = {"x": number, "y": [1.0, number], "name": "x"}
        found = of.kept("a", {}, lambda numbers=numbers: study.Result(numbers, {}))
        np.testing.assert_equal(found.numbers, {"x": np.nan, "y": [1.0, np.nan], "name": "x"})
    assert capsys.readouterr().out.endswith("a: already computed\n")
    (kept,) = (of.folder / "cells").glob("*.json")
    assert json.loads(kept.read_text())["numbers"] == {"x": None, "y": [1.0, None], "name": "x"}


def nulls(record):
    """The record without its measured numbers, as report.json holds those that are not finite."""
    if isinstance(record, dict):
        return {name: nulls(value) for name, value in record.items()}
    if isinstance(record, list):
        return [nulls(value) for value in record]
    return None if isinstance(record, float) else record


@pytest.mark.parametrize("how", [nulls, lambda record: zeros(record)], ids=["null", "zero"])
@pytest.mark.parametrize("name", paper.PARTS)
def test_the_report_copes_with_numbers_that_could_not_be_measured(name, how):
    """Every sentence of every part, of the report in docs/paper."""
    path = Path(__file__).parents[2] / "docs" / "paper" / "report.json"
    record = json.loads(path.read_text())
    if name == "figure4" and how is not nulls:
        pytest.skip("a time is never 0")
    kept = {"seconds", "compiling", "ddpm_seconds", "rounds", "line"}
    part = record["parts"][name]
    part = how(part) | {key: part[key] for key in kept & part.keys()}
    text = paper.markdown(record | {"parts": {name: part}})
    assert "nan" not in text.split()
    assert not re.search(r"\b(nan|None|inf)\b", text)


def zeros(record):
    """The record with 0 for its measured numbers: nothing is divided by them."""
    if isinstance(record, dict):
        return {name: zeros(value) for name, value in record.items()}
    if isinstance(record, list):
        return [zeros(value) for value in record]
    return 0.0 if isinstance(record, float) else record


def test_the_path_of_euler_for_a_model_with_one_noise(make):
    """Where eps is the same everywhere, x / alpha is linear in sigma / alpha."""
    of = make(jaxddim.linear(1000))
    noise, clean = 0.7, 0.25
    constant = lambda x, t: jaxddim.Prediction(  # noqa: E731
        *jaxddim.from_eps(of.run.schedule, x, jnp.full_like(x, noise), t)
    )
    of.run.denoiser = lambda variables, clip_x0=True: constant
    alpha, sigma = of.run.schedule.scales(1000)
    x_T = jnp.full((1, SIZE, SIZE, 3), alpha * clean + sigma * noise)
    ddim, euler, scales = ode.paths(of, of.grid(20), x_T)
    line = clean + noise * scales[:, 1] / scales[:, 0]
    np.testing.assert_allclose(euler[:, 0], line, rtol=1e-4)
    np.testing.assert_allclose(ddim[:, 0], line * scales[:, 0], atol=1e-5)


def test_another_path_is_told_apart(make, monkeypatch):
    """DDIM with noise added is not Euler's method, and the check detects it."""
    noisy = jaxddim.ddim_step
    monkeypatch.setattr(
        ode.jaxddim,
        "integrate",
        lambda *args, keep: jaxddim.sampling.integrate(
            *args, keep=keep, step=lambda *a: noisy(*a, eta=0.3)
        ),
    )
    record = ode.measure(make())
    assert record["largest"] > 0.1
    assert "they are **not** the same path" in "\n".join(ode.lines(record))


# -- pictures and words ------------------------------------------------------------------


def test_images_stay_sharp_in_the_picture(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), np.uint8)
    plots.save_images(tmp_path / "a.png", images, ["a", "b"], ["S = 1", "2", "3"])
    with Image.open(tmp_path / "a.png") as file:
        picture = np.asarray(file.convert("RGB"))
    zoom = round(plots.WIDTH / 28)
    top, left = 28, picture.shape[1] - 4 - 28 * zoom
    inside = picture[top : top + 18 * zoom, left : left + 28 * zoom][zoom // 2 :: zoom]
    inside = inside[:, zoom // 2 :: zoom]
    np.testing.assert_array_equal(inside[:8, :8], images[0, 0])
    np.testing.assert_array_equal(inside[10:18, 20:28], images[1, 2])


@pytest.mark.parametrize("name", ["S = 100", "S = 1000, refine = 0", "i", "MWMWMW", "σ̂, S = 10"])
def test_names_of_rows_are_not_cut(name, tmp_path):
    images = np.full((1, 1, 8, 8, 3), 255, np.uint8)
    plots.save_images(tmp_path / "a.png", images, [name])
    with Image.open(tmp_path / "a.png") as file:
        picture = np.asarray(file.convert("L"))
    assert (picture < 128).any()
    assert (picture[:, :2] == 255).all()


def test_numbers_and_lists_in_words():
    told = [texts.number(x) for x in (0, 0.5, 12.34567, 99999.4, 3.2e-9, -0.01)]
    assert told == ["0.00", "0.500", "12.3", "99999", "3.20e-09", "-0.0100"]
    assert texts.number(0.00099999, 2) == "0.0010"
    assert texts.falling([3, 2, 1]) and not texts.falling([3, 3, 1])
