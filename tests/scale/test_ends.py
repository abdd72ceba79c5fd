"""What becomes of the processes of a run when one of them is killed or stopped."""

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
@pytest.mark.parametrize(
    ("who", "number"),
    [(0, signal.SIGKILL), (1, signal.SIGKILL), (0, signal.SIGSTOP), (1, signal.SIGSTOP)],
)
def test_the_end_of_one_process_ends_all_with_a_last_word(root, undisturbed, who, number):
    workdir = root / f"ended-{who}-{number}"
    other = 1 - who
    with started(root, workdir, "2x1", *LONG) as running:
        wait_for(workdir / "checkpoints" / "10")
        running[who].send_signal(number)
        began = time.monotonic()
        code = running[other].wait(WAIT)
        seconds = time.monotonic() - began
    assert code != 0
    assert seconds < 60
    time.sleep(1.0)
    last = said(root, workdir, other).splitlines()[-1]
    assert "the last good checkpoint: " in last
    assert int(last.partition("checkpoints/")[2].partition(".")[0]) in tiny.saved(workdir)
    if number == signal.SIGKILL:
        assert ran(root, workdir, "2x1", *LONG) == [0, 0], said(root, workdir, 0)
        tiny.assert_same_bits(tiny.state(workdir), tiny.state(undisturbed))
        assert tiny.computed(workdir) == tiny.computed(undisturbed)
