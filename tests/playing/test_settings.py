"""What a press of the button asks for: bounds, the link, and the command that does the same."""

import shlex
from urllib.parse import parse_qsl

import pytest

from experiments.playing.settings import Settings
from experiments.terminal.errors import UserError

EVERY = Settings(4, 2**32 - 1, 7, "dpm++2m", 0.25, "log_snr", "Audi TT & co", -1.5)


@pytest.mark.parametrize("settings", [Settings(), Settings(seed=3, eta=0.1), EVERY], ids=str)
def test_a_link_holds_all_settings(settings):
    assert settings.link().startswith("?")
    assert Settings.of(dict(parse_qsl(settings.link()[1:]))) == settings


def test_the_command_has_the_flags_of_all_settings():
    words = shlex.split(EVERY.command("my runs/a"))
    assert words[:5] == ["python", "-m", "experiments.sample", "--workdir", "my runs/a"]
    given = dict(zip(words[3:-2:2], words[4:-1:2], strict=True))
    fields = ("num", "seed", "steps", "method", "eta", "spacing", "label", "guidance")
    assert {name: given[f"--{name}"] for name in fields} == {
        name: str(getattr(EVERY, name)) for name in fields
    }
    assert "--eta" not in Settings().command("a")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"num": 65}, "num must lie in 1..64, got 65"),
        ({"num": "0"}, "num must lie in 1..64, got 0"),
        ({"seed": -1}, "seed must lie in 0..4294967295, got -1"),
        ({"steps": 10**9}, "steps must lie in 1..1000"),
        ({"steps": "1e400"}, "steps: expected a whole number, got '1e400'"),
        ({"steps": 2.5}, "steps: expected a whole number, got 2.5"),
        ({"eta": "nan"}, "eta must lie in 0.0..1.0, got nan"),
        ({"eta": None}, "eta: expected a number, got None"),
        ({"guidance": float("inf")}, "guidance must lie in"),
        ({"method": "euler"}, "method: expected one of ddim, ddpm"),
        ({"spacing": "x" * 10_000}, "spacing: expected one of linear"),
    ],
    ids=str,
)
def test_other_values_are_a_mistake_that_is_told(values, told):
    with pytest.raises(UserError) as error:
        Settings.of(values)
    assert str(error.value).startswith(told)
    assert len(str(error.value)) < 500


def test_names_that_are_no_settings_are_left_out():
    assert Settings.of({"__theme": "dark", "seed": "5"}) == Settings(seed=5)
