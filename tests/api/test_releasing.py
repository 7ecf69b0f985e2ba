"""A trained model as one file: the same predictions and figures, nothing of the machine, nothing of the training."""

import json
import shutil
from contextlib import chdir

import pytest
import torch
from safetensors.torch import load_file

import sightline
from sightline import api
from sightline.config.errors import ConfigError, DataError, RunError, UserError
from sightline.engine.checkpoint.release import read_release
from tests.api.test_python_face import RUN
from tests.cli.tool import RECIPE, TINY, files_in, without_report
from tests.cli.tool import sightline as command
from tests.conftest import quiet
from tests.engine.checkpoint.test_release import forge
from tests.engine.toy import ToyRun, toy_run


@pytest.fixture(scope="module")
def file(workplace, tmp_path_factory):
    """The released file of the run."""
    return api.release(workplace / RUN, out=tmp_path_factory.mktemp("released") / "detector.safetensors").path


@pytest.fixture
def copy(file, tmp_path):
    """One to spoil."""
    return shutil.copyfile(file, tmp_path / "copy.safetensors")


def found(model, pictures, out):
    """All detections, as they stand in predictions.json."""
    with chdir(pictures.parent):
        for _ in sightline.predict(model, pictures, out=out, score_threshold=0.0, pictures=False):
            pass
    return json.loads((out / "predictions.json").read_text())


