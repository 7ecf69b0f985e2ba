"""What is in a checkpoint, told without loading it: counts, hashes, damage."""

import json
import math
import pickle
import shutil
from importlib.metadata import version

import pytest
from safetensors.torch import load_file

from tests.cli.tool import RECIPE, sightline
from tests.faults.hostile import PICKLES

RUN = f"runs/{RECIPE}/1"


def test_a_run_shows_its_newest_checkpoint(workplace):
    done = sightline("show", RUN, cwd=workplace)
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[0] == f"{RUN}/checkpoints/step_00000004"
    assert {"step 4", "epoch 2", "version 1"} <= set(lines)
    assert any(line.startswith("written by ") and f"torch {version('torch')}" in line for line in lines)
    assert any(line.startswith("best step ") and " AP " in line for line in lines)
    for name in ("model", "ema", "optimizer"):
        path = workplace / RUN / "checkpoints/step_00000004" / f"{name}.safetensors"
        assert f"{name}.safetensors {path.stat().st_size:,} whole" in lines
    assert any(line.startswith("decay weight ") for line in lines)
    assert "trained parameters 100,662" in lines  # added up in the next test


def test_its_json_has_every_tensor_with_its_shape(workplace, tmp_path):
    done = sightline("show", RUN, "--checkpoint", "2", "--json", tmp_path / "contents.json", cwd=workplace)
    told = json.loads((tmp_path / "contents.json").read_text())
    assert (done.code, told["kind"], told["step"], told["is_whole"]) == (0, "checkpoint", 2, True)
    assert [group["name"] for group in told["optimizer_groups"]] == ["no_decay", "decay", "biases"]
    files = {file["name"]: file for file in told["files"]}
    weights = load_file(workplace / RUN / "checkpoints/step_00000002/model.safetensors")
    shapes = {one["name"]: tuple(one["shape"]) for one in files["model.safetensors"]["tensors"]}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert told["numbers_of_the_model"] == sum(tensor.numel() for tensor in weights.values())
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(tensor.numel() for name, tensor in weights.items() if not name.endswith(buffers))
    assert told["trained_parameters"] == parameters
    assert sum(math.prod(shape) for shape in shapes.values()) == told["numbers_of_the_model"]


def test_every_tensor_is_listed_on_request(workplace):
    path = f"{RUN}/checkpoints/best"
    few, all_of_them = (sightline("show", path, *more, cwd=workplace).out for more in ((), ("--tensors",)))
    assert "momentum/detector.network.layers.0.norm.weight" not in few
    (line,) = [
        one for one in all_of_them.splitlines() if one.startswith("momentum/detector.network.layers.0.norm.weight ")
    ]
    assert line.split() == ["momentum/detector.network.layers.0.norm.weight", "F32", "[8]"]


def test_damage_is_told_file_by_file_with_exit_code_2(workplace, tmp_path):
    run = shutil.copytree(workplace / RUN, tmp_path / "run")
    folder = run / "checkpoints/step_00000004"
    data = bytearray((folder / "ema.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "ema.safetensors").write_bytes(data)
    (folder / "model.safetensors").unlink()
    done = sightline("show", run, cwd=tmp_path)
    assert done.code == 2
    rows = {line.split()[0]: line for line in done.out.splitlines() if line.split()}
    assert "No such file" in rows["model.safetensors"]
    assert "SHA-256 is not the one" in done.out and "optimizer.safetensors" in rows
    assert sightline("show", run, "--checkpoint", "2", cwd=tmp_path).code == 0
    (folder / "state.json").write_text("{}")
    done = sightline("show", run, cwd=tmp_path)
    assert done.code == 2 and "state.json" in done.err and done.out == ""


def test_a_checkpoint_on_its_own_is_shown_too(workplace, tmp_path):
    folder = shutil.copytree(workplace / RUN / "checkpoints/step_00000004", tmp_path / "mine")
    done = sightline("show", folder, cwd=tmp_path)
    assert done.code == 0 and "written by" not in done.out and "model.safetensors" in done.out


def test_any_safetensors_file_is_shown_and_no_pickle(workplace, tmp_path):
    done = sightline("show", f"{RUN}/checkpoints/step_00000004/ema.safetensors", cwd=workplace)
    assert done.code == 0 and "342 tensors" in done.out
    for name, write in PICKLES.items():
        write(tmp_path / "weights.pt", tmp_path / "ran")
        done = sightline("show", "weights.pt", cwd=tmp_path)
        assert done.code == 2 and "is a pickle" in done.err, name
    assert not (tmp_path / "ran").exists()


def test_hostile_tensor_names_do_not_move_the_terminal(tmp_path):
    header = {"\x1b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    for more in ((), ("--tensors",)):
        done = sightline("show", "a.safetensors", *more, cwd=tmp_path)
        assert done.code == 0 and "\x1b" not in done.out and r"\x1b[2J" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "no such run"),
        (("city",), "no run was started here"),
        ((RUN, "--checkpoint", "9"), "no checkpoint '9'"),
        ((f"{RUN}/checkpoints/best", "--checkpoint", "2"), "--checkpoint is for run folders"),
        ((f"{RUN}/config.yaml",), "no readable safetensors file"),
        ((RUN, "--json", "city"), "is a folder"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(workplace, arguments, words):
    done = sightline("show", *arguments, cwd=workplace)
    assert done.code == 2 and words in done.err and done.out == ""


def test_a_file_that_only_looks_like_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "step_00000001").mkdir()
    (tmp_path / "step_00000001" / "state.json").write_bytes(pickle.dumps({"step": 1}))
    done = sightline("show", "step_00000001", cwd=tmp_path)
    assert done.code == 2 and "state.json" in done.err
