"""A run that a fatal signal ends leaves its Python stacks, and is told of by what looks at it next."""

import faulthandler
import os
import signal

import pytest

from sightline import api
from sightline.engine.callback import Callback
from sightline.engine.distributed.processes import LostProcessError
from sightline.engine.run_folder.crash_report import close_report, crash_reported
from sightline.engine.run_folder.fatal_stacks import fatal_end, fatal_stacks, how_it_died, stacks_if_it_dies
from sightline.engine.session import run_session
from tests.conftest import quiet
from tests.engine.toy import toy_run
from tests.forked import forked

CALLBACK = """
import os, signal
from sightline.engine.callback import Callback

class Ends(Callback):
    def on_step_end(self, training, report):
        if report.step == 7:
            os.kill(os.getpid(), signal.{signal})
"""

SEGFAULT = """Fatal Python error: Segmentation fault

Thread 0x00007f0000000001 (most recent call first):
  File "/code/loader.py", line 9 in fetch

Current thread 0x00007f0000000002 (most recent call first):
  File "/code/model.py", line 12 in forward
  File "/code/loop.py", line 80 in train
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "name, words", [("SIGSEGV", "Segmentation fault"), ("SIGABRT", "Aborted"), ("SIGBUS", "Bus error")]
)
def test_a_fatal_signal_leaves_the_stacks_and_status_and_resume_tell_of_it(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CALLBACK.format(signal=name))
    config = toy_run(checkpoint={"every_steps": 3})
    child = forked(lambda: api.train(config, changes=["callbacks=mine.py:Ends"], out="run", console=quiet()).exit_code)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.Signals[name]
    assert "sightline/engine/loop.py" in (tmp_path / "run/.fatal_0").read_text()
    first, *rest = api.status("run").splitlines()
    assert first == f"run: dead (a fatal signal: {words} in on_step_end ({tmp_path / 'mine.py'}:8))"
    assert "stacks: run/.fatal_0" in rest

    monkeypatch.setattr("sightline.api.session.report", lambda run: run)
    assert api.resume("run", ["callbacks=[]"], console=quiet()).exit_code == 0
    log = (tmp_path / "run/log.txt").read_text()
    assert f"the session before was ended by a fatal signal: {words} in on_step_end" in log
    assert "stacks of process 0 at its end:" in log and "in _take_steps" in log
    assert not list((tmp_path / "run").glob(".fatal*"))
    assert api.status("run").splitlines()[0] == "run: done"


class Looks(Callback):
    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def on_step_end(self, training, report):
        self.seen = [path.stat().st_size for path in self.folder.glob(".fatal*")]


def test_a_run_that_comes_to_its_end_leaves_no_file_and_the_handler_as_it_was(tmp_path):
    was_enabled, looks = faulthandler.is_enabled(), Looks(tmp_path)
    config = toy_run(epochs=1)
    run_session(config, config.open(), tmp_path, console=quiet(), callbacks=[looks])
    assert looks.seen == [0]
    assert not list(tmp_path.glob(".fatal*"))
    assert faulthandler.is_enabled() == was_enabled


def test_a_folder_that_is_not_here_is_none_of_its_business(tmp_path):
    with stacks_if_it_dies(None, 1), stacks_if_it_dies(tmp_path / "elsewhere", 1):
        pass
    assert not list(tmp_path.iterdir())


def test_the_end_is_told_by_the_thread_that_met_it():
    assert fatal_end(SEGFAULT) == "Segmentation fault in forward (/code/model.py:12)"
    assert fatal_end("Fatal Python error: Aborted\n\n<no Python frame>") == "Aborted"
    assert fatal_end("half of a line") == "fatal error"


def test_processes_that_were_killed_or_live_wrote_nothing_and_are_not_told_of(tmp_path):
    for name, text in ((".fatal_0", ""), (".fatal_2", SEGFAULT), (".fatal_x", SEGFAULT)):
        (tmp_path / name).write_text(text)
    assert list(fatal_stacks(tmp_path)) == [2]
    assert how_it_died(tmp_path) == "process 2: Segmentation fault in forward (/code/model.py:12)"
    close_report(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".fatal_2", ".fatal_x"]


def test_the_process_that_lives_on_names_the_one_that_died_and_has_its_stacks_in_the_report(tmp_path):
    class First:
        rank, count = 0, 2

    (tmp_path / "run.json").write_text("{}")
    (tmp_path / ".fatal_1").write_text(SEGFAULT)
    with pytest.raises(LostProcessError) as raised, crash_reported(toy_run(), tmp_path, First()):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [x]:1")
    assert str(raised.value).startswith(
        "lost process 1: it was ended by a fatal signal: Segmentation fault in forward (/code/model.py:12)"
    )
    assert "process 1 when a fatal signal ended it" in (tmp_path / "crash.txt").read_text()
    assert '"/code/loop.py", line 80 in train' in (tmp_path / "crash.txt").read_text()
