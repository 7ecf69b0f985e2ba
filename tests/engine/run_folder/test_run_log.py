"""What stands in ``log.txt``, and what the console shows of it."""

import io
import logging
import re
import warnings

import psutil
import pytest

from sightline.config.errors import DataError
from sightline.engine.console import Console
from sightline.engine.run_folder.run_log import ROOT, RunLog

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (DEBUG|INFO|WARNING|ERROR) *")


def a_console():
    return Console(io.StringIO(), is_terminal=False)


def shown(console):
    return console.stream.getvalue()


def said(folder, name="log.txt"):
    """Level and text of every record, further lines of a text with it."""
    records = []
    for line in (folder / name).read_text().splitlines():
        if stamp := STAMP.match(line):
            records.append((stamp[1], line[stamp.end() :]))
        else:
            level, text = records[-1]
            records[-1] = (level, f"{text}\n{line.strip()}")
    return records


def speak(console):
    console.say("figures")
    logging.getLogger("sightline.engine.anything").debug("details")
    logging.getLogger("sightline.engine.anything").warning("trouble")


@pytest.mark.parametrize(
    "level, on_console, in_file",
    [
        ("WARNING", "warning: trouble\n", ["figures", "trouble"]),
        ("INFO", "figures\nwarning: trouble\n", ["figures", "trouble"]),
        ("DEBUG", "figures\ndebug: details\nwarning: trouble\n", ["figures", "details", "trouble"]),
    ],
)
def test_a_level_decides_what_is_shown_and_the_file_has_the_figures_in_any_case(tmp_path, level, on_console, in_file):
    console = a_console()
    with RunLog(console, level) as log:
        log.open(tmp_path)
        speak(console)
    assert shown(console) == on_console
    assert [text for _, text in said(tmp_path)] == in_file


def test_what_was_said_before_the_folder_was_known_stands_below_the_banner(tmp_path):
    console = a_console()
    with RunLog(console) as log:
        console.say("early")
        assert list(tmp_path.iterdir()) == []
        log.open(tmp_path, title="session 1 of x", about=["command: y"])
        console.say("late")
        assert said(tmp_path)[-1] == ("INFO", "late")  # at once, and not when the file is closed
        log.ends_with(3)
    texts = [text for _, text in said(tmp_path)]
    assert texts[:3] == ["==== session 1 of x begins ====\ncommand: y", "early", "late"]
    assert re.fullmatch(r"==== session 1 of x ends: stopped, exit code 3, after \d+\.\d s ====", texts[3])


def test_a_session_that_never_got_a_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError), RunLog(a_console()):
        raise DataError("no such data")
    assert list(tmp_path.iterdir()) == []


def test_the_next_session_is_appended_even_behind_a_line_that_a_power_cut_halved(tmp_path):
    for _ in range(2):
        with RunLog(console := a_console()) as log:
            log.open(tmp_path, title="a session")
            console.say("figures")
            log.ends_with(0)
        with (tmp_path / "log.txt").open("a") as file:
            file.write("2026-01-01T00:00:00Z INFO    hal")
    texts = [text for _, text in said(tmp_path)]
    assert [text.split(",")[0] for text in texts] == [
        *("==== a session begins ====", "figures", "==== a session ends: done", "hal"),
        *("==== a session begins ====", "figures", "==== a session ends: done", "hal"),
    ]


@pytest.mark.parametrize(
    "error, code, word",
    [(ZeroDivisionError("by zero"), 1, "failed"), (DataError("bad"), 2, "failed"), (KeyboardInterrupt(), 1, "aborted")],
)
def test_a_failure_is_written_with_its_traceback_and_a_mistake_of_the_user_without(tmp_path, error, code, word):
    console = a_console()
    with pytest.raises(type(error)), RunLog(console) as log:
        log.open(tmp_path, title="a session")
        raise error
    _, (level, text), (_, last) = said(tmp_path)
    assert level == "ERROR" and f"{word}, exit code {code}" in last
    assert ("Traceback (most recent call last)" in text) == (code == 1)
    assert "test_run_log.py" in text or code == 2
    assert shown(console) == "", "who shows errors is the command line"


def test_warnings_of_python_are_written_and_shown_as_ever(tmp_path, recwarn):
    console = a_console()
    with RunLog(console) as log:
        log.open(tmp_path)
        warnings.warn("that is slow", UserWarning, stacklevel=1)
    assert re.fullmatch(r"UserWarning: that is slow \(.*test_run_log\.py:\d+\)", said(tmp_path)[0][1])
    assert [str(one.message) for one in recwarn] == ["that is slow"]
    assert shown(console) == ""


def test_no_control_character_reaches_the_file_and_lines_stay_lines(tmp_path):
    with RunLog(console := a_console()) as log:
        log.open(tmp_path)
        console.say("a\x1b[31mred\x07\r\n\tb\u202e\udcff")
    assert said(tmp_path) == [("INFO", "a\\x1b[31mred\\x07\\r\nb\\u202e\\udcff")]
    assert all(byte >= 32 or byte == 10 for byte in (tmp_path / "log.txt").read_bytes())


@pytest.mark.parametrize(
    "text",
    [
        "key of the service: correct-horse, in a sentence",
        "sightline train x log.api_key=battery",
        "tool --password staple",
        "https://me:staple@host/x",
        '{"access_token": "battery", "lr": 1}',
        "hf_abcdefghijklmnopqrst",
    ],
)
def test_secrets_are_hidden(tmp_path, monkeypatch, text):
    monkeypatch.setenv("SERVICE_TOKEN", "correct-horse")
    with RunLog(console := a_console()) as log:
        log.open(tmp_path)
        console.say(f"before {text} after")
    (written,) = (text for _, text in said(tmp_path))
    assert "***" in written and written.startswith("before ") and written.endswith(" after")
    assert not any(secret in written for secret in ("horse", "battery", "staple", "hf_a"))


def test_other_processes_write_a_file_only_if_they_have_something_to_warn_of(tmp_path):
    with RunLog(quiet := a_console(), rank=2) as log:
        log.open(tmp_path)
        quiet.say("figures")
    assert list(tmp_path.iterdir()) == []
    with RunLog(a_console(), rank=2) as log:
        log.open(tmp_path)
        ROOT.warning("trouble")
    assert said(tmp_path, "log_2.txt") == [("WARNING", "trouble")]


def test_another_process_that_fails_says_why_in_its_own_file(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLog(a_console(), rank=1) as log:
        log.open(tmp_path)
        raise ZeroDivisionError("a fall")
    ((level, text),) = said(tmp_path, "log_1.txt")
    assert level == "ERROR" and "Traceback" in text and "a fall" in text


def test_a_disk_that_refuses_the_file_does_not_stop_the_run(tmp_path, capsys):
    (tmp_path / "log.txt").mkdir()
    with RunLog(console := a_console()) as log:
        log.open(tmp_path, title="a session")
        console.say("figures")
        log.ends_with(0)
    assert shown(console) == "figures\n"
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_logging_is_left_as_it_was_and_no_file_stays_open(tmp_path):
    before = (ROOT.level, ROOT.propagate, list(ROOT.handlers), warnings.showwarning)
    open_files = psutil.Process().open_files()
    with RunLog(console := a_console()) as log:
        log.open(tmp_path)
        console.say("figures")
    assert (ROOT.level, ROOT.propagate, list(ROOT.handlers), warnings.showwarning) == before
    assert psutil.Process().open_files() == open_files
