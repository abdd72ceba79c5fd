"""benchmarks.studies.gpu, on the processor that there is."""

import json

import pytest

from benchmarks.machine import installed
from benchmarks.studies import gpu
from experiments.terminal.errors import UserError
from tests.tiny import QUICK


def test_each_contender_is_named_and_timed_or_says_why_not(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", QUICK)
    config = gpu.GpuConfig(
        network="unet",
        batch=1,
        contenders=("bfloat16", "autocast"),
        steps=1,
        rounds=2,
        product=64,
        out=str(tmp_path),
    )
    gpu.main(config)
    printed = capfd.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())
    there = {"product", "bfloat16"} | ({"autocast"} if installed("torch") else set())
    assert set(found["seconds"]) == there
    assert all(len(turns) == 2 and min(turns) > 0 for turns in found["seconds"].values())
    assert found["flops"] > 1e9
    assert "this project, bfloat16: " in printed and "TFLOP/s" in printed
    assert ("was left out: ModuleNotFoundError" in printed) != installed("torch")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_number_below_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be positive"):
        gpu.main(gpu.GpuConfig(rounds=0, out=str(tmp_path)))