def test_predictions_have_the_bits_of_those_of_the_run(workplace, file, tmp_path):
    pictures = workplace / "city" / "images" / "val"
    ours, theirs = found(file, pictures, tmp_path / "a"), found(workplace / RUN, pictures, tmp_path / "b")
    assert ours == theirs and all(entry["detections"] for entry in ours)
    image = torch.arange(48 * 64 * 3).remainder(251).to(torch.uint8).reshape(48, 64, 3).numpy()
    one, other = sightline.load(file)(image), sightline.load(workplace / RUN)(image)
    assert len(one.scores) > 0
    for name in ("boxes_xyxy", "scores", "labels"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_figures_are_those_of_the_run(workplace, file, tmp_path):
    for name, model, more in (("a", file, ("--data", "city")), ("b", RUN, ())):
        done = command(
            "eval", model, *more, "--json", tmp_path / name, "--save", tmp_path / f"{name}.json", cwd=workplace
        )
        assert done.code == 0, done.err
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_its_size_is_that_of_the_weights(workplace, file):
    best = workplace / RUN / "checkpoints" / (workplace / RUN / "checkpoints" / "best").read_text().strip()
    weights = load_file(best / "ema.safetensors")
    there = load_file(file)
    assert there.keys() == weights.keys() and all(torch.equal(there[name], weights[name]) for name in there)
    # Beside the weights a header of names and shapes, as in the checkpoint, and a configuration of a few kB.
    assert 0 <= file.stat().st_size - (best / "ema.safetensors").stat().st_size < 8192


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_a_half_is_near_and_keeps_running_statistics_whole(workplace, file, tmp_path, half):
    small = api.release(workplace / RUN, out=tmp_path / "half.safetensors", half=half)
    whole, halves = load_file(file), load_file(small.path)
    changed = {name for name in whole if halves[name].dtype != whole[name].dtype}
    assert changed == {name for name, tensor in whole.items() if tensor.dim() > 1}
    assert not any(name.endswith(("running_mean", "running_var")) for name in changed)
    saved = sum(2 * whole[name].numel() for name in changed)
    assert abs(file.stat().st_size - small.num_bytes - saved) < 1024
    image = torch.arange(48 * 64 * 3).remainder(251).to(torch.uint8).reshape(48, 64, 3).numpy()
    one, other = sightline.load(small.path)(image), sightline.load(file)(image)
    assert len(one.scores) == pytest.approx(len(other.scores), rel=0.1)
    torch.testing.assert_close(one.scores[:5], other.scores[:5], rtol=0.05, atol=0)


def test_live_weights_other_checkpoints_and_folders_of_checkpoints(workplace, tmp_path):
    checkpoints = workplace / RUN / "checkpoints"
    for number, (options, folder, group) in enumerate(
        [
            ({"weights": "live", "checkpoint": "latest"}, "step_00000004", "model"),
            ({"weights": "ema", "checkpoint": "4"}, "step_00000004", "ema"),
            ({"checkpoint": "2"}, "step_00000002", "ema"),
        ]
    ):
        made = api.release(workplace / RUN, out=tmp_path / f"{number}.safetensors", **options)
        there, expected = load_file(made.path), load_file(checkpoints / folder / f"{group}.safetensors")
        assert all(torch.equal(there[name], expected[name]) for name in expected)
        assert made.weights == {"ema": "averaged weights", "model": "live weights"}[group]
    again = api.release(checkpoints / "step_00000002", out=tmp_path / "again.safetensors")
    assert again.path.read_bytes() == made.path.read_bytes()


def test_a_run_starts_from_it(workplace, file, tmp_path):
    with without_report(), chdir(workplace):
        result = sightline.train(
            RECIPE, data="city", changes=[*TINY, f"weights={file}"], out=tmp_path / "run", console=quiet()
        )
    told = (result.run_dir / "start_weights.txt").read_text()
    assert "(averaged weights)" in told and "\nnew" not in told and "\nunused" not in told


def test_nothing_of_the_machine_is_in_it(workplace, file):
    header = read_release(file).header
    assert str(workplace).encode() not in file.read_bytes()
    assert (header.left_out, header.facts) == (("data.path",), {"class_names": ["disc", "square"]})
    assert not {"callbacks", "log", "weights", "recipe"} & header.config.keys()
    assert "path" not in header.config["data"]
    assert (header.run, header.recipe, header.config["model"]["width"]) == (f"{RECIPE}/1", RECIPE, 0.125)


def test_the_command_names_the_file_and_writes_over_none(workplace, tmp_path):
    run = workplace / RUN
    done = command("release", run, cwd=tmp_path)
    (made,) = tmp_path.iterdir()
    assert done.code == 0 and done.out.startswith(f"{made.name}: 0.5 MB, averaged weights of step ")
    assert made.name.startswith(f"{RECIPE}-1-step_0000000")
    before = files_in(tmp_path)
    again = command("release", run, cwd=tmp_path)
    assert again.code == 2 and made.name in again.err and "--force" in again.err
    assert files_in(tmp_path) == before
    assert command("release", run, "--half", "bf16", cwd=tmp_path).out.startswith(made.name.replace(".", "-bf16."))
    forced = command("release", run, "--out", made.name, "--half", "fp16", "--force", cwd=tmp_path)
    assert forced.code == 0 and made.stat().st_size < 300_000
    assert command("show", made.name, cwd=tmp_path).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "detector.pt"), "must end with .safetensors"),
        (("--half", "fp8"), "half: expected fp16 or bf16, got 'fp8'"),
        (("--weights", "best"), "weights: expected ema or live, got 'best'"),
        (("--checkpoint", "7"), "no checkpoint '7'"),
    ],
)
def test_mistakes_of_the_command_are_told_with_their_cure(workplace, tmp_path, arguments, words):
    done = command("release", workplace / RUN, *arguments, cwd=tmp_path)
    assert done.code == 2 and words in done.err
    assert list(tmp_path.iterdir()) == []


def test_no_checkpoint_is_written_to(workplace, tmp_path):
    run = shutil.copytree(workplace / RUN, tmp_path / "run")
    for folder in (run / "checkpoints").glob("step_*"):
        with pytest.raises(RunError, match="lies in a checkpoint"):
            api.release(run, out=folder / "model.safetensors", force=True)


