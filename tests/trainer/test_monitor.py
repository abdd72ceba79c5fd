"""Monitoring a run: non-finite losses, speed, signals and the progress bar."""

import io
import math
import signal
import threading

import jax.numpy as jnp
import pytest
from rich.console import Console

from experiments.trainer import monitor


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(monitor, "time", clock)
    return clock


def fill(window, losses, first=1):
    for step, loss in enumerate(losses, first):
        window.add(step, {"loss": jnp.float32(loss), "grad_norm": jnp.float32(2 * loss)})


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_noticed_two_steps_later_and_named(loss):
    window = monitor.Window(4)
    fill(window, [1.0, loss, 1.0])
    with pytest.raises(monitor.Diverged, match=f"became {loss} at step 2"):
        fill(window, [1.0], first=4)


@pytest.mark.parametrize("look", ["wait", "flush", "paused"])
def test_nothing_is_logged_saved_or_sampled_before_every_loss_was_seen(look):
    window = monitor.Window(4)
    fill(window, [1.0, math.nan])
    with pytest.raises(monitor.Diverged, match="at step 2"):
        if look == "paused":
            with window.paused():
                pytest.fail("the block was entered")
        else:
            getattr(window, look)()


def test_a_log_point_has_the_means_since_the_last_one(clock):
    window = monitor.Window(4)
    fill(window, [9.0, 9.0])
    clock.now += 1
    window.flush()
    fill(window, [1.0, 2.0, 6.0])
    clock.now += 2
    values = window.flush()
    assert values == {"loss": 3.0, "grad_norm": 6.0, "images_per_second": 3 * 4 / 2}
    assert window.loss == 6.0


def test_the_loss_of_several_devices_is_their_mean():
    window = monitor.Window(4)
    window.add(1, {"loss": jnp.array([1.0, 2.0])})
    window.wait()
    assert window.loss == 1.5


def test_images_a_second_do_not_count_the_time_spent_saving_and_sampling(clock):
    window = monitor.Window(10)
    clock.now += 3
    fill(window, [1.0, 1.0])
    with window.paused():
        clock.now += 50
    clock.now += 1
    fill(window, [1.0, 1.0], first=3)
    assert window.flush()["images_per_second"] == 4 * 10 / 4


def test_the_first_signal_is_noted_the_second_acts_and_the_handler_comes_back():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with monitor.stop_signals() as stopped:
            assert not stopped
            signal.raise_signal(signal.SIGTERM)
            assert (stopped, seen) == ([signal.SIGTERM], [])
            signal.raise_signal(signal.SIGTERM)
            assert seen == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_signals_are_left_alone():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen = []

    def work():
        with monitor.stop_signals() as stopped:
            seen.append(stopped)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_handler_that_was_not_set_in_python_is_no_trouble(monkeypatch):
    changes = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: changes.append(handler))
    with monitor.stop_signals():
        pass
    assert changes[2:] == [signal.SIG_DFL] * 2


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_tells_step_loss_and_speed_on_a_terminal_and_is_silent_elsewhere(terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, color_system=None)
    with monitor.progress(console, 3, 20) as show:
        show(4, 0.125, 77.7)
    told = file.getvalue()
    if terminal:
        for part in ("step 4/20", "loss 0.1250", "77.7 images/s", "left"):
            assert part in told
    else:
        assert not told.strip()
