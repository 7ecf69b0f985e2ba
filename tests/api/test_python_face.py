"""Runs from Python: the same as from the command line."""

import hashlib
import importlib
import json
import shutil
import socket
import subprocess
import sys
from contextlib import chdir

import cv2
import pytest

import sightline
from sightline import api
from sightline.config.errors import ConfigError, DataError, RunError
from sightline.recipes import RECIPES, recipe, recipe_function
from sightline.recipes.yolov7 import yolov7_tiny
from tests.cli.tool import RECIPE, TINY, files_in, without_report
from tests.cli.tool import sightline as command
from tests.conftest import quiet
from tests.engine.toy import toy_run

RUN = f"runs/{RECIPE}/1"


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_of(run):
    """SHA-256 of all weights of the newest checkpoint, averages and optimizer included."""
    newest = sorted((run / "checkpoints").glob("step_*"))[-1]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in newest.glob("*.safetensors")}


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, sightline, sightline.api; print(*sorted({'torch', 'cv2', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_all_names_of_the_package_exist_and_others_do_not():
    for name in ("train", "resume", "evaluate", "predict", "load", "release"):
        assert getattr(sightline, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="trian"):
        sightline.trian  # noqa: B018 - the look is the test
    assert all(hasattr(api, name) for name in api.__all__)


def test_training_from_python_gives_the_bits_of_the_command_line(workplace, tmp_path):
    with without_report(), chdir(workplace):
        result = sightline.train(RECIPE, data="city", changes=list(TINY), out=tmp_path / "run", console=quiet())
    assert (result.exit_code, result.step, result.run_dir) == (0, 4, tmp_path / "run")
    assert rows_of(result.run_dir) == rows_of(workplace / RUN)
    assert weights_of(result.run_dir) == weights_of(workplace / RUN)
    assert result.metrics == rows_of(workplace / RUN)[-1]["values"]


def test_a_whole_configuration_takes_data_and_changes_like_a_name(workplace, tmp_path):
    with without_report():
        result = sightline.train(
            yolov7_tiny(), data=workplace / "city", changes=TINY, out=tmp_path / "run", console=quiet()
        )
    assert rows_of(result.run_dir) == rows_of(workplace / RUN)
    assert weights_of(result.run_dir) == weights_of(workplace / RUN)
    changed = yolov7_tiny().but(epochs=2, batch_size=4)
    config, origins = api.resolve(changed, ["batch_size=2"], data=workplace / "city")
    assert (config.epochs, config.batch_size, config.data.path) == (2, 2, workplace / "city")
    assert origins == {"batch_size": "command line", "data.path": "--data"}
    assert api.resolve(changed)[0] is changed


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda config: sightline.train(config, changes=["epohcs=3"]), ConfigError, "epochs"),
        (lambda config: sightline.train(config, data="nowhere"), DataError, "nowhere"),
        (lambda config: sightline.train(config, data="x", changes=["data.path=y"]), ConfigError, "twice"),
        (lambda config: sightline.train(config, changes=["recipe=yolov7"]), ConfigError, "the recipe is no key"),
        (lambda config: sightline.train(toy_run(), data="nowhere"), ConfigError, "ToyRun has no key data.path"),
        (lambda config: api.resolve(config, from_run="x"), ConfigError, "not both"),
    ],
)
def test_mistakes_in_changes_of_a_configuration_are_those_of_a_name(call, error, words, tmp_path):
    with chdir(tmp_path), pytest.raises(error, match=words):
        call(yolov7_tiny())
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_is_a_function_that_knows_its_name():
    for name in RECIPES:
        make = recipe_function(name)
        assert make() == recipe(name)
        assert getattr(importlib.import_module(make.__module__), name.replace("-", "_")) is make


def test_a_longer_run_goes_on_from_the_end_of_the_shorter_one(workplace, tmp_path):
    with without_report(), chdir(workplace):
        sightline.train(RECIPE, data="city", changes=list(TINY), out=tmp_path / "run", console=quiet())
        result = sightline.resume(tmp_path / "run", ["epochs=3"], console=quiet())
    assert (result.exit_code, result.step) == (0, 6)
    assert rows_of(tmp_path / "run")[:6] == rows_of(workplace / RUN)
    assert api.resolve(None, from_run=tmp_path / "run")[0].epochs == 3


