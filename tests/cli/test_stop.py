"""Ctrl-C and SIGTERM, sent to a real process."""

import json
import re
import signal
import subprocess
import sys

import pytest

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