def test_a_damaged_checkpoint_is_not_released(workplace, tmp_path):
    run = shutil.copytree(workplace / RUN, tmp_path / "run")
    for path in (run / "checkpoints").glob("step_*/ema.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(RunError, match="Choose another one"):
        api.release(run, out=tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_what_a_file_cannot_do_is_told(workplace, file):
    for arguments, words in (
        (("eval", file), "Say what to evaluate on: --data DATA"),
        (("eval", file, "--data", "city", "--checkpoint", "latest"), "holds one set of weights"),
        (("eval", file, "--data", "city", "--all"), "is a file; give a run's folder"),
        (("eval", file, "--data", "city", "lr=0.1"), "lr has no effect on an evaluation"),
        (("predict", file, "city/images/val", "epochs=3"), "epochs has no effect on a prediction"),
        (("resume", file), "is a file"),
        (("release", file), "no checkpoint; a checkpoint is a folder"),
        (
            ("predict", workplace / RUN / "checkpoints/step_00000004/ema.safetensors", "city/images/val"),
            "not written by",
        ),
    ):
        done = command(*arguments, cwd=workplace)
        assert done.code == 2 and words in done.err.replace("\n", " "), done.err


def test_a_damaged_file_is_refused_by_every_command(workplace, copy):
    data = copy.read_bytes()
    for spoiled in (data[:-1000], data[:3000], data[:-1] + b"\x7f", b""):
        copy.write_bytes(spoiled)
        for arguments in (("eval", copy, "--data", "city"), ("predict", copy, "city/images/val")):
            done = command(*arguments, cwd=workplace)
            assert done.code == 2 and copy.name in done.err, done.err
    copy.write_bytes(data[:-1] + b"\x7f")
    done = command(
        "train", RECIPE, "--data", "city", *TINY, f"weights={copy}", "--out", copy.with_suffix(""), cwd=workplace
    )
    assert done.code == 2 and "does not fit its own SHA-256" in done.err
    assert command("show", copy, cwd=workplace).code == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f["config"].update(callbacks=["evil.py:Evil"]), "callbacks, which no released file does"),
        (lambda f: f["config"]["data"].update(path="/etc"), "data.path, which no released file does"),
        (lambda f: f["config"].update(weights="/etc/passwd"), "weights, which no released file does"),
        (lambda f: f["config"].update(log={"mlflow": {"folder": "/tmp"}}), "which no released file does"),
        (lambda f: f["config"].update(colour="red"), "unknown key 'colour'"),
        (lambda f: f["config"]["model"].update(width=-1), "model.width"),
        (lambda f: f["config"]["model"].update(width=0.25), "weights do not fit"),
        (lambda f: f.update(facts={}), "does not name the classes"),
        (lambda f: f.update(facts={"class_names": ["disc"]}), "weights do not fit"),
        (lambda f: f.update(recipe="no-such\x1b"), "says nothing useful in its header (recipe"),
        (lambda f: f.update(configuration="", recipe="no-such"), "no recipe 'no-such'"),
        (lambda f: f.update(configuration="os.system"), "a system is what the program"),
    ],
)
def test_a_strangers_header_sets_nothing_but_the_model(workplace, copy, change, words):
    forge(copy, change)
    with pytest.raises(UserError) as caught:
        sightline.load(copy)
    assert words in str(caught.value).replace("\n", " ") and "\x1b" not in str(caught.value)


def test_hostile_names_of_classes_do_not_move_the_terminal(workplace, copy, tmp_path):
    forge(copy, lambda f: f.update(facts={"class_names": ["\x1b[2Jdisc", "../../square"]}))
    done = command(
        "predict", copy, workplace / "city/images/val", "--score", "0", "--out", tmp_path / "a", cwd=tmp_path
    )
    assert done.code == 0 and "\x1b" not in done.out
    assert "\x1b" not in command("show", copy, cwd=tmp_path).out
    with pytest.raises(DataError, match="its classes are not those of the run"):
        sightline.evaluate(copy, data=workplace / "city")


def test_models_of_ones_own_are_released_too(tmp_path):
    with without_report():
        run = sightline.train(toy_run(epochs=1, ema=None), out=tmp_path / "run", console=quiet()).run_dir
    made = api.release(run, out=tmp_path / "toy.safetensors")
    assert (made.weights, read_release(made.path).header.configuration) == (
        "live weights",
        f"{ToyRun.__module__}.ToyRun",
    )
    assert dict(sightline.evaluate(made.path)) == dict(sightline.evaluate(run))
    with pytest.raises(RunError, match="holds no averaged weights"):
        api.release(run, out=tmp_path / "ema.safetensors", weights="ema")
    with pytest.raises(ConfigError, match="does not predict on files"):
        sightline.load(made.path)
    forge(made.path, lambda fields: fields.update(configuration="elsewhere.OtherRun"))
    with pytest.raises(ConfigError, match="OtherRun is what the program that began this run"):
        sightline.evaluate(made.path)
