"""Evaluation as a user meets it: during training, of all checkpoints, while they come, and of saved predictions."""

import hashlib
import io
import json
import os
import shutil
import signal
import threading
import time
from unittest import mock

import pytest

from sightline import api
from sightline.config.errors import RunError
from sightline.engine.checkpoint.reader import find_checkpoints
from sightline.engine.console import Console
from sightline.recipes import RECIPES
from sightline.tasks.detection2d import Detection2D
from tests.cli.tool import RECIPE, TINY, sightline, typed, without_report
from tests.engine.toy import toy_run

CHANGES = [change for change in TINY if not change.startswith("epochs")]
KEEP_ALL = "checkpoint.keep=[{rule: all}]"


def rows_of(run, kind="eval"):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def trained(cwd, run, *changes, recipe=RECIPE, data=("--data", "city")):
    with without_report():
        outcome = sightline("train", recipe, *data, *changes, "--out", run, cwd=cwd)
    assert outcome.code == 0, outcome.err
    return outcome.out


@pytest.fixture(scope="module")
def detector(workplace, tmp_path_factory):
    """A run of 3 epochs of 2 steps with an evaluation and a checkpoint after every step. Do not write here."""
    run = tmp_path_factory.mktemp("detector") / "run"
    keys = ["evaluate.every_steps=1", "evaluate.loss=true", "checkpoint.every_steps=1", KEEP_ALL, "epochs=3"]
    (run.parent / "out.txt").write_text(trained(workplace, run, *CHANGES, *keys))
    return run


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A finished run of the tests' own task, which the command line knows as ``toy``."""
    monkeypatch.setitem(RECIPES, "toy", "tests.engine.toy:toy_run")
    with without_report():
        config = toy_run(checkpoint={"every_steps": 3, "keep": [{"rule": "all"}]}, evaluate={"every_steps": 3})
        api.train(config, out=tmp_path / "toy", console=Console(io.StringIO(), is_terminal=False))
    return tmp_path / "toy"


# during training


def test_figures_and_losses_of_every_step_are_told_and_logged(detector):
    out = (detector.parent / "out.txt").read_text()
    assert [row["step"] for row in rows_of(detector)] == [1, 2, 3, 4, 5, 6]
    values = rows_of(detector)[0]["values"]
    assert next(iter(values)) == "AP"
    assert values["loss"] == pytest.approx(sum(values[f"loss/{part}"] for part in ("box", "objectness", "class")))
    assert f"step 1  evaluated: AP {values['AP']:.3f}" in out and f"loss {values['loss']:.3f}" in out


def test_evaluations_change_no_bit_of_a_detector(workplace, detector, tmp_path):
    trained(workplace, tmp_path / "run", *CHANGES, "epochs=3", "evaluate.every_epochs=0")
    files = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
    for name in files:
        last = [run / "checkpoints" / "step_00000006" / name for run in (detector, tmp_path / "run")]
        assert last[0].read_bytes() == last[1].read_bytes(), name
    assert rows_of(detector, "train") == rows_of(tmp_path / "run", "train")


def test_a_detector_is_trained_and_validated_in_turns(workplace, tmp_path):
    cycle = "evaluate.cycle=[[train,2],[val,1]]"
    trained(workplace, tmp_path / "run", *CHANGES, "epochs=3", "evaluate.every_epochs=0", cycle)
    rows = rows_of(tmp_path / "run")
    assert [(row["step"], "AP" in row["values"], "loss/box" in row["values"]) for row in rows] == [
        (4, False, True),
        (6, True, False),
    ]


def test_early_stopping_ends_with_code_0_says_so_and_the_run_is_finished(workplace, tmp_path):
    run = tmp_path / "run"
    out = trained(workplace, run, *CHANGES, "epochs=9", "early_stopping.patience=2", "early_stopping.min_delta=1")
    assert "early stopping: AP has not improved by more than 1 for 2 evaluations; the best one is" in out
    assert "done: 6 steps" in out
    assert json.loads((run / "run.json").read_text())["sessions"][-1]["exit_code"] == 0
    assert "done (early stopping: AP has not improved" in sightline("status", run, cwd=workplace).out
    again = sightline("resume", run, cwd=workplace)
    assert again.code == 2 and "this run is finished (6 steps, 3 epochs; early stopping" in again.err
    with without_report():
        assert sightline("resume", run, "early_stopping=null", "epochs=4", cwd=workplace).code == 0
    assert rows_of(run)[-1]["step"] == 8


