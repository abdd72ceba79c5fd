"""The sentences of a report against records: each says what its numbers show, and no more."""

import math

import pytest

from experiments.reproduction import (
    consistency,
    findings,
    interpolation,
    ode,
    reconstruction,
    texts,
    timing,
)
from jaxddim.runs.flat import finite
from tests.reproduction.test_reproduction import CIFAR10, table1, timed

MISSING = [None, math.nan, math.inf]


def sentences(part, record):
    """The lines of a part, as `experiments.paper` writes them of its record in report.json."""
    return "\n".join(part.lines(texts.numbers(finite(record))))


# -- words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, told",
    [
        ((3.0, 2.0, 1.0), ("falls", [])),
        ((3.0, 1.0, 2.0), ("mixed", ["from S = 20 to 50 (1.0 to 2.0)"])),
        (
            (1.0, 2.0, 2.0),
            ("never", ["from S = 10 to 20 (1.0 to 2.0)", "from S = 20 to 50 (2.0 to 2.0)"]),
        ),
        ((2.51e6, 2.5e6, 1.0), ("mixed", ["from S = 10 to 20 (2.5e+06 to 2.5e+06)"])),
        ((3.0, math.inf, 1.0), None),
        ((3.0, math.nan, 4.0), ("never", ["from S = 10 to 50 (3.0 to 4.0)"])),
        ((3.0, math.nan, math.nan), None),
        ((math.nan, math.nan, math.nan), None),
    ],
)
def test_a_trend_needs_two_numbers_and_falls_where_each_does(values, told):
    assert texts.trend([10, 20, 50], values, 2) == told


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_missing_number_is_shown_as_such(value):
    assert texts.number(value) == texts.shown(value, ".0%") == texts.NONE
    assert texts.change(1.0, value) is texts.verb(value, 1.0) is None
    assert not texts.falling([value, 1.0]) and not texts.falling([1.0, value])
    assert not texts.falling([2.0])


# -- table 2 -------------------------------------------------------------------------------


def table2(plain, once, worst=None, steps=(10, 20, 50)):
    rows = [
        {"refine": refine, "error": list(error), "worst": list(worst or error)}
        for refine, error in enumerate((plain, once))
    ]
    record = {"steps": list(steps)[: len(plain)], "num": 4, "rows": rows}
    return sentences(reconstruction, record)


def test_the_error_of_one_number_of_steps_has_no_trend():
    text = table2([2.5e6], [2.5e6])
    assert "fall" not in text and "from" not in text.split("Findings")[1]
    assert "at S = 10 the images do **not** come back" in text


def test_errors_that_are_printed_alike_do_not_fall():
    text = table2([2.53e6, 2.52e6], [0.1, 0.01])
    assert "refine = 0: the error does **not** fall from S = 10 to 20 (2.5e+06 to 2.5e+06)" in text


@pytest.mark.parametrize("missing", MISSING)
def test_an_error_that_is_not_finite_is_said_to_be_so(missing):
    text = table2([0.1, 0.01, missing], [missing, missing, missing])
    assert "refine = 0: the error is **not** finite at S = 50." in text
    assert "refine = 1: the error is **not** finite at S = 10, 20 and 50." in text
    assert "falls" not in text and "come back" not in text and "At S = 50, refine" not in text


@pytest.mark.parametrize(
    "plain, once, told",
    [
        (0.1, 0.005, "makes the error 20.0 times smaller, at least the expected 10 times; the "
         "error of the worst image falls from 0.10 to 0.0050."),
        (0.1, 0.05, "makes the error 2.0 times smaller, **less than** the expected 10 times"),
        (0.1, 4e9, "makes the error **not** smaller, 4.0e+09 instead of 0.10; the error of the "
         "worst image rises from 0.10 to 4.0e+09."),
        (0.1, 0.1, "**not** smaller, 0.10 instead of 0.10; the error of the worst image stays at"),
    ],
)  # fmt: skip
def test_what_refining_does_is_told_as_it_is(plain, once, told):
    text = table2([0.4, 0.2, plain], [0.4, 0.2, once])
    assert told in text
    assert ("falls from" in text.split("At S = 50")[1]) == (once < plain)


