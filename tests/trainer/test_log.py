"""The log of a run starts without what it has no use for."""

import os
import subprocess
import sys

import pytest

from tests import tiny


@pytest.mark.parametrize("before", [False, True])
def test_pytorch_is_not_imported_and_stays_importable(tmp_path, before):
    (tmp_path / "torch.py").write_text("Tensor = int\nprint('imported')\n")
    code = "import torch; print('then')\n" * before
    code += "from experiments.trainer.log import Log\n"
    code += f"log = Log({str(tmp_path / 'run')!r})\nlog.write(1, loss=0.5)\nlog.close()\n"
    code += "print('logged')\nimport torch\n"
    paths = os.pathsep.join([str(tmp_path), str(tiny.REPOSITORY)])
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    expected = "imported then logged" if before else "logged imported"
    assert (done.stdout.split(), done.stderr) == (expected.split(), "")
