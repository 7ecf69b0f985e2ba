import signal

import pytest

from sightline.engine.stop import StopRequest


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
