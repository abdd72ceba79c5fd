"""The table and findings of the swiss roll, from made-up distances."""

import itertools

import numpy as np
import pytest

from experiments.points import report
from experiments.points.roll import METHODS


def entry(values):
    mean, error = report.mean_and_error(np.array(values))
    return {"mean": mean, "standard_error": error, "values": list(values)}


def results(sw2, asked=(20, 1000)):
    """sw2: values for (method, evaluations, weights), with a default under None."""
    rows = [
        {
            "method": cell[0],
            "evaluations": cell[1],
            "weights": cell[2],
            "sliced_w2": entry(sw2.get(cell, sw2[None])),
            "mmd2": entry([0.0011, 0.0013]),
        }
        for cell in itertools.product(METHODS, asked, ("ema", "raw"))
    ]
    floor = {"sliced_w2": entry([0.019, 0.021]), "mmd2": entry([-1e-5, 1e-5])}
    settings = {
        "networks": 2, "num_points": 3000, "directions": 7, "bandwidths": [0.5, 0.25],
        "evaluations": list(asked),
    }  # fmt: skip
    return {"settings": settings, "floor": floor, "rows": rows}


def test_mean_and_standard_error_of_the_mean():
    assert report.mean_and_error(np.array([1.0, 3.0])) == pytest.approx((2.0, 1.0))
    assert report.mean_and_error(np.array([5.0, 5.0, 5.0]))[1] == 0


def test_distances_are_of_pairs_with_their_mean_and_error():
    x = np.random.default_rng(0).normal(size=(3, 50, 2))
    shift = np.array([0.1, 0.2, 0.3])[:, None, None] * np.array([1.0, 0.0])
    found = report.distances(x + shift, x)["sliced_w2"]
    np.testing.assert_allclose(found["values"], np.array([0.1, 0.2, 0.3]) / 2**0.5)
    assert found["mean"] == pytest.approx(0.2 / 2**0.5)
    assert found["standard_error"] == pytest.approx(0.1 / 2**0.5 / 3**0.5)
    with pytest.raises(ValueError, match="zip"):
        report.distances(x[:2], x)


def test_the_table_has_a_row_for_each_method_and_number_of_evaluations_and_the_floor():
    text = report.table(results({None: [0.03, 0.05]}, asked=(5, 20)))
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 2 * len(METHODS) + 1
    assert len({row.count("|") for row in rows}) == 1
    assert (
        "| DDIM | 20 | 0.0400 ± 0.0100 | 0.0400 ± 0.0100 |  | 1.20 ± 0.10 | 1.20 ± 0.10 |  |"
        in rows
    )
    assert rows[-1].startswith("| other fresh data: the floor |  | 0.0200 ± 0.0010 |")
    assert "| predictor-corrector | 4 |" in text  # two at each time, and 5 is odd
    assert "2 networks, 3,000 points" in text and "7 directions" in text and "0.5, 0.25" in text
    assert "DDIM with 20 evaluations" not in text  # nothing to compare it with
    assert "exact denoiser" not in text


def test_the_exact_denoiser_has_columns_and_a_sentence_where_it_was_measured():
    found = results({None: [0.03, 0.05]}, asked=(20, 1000))
    exact = {"method": "ddim", "evaluations": 20, "weights": "exact"}
    exact |= {"sliced_w2": entry([0.02, 0.04]), "mmd2": entry([0.0001, 0.0003])}
    found["rows"].append(exact)
    text = report.table(found)
    assert "| 0.0400 ± 0.0100 | 0.0300 ± 0.0100 | 1.20 ± 0.10 | 1.20 ± 0.10 | 0.20 ± 0.10 |" in text
    assert text.count("0.0300 ± 0.0100") == 1
    last = text.splitlines()[-1]
    assert "exact denoiser" in last and last.endswith("the sampler alone: DDIM 1.50.")


def test_the_comparisons_are_those_of_the_means():
    values = {
        None: [0.1, 0.3],
        ("ddim", 20, "ema"): [0.05, 0.07],
        ("ddpm", 20, "ema"): [0.08, 0.1],
        ("ddpm", 1000, "ema"): [0.03, 0.05],
    }
    first, second, third = report.table(results(values)).splitlines()[-3:]
    assert "smaller in 3 of 8 rows" in first and first.endswith("two standard errors in 0.")
    assert "0.74 times as large" in first  # the mean of 0.30, 0.45, 0.20 and five ones
    assert "1.50 times the SW2 of DDPM with 1000" in second and "2.00 times the floor" in second
    assert "1.50 times the SW2 of DDIM with 20" in third


def test_what_is_worse_beyond_its_error_is_said():
    """Differences are taken per network, so a spread that both share does not hide them."""
    values = {None: [0.1, 0.9], ("ddim", 20, "ema"): [0.15, 0.96], ("ddpm", 20, "ema"): [0.4, 0.8]}
    line = report.table(results(values)).splitlines()[-3]
    assert line.endswith("larger by more than two standard errors in 1.")
    assert "smaller in 0 of 8 rows" in line  # six are equal
