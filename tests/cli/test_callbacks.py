"""A user's callbacks on the command line: what runs, what never runs, and how a failure ends."""

import json
import re
import shutil

import pytest
import yaml

from tests.cli.tool import RECIPE, TINY, sightline, without_report, write_city
from tests.conftest import ROOT

CODE = """from pathlib import Path

from sightline.engine.callback import Callback

Path("ran.txt").open("a").write("ran\\n")


class Beeper(Callback):
    def __init__(self, every: int = 1, fail: int = 0):
        self.every, self.fail = every, fail

    def on_step_end(self, training, report):
        if report.step % self.every == 0:
            print("beep", report.step)
        if report.step == self.fail:
            raise ValueError("I was told to")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A user's folder with a data set and a callback; it is the only home."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_city(tmp_path / "city")
    (tmp_path / "mine.py").write_text(CODE)
    with without_report():
        yield tmp_path


def train(place, *changes, source=(RECIPE,), code=0):
    given = [one for one in TINY if one.split("=")[0] not in [change.split("=")[0] for change in changes]]
    ended = sightline("train", *source, "--data", "city", *given, *changes, cwd=place)
    assert ended.code == code, ended.out + ended.err
    return ended


def times_run(place):
    """How often the file was run since this was last asked."""
    path = place / "ran.txt"
    count = len(path.read_text().splitlines()) if path.exists() else 0
    path.unlink(missing_ok=True)
    from sightline.engine.callbacks import user_callbacks

    for name in [name for name in user_callbacks.sys.modules if name.startswith("user_callbacks_")]:
        del user_callbacks.sys.modules[name]  # or a later command of this process would not run it again
    return count


def test_a_callback_of_the_command_line_runs_and_goes_on_after_a_stop(place):
    ended = train(place, "callbacks=[{file: mine.py, name: Beeper, options: {every: 2}}]", "--out", "run")
    assert "beep 2\n" in ended.out
    assert "beep 1\n" not in ended.out
    assert "callback mine.py:Beeper: runs code of this file (SHA-256 " in ended.out
    assert times_run(place) == 1
    again = sightline("resume", "run", "epochs=3", cwd=place)
    assert again.code == 0, again.err
    assert "mine.py:Beeper: runs code" in again.out
    assert "beep 6\n" in again.out


def test_using_a_run_runs_nothing(place):
    train(place, "callbacks=mine.py:Beeper", "epochs=1", "--out", "run")
    assert times_run(place) == 1
    pictures = place / "city" / "images" / "val"
    for command in (("eval", "run"), ("predict", "run", pictures), ("status", "run"), ("plot-lr", RECIPE)):
        assert sightline(*command, cwd=place).code == 0
    assert sightline("train", "--from", "run", "--print-config", cwd=place).code == 0
    assert times_run(place) == 0


def test_a_changed_or_missing_file_is_refused_until_it_is_named_again(place):
    train(place, "callbacks=mine.py:Beeper", "epochs=1", "--out", "run")
    times_run(place)
    (place / "mine.py").write_text(CODE + "\n# changed\n")
    for command in (("resume", "run", "epochs=2"), ("train", "--from", "run")):
        ended = sightline(*command, cwd=place)
        assert ended.code == 2
        assert "mine.py:Beeper: this run names code, and it has changed since the run recorded it." in ended.err
        assert len(ended.err.splitlines()) <= 5
    assert times_run(place) == 0
    (cure,) = re.findall(r"want to run it: (sightline resume run .*)", sightline("resume", "run", cwd=place).err)
    words = [word.strip("'") for word in cure.split(" ", 3)[1:]]
    assert sightline(*words, "epochs=2", cwd=place).code == 0
    assert times_run(place) == 1
    assert sightline("resume", "run", "epochs=3", cwd=place).code == 0  # now it is the recorded one
    (place / "mine.py").unlink()
    ended = sightline("resume", "run", "epochs=4", cwd=place)
    assert ended.code == 2
    assert "mine.py: the file does not exist" in ended.err
    assert sightline("resume", "run", "epochs=4", "callbacks=[]", cwd=place).code == 0


@pytest.mark.parametrize("forged", ["as it is", "without its hash", "another class", "other options"])
def test_the_run_of_a_stranger_runs_nothing_even_if_its_file_fits(place, forged, monkeypatch):
    train(place, "callbacks=mine.py:Beeper", "epochs=1", "--out", "run")
    if forged == "as it is":  # on the machine of somebody else
        monkeypatch.setenv("XDG_STATE_HOME", str(place / "other"))
    config = yaml.safe_load((place / "run" / "config.yaml").read_text())
    (entry,) = config["callbacks"]
    del config["log"]  # which a change file may not repeat whole
    if forged == "without its hash":
        entry["sha256"] = None
    elif forged == "another class":
        entry["name"] = "Callback"
    elif forged == "other options":
        entry["options"] = {"every": 7}
    (place / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    times_run(place)
    for command in (
        ("resume", "run", "epochs=2"),
        ("train", "--from", "run", "--out", "again"),
        ("train", "run/config.yaml", "--out", "again"),
    ):
        ended = sightline(*command, cwd=place)
        assert ended.code == 2
        assert "this run names code" in ended.err
        assert "Without it:" in ended.err
    assert times_run(place) == 0


def test_what_others_could_have_written_counts_as_unknown(place):
    train(place, "callbacks=mine.py:Beeper", "epochs=1", "--out", "run")
    known = place / "state" / "sightline" / "known_code"
    assert known.stat().st_mode & 0o777 == 0o600
    known.chmod(0o666)
    assert sightline("resume", "run", "epochs=2", cwd=place).code == 2
    known.chmod(0o600)
    assert sightline("resume", "run", "epochs=2", cwd=place).code == 0


def test_a_change_file_names_callbacks_too(place):
    text = f"recipe: {RECIPE}\ncallbacks:\n- file: mine.py\n  name: Beeper\n"
    (place / "changes.yaml").write_text(text)
    assert "beep 1\n" in train(place, "epochs=1", source=("changes.yaml",)).out


def test_a_failure_ends_the_run_with_exit_code_1_and_it_can_be_continued(place):
    entry = "callbacks=[{file: mine.py, name: Beeper, options: {fail: 3}}]"
    ended = train(place, entry, "checkpoint.every_steps=1", "--out", "run", code=1)
    said = "the callback Beeper failed at the end of step 3: mine.py:16: ValueError: I was told to"
    assert ended.err.splitlines()[-2:] == [f"error: {said}", "crash report: run/crash.txt"]
    assert 'mine.py", line 16, in on_step_end' in ended.err
    assert "crew.py" not in ended.err
    assert json.loads((place / "run" / "status.json").read_text())["message"] == said
    (session,) = json.loads((place / "run" / "run.json").read_text())["sessions"]
    assert (session["outcome"], session["exit_code"]) == ("failed", 1)
    assert "continue from the newest checkpoint with: sightline resume run 'callbacks=[" in ended.out
    (place / "mine.py").write_text(CODE.replace("== self.fail", "== -1"))
    again = sightline("resume", "run", "callbacks=mine.py:Beeper", cwd=place)
    assert again.code == 0
    assert "resuming run at step 2" in again.out


def test_a_wrong_file_leaves_no_run_behind(place):
    for entry, said in (
        ("mine.py:Beper", "mine.py: has no class 'Beper'. Did you mean 'Beeper'?"),
        ("[{file: mine.py, name: Beeper, options: {evry: 3}}]", "unknown key 'evry'. Did you mean 'every'?"),
        ("[{file: mine.py}]", "callbacks[0].name: is missing"),
    ):
        ended = train(place, f"callbacks={entry}", "--out", "run", code=2)
        assert said in ended.err
        assert not (place / "run").exists()


def test_the_page_s_example_does_what_the_page_says(place):
    page = (ROOT / "docs" / "callbacks.md").read_text()
    (code,) = re.findall(r"```python\n# my_callbacks.py\n(.*?)```", page, re.DOTALL)
    (place / "my_callbacks.py").write_text(code)
    entry = "callbacks=[{file: my_callbacks.py, name: LossAlarm, options: {factor: 0.01, every: 1}}]"
    train(place, entry, "--out", "run", "checkpoint.every_steps=1")
    alarms = [json.loads(line) for line in (place / "run" / "alarms.jsonl").read_text().splitlines()]
    assert [row["step"] for row in alarms] == [2, 3, 4]
    first, second, third = ([row[name] for row in alarms] for name in ("usual", "loss", "samples"))
    assert first[1] == pytest.approx(0.9 * first[0] + 0.1 * second[0])
    assert len(third[0]) == 4
    assert sightline("resume", "run", "epochs=3", cwd=place).code == 0
    fifth = json.loads((place / "run" / "alarms.jsonl").read_text().splitlines()[3])
    assert fifth["usual"] == pytest.approx(0.9 * first[2] + 0.1 * second[2])  # the state went on


def test_watchers_of_the_configuration_work_with_the_detector(place):
    watch = ["watch.layers=[network.layers.0*]", "watch.every_steps=2", "profile=2"]
    ended = train(place, *watch, "--out", "run")
    rows = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    (values, _) = [row["values"] for row in rows if row["kind"] == "watch"]
    assert values["detector.network.layers.0.conv/gradient/std"] > 0
    assert "data wait" in ended.out
    assert (place / "run" / "profile.json").exists()
    shutil.rmtree(place / "run")
    ended = train(place, "watch.layers=[network.layer.*]", "--out", "run", code=2)
    assert "watch.layers: no layer is called 'network.layer.*'." in ended.err
    assert not (place / "run").exists()
