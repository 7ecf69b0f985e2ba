"""ONNX files: what ONNX Runtime computes from them, what they say, and what is refused.

Without the extra ``onnx`` the tests of what is written skip.
"""

import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import nn

import sightline
from sightline import api
from sightline.api import onnx_file
from sightline.config.errors import ConfigError, RunError
from sightline.models.blocks.binary_layers import QuantisedActivation, QuantisedConv2d
from sightline.tasks.graph import Graph, GraphInput, GraphOutput
from tests.api.binary_runs import CLASS_NAMES, train, write_squares
from tests.api.test_packing import pixels
from tests.api.test_python_face import RUN
from tests.cli.tool import sightline as command
from tests.conftest import ROOT

INSTALLED = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not INSTALLED, reason="the extra onnx is not installed: pip install 'sightline[onnx]'")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """``run`` is a binary LeNet, ``full/run`` one in full precision."""
    folder = tmp_path_factory.mktemp("exported")
    write_squares(folder / "squares")
    train(folder)
    write_squares(folder / "full" / "squares")
    train(folder / "full", "model.variant=full_precision")
    return folder


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def told(path):
    """The texts in a file."""
    import onnx

    return {one.key: one.value for one in onnx.load(path).metadata_props}


def images_of(predictor):
    """A picture as the network takes it, (1, C, S, S) uint8."""
    return predictor.model.batch_of(pixels()).images


@needs_onnx
@pytest.mark.parametrize("run", ["run", "full/run"])
def test_logits_are_those_of_the_run(place, tmp_path, run):
    made = api.export(place / run, out=tmp_path / "a.onnx")
    predictor = sightline.load(place / run)
    (logits,) = session(made.path).run(["logits"], {"images": images_of(predictor).numpy()})
    torch.testing.assert_close(torch.from_numpy(logits[0]), predictor(pixels()).logits, rtol=1e-4, atol=1e-4)
    assert any("checked with ONNX Runtime" in note for note in made.notes)


@needs_onnx
def test_a_packed_file_gives_the_graph_of_its_run(place, tmp_path):
    packed = api.pack(place / "run", out=tmp_path / "a.safetensors")
    ours, theirs = (
        api.export(one, out=tmp_path / f"{n}.onnx").path for n, one in enumerate((packed.path, place / "run"))
    )
    images = images_of(sightline.load(packed.path)).numpy()
    one, other = (session(path).run(["logits"], {"images": images})[0] for path in (ours, theirs))
    np.testing.assert_array_equal(one, other)


@needs_onnx
def test_any_number_of_normalised_images(place, tmp_path):
    made = api.export(place / "full/run", out=tmp_path / "a.onnx", dynamic_batch=True, input="float32", opset=18)
    predictor = sightline.load(place / "full/run")
    images = images_of(predictor).float() / 255  # the mean of LeNet's input is 0, its standard deviation 1
    for count in (1, 5):
        (logits,) = session(made.path).run(["logits"], {"images": images.repeat(count, 1, 1, 1).numpy()})
        assert logits.shape == (count, 2)
        np.testing.assert_allclose(logits[-1], predictor(pixels()).logits.numpy(), rtol=1e-4, atol=1e-4)
    assert "opset 18" in str(made) and "(B, 1, 28, 28)" in str(made)


@needs_onnx
def test_the_file_says_what_goes_in_and_names_the_classes_and_nothing_of_the_machine(place, tmp_path):
    made = api.export(place / "run", out=tmp_path / "a.onnx")
    said = told(made.path)
    assert json.loads(said["class_names"]) == list(CLASS_NAMES)
    assert said["recipe"] == "lenet" and said["input"].startswith("uint8 grey, 0 to 255; normalised inside")
    assert (json.loads(said["image_size"]), json.loads(said["mean"]), json.loads(said["std"])) == (28, [0.0], [1.0])
    data = made.path.read_bytes()
    assert str(ROOT).encode() not in data and str(place).encode() not in data and b"site-packages" not in data


