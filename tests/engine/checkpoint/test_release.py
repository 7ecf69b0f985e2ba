"""The file to give away: every byte is checked, strangers' headers say nothing that runs or hangs, halves are near."""

import hashlib
import json
import pickle
from unittest import mock

import pytest
import torch
from safetensors import safe_open

from sightline.config.errors import RunError
from sightline.engine.checkpoint.layout import DamagedCheckpointError, state_text
from sightline.engine.checkpoint.reader import load_tensor_file
from sightline.engine.checkpoint.release import (
    ReleaseHeader,
    find_release,
    halved,
    read_release,
    write_release,
)
from tests.faults.hostile import PICKLES

TENSORS = {
    "net.0.weight": torch.linspace(-3, 3, 12).reshape(3, 4),
    "net.1.weight": torch.tensor([1.0, 1 / 3, -2.0]),
    "net.1.running_mean": torch.tensor([1e-7, 123456.7, 0.1]),
    "net.1.num_batches_tracked": torch.tensor(7),
}


def header(**changes):
    values = {
        "sightline": "0.1.0", "recipe": "toy", "configuration": "tests.engine.toy.ToyRun", "config": {"width": 8},
        "left_out": (), "facts": {}, "weights": "averaged", "precision": "fp32", "run": "toy/1", "step": 12, "epoch": 2,
        "metrics": {"accuracy": 0.5, "loss": float("nan")}, "source_sha256": "0" * 64,
    }  # fmt: skip
    return ReleaseHeader(**{**values, **changes})


@pytest.fixture
def path(tmp_path):
    """A sound file."""
    write_release(tmp_path / "a.safetensors", header(), TENSORS)
    return tmp_path / "a.safetensors"


