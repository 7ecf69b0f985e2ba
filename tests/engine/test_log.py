import pytest

from sightline.engine.log import TimeLeft


def test_time_left_is_the_pace_times_what_is_left_without_the_slow_start():
    left = TimeLeft(iterations=1000, epochs=1)
    left.step(1, 300.0)  # workers started
    for iteration in range(2, 30):
        left.step(iteration, 300.0 + 2 * iteration)
    assert left.seconds() == pytest.approx(2 * (1000 - 29))


def test_pauses_between_epochs_count_as_often_as_epochs_are_left():
    left = TimeLeft(iterations=100, epochs=10)
    now = 0.0
    for iteration in range(1, 51):
        now += 1
        left.step(iteration, now)
        if iteration % 10 == 0:
            left.pause(now)
            now += 30
    assert left.seconds() == pytest.approx(50 * 1 + 30 * 6)  # the pause that begins now, and that after the last step


def test_steps_of_several_micro_batches_count_by_micro_batches():
    left = TimeLeft(iterations=800, epochs=1)
    for step in range(1, 11):
        left.step(8 * step, 4.0 * step)
    assert left.seconds() == pytest.approx(0.5 * 720)


def test_nothing_is_said_before_anything_is_known():
    left = TimeLeft(iterations=10, epochs=1)
    assert left.seconds() is None
    left.step(1, 0.0)
    assert left.seconds() is None
