"""Runs whose configuration is a class of a program's own."""

import pytest

import sightline
from sightline import api
from sightline.api.own_runs import defined_class, title_of
from sightline.config.errors import ConfigError
from sightline.recipes.detection2d import Detection2DRun
from sightline.recipes.yolov7 import YOLOv7Run, yolov7_tiny
from tests.cli.tool import TINY, without_report
from tests.conftest import quiet
from tests.engine.toy import ToyRun, toy_run


def trained(config, folder, **options):
    with without_report():
        return sightline.train(config, out=folder, console=quiet(), **options)


def test_a_class_is_found_by_its_name_among_those_that_are_defined():
    assert defined_class("ToyRun") is ToyRun
    assert defined_class("YOLOv7Run") is YOLOv7Run
    assert defined_class("NoSuchRun") is None
    assert defined_class(Detection2DRun.__name__) is None, "nothing can be made of an abstract one"


def test_of_two_classes_of_a_name_the_last_one_counts_as_in_a_notebook():
    def cell():
        class NotebookRun(ToyRun):
            pass

        return NotebookRun

    first, second = cell(), cell()
    assert defined_class("NotebookRun") is second is not first


def test_runs_are_called_by_recipe_or_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (title_of(yolov7_tiny()), title_of(toy_run(recipe=""))) == ("yolov7-tiny", "ToyRun")
    assert [str(trained(toy_run(recipe="", epochs=1), None).run_dir) for _ in range(2)] == [
        "runs/ToyRun/1",
        "runs/ToyRun/2",
    ]
    assert str(trained(toy_run(epochs=1), None, changes=["epochs=2"]).run_dir) == "runs/toy/1"


def test_its_configuration_comes_back_value_by_value_and_can_be_changed(tmp_path):
    config = toy_run(width=4, epochs=1, ema=None, freeze=("net.0.*",))
    run = trained(config, tmp_path / "run").run_dir
    assert api.resolve(None, from_run=run)[0] == config
    assert api.resolve(None, ["epochs=3", "data_samples=30"], from_run=run)[0] == config.but(epochs=3, data_samples=30)
    with pytest.raises(ConfigError, match="width"):
        api.resolve(None, ["widht=3"], from_run=run)


def test_a_class_that_has_changed_since_is_told_with_the_line_of_the_run(tmp_path):
    class ShrinkingRun(ToyRun):
        tail: int = 3

    run = trained(ShrinkingRun(**dict(toy_run(epochs=1))), tmp_path / "run").run_dir
    ShrinkingRun.__name__ = "Renamed"

    class Shrunk(ToyRun):
        pass

    Shrunk.__name__ = "ShrinkingRun"
    with pytest.raises(ConfigError, match=r"config\.yaml:\d+: unknown key 'tail'"):
        sightline.resume(run)


def test_a_class_made_of_one_of_ours_is_not_taken_for_it(workplace, tmp_path):
    class OwnDetector(YOLOv7Run):
        pass

    config = OwnDetector(**dict(yolov7_tiny()))
    run = trained(config, tmp_path / "run", data=workplace / "city", changes=TINY).run_dir
    assert config.recipe == "yolov7-tiny"
    assert type(api.resolve(None, from_run=run)[0]) is OwnDetector
    assert type(api.resolve(None, from_run=workplace / "runs" / "yolov7-tiny" / "1")[0]) is YOLOv7Run
    with pytest.raises(ConfigError, match="torchrun"):
        sightline.train(config.but(devices=2, device="cpu"), data=workplace / "city", out=tmp_path / "two")
