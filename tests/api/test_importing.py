"""BMXNet's parameters in and out: the same network, as floats or as packed words."""

import numpy as np
import pytest
import torch

import sightline
from sightline import api
from sightline.config.errors import RunError
from sightline.importers.mxnet_params import encode_params, read_params
from tests.api.binary_runs import train, write_squares
from tests.api.test_packing import figures, pixels
from tests.cli.tool import sightline as command

NETWORK = ("model.channels=32", "model.hidden=64")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """``squares``, a data set; ``run``, a binary LeNet on it; and its parameters in three layouts."""
    folder = tmp_path_factory.mktemp("bmxnet")
    write_squares(folder / "squares")
    train(folder, "model.hidden=64")
    for layout in ("packed", "float"):
        api.export(folder / "run", format="bmxnet", layout=layout, out=folder / f"{layout}.params")
    return folder


@pytest.mark.parametrize("layout", ["packed", "float"])
def test_a_network_goes_out_and_comes_back_with_the_same_answers(place, tmp_path, layout):
    made = api.import_bmxnet(
        place / f"{layout}.params",
        recipe="lenet",
        changes=NETWORK,
        data=place / "squares",
        out=tmp_path / "a.safetensors",
    )
    assert torch.equal(sightline.load(made.path)(pixels()).logits, sightline.load(place / "run")(pixels()).logits)
    assert figures(made.path, place) == figures(place / "run", place)
    assert str(place).encode() not in made.path.read_bytes()
    assert [row.word_bits for row in made.match.rows if row.word_bits] == ([32, 32] if layout == "packed" else [])


def test_words_are_32_times_fewer_bytes_than_floats(place):
    words, floats = read_params(place / "packed.params"), read_params(place / "float.params")
    assert words.keys() == floats.keys()
    smaller = {name: floats[name].nbytes // words[name].nbytes for name in floats}
    assert sorted(smaller.values())[-3:] == [1, 32, 32]


def test_a_packed_file_of_ours_gives_the_same_words(place, tmp_path):
    packed = api.pack(place / "run", out=tmp_path / "a.safetensors")
    again = api.export(packed.path, format="bmxnet", out=tmp_path / "a.params")
    assert again.path.read_bytes() == (place / "packed.params").read_bytes()


def test_the_command_prints_what_went_where(place, tmp_path):
    done = command("import", "bmxnet", place / "packed.params", "--recipe", "lenet", *NETWORK, cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "packed.safetensors").is_file()
    (row,) = [line.split() for line in done.out.splitlines() if "(32, 32, 5, 5)" in line]
    assert (row[0], row[1], row[-1]) == ("features_4_conv", "features.4.conv", "32")
    assert "the classes are called 0 to 1" in done.out
    again = command("import", "bmxnet", place / "packed.params", "--recipe", "lenet", *NETWORK, cwd=tmp_path)
    assert again.code == 2 and "--force" in again.err


def test_a_run_starts_from_it(place, tmp_path):
    api.import_bmxnet(place / "float.params", recipe="lenet", changes=NETWORK, out=tmp_path / "a.safetensors")
    write_squares(tmp_path / "squares")
    run = train(tmp_path, "model.hidden=64", f"weights={tmp_path / 'a.safetensors'}")
    told = (run / "start_weights.txt").read_text()
    assert "\nnew" not in told and "\nunused" not in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("packed.params", "--recipe", "lenet"), "Build the network that was trained"),
        (("packed.params", "--recipe", "yolov7-tiny"), "is no classifier"),
        (("packed.params", "--recipe", "lenett"), "Did you mean 'lenet'"),
        (("nothing.params", "--recipe", "lenet"), "nothing.params: the file does not exist"),
        (("squares/train/dark/0.png", "--recipe", "lenet"), "is no MXNet list of arrays"),
        (("packed.params", "--recipe", "lenet", "--out", "a.params"), "must end with .safetensors"),
    ],
)
def test_mistakes_of_an_import_are_told_with_their_cure(place, arguments, words):
    done = command("import", "bmxnet", *arguments, cwd=place)
    assert done.code == 2 and words in done.err.replace("\n", " "), done.err


def test_data_with_other_classes_is_refused(place, tmp_path):
    write_squares(tmp_path / "squares")
    (tmp_path / "squares/train/third").mkdir()
    (tmp_path / "squares/train/dark/0.png").rename(tmp_path / "squares/train/third/0.png")
    with pytest.raises(RunError, match=r"has 2 outputs, and .*squares has 3 classes"):
        api.import_bmxnet(
            place / "float.params",
            recipe="lenet",
            changes=NETWORK,
            data=tmp_path / "squares",
            out=tmp_path / "a.safetensors",
        )


def test_a_file_without_a_dense_layer_is_no_classifier(tmp_path):
    (tmp_path / "a.params").write_bytes(encode_params({"arg:conv_weight": np.ones((2, 3, 1, 1), np.float32)}))
    with pytest.raises(RunError, match=r"a\.params: has no dense layer"):
        api.import_bmxnet(tmp_path / "a.params", recipe="lenet")
