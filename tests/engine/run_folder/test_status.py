import json
import os
import time

import pytest

from sightline.engine.run_folder.process_identity import ProcessIdentity
from sightline.engine.run_folder.status import Heartbeat, Status, read_status


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_the_file_says_what_the_run_does(tmp_path):
    clock = Clock()
    heart = Heartbeat(tmp_path, total_steps=100, total_epochs=10, clock=clock)
    for step in range(21):
        heart.beat(step=step, epoch=step // 10, losses={"box": 0.25}, samples_per_s=4.0, eta_s=160.0)
        clock.now += 2
    status = read_status(tmp_path)
    assert (status.state, status.step, status.total_steps, status.epoch, status.total_epochs) == (
        "running", 20, 100, 2, 10
    )  # fmt: skip
    assert status.losses == {"box": 0.25}
    assert (status.eta_s, status.samples_per_s) == (160.0, 4.0)
    assert status.process == ProcessIdentity.here()
    assert abs(status.updated - time.time()) < 60
    assert json.loads((tmp_path / "status.json").read_text())["process"]["pid"] == os.getpid()


def test_it_is_written_at_most_once_a_second(tmp_path):
    clock = Clock()
    heart = Heartbeat(tmp_path, clock=clock)
    written = 0
    for _ in range(16 * 10 + 1):
        written += heart.beat(step=1)
        clock.now += 1 / 16
    assert written == 11
    assert not heart.is_due()
    clock.now += 1
    assert heart.is_due()


def test_a_change_of_state_is_written_at_once(tmp_path):
    clock = Clock()
    heart = Heartbeat(tmp_path, clock=clock)
    for state in ("starting", "running", "evaluating", "running", "done"):
        assert heart.beat(state)
        assert read_status(tmp_path).state == state


@pytest.mark.parametrize("state", ["done", "failed", "interrupted"])
def test_an_ended_run_is_not_alive_and_keeps_its_word(tmp_path, state):
    Heartbeat(tmp_path).beat(state, step=3, message="why")
    status = read_status(tmp_path)
    assert (status.is_alive(), status.word(), status.message) == (False, state, "why")


def test_a_run_that_stopped_without_a_word_is_dead():
    gone = ProcessIdentity.here().but(pid=2**22 - 1)
    status = Status(state="running", updated=time.time(), process=gone)
    assert status.word() == "dead"
    assert status.but(process=ProcessIdentity.here(), updated=0).word() == "running"  # slow, but there


def test_a_run_elsewhere_is_dead_when_it_is_silent():
    elsewhere = ProcessIdentity.here().but(host="elsewhere")
    status = Status(state="evaluating", updated=time.time(), process=elsewhere)
    assert status.word() == "evaluating"
    assert status.but(updated=time.time() - 61).word() == "dead"


def test_a_missing_or_broken_file_is_none(tmp_path):
    assert read_status(tmp_path) is None
    for text in ("", "{", "[]", '{"state": "sleeping"}', "\0" * 100):
        (tmp_path / "status.json").write_text(text)
        assert read_status(tmp_path) is None


def test_non_finite_losses_are_told_as_they_are(tmp_path):
    Heartbeat(tmp_path).beat(losses={"box": float("inf")})
    assert read_status(tmp_path).losses == {"box": float("inf")}


def test_a_disk_that_refuses_it_does_not_stop_the_run(tmp_path, caplog):
    clock = Clock()
    heart = Heartbeat(tmp_path / "gone", clock=clock)
    for _ in range(3):
        assert not heart.beat(step=1)
        clock.now += 2
    assert len(caplog.records) == 1  # said once
