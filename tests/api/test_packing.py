"""A binary network as one file with a bit for every binary weight: the outputs of the run, in its bits."""

import json
import shutil
from contextlib import chdir

import pytest
import torch
from safetensors.torch import load_file

import sightline
from sightline import api
from sightline.config.errors import RunError, UserError
from sightline.engine.checkpoint.release import read_release
from sightline.models.blocks.packed_layers import PackedConv, PackedLinear
from sightline.recipes.binary_networks import LeNetRun
from tests.api.binary_runs import CLASS_NAMES, train, write_squares
from tests.cli.tool import sightline as command
from tests.engine.checkpoint.test_release import forge


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A user's folder: ``squares``, a data set, and ``run``, a binary LeNet on it."""
    folder = tmp_path_factory.mktemp("binary")
    write_squares(folder / "squares")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def file(place):
    """The packed file of the run."""
    return api.pack(place / "run", out=place / "packed.safetensors").path


@pytest.fixture
def copy(file, tmp_path):
    """One to spoil."""
    return shutil.copyfile(file, tmp_path / "copy.safetensors")


def pixels():
    return torch.arange(40 * 30 * 3).remainder(251).to(torch.uint8).reshape(40, 30, 3).numpy()


def figures(model, place):
    with chdir(place):
        return dict(sightline.evaluate(model, data="squares"))


def test_figures_and_answers_have_the_bits_of_those_of_the_run(place, file):
    assert figures(file, place) == figures(place / "run", place)
    assert torch.equal(sightline.load(file)(pixels()).logits, sightline.load(place / "run")(pixels()).logits)


def test_the_network_of_the_file_counts_bits(file):
    layers = [one for one in sightline.load(file).model.task.modules() if isinstance(one, PackedConv | PackedLinear)]
    assert len(layers) == 2 and all(one.counts_bits for one in layers)


@pytest.mark.parametrize("scaling", ["binet", "xnor"])
def test_a_scaled_network_keeps_its_bits_too(place, tmp_path, scaling):
    write_squares(tmp_path / "squares")
    run = train(tmp_path, f"model.quantisation.scaling={scaling}", "epochs=1")
    packed = api.pack(run, out=tmp_path / "a.safetensors")
    assert [row.name for row in packed.sizes if row.kind == "scale"] == ["network.features.4.conv.weight"]
    assert torch.equal(sightline.load(packed.path)(pixels()).logits, sightline.load(run)(pixels()).logits)


def test_the_file_holds_a_bit_for_each_binary_weight_and_the_other_tensors_as_they_are(place, file):
    step = (place / "run/checkpoints/best").read_text().strip()
    (weights,) = (place / "run/checkpoints" / step).glob("model.safetensors")
    whole, there = load_file(weights), load_file(file)
    signs = {name.removeprefix("signs/"): tensor for name, tensor in there.items() if name.startswith("signs/")}
    assert len(signs) == 2
    for name, tensor in signs.items():
        assert tensor.shape == (whole[name].numel() // 8,)  # both fill whole bytes
        bits = torch.stack([tensor >> place & 1 for place in range(8)], dim=1).flatten().bool()
        assert torch.equal(bits, whole[name].flatten() >= 0)
    others = {name for name in whole if name not in signs and not name.endswith("num_batches_tracked")}
    assert others == {name for name in there if not name.startswith("signs/")}
    assert all(torch.equal(there[name], whole[name]) for name in others)


def test_the_header_is_that_of_a_release_with_the_shapes_of_the_packed_weights(place, file):
    header = read_release(file).header
    released = read_release(api.release(place / "run", out=place / "released.safetensors", force=True).path).header
    assert (header.version, released.version, released.packed) == (2, 1, {})
    assert header.but(version=1, packed={}) == released
    assert [note.shape for note in header.packed.values()] == [(32, 32, 5, 5), (40, 512)]
    assert header.facts == {"class_names": list(CLASS_NAMES)}


def test_a_released_file_gives_the_same_packed_file(place, file):
    released = api.release(place / "run", out=place / "released.safetensors", force=True)
    again = api.pack(released.path, out=place / "again.safetensors")
    assert again.path.read_bytes() == file.read_bytes()


def test_halves_are_those_of_a_release_and_signs_stay(place, file, tmp_path):
    half = api.pack(place / "run", out=tmp_path / "half.safetensors", half="fp16")
    whole, small = load_file(file), load_file(half.path)
    halved = {name for name in whole if small[name].dtype == torch.float16}
    assert halved == {n for n, t in whole.items() if t.dim() > 1}
    assert all(torch.equal(small[name], whole[name]) for name in whole if name not in halved)
    assert half.weights == "packed live weights in fp16"
    ours, theirs = sightline.load(half.path)(pixels()).logits, sightline.load(place / "run")(pixels()).logits
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
    released = api.release(place / "run", out=tmp_path / "r.safetensors", half="fp16")
    again = api.pack(released.path, out=tmp_path / "b.safetensors")
    there = load_file(again.path)
    assert again.weights == half.weights and all(torch.equal(there[name], small[name]) for name in small)
    with pytest.raises(UserError, match="stored in fp16 already"):
        api.pack(released.path, out=tmp_path / "c.safetensors", half="bf16")


def test_the_command_prints_the_table_and_the_file(place, tmp_path):
    done = command("pack", place / "run", cwd=tmp_path)
    (made,) = tmp_path.iterdir()
    assert done.code == 0 and made.name.endswith("-packed.safetensors") and made.name in done.out
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line}
    # 32 x 32 x 5 x 5 and 40 x 512 weights of one bit
    assert rows["network.features.4.conv"] == ["binary", "25,600", "1", "3,200", "102,400", "32.0"]
    assert rows["network.features.9"] == ["binary", "20,480", "1", "2,560", "81,920", "32.0"]
    stored = sum(tensor.numel() * tensor.element_size() for tensor in load_file(made).values())
    assert rows["total"][2] == f"{stored:,}"
    again = command("pack", place / "run", cwd=tmp_path)
    assert again.code == 2 and "--force" in again.err