def forge(path, change):
    """A file of a stranger: the header is changed as text, and the hash fits."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    notes = head["__metadata__"]
    fields = json.loads(notes["sightline"])
    said = change(fields)
    notes["sightline"] = json.dumps(fields) if said is None else said
    notes["sha256"] = "0" * 64
    text = json.dumps(head, separators=(",", ":")).encode()
    whole = len(text).to_bytes(8, "little") + text + data[8 + length :]
    digest = hashlib.sha256(whole).hexdigest()
    path.write_bytes(whole.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest.encode()))


def test_any_reader_of_safetensors_gets_the_weights_and_the_header_as_plain_json(path):
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["sightline"])
        assert all(torch.equal(file.get_tensor(name), TENSORS[name]) for name in file.keys())  # noqa: SIM118
    assert (told["format"], told["version"], told["step"], told["config"]) == ("sightline-release", 1, 12, {"width": 8})


def test_what_was_written_is_read(path):
    release = read_release(path)
    assert release.header.model_dump(exclude={"metrics"}) == header().model_dump(exclude={"metrics"})
    assert (
        release.header.metrics["accuracy"] == 0.5 and release.header.metrics["loss"] != release.header.metrics["loss"]
    )
    assert release.which == "averaged weights"
    there = release.tensors_for(TENSORS)
    assert all(torch.equal(there[name], TENSORS[name]) for name in TENSORS)


def test_the_hash_is_that_of_the_file_with_zeros_in_its_place(path):
    data = path.read_bytes()
    release = read_release(path)
    assert data.count(release.sha256.encode()) == 1
    assert hashlib.sha256(data.replace(release.sha256.encode(), b"0" * 64)).hexdigest() == release.sha256


def test_equal_content_gives_equal_bytes(path, tmp_path):
    write_release(tmp_path / "b.safetensors", header(), {name: tensor.clone() for name, tensor in TENSORS.items()})
    assert (tmp_path / "b.safetensors").read_bytes() == path.read_bytes()


def test_a_flipped_bit_in_any_byte_is_found(path):
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(RunError, match=r"a\.safetensors"):
            read_release(path)


def test_a_cut_anywhere_and_an_end_too_many_are_found(path):
    data = path.read_bytes()
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        with pytest.raises(RunError, match=r"a\.safetensors"):
            read_release(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(DamagedCheckpointError, match="cut or changed"):
        read_release(path)


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_is_refused_and_not_opened(tmp_path, kind):
    witness = tmp_path / "ran"
    PICKLES[kind](tmp_path / "a.safetensors", witness)
    with pytest.raises(RunError, match=r"a\.safetensors"):
        read_release(tmp_path / "a.safetensors")
    assert not witness.exists()


def test_other_safetensors_files_are_told_apart(tmp_path, path):
    from safetensors.torch import save_file

    save_file(TENSORS, tmp_path / "b.safetensors", metadata={"format": "pt"})
    assert find_release(tmp_path / "b.safetensors") is None
    with pytest.raises(RunError, match="not written by `sightline release`"):
        read_release(tmp_path / "b.safetensors")
    with pytest.raises(RunError, match="cannot be read"):
        read_release(tmp_path / "nowhere.safetensors")
    (tmp_path / "c.safetensors").write_text("weights")
    with pytest.raises(RunError, match="no readable safetensors file"):
        read_release(tmp_path / "c.safetensors")


def test_a_file_of_a_newer_version_asks_for_an_update(path):
    forge(path, lambda fields: fields.update(version=3))
    with pytest.raises(RunError, match="Update sightline"):
        read_release(path)


def nested(depth):
    tree = {}
    for _ in range(depth):
        tree = {"a": tree}
    return tree


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(step=-1),
        lambda fields: fields.update(step="12"),
        lambda fields: fields.update(extra=1),
        lambda fields: fields.pop("config"),
        lambda fields: fields.pop("left_out"),
        lambda fields: fields.update(left_out=3),
        lambda fields: fields.update(config=[]),
        lambda fields: fields.update(precision="fp8"),
        lambda fields: fields.update(weights="theirs\x1b[2J"),
        lambda fields: fields.update(source_sha256="../x"),
        lambda fields: fields.update(format="other"),
        lambda fields: fields.update(config=nested(100)),
        lambda fields: fields.update(config={str(number): 1 for number in range(10_000)}),
        lambda fields: "[]",
        lambda fields: "",
        lambda fields: "NaN",
        lambda fields: "[" * 100_000,
        lambda fields: '{"version": ' + "9" * 10_000 + "}",
    ],
)
def test_a_header_that_says_nonsense_is_refused_in_one_line(path, change):
    forge(path, change)
    with pytest.raises(RunError, match="says nothing useful") as caught:
        read_release(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_a_header_without_its_hash_or_with_two_is_damage(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"sha256":"', b'"sha257":"'))
    with pytest.raises(DamagedCheckpointError, match="no hash"):
        read_release(path)


def test_texts_in_the_header_cannot_pass_for_its_hash(tmp_path):
    trick = header(run='"sha256":"' + "0" * 64 + '"')
    write_release(tmp_path / "a.safetensors", trick, TENSORS)
    assert read_release(tmp_path / "a.safetensors").header.run == trick.run


def test_a_write_that_fails_leaves_the_old_file(path):
    before = path.read_bytes()
    with (
        mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match="No space"),
    ):
        write_release(path, header(step=13), TENSORS)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("half", "dtype", "error"), [("fp16", torch.float16, 2**-11), ("bf16", torch.bfloat16, 2**-8)])
def test_halves_round_matrices_and_leave_vectors_and_counts_alone(tmp_path, half, dtype, error):
    made = halved(TENSORS, half, source="here")
    assert {name: tensor.dtype for name, tensor in made.items()} == {
        "net.0.weight": dtype,
        "net.1.weight": torch.float32,
        "net.1.running_mean": torch.float32,
        "net.1.num_batches_tracked": torch.int64,
    }
    write_release(tmp_path / "a.safetensors", header(precision=half), made)
    release = read_release(tmp_path / "a.safetensors")
    assert release.which == f"averaged weights in {half}"
    there, exact = release.tensors_for(TENSORS), TENSORS["net.0.weight"]
    assert {name: tensor.dtype for name, tensor in there.items()} == {name: t.dtype for name, t in TENSORS.items()}
    # Rounding to the nearest is off by at most half of the last bit: 11 bits of a number in fp16, 8 in bf16.
    assert ((there["net.0.weight"] - exact).abs() <= error * exact.abs()).all()
    assert all(torch.equal(there[name], TENSORS[name]) for name in TENSORS if name != "net.0.weight")


def test_a_model_that_is_in_half_itself_stays_so(tmp_path):
    own = {"a.weight": torch.ones(2, 2, dtype=torch.float16), "b.weight": torch.ones(2, 2)}
    write_release(tmp_path / "a.safetensors", header(precision="fp16"), halved(own, "fp16", source="here"))
    there = read_release(tmp_path / "a.safetensors").tensors_for(own)
    assert {name: tensor.dtype for name, tensor in there.items()} == {name: t.dtype for name, t in own.items()}


def test_numbers_beyond_fp16_are_refused_and_fit_bf16():
    large = {"a.weight": torch.tensor([[65504.0, 1e6]])}
    with pytest.raises(RunError, match=r"a\.weight holds numbers up to 1e\+06, too large for fp16. Take bf16"):
        halved(large, "fp16", source="here")
    assert halved(large, "bf16", source="here")["a.weight"].isfinite().all()


def test_infinities_that_a_model_has_by_design_stay(tmp_path):
    mask = {"mask": torch.tensor([[0.0, -torch.inf]])}
    assert torch.equal(halved(mask, "fp16", source="here")["mask"].float(), mask["mask"])


def test_metrics_come_back_as_they_were(path):
    assert state_text(read_release(path).header.metrics) == state_text(header().metrics)
    assert load_tensor_file(path).keys() == TENSORS.keys()


def test_a_pickled_header_text_is_only_a_text(path):
    forge(path, lambda fields: fields.update(facts={"class_names": pickle.dumps([1], 0).decode()}))
    assert read_release(path).header.facts["class_names"].endswith(".")


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_a_half_keeps_the_sign_of_the_smallest_numbers(half):
    # 1e-8 is a sixth of the smallest number of fp16, 1e-45 the smallest of float32 and far below those of bf16
    tiny = torch.tensor([[-1e-8, -1e-45, 1e-8, 0.0, -0.0, -1.0]])
    there = halved({"weight": tiny}, half, source="run")["weight"]
    assert (there < 0).tolist() == (tiny < 0).tolist()
    torch.testing.assert_close(there.float(), tiny, rtol=1e-2, atol=6e-8)
