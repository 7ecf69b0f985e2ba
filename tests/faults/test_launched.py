"""Two processes that ``devices=2`` starts: stopped, killed, resumed. No process outlives its command."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sightline.engine.checkpoint.reader import newest_whole
from tests.cli.tool import RECIPE
from tests.faults.lives import PATIENCE_S
from tests.faults.test_stop import bytes_of_last_checkpoint
from tests.faults.tiny import changes_with, is_past

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs process groups"),
    pytest.mark.timeout(900),
]


class Launched:
    """A command in a session of its own."""

    def __init__(self, log, *arguments):
        self.log = log
        command = [sys.executable, "-u", "-m", "sightline.cli.main", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("a") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )

    def wait_until(self, happened):
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def workers(self):
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def ends(self):
        """Whether nothing of its session lives on. One look may miss a process that the system is changing."""
        deadline, quiet = time.monotonic() + PATIENCE_S, 0
        while quiet < 3 and time.monotonic() < deadline:
            quiet = 0 if self._alive() else quiet + 1
            time.sleep(0.1)
        return quiet == 3

    def _alive(self):
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(one.pid) == self.process.pid and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(one.cmdline()))
        return found

    def exit_code(self):
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def launch(tmp_path):
    begun = []

    def begin(*arguments):
        begun.append(Launched(tmp_path / "log", *arguments))
        return begun[-1]

    yield begin
    for one in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()


def two_processes(*changes):
    return [RECIPE, *changes_with("devices=2", "checkpoint.every_steps=0", "checkpoint.every_epochs=0", *changes)]


def sessions(run):
    return [session["exit_code"] for session in json.loads((run / "run.json").read_text())["sessions"]]


def launcher_alone(begun):
    """A scheduler's way: the launcher tells its processes."""
    begun.process.terminate()


def everybody(begun):
    """A terminal's way: a Ctrl-C reaches all of them, and the launcher passes it on."""
    os.killpg(begun.process.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [launcher_alone, pytest.param(everybody, marks=pytest.mark.slow)])
def test_two_processes_that_are_stopped_and_resumed_end_with_the_bits_of_unbroken_ones(tmp_path, launch, stop):
    unbroken, run = tmp_path / "unbroken", tmp_path / "run"
    assert launch("train", *two_processes("epochs=6"), "--out", unbroken).exit_code() == 0
    begun = launch("train", *two_processes("epochs=6"), "--out", run)
    begun.wait_until(lambda: is_past(run, 2))
    stop(begun)
    assert begun.exit_code() == 3, begun.log.read_text()
    assert 2 <= newest_whole(run, print).step < 18
    assert begun.ends()

    assert launch("resume", run).exit_code() == 0
    assert sessions(run) == [3, 0]
    assert bytes_of_last_checkpoint(run) == bytes_of_last_checkpoint(unbroken)
    assert (run / "metrics.jsonl").read_bytes() == (unbroken / "metrics.jsonl").read_bytes()
    assert not list(run.glob("crash*"))


def test_a_killed_process_ends_the_other_within_a_minute_and_both_are_told_of(tmp_path, launch):
    run = tmp_path / "run"
    begun = launch("train", *two_processes("epochs=500"), "--out", run)
    begun.wait_until(lambda: is_past(run, 3))
    since = time.monotonic()
    begun.workers()[1].kill()
    assert begun.exit_code() == 1
    assert time.monotonic() - since < 60
    assert begun.ends()
    said = begun.log.read_text()
    assert said.count("lost process") == 1
    assert "Traceback" not in said
    assert said.rstrip().endswith(f"crash report: {run / 'crash.txt'}")
    report = json.loads((run / "crash.json").read_text())
    assert [part["lost_another"] for part in report["ranks"]] == [True]
    assert not list(run.glob(".stacks*"))


def test_a_process_that_crashes_in_native_code_is_named_with_its_signal_and_the_report_has_its_stacks(tmp_path, launch):
    run = tmp_path / "run"
    begun = launch("train", *two_processes("epochs=500"), "--out", run)
    begun.wait_until(lambda: is_past(run, 3))
    begun.workers()[1].send_signal(signal.SIGSEGV)
    assert begun.exit_code() == 1
    assert begun.ends()
    assert "lost process 1: it was ended by a fatal signal: Segmentation fault" in begun.log.read_text()
    assert "Segmentation fault" in json.loads((run / "crash.json").read_text())["stacks_at_fatal_signal"]["1"]
    assert not (run / ".fatal_0").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes learn of their parent's end")
def test_processes_whose_launcher_is_killed_save_and_end(tmp_path, launch):
    run = tmp_path / "run"
    begun = launch("train", *two_processes("epochs=500"), "--out", run)
    begun.wait_until(lambda: is_past(run, 3))
    begun.process.kill()
    assert begun.ends()
    assert sessions(run) == [3], begun.log.read_text()
    assert newest_whole(run, print).step >= 3
