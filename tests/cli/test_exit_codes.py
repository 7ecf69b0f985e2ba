import subprocess
import sys

import pytest

from sightline.cli import main as cli
from tests.data import zoo


def code_of(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sightline", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


def test_a_command_that_worked_ends_with_0(monkeypatch, capsys):
    assert code_of(monkeypatch, "list") == 0
    assert code_of(monkeypatch, "--version") == 0
    assert "yolov7-tiny" in capsys.readouterr().out


def test_check_ends_with_2_if_training_would_refuse_the_data(tmp_path, monkeypatch, capsys):
    root = zoo.WRITERS["yolo"](tmp_path / "pets")
    assert code_of(monkeypatch, "check", str(root)) == 0
    (root / "labels" / "train" / "a.txt").write_text("99 0.5 0.5 0.1 0.1\n")
    assert code_of(monkeypatch, "check", str(root)) == 2
    assert "class_out_of_range" in capsys.readouterr().out


def test_the_code_reaches_the_shell(tmp_path):
    root = zoo.WRITERS["yolo"](tmp_path / "pets")
    (root / "labels" / "train" / "a.txt").write_text("words\n")
    command = [sys.executable, "-m", "sightline.cli.main", "check", str(root)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_a_training_that_was_stopped_ends_with_3(monkeypatch):
    class Stopped:
        exit_code = 3

    monkeypatch.setattr("sightline.api.resolve", lambda *args, **kwargs: (None, {}))
    monkeypatch.setattr("sightline.api.train", lambda *args, **kwargs: Stopped())
    assert code_of(monkeypatch, "train", "yolov7-tiny") == 3
