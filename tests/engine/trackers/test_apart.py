"""A foreign package in a process of its own: it may do there what it likes."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from sightline.engine.trackers.apart import TrackerApart, TrackerRefusedError
from sightline.engine.trackers.tracker import TrackedRow, TrackerGoneError
from tests.engine.trackers.fakes import Fakes

SETTINGS = {"id": "abc", "name": "1", "recipe": "toy", "params": {"lr": 0.1}}
WANDB = {**SETTINGS, "folder": "runs", "mode": None, "project": None}
MLFLOW = {**SETTINGS, "folder": ".", "experiment": None}

PATIENCE_S = 60.0
"""For what takes a second on a machine with nothing else to do."""


def row(step: int) -> TrackedRow:
    return TrackedRow("train", step, 0, {"loss": float("nan") if step == 2 else 0.5}, {}, 1700000000.0)


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    return Fakes(tmp_path, monkeypatch)


@pytest.fixture
def wandb():
    tracker = TrackerApart("wandb", lambda: WANDB)
    yield tracker
    tracker.abandon()


def children():
    return psutil.Process().children(recursive=True)


def wait_until(happened):
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rows_and_the_end_arrive_and_the_process_ends(fakes, wandb):
    before = children()
    wandb.open()
    wandb.write([row(1), row(2)])
    wandb.close("done")
    assert [one["values"]["step"] for one in fakes.told("write")] == [1, 2]
    assert fakes.told("write")[0]["values"] == {"step": 1, "epoch": 0, "train/loss": 0.5}
    assert fakes.told("close") == [{"moment": "close", "exit_code": 0}]
    assert fakes.told("config")[0]["values"] == {"lr": 0.1}
    assert children() == before


def test_offline_unless_asked_otherwise_and_the_same_id_on_resume(fakes, monkeypatch):
    for mode, variable, expected in (
        (None, None, "offline"),
        (None, "online", "online"),
        ("offline", "online", "offline"),
    ):
        monkeypatch.delenv("WANDB_MODE", raising=False)
        if variable:
            monkeypatch.setenv("WANDB_MODE", variable)
        tracker = TrackerApart("wandb", lambda mode=mode: {**WANDB, "mode": mode})
        tracker.open()
        tracker.close("done")
        told = fakes.told("open")[-1]
        assert told["options"]["mode"] == expected
        assert (told["options"]["id"], told["options"]["resume"]) == ("abc", "allow")
        assert not told["torch"], "PyTorch would cost the process seconds"


def test_mlflow_has_figures_at_their_steps_and_no_telemetry(fakes):
    tracker = TrackerApart("mlflow", lambda: MLFLOW)
    tracker.open()
    tracker.write([row(1), row(3)])
    tracker.close("stopped")
    assert fakes.told("open")[0]["telemetry"] == "true"
    assert fakes.told("experiment")[0]["name"] == "toy"
    assert fakes.told("params")[0]["params"] == {"lr": "0.1"}
    assert fakes.told("write")[0]["metrics"] == [["train/loss", 0.5, 1700000000000, step] for step in (1, 3)]
    assert fakes.told("close")[0]["status"] == "KILLED"


def test_a_refusal_says_why_and_more_rows_may_follow(fakes, wandb):
    fakes.misbehave("raise write")
    wandb.open()
    for step in (1, 2):
        with pytest.raises(TrackerRefusedError, match="ConnectionError: refused"):
            wandb.write([row(step)])
    wandb.close("done")
    assert fakes.told("close")


@pytest.mark.parametrize("mood", ["raise open", "die open"])
def test_one_that_cannot_open_is_gone_and_leaves_no_process(fakes, wandb, mood):
    fakes.misbehave(mood)
    before = children()
    with pytest.raises(TrackerGoneError, match=r"refused|ended"):
        wandb.open()
    assert children() == before


def test_one_that_dies_is_gone_and_opens_again(fakes, wandb):
    fakes.misbehave("die write")
    wandb.open()
    with pytest.raises(TrackerGoneError, match="its process ended"):
        wandb.write([row(1)])
    fakes.misbehave("")
    wandb.open()
    wandb.write([row(2)])
    wandb.close("failed")
    assert [one["exit_code"] for one in fakes.told("close")] == [1]


@pytest.mark.parametrize("moment", ["open", "write", "close"])
def test_one_that_hangs_is_ended_from_another_thread(fakes, wandb, moment):
    fakes.misbehave(f"hang {moment}")
    before = children()

    def work():
        try:
            wandb.open()
            wandb.write([row(1)])
            wandb.close("done")
        except TrackerGoneError:
            gone.set()

    gone = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: fakes.told("hang"))
    assert fakes.told("hang") == [{"moment": "hang", "of": moment}]
    assert thread.is_alive()
    wandb.abandon()
    assert gone.wait(PATIENCE_S)
    thread.join()
    wait_until(lambda: children() == before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills as POSIX does")
def test_when_its_run_is_killed_the_tracker_finishes_and_ends(fakes, tmp_path):
    code = (
        "import sys, time; from sightline.engine.trackers.apart import TrackerApart\n"
        f"tracker = TrackerApart('wandb', lambda: {WANDB!r}); tracker.open()\n"
        "print(tracker._process.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    child = psutil.Process(int(run.stdout.readline()))
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    wait_until(lambda: fakes.told("close"))
    assert [one["exit_code"] for one in fakes.told("close")] == [1]
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_what_lies_in_the_folder_where_a_run_starts_is_not_imported(fakes, wandb, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise RuntimeError('a stranger')")
    monkeypatch.chdir(tmp_path)
    wandb.open()
    wandb.close("done")
    assert fakes.told("close") == [{"moment": "close", "exit_code": 0}]
