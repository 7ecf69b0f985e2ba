import signal

import pytest

from sightline.engine.stop import StoppedAtOnce, StopRequest, seconds_of


def test_the_first_signal_asks_and_is_told_once_where_the_trainer_looks_not_where_it_strikes():
    said = []
    stop = StopRequest(said.append)
    with stop.listening():
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert said == []
        assert stop() and stop()
    assert len(said) == 1
    assert said[0].startswith("SIGTERM: saving and stopping")


def test_a_second_ctrl_c_aborts_at_once():
    stop = StopRequest(lambda text: None)
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_is_no_reason_to_lose_the_checkpoint():
    stop = StopRequest(lambda text: None)
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop()


def test_the_signals_are_given_back_after_an_abort_too():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), StopRequest(lambda text: None).listening():
        assert signal.getsignal(signal.SIGINT) != before[0]
        assert signal.getsignal(signal.SIGTERM) != before[1]
        raise KeyboardInterrupt
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    "text, seconds", [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("0.5h", 1800)]
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


def test_a_limit_leaves_room_for_one_more_step_its_checkpoint_and_the_report():
    clock = Clock()
    stop = StopRequest(clock=clock, began=90.0)  # ten seconds were needed before the first step
    stop.limit("100s")  # ends at 190, 5 s earlier for the report
    stop.save_seconds = lambda: 20.0
    asked_at = None
    while asked_at is None:
        if stop():
            asked_at = clock.now
        clock.now += 7.0
    assert asked_at + 7 + 20 >= 185  # another step and its checkpoint would not have fitted
    assert asked_at + 20 < 185  # this one's does
    assert stop.reason == "max_time=100s is nearly over"


def test_a_long_pause_is_forgotten_and_several_processes_learn_one_step_later():
    for rounds, last in ((1, 180), (2, 179)):
        clock = Clock()
        stop = StopRequest(clock=clock, began=90.0)
        stop.limit("100s", rounds=rounds)
        assert not stop()
        clock.now += 20  # an evaluation, say
        while not stop():
            clock.now += 1.0
        assert clock.now + rounds >= 185 - 20 * 0.9**50
        assert last - 5 < clock.now


def test_the_end_of_the_process_that_started_this_one_asks_for_a_stop(monkeypatch):
    clock = Clock()
    stop = StopRequest(clock=clock)
    stop.watch_parent()
    assert not stop()
    monkeypatch.setattr("os.getppid", lambda: 1)
    clock.now += 1
    assert stop()
    assert stop.reason == "the launcher is gone"


def test_a_ctrl_c_that_a_launcher_passes_on_is_no_second_one():
    stop = StopRequest()
    stop.watch_parent()
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop()


def test_where_nothing_is_to_be_saved_a_signal_ends_it_at_once_and_then_leaves_cleaning_up_alone():
    stop = StopRequest()
    with stop.listening():
        with pytest.raises(StoppedAtOnce), stop.impatiently():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)
        with stop.impatiently(), stop.patiently():
            signal.raise_signal(signal.SIGTERM)
        assert stop.reason == "SIGTERM"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_after_nohup_a_closed_terminal_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop.listening():
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_on_its_way_out_is_not_overtaken_by_a_signal():
    stop = StopRequest()
    with stop.listening(), stop.impatiently():
        with pytest.raises(ZeroDivisionError), stop.patiently():
            raise ZeroDivisionError
        signal.raise_signal(signal.SIGTERM)  # would raise at once
    assert stop.reason == "SIGTERM"
