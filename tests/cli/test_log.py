"""What commands print at which level, and the log of the run."""

import io
import re

import pytest

from sightline import api
from sightline.engine.console import Console
from sightline.recipes import RECIPES
from tests.cli.tool import RECIPE, TINY, sightline, without_report
from tests.engine.run_folder.test_run_log import said
from tests.engine.toy import ToyTask, toy_run


@pytest.fixture
def toy(monkeypatch):
    """The tests' own task, which the command line knows as ``toy``."""
    monkeypatch.setitem(RECIPES, "toy", "tests.engine.toy:toy_run")


def lines_of(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def texts(run):
    return [text for _, text in said(run)]


def test_the_log_of_a_run_has_every_word_of_the_console_between_two_banners(workplace):
    first, *between, last = texts(workplace / "runs" / RECIPE / "1")
    assert first.startswith(f"==== session 1 of runs/{RECIPE}/1 begins ====\ncommand: sightline train {RECIPE} --data")
    assert re.fullmatch(rf"==== session 1 of runs/{RECIPE}/1 ends: done, exit code 0, after \d+\.\d s ====", last)
    printed = (workplace / "train.log").read_text()
    assert lines_of(printed) == [line for text in between for line in lines_of(text)]
    assert "evaluated: AP" in printed


@pytest.mark.parametrize("how", [["--quiet"], ["log.level=WARNING"]])
@pytest.mark.parametrize("name", [RECIPE, "toy"])
def test_quiet_prints_nothing_and_the_log_has_it_all_the_same(workplace, tmp_path, toy, how, name):
    keys = TINY if name == RECIPE else ()
    data = ("--data", workplace / "city") if name == RECIPE else ()
    with without_report():
        outcome = sightline("train", name, *data, *keys, *how, "--out", tmp_path / "run", cwd=tmp_path)
    assert outcome == (0, "", "")
    assert any("evaluated: " in text for text in texts(tmp_path / "run"))


def test_verbose_tells_of_checkpoints_and_times_too(tmp_path, toy):
    with without_report():
        outcome = sightline("train", "toy", "--verbose", "--out", "run", cwd=tmp_path)
    assert outcome.code == 0
    assert re.search(r"^debug: checkpoint step_00000003 \(steps\): 0\.0 MB written in \d\.\d\d s$", outcome.out, re.M)
    assert "debug: checkpoint step_00000003 removed: no rule of checkpoint.keep wants it" in outcome.out
    debug = [text for level, text in said(tmp_path / "run") if level == "DEBUG"]
    assert sum("evaluation after step" in text for text in debug) == 4
    assert any("opened the data" in text for text in debug)


def test_quiet_and_verbose_contradict_each_other_and_a_key(tmp_path, toy):
    for arguments in (["--quiet", "--verbose"], ["--quiet", "log.level=DEBUG"], ["log.level=LOUD"]):
        outcome = sightline("train", "toy", *arguments, cwd=tmp_path)
        assert outcome.code == 2 and outcome.err.startswith("error: ")
        assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_is_appended_and_a_failure_is_told_with_its_traceback(tmp_path, toy, monkeypatch):
    def falls(task, batch):
        raise ZeroDivisionError("a fall")

    with without_report():
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(ToyTask, "predict", falls)
            sightline("train", "toy", "--out", "run", "epochs=1", cwd=tmp_path)
        assert sightline("resume", "run", "--quiet", cwd=tmp_path) == (0, "", "")
        mistake = sightline("resume", "run", cwd=tmp_path)
    assert mistake.code == 2 and "is finished" in mistake.err
    levels = [level for level, _ in said(tmp_path / "run")]
    banners = [text.split(",")[0].split("\n")[0] for text in texts(tmp_path / "run") if text.startswith("====")]
    assert banners == [
        "==== session 1 of run begins ====",
        "==== session 1 of run ends: failed",
        "==== session 2 of run begins ====",
        "==== session 2 of run ends: done",
    ], "a session that changed nothing leaves no trace"
    assert levels.count("ERROR") == 1
    (failure,) = (text for level, text in said(tmp_path / "run") if level == "ERROR")
    assert "Traceback" in failure and "ZeroDivisionError: a fall" in failure and "test_log.py" in failure


def test_a_run_on_a_terminal_has_the_rows_in_its_log_that_its_bar_wipes_away(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    with without_report():
        api.train(toy_run(), out=tmp_path / "run", console=Console(Terminal()))
    rows = [text for text in texts(tmp_path / "run") if re.match(r"epoch \d/4 step \d+/24  entropy ", text)]
    assert len(rows) == 6
    assert not re.search(rb"[^\n\x20-\x7e\x80-\xff]", (tmp_path / "run" / "log.txt").read_bytes())