def test_a_run_killed_while_its_report_was_written_gets_it_by_resume(workplace, tmp_path):
    with chdir(workplace):
        done = sightline.train(RECIPE, data="city", changes=list(TINY), out=tmp_path / "run", console=quiet())
        before = files_in(tmp_path / "run")
        done.report.unlink()
        again = sightline.resume(done.run_dir, console=quiet())
        assert (again.exit_code, again.step, again.report) == (0, done.step, done.report)
        assert files_in(tmp_path / "run").keys() == before.keys()
        with pytest.raises(RunError, match="is finished"):
            sightline.resume(done.run_dir, console=quiet())


def test_a_page_of_an_earlier_end_is_written_anew_by_resume(workplace, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(workplace / RUN, run, copy_function=shutil.copyfile)  # the order of the files' times is lost
    record, page = json.loads((run / "run.json").read_text()), run / "report" / "index.html"
    with pytest.raises(RunError, match="is finished"):
        sightline.resume(run, console=quiet())
    record["sessions"].append({**record["sessions"][-1], "ended": "2031-01-01T00:00:00Z"})
    (run / "run.json").write_text(json.dumps(record))
    before = page.read_bytes()
    assert sightline.resume(run, console=quiet()).report == page
    assert page.read_bytes() != before
    with pytest.raises(RunError, match="is finished"):
        sightline.resume(run, console=quiet())


def test_evaluation_from_python_gives_the_figures_of_the_command_line(workplace, tmp_path):
    with chdir(workplace):
        figures = sightline.evaluate(RUN, checkpoint="latest")
    command("eval", RUN, "--checkpoint", "latest", "--json", tmp_path / "figures.json", cwd=workplace)
    assert dict(figures) == json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures["AP50"] == figures.figures["AP50"] and len(figures) == len(list(figures))
    assert "AP50" in str(figures) and "disc" in str(figures)


def test_prediction_from_python_gives_the_boxes_of_the_command_line(workplace, tmp_path):
    source = workplace / "city" / "images" / "val"
    with chdir(workplace):
        results = list(sightline.predict(RUN, source, out=tmp_path / "a", score_threshold=0.0, pictures=False))
    command("predict", RUN, source, "--out", tmp_path / "b", "--score", "0", "--no-pictures", cwd=workplace)
    written = json.loads((tmp_path / "b" / "predictions.json").read_text())
    assert [result.as_dict() for result in results] == written
    assert (tmp_path / "a" / "predictions.json").read_bytes() == (tmp_path / "b" / "predictions.json").read_bytes()


def test_a_loaded_model_predicts_on_arrays(workplace):
    with chdir(workplace):
        model = sightline.load(RUN)
        image = cv2.cvtColor(cv2.imread("city/images/val/0.png"), cv2.COLOR_BGR2RGB)
    prediction = model(image)
    assert model.class_names == ("disc", "square")
    assert prediction.boxes_xyxy.shape == (len(prediction.scores), 4)
    best = model.found_on(image, score_threshold=0.0)
    assert [one.score for one in best] == prediction.scores.tolist()
    assert model.found_on(image, score_threshold=1.0) == ()


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: sightline.train("yolov7-tinny"), ConfigError, "yolov7-tiny"),
        (lambda: sightline.train(RECIPE, data="nowhere"), DataError, "nowhere"),
        (lambda: sightline.resume("nowhere"), RunError, "no such run"),
        (lambda: sightline.evaluate("nowhere"), RunError, "no such run"),
        (lambda: sightline.load("nowhere"), RunError, "no such run"),
        (lambda: sightline.predict("nowhere", "nothing.jpg"), DataError, "nothing.jpg"),
    ],
)
def test_mistakes_are_errors_of_the_user_before_anything_is_made(call, error, words, tmp_path):
    with chdir(tmp_path), pytest.raises(error, match=words):
        call()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_sent_and_nothing_is_written_beside_the_run(workplace, tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = files_in(workplace)
    with chdir(workplace):
        sightline.train(RECIPE, data="city", changes=list(TINY), out=tmp_path / "run", console=quiet())
        sightline.evaluate(tmp_path / "run")
        list(sightline.predict(tmp_path / "run", "city/images/val", out=tmp_path / "found"))
        assert api.check("city").is_usable
    assert files_in(workplace) == before


def test_control_characters_of_class_names_do_not_reach_the_terminal():
    row = {"name": "\x1b[31mred\nline", "ap": 0.5, "ap50": 0.5, "ar": 0.5, "num_truths": 1, "num_detections": 1}
    assert "\x1b" not in str(api.Figures({"AP": 0.5}, {"classes": [row]}))
