"""What becomes of the processes of a run when one of them is killed or stopped."""

import contextlib
import signal
import time

import pytest

from tests import tiny
from tests.scale import layouts
from tests.scale.layouts import WAIT, ran, said, started, wait_for

root = layouts.root
LONG = ("--train.steps=40", "--train.sample-every=40", *tiny.SMALL)
LONG += ("--train.accumulate=1", "--model.dropout=0")  # compiles in a third of the time


@pytest.fixture(scope="module")
def undisturbed(root):
    workdir = root / "undisturbed"
    assert ran(root, workdir, "2x1", *LONG) == [0, 0], said(root, workdir, 0)
    return workdir


@pytest.mark.slow  # two processes compile a training step, and miss a heartbeat
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_end_of_one_process_ends_all_with_a_last_word(root, undisturbed, number):
    """While one run misses its heartbeats the other one starts."""
    workdirs = [root / f"ended-{who}-{number}" for who in (0, 1)]
    with contextlib.ExitStack() as stack:
        left, began = [], []
        for who, workdir in enumerate(workdirs):
            running = stack.enter_context(started(root, workdir, "2x1", *LONG))
            wait_for(workdir / "checkpoints" / "10")
            running[who].send_signal(number)
            began.append(time.monotonic())
            left.append(running[1 - who])
        for process, since in zip(left, began, strict=True):
            assert process.wait(WAIT) != 0
            assert time.monotonic() - since < 60
    for who, workdir in enumerate(workdirs):
        last = said(root, workdir, 1 - who).splitlines()[-1]
        assert "the last good checkpoint: " in last
        assert int(last.partition("checkpoints/")[2].partition(".")[0]) in tiny.saved(workdir)
        if number == signal.SIGKILL:
            assert ran(root, workdir, "2x1", *LONG) == [0, 0], said(root, workdir, 0)
            tiny.assert_same_bits(tiny.state(workdir), tiny.state(undisturbed))
            assert tiny.computed(workdir) == tiny.computed(undisturbed)
