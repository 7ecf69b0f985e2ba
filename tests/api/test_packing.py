import numpy as np
import pytest
import torch
from torch import nn

from sightline.api.packing import export_packed, read_packed, write_params
from sightline.config.errors import RunError
from sightline.engine.run_folder import atomic_file
from sightline.importers.mxnet_params import read_params
from sightline.models.blocks.binary_layers import QuantisedActivation, QuantisedLinear
from sightline.models.blocks.packed_layers import load_packed


def network():
    return nn.Sequential(nn.Linear(6, 12), QuantisedActivation(), QuantisedLinear(12, 4))


def test_a_network_goes_to_a_file_and_back(tmp_path):
    model, x = network(), torch.randn(3, 6)
    rows = export_packed(model, tmp_path / "new" / "net.safetensors", network={"inputs": 6})
    assert sum(row.bytes for row in rows) == 4 * (6 * 12 + 12) + 12 * 4 // 8
    packed = read_packed(tmp_path / "new" / "net.safetensors")
    assert packed.network == {"inputs": 6}
    again = network()
    load_packed(again, packed)
    assert torch.equal(again(x), model(x))


def test_half_precision_is_half_as_large(tmp_path):
    rows = export_packed(network(), tmp_path / "net.safetensors", network={}, half=True)
    assert sum(row.bytes for row in rows) == 2 * (6 * 12 + 12) + 12 * 4 // 8


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    export_packed(network(), path, network={"run": 1})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_file.os, "fsync", full)
    with pytest.raises(RunError, match=r"net\.safetensors: cannot be written \(No space left on device\)"):
        export_packed(network(), path, network={"run": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_names_and_networks_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RunError, match=r"must end with \.safetensors"):
        export_packed(network(), tmp_path / "net.bin", network={})
    with pytest.raises(RunError, match="no layer with weights of one bit"):
        export_packed(nn.Linear(2, 2), tmp_path / "net.safetensors", network={})
    with pytest.raises(RunError, match=r"net\.safetensors: 0\.weight: is torch\.float64"):
        export_packed(network().double(), tmp_path / "net.safetensors", network={})
    with pytest.raises(RunError, match=r"must end with \.params"):
        write_params({}, tmp_path / "net.bin")
    with pytest.raises(RunError, match=r"net\.params: w: MXNet's format has no uint32"):
        write_params({"w": np.ones(2, np.uint32)}, tmp_path / "net.params")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path):
    path = tmp_path / "net.safetensors"
    export_packed(network(), path, network={})
    with pytest.raises(RunError, match=r"nett\.safetensors: the file does not exist. Did you mean 'net.safetensors'"):
        read_packed(tmp_path / "nett.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"net\.safetensors: its content does not fit its own SHA-256"):
        read_packed(path)


def test_parameters_are_written_for_mxnet(tmp_path):
    write_params({"arg:w": np.ones((2, 3), np.float32)}, tmp_path / "net.params")
    assert read_params(tmp_path / "net.params")["arg:w"].tolist() == [[1, 1, 1], [1, 1, 1]]
