"""Weights of one model in another: what fits is copied, and every tensor's fate is told."""

import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sightline.config.errors import RunError
from sightline.config.override import keys_without_effect
from sightline.engine.building import build_training
from sightline.engine.checkpoint.matching_names import match_names
from sightline.engine.checkpoint.reader import load_tensors, newest_whole
from sightline.engine.checkpoint.start_weights import START_WEIGHTS_FILE, copy_what_fits, start_from_weights
from sightline.engine.freeze import freeze
from tests.engine.sessions import session
from tests.engine.toy import ToyTask, toy_run


def run(config, folder: Path) -> str:
    """What was said."""
    said = io.StringIO()
    session(config, folder, said=said)
    return said.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 24 steps, width 8."""
    folder = tmp_path_factory.mktemp("weights") / "a"
    run(toy_run(), folder)
    return folder


def started(weights: Path, *, partly: bool = False, **changes):
    """A training that started there, and the report."""
    config = toy_run(**changes)
    training = build_training(config, config.open())
    return training, start_from_weights(training, weights, partly=partly)


@pytest.mark.parametrize(
    ("place", "group"),
    [
        (".", "ema"),
        ("checkpoints/latest", "ema"),
        ("checkpoints/step_00000024", "ema"),
        ("checkpoints/step_00000024/model.safetensors", "model"),
    ],
)
def test_everything_fits_the_same_model(trained, place, group):
    training, report = started(trained / place)
    there = load_tensors(newest_whole(trained, print), group)[group]
    for state in (training.task.state_dict(), training.ema.state_tensors()):
        assert all(torch.equal(state[name], there[name]) for name in state)
    assert training.ema.updates == 0
    assert str(report).endswith("9 of 9 tensors loaded, 0 new, 0 unused")
    assert ("averaged weights" in str(report)) == (place != "checkpoints/step_00000024/model.safetensors")


def test_a_pointer_to_the_best_is_followed(trained):
    best = (trained / "checkpoints" / "best").read_text().strip()
    _, report = started(trained / "checkpoints" / "best")
    assert best in report.source


def test_another_width_keeps_what_fits_and_tells_the_rest(trained):
    fresh = toy_run(width=5).open().task.state_dict()
    training, report = started(trained, width=5)
    assert [report.count(fate) for fate in ("loaded", "partly", "new", "unused")] == [2, 0, 7, 0]
    assert "new: net.0.weight (5, 4), file (8, 4);" in str(report)
    state = training.task.state_dict()
    # The norm's counter fits too; an average keeps the 0 that it began with.
    assert {name for name in state if not torch.equal(state[name], fresh[name])} == {"net.4.bias"}


def test_the_part_that_both_have_is_copied_on_request(trained):
    fresh = toy_run(width=10).open().task.state_dict()
    there = load_tensors(newest_whole(trained, print), "ema")["ema"]
    training, report = started(trained, partly=True, width=10)
    assert [report.count(fate) for fate in ("loaded", "partly", "new", "unused")] == [2, 7, 0, 0]
    state = training.task.state_dict()
    assert torch.equal(state["net.0.weight"][:8], there["net.0.weight"])
    assert torch.equal(state["net.0.weight"][8:], fresh["net.0.weight"][8:])
    assert torch.equal(state["net.4.weight"][:, :8], there["net.4.weight"])
    narrow, _ = started(trained, partly=True, width=5)
    assert torch.equal(narrow.task.state_dict()["net.4.weight"], there["net.4.weight"][:, :5])


def test_all_tensors_stand_in_a_file_of_the_run(trained, tmp_path):
    said = run(toy_run(weights=trained, width=5, epochs=1), tmp_path / "b")
    assert "2 of 9 tensors loaded, 7 new, 0 unused" in said
    lines = (tmp_path / "b" / START_WEIGHTS_FILE).read_text().splitlines()
    assert lines[0].startswith("# weights of ")
    assert sorted(line.split()[1] for line in lines[1:]) == sorted(ToyTask().state_dict())
    assert [line.split()[0] for line in lines[1:]] == ["loaded"] * 2 + ["new"] * 7


def renamed(tensors, change):
    return {change(name): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda name: name, ""),
        (lambda name: f"module.{name}", "begin with 'module.' in the file alone"),
        (lambda name: f"model.module.{name}", "begin with 'model.module.' in the file alone"),
        (lambda name: name.removeprefix("net."), "begin with 'net.' here alone"),
        (lambda name: f"model.{name.removeprefix('net.')}", "begin with 'model.' in the file and with 'net.' here"),
    ],
)
def test_a_prefix_that_all_names_share_is_seen_through(change, told):
    given = ToyTask().state_dict()
    task = ToyTask()
    report = copy_what_fits(task, renamed(given, change), source="file")
    assert report.count("loaded") == 9
    assert told in report.renamed
    assert bool(told) == bool(report.renamed)
    assert torch.equal(task.net[0].weight, given["net.0.weight"])


def test_what_the_model_has_no_place_for_is_told():
    given = {**ToyTask().state_dict(), "aux.weight": torch.ones(2), "aux.bias": torch.ones(2)}
    report = copy_what_fits(ToyTask(), given, source="file")
    assert (report.count("loaded"), report.count("unused")) == (9, 2)
    assert "unused: aux.weight (2,); aux.bias (2,)" in str(report)
    rows = [line.split() for line in str(report).splitlines()]
    assert ["aux", "0", "0", "0", "2"] in rows
    assert ["net.1", "5", "0", "0", "0"] in rows


def test_numbers_of_another_precision_are_taken_and_of_another_kind_are_not():
    given = ToyTask().state_dict()
    given["net.0.weight"] = given["net.0.weight"].half()
    given["net.0.bias"] = torch.ones(8, dtype=torch.int64)
    task = ToyTask()
    report = copy_what_fits(task, given, source="file")
    assert torch.equal(task.net[0].weight, given["net.0.weight"].float())
    assert "new: net.0.bias (8,), torch.int64 in the file, torch.float32 here" in str(report)


def test_a_weight_under_two_names_is_loaded_once_and_missed_by_none():
    task = ToyTask()
    task.twin = task.net[4]
    given = ToyTask().state_dict()
    report = copy_what_fits(task, given, source="file")
    assert (report.count("loaded"), report.count("new")) == (11, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_and_nothing_changes(value):
    task, given = ToyTask(), ToyTask().state_dict()
    before = task.net[0].weight.clone()
    given["net.4.weight"][1, 2] = value
    with pytest.raises(RunError, match=r"1 of 16 numbers in net\.4\.weight are NaN or infinite"):
        copy_what_fits(task, given, source="file")
    assert torch.equal(task.net[0].weight, before)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"backbone.0.weight": torch.ones(3, 3)}, "its names begin with backbone.0, the model's with net.0, net.1"),
        ({"net.0.weight": torch.ones(9, 4)}, "net.0.weight: file (9, 4), model (8, 4)"),
        ({"net.1.num_batches_tracked": torch.tensor(3)}, "none of its 1 tensors fits"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, given, words):
    save_file(given, tmp_path / "other.safetensors")
    with pytest.raises(RunError) as error:
        started(tmp_path / "other.safetensors")
    assert words in str(error.value)


def test_frozen_tensors_that_the_weights_do_not_give_are_told(trained):
    task = ToyTask(width=5)
    freeze(task, ["net.0.*", "net.1.*"])
    given = load_tensors(newest_whole(trained, print), "model")["model"]
    said = str(copy_what_fits(task, given, source="file"))
    assert "note: 4 frozen tensors stay as they were initialised: net.0.weight, net.0.bias, net.1.weight, ..." in said


def test_a_part_of_no_weights_has_no_effect():
    assert "partial_weights" in dict(keys_without_effect(toy_run()))
    assert "partial_weights" not in dict(keys_without_effect(toy_run(weights=Path("a"))))


def shaped(**shapes):
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def test_a_backbone_finds_its_place_in_a_larger_model():
    own = shaped(body__trunk__a__w=(2, 3), body__trunk__a__b=(2,), body__trunk__c__w=(4,), head__w=(5,))
    given = shaped(a__w=(2, 3), a__b=(2,), c__w=(4,), fc__w=(9,))
    names, told = match_names(own, given)
    assert names == {f"body.trunk.{name}": name for name in ("a.w", "a.b", "c.w")}
    assert told == "the file is matched with what begins with 'body.trunk.' here"
    names, told = match_names(given, own)
    assert names == {name: f"body.trunk.{name}" for name in ("a.w", "a.b", "c.w")}
    assert told == "what begins with 'body.trunk.' in the file is matched with the model"


def test_a_block_that_fits_two_places_fits_none():
    own = shaped(net__1__w=(2, 3), net__1__b=(2,), net__2__w=(2, 3), net__2__b=(2,), net__3__w=(7,), head=(1,))
    assert match_names(own, shaped(w=(2, 3), b=(2,))) == ({}, "")


def test_a_single_tensor_fits_no_place_by_chance():
    own = shaped(net__1__w=(2, 3), net__2__w=(4, 3), head=(1,))
    assert match_names(own, shaped(w=(2, 3))) == ({}, "")


def test_names_that_fit_as_they_are_stay():
    own = shaped(a__w=(2,), b__a__w=(2,))
    assert match_names(own, own) == ({"a.w": "a.w", "b.a.w": "b.a.w"}, "")