@needs_onnx
@pytest.mark.parametrize("method", ["det_sign", "sign_approx_sign"])
def test_both_zeros_are_plus_one(method):
    module = nn.Sequential(QuantisedActivation(method), QuantisedConv2d(1, 3, 3, padding=1, offset=False))
    module[1].weight.data.copy_(torch.tensor([1.0, -1.0, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 3, 3))
    images = torch.tensor([0.0, -0.0, 1e-30, -1e-30] * 4).reshape(1, 1, 4, 4)
    graph = Graph(
        module, (GraphInput("images", (1, 1, 4, 4), ""),), (GraphOutput("sums", ""),), {}, [(torch.zeros(1, 1, 4, 4),)]
    )
    program = onnx_file._converted(graph, opset=None)
    (sums,) = session(program.SerializeToString()).run(["sums"], {"images": images.numpy()})
    np.testing.assert_array_equal(sums, module(images).detach().numpy())
    # under the kernel at row 1, column 1: three rows of +1 (0), +1 (-0), +1
    assert sums[0, 0, 1, 1] == 9


@needs_onnx
@pytest.mark.parametrize("options", [{}, {"input": "float32", "dynamic_batch": True}])
def test_a_detector_gives_all_boxes_before_suppression(workplace, tmp_path, options):
    made = api.export(workplace / RUN, out=tmp_path / "a.onnx", **options)
    predictor = sightline.load(workplace / RUN)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = images.float() / 255 if options else images
    (boxes,) = session(made.path).run(["boxes"], {"images": given.numpy()})
    with torch.no_grad():
        expected = predictor.model.task.detector.decoded(images.float() / 255)
    assert boxes.shape == (1, 3 * (8 * 8 + 4 * 4 + 2 * 2), 5 + 2)  # 3 anchors at strides 8, 16 and 32; 2 classes
    np.testing.assert_allclose(boxes, expected.numpy(), rtol=1e-4, atol=1e-3)


@needs_onnx
def test_a_file_that_computes_something_else_is_not_written(place, tmp_path, monkeypatch):
    computed = onnx_file._computed
    monkeypatch.setattr(onnx_file, "_computed", lambda *given: [(one + 1,) for (one,) in computed(*given)])
    with pytest.raises(RunError, match=r"at most 1 from PyTorch.*is allowed"):
        api.export(place / "full/run", out=tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_without_onnx_runtime_the_file_is_written_and_said_to_be_unchecked(place, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    made = api.export(place / "run", out=tmp_path / "a.onnx")
    assert "not checked: onnxruntime is not installed" in str(made) and made.path.is_file()


@needs_onnx
@pytest.mark.parametrize("opset", [17, 1000])
def test_versions_that_cannot_be_written_are_refused(place, opset):
    with pytest.raises(ConfigError, match=f"opset: {opset}, but 18 to"):
        api.export(place / "run", opset=opset)


def test_a_missing_package_is_named_with_the_extra(place, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    done = command("export", place / "run", "--out", tmp_path / "a.onnx", cwd=tmp_path)
    assert done.code == 2 and "packages onnx and onnxscript: pip install 'sightline[onnx]'" in done.err.replace(
        "\n", " "
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--format", "tflite"), "format: expected onnx or bmxnet, got 'tflite'"),
        (("run", "--format", "bmxnet", "--opset", "18"), "--opset is for --format onnx"),
        (("run", "--format", "bmxnet", "--dynamic-batch"), "--dynamic-batch is for --format onnx"),
        (("run", "--layout", "float"), "--layout is for --format bmxnet"),
        (("run", "--input", "int8"), "input: expected uint8 or float32"),
        (("run", "--format", "bmxnet", "--layout", "bits"), "layout: expected packed or packed64 or float"),
        (("run", "--format", "bmxnet", "--out", "a.onnx"), "must end with .params"),
        (("run", "--format", "bmxnet", "--layout", "packed64"), "32 input channels do not fill whole words of 64 bits"),
        (("full/run", "--format", "bmxnet"), "no layer with weights of one bit to pack"),
        (("nothing", "--format", "bmxnet"), "nothing"),
    ],
)  # fmt: skip
def test_mistakes_of_an_export_are_told_with_their_cure(place, arguments, words):
    done = command("export", *arguments, cwd=place)
    assert done.code == 2 and words in done.err.replace("\n", " "), done.err


def test_a_detector_has_no_parameters_of_bmxnet(workplace, tmp_path):
    done = command("export", workplace / RUN, "--format", "bmxnet", cwd=tmp_path)
    assert done.code == 2 and "is no classifier" in done.err and list(tmp_path.iterdir()) == []


def test_no_file_is_written_over_without_consent(place, tmp_path):
    for options, code in (((), 0), ((), 2), (("--force",), 0)):
        done = command("export", place / "run", "--format", "bmxnet", "--out", "a.params", *options, cwd=tmp_path)
        assert done.code == code, done.err
