"""Checkpoints from strangers: pickles are not opened, forged states and links are refused, nothing leads elsewhere."""

import hashlib
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from sightline.config.errors import RunError
from sightline.engine.checkpoint.host_buffer import HostBuffer
from sightline.engine.checkpoint.layout import DamagedCheckpointError, read_manifest
from sightline.engine.checkpoint.reader import (
    load_tensor_file,
    newest_whole,
    open_checkpoint,
    read_checkpoint,
    refuse_pickle,
)
from tests.engine.checkpoint.test_checkpoint import never, take


def rewrite(folder, change):
    """A forger's state.json: changed, and with a fitting hash."""
    fields = json.loads((folder / "state.json").read_bytes())
    del fields["sha256"]
    change(fields)
    body = json.dumps(fields)[1:].encode() + b"\n"
    (folder / "state.json").write_bytes(b'{"sha256": "%s",\n' % hashlib.sha256(body).hexdigest().encode() + body)


class Payload:
    def __reduce__(self):
        return (os.system, ("touch RAN",))


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.ckpt", "x.safetensors", "x"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5, "zip"])
def test_a_pickle_is_refused_and_never_opened(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if protocol == "zip":
        torch.save({"a": Payload()}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(), protocol))
    for opened in (open_checkpoint, load_tensor_file, read_checkpoint):
        with pytest.raises(RunError, match=name):
            opened(path)
    if protocol != 0 or name in ("x.pt", "x.pth", "x.ckpt"):  # protocol 0 is plain text and tells nothing
        with pytest.raises(RunError, match=r"is a pickle.*was not opened"):
            open_checkpoint(path)
    assert not (tmp_path / "RAN").exists()


def test_a_safetensors_file_whose_header_length_looks_like_a_pickle_is_read(tmp_path):
    # A header of 640 bytes: the file begins 80 02, as pickles of protocol 2 do.
    for padding in range(700):
        buffer = HostBuffer({"w" * (1 + padding): torch.ones(2)})
        if buffer.header[:2] == b"\x80\x02":
            break
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"".join(bytes(chunk) for chunk in buffer.chunks()))
    refuse_pickle(path)
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert len(load_tensor_file(path)) == 1


def test_a_pickle_in_the_place_of_a_tensor_file_is_damage(tmp_path):
    (path,) = take(tmp_path, 1)
    (path / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(DamagedCheckpointError, match=r"model\.safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "model.pt", "model.safetensors\n", ""]
)
def test_a_file_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    (path,) = take(tmp_path, 1)
    entry = read_manifest(path).files["model.safetensors"].model_dump()
    rewrite(path, lambda fields: fields.update(files={name: entry}))
    with pytest.raises(DamagedCheckpointError, match=r"state\.json"):
        read_checkpoint(path)


@pytest.mark.parametrize("which", ["model.safetensors", "state.json"])
def test_a_link_in_a_checkpoint_is_refused(tmp_path, which):
    (path,) = take(tmp_path, 1)
    (path / which).rename(tmp_path / "elsewhere")
    (path / which).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedCheckpointError, match="link"):
        read_checkpoint(path)


def test_a_linked_folder_is_refused(tmp_path):
    (path,) = take(tmp_path, 1)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedCheckpointError, match="link"):
        read_checkpoint(path)


def test_a_pointer_that_leads_elsewhere_is_refused(tmp_path):
    (path,) = take(tmp_path, 1)
    for text in ("../../other", "step_00000009", "", "step_00000001/../x", "\x00" * 5):
        (path.parent / "latest").write_text(text)
        with pytest.raises(RunError, match="latest: names"):
            open_checkpoint(path.parent / "latest")


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(step=-1),
        lambda fields: fields.update(step="1"),
        lambda fields: fields.update(step=True),
        lambda fields: fields.update(extra=1),
        lambda fields: fields.pop("files"),
        lambda fields: fields.update(format="other"),
        lambda fields: fields.update(version=0),
        lambda fields: fields.update(step=2),  # not what the folder's name says
        lambda fields: fields.update(files={"model.safetensors": {"bytes": -1, "sha256": "0" * 64}}),
        lambda fields: fields.update(metrics={"AP": {"$float": "no number"}}),
    ],
)
def test_a_forged_state_is_a_typed_error(tmp_path, change):
    (path,) = take(tmp_path, 1)
    rewrite(path, change)
    with pytest.raises(DamagedCheckpointError, match=r"state\.json"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'"a": NaN}', b"\xff\xfe}", b"]", b'"step": ' + b"9" * 5000 + b"}", b"}"]
)
def test_a_state_of_hostile_json_is_a_typed_error(tmp_path, body):
    (path,) = take(tmp_path, 1)
    (path / "state.json").write_bytes(b'{"sha256": "%s",\n' % hashlib.sha256(body).hexdigest().encode() + body)
    with pytest.raises(DamagedCheckpointError, match=r"state\.json"):
        read_checkpoint(path)


def test_a_checkpoint_of_a_newer_version_asks_for_an_update_and_is_not_passed_over(tmp_path):
    _, path = take(tmp_path, 1, 2)
    rewrite(path, lambda fields: fields.update(version=2, something_new=[]))
    with pytest.raises(RunError, match=r"format version 2.*Update sightline"):
        newest_whole(tmp_path, never)


def test_what_is_no_safetensors_file_is_a_typed_error(tmp_path):
    path = tmp_path / "x.safetensors"
    for data in (b"", b"{}", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}x", b"\x08\0\0\0\0\0\0\0" + b"[" * 8):
        path.write_bytes(data)
        with pytest.raises(RunError, match=r"x\.safetensors"):
            load_tensor_file(path)
    save_file({"a": torch.ones(1)}, path)
    assert load_tensor_file(path)["a"].item() == 1
