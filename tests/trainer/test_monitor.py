"""Monitoring a run: non-finite losses, speed, signals and the progress bar."""

import gc
import io
import math
import signal
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.terminal import progress
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


class Step:
    """Metrics of a step that is done at a given time: who reads them waits until then."""

    def __init__(self, clock, end):
        self.clock, self.end = clock, end

    def __array__(self, dtype=None, copy=None):
        self.clock.now = max(self.clock.now, self.end)
        return np.array(0.5, dtype)


COMPILING, SECONDS = 30.0, 2.0


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("resumed", [0, 600])
def test_the_first_speed_is_that_of_finished_steps_over_their_own_time(clock, taken, resumed):
    clock.now += COMPILING  # the first step is done when the window is made
    window = monitor.Window(10)
    assert (window.loss, window.rate) == (None, None)
    window.begin(resumed + 1, {"loss": jnp.float32(4)})
    assert (window.loss, window.rate) == (4.0, None)
    began = clock.now
    for number in range(1, taken + 1):
        window.add(resumed + 1 + number, {"loss": Step(clock, began + SECONDS * number)})
        assert window.rate == (10 / SECONDS if number > monitor.IN_FLIGHT else None)
    values = window.flush()
    assert values.get("images_per_second") == (10 / SECONDS if taken else None)
    assert values["loss"] == pytest.approx((4.0 + 0.5 * taken) / (1 + taken))
    assert clock.now == began + SECONDS * taken


@pytest.mark.parametrize("pause", [0.0, 50.0])
def test_after_a_log_point_the_speed_stays_until_there_is_a_new_one(clock, pause):
    window = monitor.Window(10)
    window.add(1, {"loss": Step(clock, clock.now + 2)})
    assert window.flush()["images_per_second"] == 5.0
    with window.paused():
        clock.now += pause
    began = clock.now
    assert window.rate == 5.0
    for number in (1, 2, 3):
        window.add(1 + number, {"loss": Step(clock, began + 5 * number)})
        assert window.rate == (2.0 if number == 3 else 5.0)
    assert window.flush()["images_per_second"] == 2.0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_the_first_loss_is_watched_too(loss):
    with pytest.raises(monitor.Diverged, match=f"became {loss} at step 7"):
        monitor.Window(4).begin(7, {"loss": jnp.float32(loss)})


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


@pytest.mark.parametrize(
    ("loss", "rate", "shown"),
    [
        (None, None, ""),
        (0.125, None, "loss 0.1250"),
        (0.125, 77.7, "loss 0.1250 | 77.7 images/s"),
    ],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_no_number_is_shown_before_there_is_one(monkeypatch, capsys, terminal, loss, rate, shown):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, color_system=None)
    with monitor.progress(console, 3, 20) as show:
        show(4, loss, rate)
    told = file.getvalue() if terminal else capsys.readouterr().err
    assert shown in told and "step 4" in told
    assert "nan" not in told and "None" not in told and " 0.0 " not in told
    assert ("images/s" in told) is (rate is not None)
    assert ("loss" in told) is (loss is not None)


def test_what_there_is_is_passed_over_by_collections_until_training_ends():
    with pytest.raises(KeyError), monitor.settled():
        assert gc.get_freeze_count() > 1000
        raise KeyError
    assert gc.get_freeze_count() == 0


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
