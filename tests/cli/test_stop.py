"""Ctrl-C and SIGTERM, sent to a real process."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from sightline.engine.checkpoint.reader import newest_whole
from tests.cli.tool import RECIPE, TINY, sightline, typed, without_report

CHANGES = [*(change for change in TINY if not change.startswith("epochs")), "checkpoint.every_epochs=0"]
"""No checkpoints on the way: they wait for the disk, which may be busy."""


@pytest.fixture
def started(workplace, tmp_path):
    """Starts a command and waits for a line of its output; nothing outlives the test."""
    processes = []

    def start(*arguments, until):
        command = [sys.executable, "-u", "-m", "sightline.cli.main", *map(str, arguments)]
        process = subprocess.Popen(
            command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        processes.append(process)
        for line in process.stdout:
            if until in line:
                return process
        raise AssertionError(f"ended without {until!r}: {process.stderr.read()}")

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.timeout(900)
def test_a_stopped_run_says_how_to_go_on_and_does(workplace, tmp_path, started):
    run = tmp_path / "run"
    train = started("train", RECIPE, "--data", "city", *CHANGES, "epochs=30", "--out", run, until="step 2/60")
    train.send_signal(signal.SIGTERM)
    out, err = train.communicate(timeout=300)
    assert (train.returncode, err) == (3, "")
    assert "SIGTERM: saving and stopping" in out
    step, command = re.search(r"stopped at step (\d+)\. Continue with: sightline (.*)", out).groups()
    assert command == f"resume {run}"

    resumed = started(*command.split(), until=f"step {int(step) + 1}/60")
    resumed.send_signal(signal.SIGINT)
    out, err = resumed.communicate(timeout=300)
    assert (resumed.returncode, err) == (3, "")
    assert json.loads((run / "run.json").read_text())["sessions"][-1]["outcome"] == "interrupted"

    with without_report():
        assert typed(command, cwd=workplace).code == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 61))
    sessions = json.loads((run / "run.json").read_text())["sessions"]
    assert [session["exit_code"] for session in sessions] == [3, 3, 0]
    assert sessions[1]["from_step"] == int(step)


def test_an_aborted_run_says_what_is_lost_and_how_to_go_on(workplace, tmp_path, monkeypatch):
    def second_ctrl_c(*_args, **_kwargs):
        raise KeyboardInterrupt  # what the second signal becomes, see tests/engine/test_stop.py

    monkeypatch.setattr("sightline.engine.session.train", second_ctrl_c)
    run = tmp_path / "run"
    ended = sightline("train", RECIPE, "--data", "city", *CHANGES, "epochs=30", "--out", run, cwd=workplace)
    assert ended.code == 1
    assert "aborted" in ended.err
    assert f"Continue from it with: sightline resume {run}" in ended.out
    assert json.loads((run / "run.json").read_text())["sessions"][-1]["exit_code"] == 1


def test_a_stop_while_data_is_opened_leaves_nothing_and_says_so(workplace, tmp_path, monkeypatch):
    def slow(*_args, **_kwargs):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("goes on")

    monkeypatch.setattr("sightline.api.training.open_problem", slow)
    ended = sightline("train", RECIPE, "--data", "city", *CHANGES, "epochs=3", "--out", tmp_path / "run", cwd=workplace)
    assert ended == (3, "", "SIGTERM: stopped before the first step. Nothing was begun: start it again.\n")
    assert not (tmp_path / "run").exists()


def test_a_stop_while_data_of_a_resumed_run_is_opened_says_how_to_go_on(workplace, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with without_report():
        assert (
            sightline("train", RECIPE, "--data", "city", *TINY, "stop_at_epoch=1", "--out", run, cwd=workplace)[0] == 3
        )
    before = (run / "run.json").read_bytes()
    monkeypatch.setattr("sightline.api.session.open_problem", lambda *_: signal.raise_signal(signal.SIGUSR1))
    ended = sightline("resume", run, cwd=workplace)
    assert ended == (3, "", f"SIGUSR1: stopped before the first step. Continue with: sightline resume {run}\n")
    assert (run / "run.json").read_bytes() == before


def test_a_stop_while_the_report_is_written_leaves_it_to_the_resume(workplace, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("sightline.api.session.report", lambda _: signal.raise_signal(signal.SIGTERM))
        ended = sightline("train", RECIPE, "--data", "city", *TINY, "--out", run, cwd=workplace)
    assert ended.code == 3
    assert ended.out.endswith(f"SIGTERM: the report is not written; for it: sightline report {run}\n")
    assert json.loads((run / "run.json").read_text())["sessions"][-1]["outcome"] == "done"
    with without_report():
        ended = sightline("resume", run, cwd=workplace)
    assert ended == (0, f"report: {run / 'report' / 'index.html'}\n", "")


def test_a_limit_of_time_ends_the_command_within_it(workplace, tmp_path):
    run, began = tmp_path / "run", time.monotonic()
    with without_report():
        ended = sightline(
            "train", RECIPE, "--data", "city", *CHANGES, "epochs=9999", "max_time=3s", "--out", run, cwd=workplace
        )
    assert ended.code == 3
    assert time.monotonic() - began < 3 + 2  # on a machine with other things to do
    assert "max_time=3s is nearly over: saving and stopping" in ended.out
    assert newest_whole(run, print).step > 0


def test_a_closed_terminal_saves_and_stops(workplace, tmp_path):
    pty = pytest.importorskip("pty", reason="needs terminals of Unix")
    run = tmp_path / "run"
    command = [
        "train",
        RECIPE,
        "--data",
        "city",
        *CHANGES,
        "epochs=9999",
        "log.heartbeat_seconds=0.05",
        "--out",
        str(run),
    ]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(workplace)
        os.execv(sys.executable, [sys.executable, "-m", "sightline.cli.main", *command])
    deadline = time.monotonic() + 120
    while not (run / "status.json").exists() or json.loads((run / "status.json").read_text())["step"] < 2:
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 65536)
        assert time.monotonic() < deadline
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert json.loads((run / "status.json").read_text())["message"] == "SIGHUP"
    assert newest_whole(run, print).step >= 2