def test_show_tells_that_a_file_is_packed(file, tmp_path):
    done = command("show", file, "--json", tmp_path / "a.json", cwd=tmp_path)
    assert done.code == 0 and "binary_weights 2, signs 46,080, bytes 5,760" in done.out
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["kind"] == "release" and told["packed"]["signs"] == 46_080


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pack", "packed.safetensors", "--out", "x.safetensors"), "is packed already"),
        (("pack", "released.safetensors", "--weights", "live", "--out", "x.safetensors"), "--weights is for runs"),
        (("pack", "run", "--weights", "ema", "--out", "x.safetensors"), "holds no averaged weights"),
        (("pack", "run", "--half", "int8", "--out", "x.safetensors"), "half: expected fp16 or bf16"),
        (("pack", "run", "--out", "x.bin"), "must end with .safetensors"),
        (("pack", "run", "--checkpoint", "99", "--out", "x.safetensors"), "no checkpoint '99'"),
        (("train", "lenet", "--data", "squares", "weights=packed.safetensors", "--out", "x"), "cannot go on from"),
    ],
)
def test_mistakes_are_told_with_their_cure(place, file, arguments, words):
    api.release(place / "run", out=place / "released.safetensors", force=True)
    done = command(*arguments, cwd=place)
    assert done.code == 2 and words in done.err.replace("\n", " "), done.err
    assert not (place / "x.safetensors").exists()


def test_a_network_without_binary_layers_is_sent_to_release(tmp_path):
    write_squares(tmp_path / "squares")
    train(tmp_path, "model.variant=full_precision", "epochs=1")
    done = command("pack", "run", cwd=tmp_path)
    assert done.code == 2 and "no layer with weights of one bit" in done.err and "sightline release run" in done.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.update(version=1), "version 1 has no packed weights"),
        (lambda f: f.update(packed={}), "version 2 has packed weights"),
        (lambda f: f.pop("packed") and None, "version 2 has packed weights"),
        (lambda f: f["packed"].pop("network.features.9.weight") and None, "does not speak of the tensor"),
        (lambda f: f["packed"]["network.features.9.weight"].update(shape=[512, 40]), "tensors do not fit the network"),
        (
            lambda f: f["packed"]["network.features.9.weight"].update(shape=[40, -512]),
            "packed.network.features.9.weight.shape",
        ),
        (lambda f: f["packed"]["network.features.9.weight"].update(shape=[1 << 62, 4]), "do not fit its shape"),
        (lambda f: f["packed"]["network.features.9.weight"].update(scaling="xnor"), "and no scale"),
        (lambda f: f["packed"]["network.features.9.weight"].update(more=1), "packed.network.features.9.weight.more"),
        (lambda f: f["config"]["model"].update(channels=64), "tensors do not fit the network"),
    ],
)
def test_a_strangers_header_is_refused_where_it_contradicts_the_file(copy, change, words):
    forge(copy, change)
    with pytest.raises(RunError) as told:
        sightline.load(copy)
    assert words in str(told.value)


def test_a_file_that_was_cut_is_refused(copy):
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(RunError, match="cut or changed"):
        sightline.load(copy)


def test_the_configuration_comes_back(file):
    config = api.configuration.read_config(read_release(file))
    assert isinstance(config, LeNetRun) and config.model.channels == 32
