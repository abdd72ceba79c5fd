"""The README keeps its promises: its code runs, and its names exist."""

import re
from pathlib import Path

import jaxddim

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_quick_start_has_two_commands_to_copy():
    section = README.split("## Quick start\n")[1].split("\n## ")[0]
    main, tests = blocks("sh", section)
    assert "--config demo" in main
    assert "pytest" in tests


def test_the_tour_runs_and_draws_images_in_range():
    (tour,) = blocks("python")
    quicker = tour.replace("UNet(channels=64)", "UNet(channels=32, multipliers=(1,), attention=())")
    quicker = quicker.replace("num_steps, 50", "num_steps, 3")
    assert quicker != tour
    names: dict = {}
    exec(quicker, names)
    assert names["images"].shape == (4, 32, 32, 3)
    assert abs(names["images"]).max() <= 1


def test_every_function_in_the_table_of_equations_exists():
    table = README.split("## From equation to function\n")[1].split("\n## ")[0]
    names = re.findall(r"`([a-z_0-9]+)[`(]", table)
    assert len(names) > 20
    for name in names:
        assert hasattr(jaxddim, name), name
