"""The README keeps its promises: its code runs, and its names exist."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import jaxddim

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_quick_start_has_two_command_lines_to_copy():
    section = README.split("## Quick start\n")[1].split("\n## ")[0]
    main, tests = blocks("sh", section)
    assert "--config demo" in main
    assert "pytest" in tests
    for block in (main, tests):
        assert block.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "dash"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_line_of_the_quick_start_can_be_pasted_and_pasted_again(shell, number, tmp_path):
    """With a stand-in for python3, whose environments print what pip and python are given."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "python3").write_text(
        "#!/bin/sh\n[ $2 = venv ] && mkdir -p $3/bin && for name in pip python\n"
        "do printf '#!/bin/sh\\necho \"$0 $*\"\\n' > $3/bin/$name && chmod +x $3/bin/$name\ndone\n"
    )
    (tmp_path / "python3").chmod(0o755)
    line = blocks("sh")[number]
    twice = subprocess.run(
        [shell],
        input=line + line,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    assert (twice.returncode, twice.stderr) == (0, "")
    said = twice.stdout.splitlines()
    assert said == 2 * said[:2]
    assert [word.split()[0] for word in said[:2]] == [".venv/bin/pip", ".venv/bin/python"]


def test_the_tour_runs_and_draws_images_in_range():
    tour, _ = blocks("python")
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