@pytest.mark.parametrize("ties, best_steps", [("earliest", (2, 2)), ("latest", (6, 10))])
def test_the_best_checkpoint_by_any_figure_survives_a_resume_untouched(workplace, tmp_path, ties, best_steps):
    # No box is large: the figure is -1 in every evaluation, so all of them are equal.
    run, hashes = tmp_path / "run", []
    best = ["evaluate.best.metric=AP_large", f"evaluate.best.ties={ties}"]
    trained(workplace, run, *CHANGES, "epochs=3", "checkpoint.keep=[{rule: last, count: 1}]", *best)
    for step, epochs in zip(best_steps, (3, 5), strict=True):
        if epochs > 3:
            with without_report():
                assert sightline("resume", run, f"epochs={epochs}", cwd=workplace).code == 0
        assert (run / "checkpoints" / "best").read_text() == f"step_{step:08d}\n"
        files = sorted((run / "checkpoints" / f"step_{step:08d}").iterdir())
        hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert (hashes[0] == hashes[1]) == (ties == "earliest")
    assert {row["values"]["AP_large"] for row in rows_of(run)} == {-1.0}


@pytest.mark.parametrize("call", [1, 2, 5])
def test_a_detector_stopped_inside_of_an_evaluation_goes_on_with_the_same_bits(workplace, detector, tmp_path, call):
    calls, predict = [], Detection2D.predict

    def stopping(task, batch):
        calls.append(batch)
        if len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return predict(task, batch)

    run = tmp_path / "run"
    keys = ["evaluate.every_steps=1", "evaluate.loss=true", "checkpoint.every_steps=1", KEEP_ALL, "epochs=3"]
    with without_report():
        with mock.patch.object(Detection2D, "predict", stopping):
            stopped = sightline("train", RECIPE, "--data", "city", *CHANGES, *keys, "--out", run, cwd=workplace)
        assert stopped.code == 3, stopped.err
        assert [row["step"] for row in rows_of(run)] == list(range(1, call))
        assert sightline("resume", run, cwd=workplace).code == 0
    assert (run / "metrics.jsonl").read_bytes() == (detector / "metrics.jsonl").read_bytes()
    for folder in find_checkpoints(detector):
        for path in folder.glob("*.safetensors"):
            assert (run / "checkpoints" / folder.name / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "changes, words",
    [
        ("evaluate.cycle=[[train,2]]", "no val entry"),
        ("evaluate.cycle=[[test,1]]", "'train' or 'val'"),
        ("evaluate.best.metric=loss", "evaluate.loss=true"),
        ("early_stopping.by.metric=loss/box", "evaluate.loss=true"),
        ("early_stopping.patience=0", "patience"),
        ("early_stopping.patients=3", "patience"),
        ("early_stopping.by.ties=latest", "no improvement"),
    ],
)
def test_policies_that_cannot_be_followed_are_refused_before_anything_is_made(workplace, tmp_path, changes, words):
    outcome = sightline("train", RECIPE, "--data", "city", *CHANGES, changes, "--out", tmp_path / "run", cwd=workplace)
    assert outcome.code == 2 and words in outcome.err
    assert len(outcome.err.splitlines()) <= 5
    assert not (tmp_path / "run").exists()


def test_a_loss_that_the_model_does_not_have_is_refused_before_the_first_batch(workplace, tmp_path):
    keys = ["evaluate.loss=true", "evaluate.best.metric=loss/boxes", "--out", tmp_path / "run"]
    outcome = sightline("train", RECIPE, "--data", "city", *CHANGES, *keys, cwd=workplace)
    assert outcome.code == 2
    assert outcome.err.startswith(
        "error: evaluate.best.metric=loss/boxes: the evaluation has no such figure. Did you mean 'loss/box'? There are:"
    )
    assert not (tmp_path / "run").exists()


