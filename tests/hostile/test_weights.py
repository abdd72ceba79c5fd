"""Networks from elsewhere: files of weights that are not read as a whole, and damaged settings.

What lies inside a file of weights is in `tests.weights.test_hostile`.
"""

import json
import os

import pytest

from jaxddim.weights.containers import LEGACY, ZIP
from tests.hostile.bounds import assert_refused
from tests.hostile.test_pictures import sparse

UNET = {
    "sample_size": 8,
    "block_out_channels": [4, 8],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 2,
}
BAD = {
    "no JSON": '{"sample_size": ',
    "lists in lists": "[" * 10**6,
    "a list": "[]",
    "not UTF-8": b"\xff\xfe",
    "a field twice": '{"sample_size": 8, "sample_size": 9}',
    "100 MB of blanks": "{" + " " * 10**8 + "}",
    "10^9 layers": {"layers_per_block": 10**9},
    "10^9 channels": {"block_out_channels": [10**9, 10**9]},
    "a million levels": {"block_out_channels": [4] * 10**5},
    "blocks that are lists": {"down_block_types": [[], []]},
    "10^9 pixels": {"sample_size": 10**9},
    "10^400 pixels": {"sample_size": 10**400},
    "10^12 images": {"in_channels": 10**12},
    "no groups": {"norm_num_groups": 0},
    "dropout that is a text": {"dropout": "x" * 10**6},
    "an epsilon that is no number": {"norm_eps": float("nan")},
    "a field of 1 MB": {"x" * 10**6: 1},
}
SCHEDULES = {
    "a list of names": {"beta_schedule": []},
    "a schedule of the package": {"beta_schedule": "from_betas"},
    "10^12 steps": {"num_train_timesteps": 10**12},
    "steps that are a list": {"num_train_timesteps": []},
    "a beta that is a list": {"beta_start": []},
    "a beta that is no number": {"beta_start": float("nan")},
    "a beta beyond floats": {"beta_end": 10**400},
}


@pytest.mark.parametrize("kind", BAD)
def test_settings_of_a_network_that_are_damaged_are_refused(kind, place, server):
    found = BAD[kind]
    text = json.dumps(UNET | found) if isinstance(found, dict) else found
    (place / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    sparse(place / "diffusion_pytorch_model.safetensors", 2**31)
    assert_refused(server.run("foreign", place), "config.json")


@pytest.mark.parametrize("kind", SCHEDULES)
def test_settings_of_a_schedule_that_are_damaged_are_refused(kind, place, server):
    (place / "scheduler_config.json").write_text(json.dumps(SCHEDULES[kind]))
    assert_refused(server.run("schedule", place), "scheduler_config.json")


@pytest.mark.parametrize("start", [b"", b"PK\x05\x06", b"\x80\x04", b"\0" * 8 + b"["])
def test_a_file_of_8_gb_of_holes_is_told_by_its_first_bytes(start, place, server):
    sparse(place / "a.pth", 2**33, start)
    assert_refused(server.run("weights", place / "a.pth"), "a.pth: damaged, or not a file of")


@pytest.mark.parametrize("start", [ZIP, LEGACY, b"\0" * 8 + b"{"])
def test_a_file_of_32_gb_of_holes_is_larger_than_weights_are(start, place, server):
    sparse(place / "a.pth", 2**35, start)
    assert_refused(server.run("weights", place / "a.pth"), "34,359,738,368 bytes, expected")


def test_a_pipe_holds_no_weights(place, server):
    os.mkfifo(place / "a.pth")
    assert_refused(server.run("weights", place / "a.pth"), "no such file")
