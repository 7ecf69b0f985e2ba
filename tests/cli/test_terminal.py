"""What a person sees on a terminal, and what a pipe receives."""

import io
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from unittest import mock

import pytest
from rich.console import Console as RichConsole

from sightline.api import Table
from sightline.cli.show import fault_style, help_style, origin_style, show, show_lines
from sightline.engine.console import Console, duration
from sightline.engine.log import LogRow

FIGURES = Table(("figure", "value"), [("AP", "0.5000"), ("AP_large", "-")])


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_a_table_stands_in_columns_with_numbers_on_the_right():
    assert str(FIGURES).splitlines() == ["figure     value", "AP        0.5000", "AP_large       -"]


def test_tables_are_drawn_on_a_terminal_and_plain_in_a_pipe(monkeypatch, capsys):
    show("title", FIGURES)
    assert capsys.readouterr().out == f"title\n{FIGURES}\n\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show(FIGURES)
    assert "─" in terminal.getvalue() and "AP_large" in terminal.getvalue()


@pytest.mark.parametrize(
    "style, line",
    [
        (origin_style, "lr: 0.01     # recipe"),
        (origin_style, "lr: 0.02     # command line"),
        (help_style, "optimizer.  How gradients become updates."),
        (help_style, "    Learning rate."),
        (help_style, "lr: 0.01"),
        (fault_style, "error: 3 places"),
        (fault_style, "  labels/0.txt:1: class 9"),
        (fault_style, ""),
    ],
)
def test_styles_change_no_word(style, line):
    assert "".join(style(line)) == line


def test_words_with_brackets_are_no_markup(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show_lines("names: [bold]x[/bold]  # recipe", origin_style)
    show(Table(("class",), [("[red]cat[/red]",)]))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "[bold]x[/bold]" in plain and "[red]cat[/red]" in plain


def training(steps=20, epochs=2):
    length = mock.Mock(steps=steps, epochs=epochs)
    return mock.Mock(plan=mock.Mock(length=length), step=0)


def row(step):
    values = {"loss/box": 0.25, "loss/class": 0.125, "loss": 0.375, "lr/decay": 0.01, "lr/biases": 0.02}
    return LogRow("train", step, 0, values, {"samples_per_second": 31.6}, 83.2)


def test_titles_with_brackets_are_no_markup_and_long_cells_are_whole(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show(Table(("", ""), [("sha256", "0123456789abcdef" * 8)], title="[red]a[/b].safetensors"))
    assert "[red]a[/b].safetensors" in terminal.getvalue()
    assert "0123456789abcdef" * 8 in "".join(terminal.getvalue().split())


def test_a_piped_line_has_losses_the_highest_rate_speed_and_time_left():
    stream = io.StringIO()
    console = Console(stream)
    console.on_run_start(training())
    console.write(row(2))
    assert stream.getvalue() == "epoch 1/2 step 2/20  box 0.2500  class 0.1250  lr 2.00e-02  32 samples/s  ETA 1:23\n"


def test_the_bar_fits_a_terminal_of_100_columns():
    stream = Terminal()
    with mock.patch("rich.console.Console", lambda **kw: RichConsole(**kw, width=100, force_terminal=True)):
        console = Console(stream)
        console.on_run_start(training())
        console.write(row(10))
        console.on_step_end(training(), mock.Mock(step=10, epoch=0))
        console.say("a line above the bar")
        console.on_run_end(training(), "stopped")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").splitlines()
    shown = [line for line in plain if "samples/s" in line]
    assert shown and all(len(line) <= 100 for line in plain)
    assert all(
        word in shown[-1] for word in ("epoch 1/2", "10/20", "box 0.250", "class 0.125", "lr 2.00e-02", "32 samples/s")
    )
    assert any("a line above the bar" in line for line in plain)


@pytest.mark.parametrize("seconds, text", [(0.4, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_durations_are_written_as_on_a_clock(seconds, text):
    assert duration(seconds) == text


def test_a_real_terminal_gets_a_bar_and_nothing_is_left_of_it(workplace, tmp_path):
    command = [sys.executable, "-m", "sightline.cli.main", "train", "--from", "runs/yolov7-tiny/1"]
    main, side = pty.openpty()
    env = {**os.environ, "COLUMNS": "100", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")], cwd=workplace, stdout=side, stderr=side, env=env, close_fds=True
    )
    os.close(side)
    received = b""
    try:
        with suppress(OSError):  # the other side is gone
            while part := os.read(main, 65536):
                received += part
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)
    text = received.decode()
    assert "━" in text and "reading the data" in text
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"
    assert "report: " in text.splitlines()[-1]