@pytest.mark.parametrize("worst, back", [(0.9, True), (1.1, False)])
def test_images_come_back_within_one_level(worst, back):
    """The mean is far below the bound; the worst image decides."""
    level = (worst / 255) ** 2
    text = table2([1e-3, 1e-4, 1e-9], [1e-9] * 3, [1.0, 1.0, level])
    said = f"at S = 50 the images {'' if back else 'do **not** '}come back to within one level"
    assert text.count(said) == 2


# -- where the times end -------------------------------------------------------------------


@pytest.mark.parametrize(
    "end, told",
    [
        (None, None),
        ({"t": 1000, "T": 1000, "sigma_over_alpha": [157.0, 157.0]}, None),
        ({"t": 952, "T": 1000, "sigma_over_alpha": [13.3, 20291.2]}, "At T it is 20291:"),
        ({"t": 999, "T": 1000, "sigma_over_alpha": [640.0, None]}, "At T alpha is 0:"),
    ],
)
def test_where_the_times_end_is_told_where_that_is_not_T(end, told):
    text = "\n".join(texts.grid_end(texts.numbers({"grid_end": end} if end else {})))
    assert (told in text and f"t = {end['t']} of 1000" in text) if told else text == ""


# -- figure 5 ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "distance, told",
    [
        ([5.0, 3.0, 2.0, 0.0], "The distance falls with every increase of S. At S = 10 it is 50%"),
        ([2.0, 3.0, 4.0, 0.0], "The distance does not fall with S. At S = 10 it is 20%"),
        ([5.0, 2.0, 3.0, 0.0], "does not fall from S = 20 to 50 (2.00 to 3.00). At S = 10 it is"),
        ([5.0, None, 3.0, 0.0], "At S = 10 the distance is 50%"),
        ([5.0, 0.0], "At S = 10 the distance is 50%"),
        ([0.0], "With one S there is nothing to compare."),
    ],
)
def test_the_distance_to_the_last_S_is_no_point_of_the_trend(distance, told):
    n = len(distance)
    record = {"steps": [10, 20, 50, 1000][-n:] if n > 2 else [10, 1000][:n], "num": 64}
    record |= {"network": "X", "distance": distance, "std": [0.1] * n, "found": [1.0] * n}
    text = sentences(consistency, record | {"between": 10.0})
    assert told in text
    assert ("fall" in text) == ("fall" in told)


@pytest.mark.parametrize("between", [0.0, None])
def test_without_a_distance_between_images_nothing_is_relative_to_it(between):
    record = {"steps": [10, 1000], "num": 4, "network": "X", "distance": [1.0, 0.0]}
    record |= {"std": [0.1, 0.0], "found": [1.0, 1.0], "between": between}
    assert "of the distance between" not in sentences(consistency, record)


# -- figure 6 and the ODE ------------------------------------------------------------------


@pytest.mark.parametrize(
    "ends, largest, told",
    [(5.0, 1.0, "does not jump"), (5.0, 5.0, "jumps at least once"), (0.0, 0.0, None),
     (5.0, None, None), (None, 1.0, None)],
)  # fmt: skip
def test_a_path_jumps_or_does_not_where_both_distances_are_known(ends, largest, told):
    record = {"steps": 50, "pairs": 5, "network": "X", "step": 0.5}
    text = sentences(interpolation, record | {"ends": ends, "largest": largest})
    assert (told in text) if told else ("jump" not in text)


@pytest.mark.parametrize(
    "largest, verdict, caption",
    [
        (1e-5, "they are the same path", "*DDIM is Euler's method."),
        (0.1, "they are **not** the same path", "*DDIM and Euler's method."),
        (None, "cannot be compared", "*DDIM and Euler's method."),
        (math.nan, "cannot be compared", "*DDIM and Euler's method."),
    ],
)
def test_ddim_is_called_eulers_method_where_it_is(largest, verdict, caption):
    record = {
        "images": 4,
        "steps": 50,
        "largest": largest,
        "typical": largest,
        "range": [3.0, None],
    }
    text = sentences(ode, record | {"at_the_end": largest})
    assert verdict in text and caption in text
    assert ("DDIM is Euler" in text) == (largest == 1e-5)