# one checkpoint


def test_a_checkpoint_has_the_figures_that_were_logged_when_it_was_taken(detector, tmp_path):
    for row in rows_of(detector):
        figures = api.evaluate(detector, checkpoint=str(row["step"]))
        assert dict(figures) == row["values"]


def test_saved_detections_score_to_the_same_bits(tmp_path):
    assert typed("world world --format coco --scenes 12", cwd=tmp_path).code == 0
    trained(tmp_path, "run", *CHANGES, "epochs=1", data=("--data", "world"))
    outcome = typed("eval run --save new/found.json --json figures.json", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    (truth,) = (tmp_path / "world").rglob("instances_val*.json")
    scored = sightline("score", "coco", truth, "new/found.json", "--json", "scored.json", cwd=tmp_path)
    assert scored.code == 0, scored.err
    mine, theirs = (json.loads((tmp_path / name).read_text())["figures"] for name in ("figures.json", "scored.json"))
    assert len(theirs) == 12 and {name: mine[name] for name in theirs} == theirs
    assert len(json.loads((tmp_path / "new" / "found.json").read_text())) > 10


def test_a_task_of_any_kind_is_evaluated_and_saves_in_its_own_format(toy, tmp_path):
    outcome = sightline("eval", toy, "--save", tmp_path / "labels.txt", "--json", tmp_path / "f.json", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    labels = [line.split() for line in (tmp_path / "labels.txt").read_text().splitlines()]
    assert [int(sample) for sample, _ in labels] == list(range(9))
    best = max(row["values"]["accuracy"] for row in rows_of(toy))
    assert json.loads((tmp_path / "f.json").read_text())["figures"] == {"accuracy": best}
    both = sightline("eval", toy, "evaluate.loss=true", "--json", tmp_path / "f.json", cwd=tmp_path)
    assert both.code == 0 and {"accuracy", "loss", "loss/entropy"} <= set(
        json.loads((tmp_path / "f.json").read_text())["figures"]
    )


# all checkpoints


@pytest.mark.parametrize("kind", ["detector", "toy"])
def test_all_checkpoints_are_put_in_a_table_with_the_best_marked(kind, request, tmp_path):
    run = request.getfixturevalue(kind)
    outcome = sightline("eval", run, "--all", "--json", tmp_path / "all.json", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "all.json").read_text())
    logged = {row["step"]: row["values"] for row in rows_of(run)}
    assert {one["step"]: one["figures"] for one in found["checkpoints"]} == logged
    best = int((run / "checkpoints" / "best").read_text().strip().removeprefix("step_"))
    assert found["best_step"] == best
    marked = [line for line in outcome.out.splitlines() if line.endswith("best")]
    assert len(marked) == 1 and marked[0].split()[0] == str(best)


def test_a_damaged_checkpoint_is_named_and_the_others_are_evaluated(toy, tmp_path):
    victim = toy / "checkpoints" / "step_00000006" / "model.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    outcome = sightline("eval", toy, "--all", cwd=tmp_path)
    assert outcome.code == 0
    assert "passed over" in outcome.out and "step_00000006" in outcome.out
    for path in find_checkpoints(toy):
        (path / "model.safetensors").write_bytes(b"")
    outcome = sightline("eval", toy, "--all", cwd=tmp_path)
    assert outcome.code == 2 and "holds no checkpoint that can be evaluated" in outcome.err


@pytest.mark.parametrize("options", ["--all --save x.json", "--all --checkpoint 3", "--watch --checkpoint latest"])
def test_options_for_one_checkpoint_are_refused_for_all(toy, tmp_path, options):
    outcome = sightline("eval", toy, *options.split(), cwd=tmp_path)
    assert outcome.code == 2 and "is for one checkpoint" in outcome.err


# as they come


class Trainer:
    """Brings a finished run's checkpoints back one by one, in the way of a trainer: renamed when they are whole."""

    def __init__(self, run):
        self.folder = run / "checkpoints"
        self.status = run / "status.json"
        self.left = sorted(path for path in self.folder.glob("step_*"))
        self.store = run / "store"
        self.store.mkdir()
        for path in self.left:
            path.rename(self.store / path.name)
        self.set("running")

    def set(self, state):
        status = json.loads(self.status.read_text())
        status["state"] = state
        status["process"]["pid"] = os.getpid()
        status.update(updated=4e9)
        self.status.write_text(json.dumps(status))

    def half(self, name):
        """A checkpoint that is being written: it has another name."""
        shutil.copytree(self.store / name, self.folder / f".writing-1-{name}")
        (self.folder / f".writing-1-{name}" / "state.json").unlink()

    def whole(self, name):
        shutil.rmtree(self.folder / f".writing-1-{name}", ignore_errors=True)
        (self.store / name).rename(self.folder / name)


def test_new_checkpoints_are_evaluated_as_they_come_until_the_run_is_finished(toy, tmp_path, monkeypatch):
    aside = []
    monkeypatch.setattr(api, "step_aside", lambda: aside.append(True))
    trainer = Trainer(toy)
    names = [path.name for path in sorted(trainer.store.iterdir())]
    trainer.half(names[0])
    seen, looks = [], []

    def sleep(seconds):  # between two looks the trainer goes on
        looks.append([path.name for path in trainer.folder.glob("step_*")])
        if len(looks) in (2, 3):
            trainer.whole(names[len(looks) - 2])
            trainer.half(names[len(looks) - 1])
        if len(looks) == 4:
            trainer.set("interrupted")
        if len(looks) == 6:
            trainer.whole(names[2])
            trainer.set("done")
        assert len(looks) < 9

    monkeypatch.setattr("sightline.api.series.time.sleep", sleep)
    outcome = sightline("eval", toy, "--watch", "--json", tmp_path / "watched.json", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    seen = [line for line in outcome.out.splitlines() if line.startswith("step ") and ":" in line]
    assert [line.split()[1] for line in seen] == ["3", "6", "9"]
    assert outcome.out.count("the run is interrupted; waiting for it to be resumed") == 1
    found = json.loads((tmp_path / "watched.json").read_text())["checkpoints"]
    logged = {row["step"]: row["values"] for row in rows_of(toy)}
    assert [(one["step"], one["figures"]) for one in found] == [(step, logged[step]) for step in (3, 6, 9)]
    assert len(looks) == 6 and aside == [True]


def test_ctrl_c_ends_watching_with_what_there_is(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "step_aside", lambda: None)
    Trainer(toy).whole("step_00000003")

    def ctrl_c(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("sightline.api.series.time.sleep", ctrl_c)
    outcome = sightline("eval", toy, "--watch", cwd=tmp_path)
    assert outcome.code == 0
    assert outcome.out.splitlines()[-2].split()[0] == "3"


def test_a_run_is_watched_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "toy", "tests.engine.toy:toy_run")
    config = toy_run(epochs=40, checkpoint={"keep": [{"rule": "last", "count": 1}]})
    trainer = threading.Thread(
        target=lambda: api.train(config, out=tmp_path / "run", console=Console(io.StringIO(), is_terminal=False))
    )
    with without_report():
        trainer.start()
        while not (tmp_path / "run" / "run.json").exists():
            assert trainer.is_alive()
            time.sleep(0.001)
        series = api.evaluate_all(tmp_path / "run", watch=True, look_seconds=0.01)
        trainer.join()
    logged = {row["step"]: row["values"] for row in rows_of(tmp_path / "run")}
    assert series.rows[-1].step == 240
    assert all(row.figures == logged[row.step] for row in series.rows)  # some were removed before their turn


def test_a_run_without_checkpoints_is_told_from_one_that_is_none(toy, tmp_path):
    shutil.rmtree(toy / "checkpoints")
    with pytest.raises(RunError, match="holds no checkpoint that can be evaluated"):
        api.evaluate_all(toy)
    with pytest.raises(RunError, match="no such run"):
        api.evaluate_all(tmp_path / "nowhere")