# -- table 1 and figure 4 ------------------------------------------------------------------

REAL = {"fd": 1.0, "kid": 0.0, "kid_std": 1e-4, "kid_block": 10}


def ddim_row(*fd):
    """The paper's table with these distances of eta = 0 at S = 10, 100 and 1000."""
    rows = {s: (value, *CIFAR10[s][1:]) for s, value in zip(CIFAR10, fd, strict=True)}
    return "\n".join(findings.lines(table1(rows, std=1e-4, held_out=REAL)))


@pytest.mark.parametrize(
    "fd, told, seen",
    [
        ((5.0, 4.0, 3.0), "falls from 5.00 at S = 10 to 3.00 at S = 1000", True),
        ((3.0, 4.0, 5.0), "rises from 3.00 at S = 10 to 5.00 at S = 1000", False),
        ((3.0, 4.0, 3.0), "is 3.00 at S = 10 and at S = 1000", False),
    ],
)
def test_the_error_of_large_steps_is_seen_where_the_distance_falls(fd, told, seen):
    text = ddim_row(*fd)
    assert told in text
    assert ("is not seen here" in text) == (not seen)


@pytest.mark.parametrize(
    "real, own",
    [(REAL, True), (REAL | {"kid": 0.04}, False), (REAL | {"kid_std": 10.0}, False),
     (REAL | {"fd": 100.0}, False), (REAL | {"fd": None}, False), (None, False)],
)  # fmt: skip
def test_the_networks_own_error_is_told_where_real_images_are_clearly_nearer(real, own):
    text = sentences(findings, table1(CIFAR10, std=1e-4, held_out=real))
    assert ("network's own error" in text) == own


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_table_with_a_missing_cell_says_nothing_of_it(missing):
    record = table1({s: CIFAR10[s] for s in (10, 1000)})
    cell = next(c for c in record["cells"] if c["eta"] == "0" and c["steps"] == 1000)
    cell |= {"fd": missing, "kid": missing, "kid_std": missing}
    text = sentences(findings, record)
    assert "nan" not in text and "With eta = 0" not in text
    assert "At S = 1000 σ̂" not in text and "At S = 10 σ̂ is the worst" in text
    assert "at S = T = 1000 σ̂ is below every other row | unknown (3 of 4)" in text


def test_tied_rows_share_the_lowest_place():
    rows = {10: (5.0, 5.0, 6.0, 7.0, 8.0), 1000: (5.0, 4.0, 6.0, 7.0, 4.0)}
    text = "\n".join(findings.lines(table1(rows)))
    assert (
        "Lowest FD in each column: eta = 0 at S = 10; eta = 0.2 at S = 10 and 1000; σ̂ at S = 1000."
    ) in text
    assert "At S = 1000 σ̂ is number 1 of 5 rows" in text


def test_each_ddpm_has_its_own_time():
    record = timed([1.0, 10.0, 100.0], (3.0, 3.0, 3.0), 3.0)
    (one,) = record["ddpm"]
    hat = one | {"eta": "sigma-hat"}
    text = "\n".join(timing.lines(record | {"ddpm": [one | {"seconds": 80.0}, hat]}))
    assert "| DDPM (eta = 1), S = 1000 | 80.000 | 1.2 |" in text
    assert "| DDPM (σ̂), S = 1000 | 100.000 | 1.0 |" in text
    assert "DDPM (eta = 1) with 1000 steps: DDIM is 80 times as fast at S = 10" in text
    assert "DDPM (σ̂) with 1000 steps: DDIM is 100 times as fast at S = 10" in text
    text = "\n".join(timing.lines(record | {"ddpm": [one, hat]}))  # an older record
    assert "| DDPM (eta = 1), S = 1000 | not timed | n/a |" in text
    assert "DDPM (eta = 1) with 1000 steps was not timed" in text


@pytest.mark.parametrize("missing", [None, math.nan])
def test_without_a_kid_no_speed_up_is_judged(missing):
    record = timed([1.0, 10.0, 100.0], (5.0, 4.0, 3.0), 3.0)
    record["ddpm"][0] |= {"kid": missing, "fd": missing}
    text = sentences(timing, record)
    assert "as fast" not in text and "does not reach" not in text and "nan" not in text
