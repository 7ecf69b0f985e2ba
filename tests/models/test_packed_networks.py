"""Every binary network, from a packed file and from BMXNet's packed layout, beside itself in floats."""

import pytest
import torch

from sightline.config.errors import RunError
from sightline.importers.bmxnet import export_network, import_network
from sightline.importers.mxnet_params import decode_params, encode_params
from sightline.models.binary_resnet.config import BinaryResNetConfig
from sightline.models.binary_resnet.model import BinaryResNet
from sightline.models.blocks.packed_file import from_stored, stored
from sightline.models.blocks.packed_layers import PackedConv, PackedLinear, load_packed, pack_network
from sightline.models.blocks.quantisation import QuantisationConfig
from tests.models.test_binary_networks import NETWORKS

BINARY = sorted(set(NETWORKS) - {"lenet_float"})


def trained(name):
    torch.manual_seed(0)
    model = NETWORKS[name]()
    with torch.no_grad():
        model(torch.randn(8, 3, 32, 32))  # running statistics
    return model.eval()


@torch.no_grad()
def outputs(model):
    return model.eval()(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", BINARY)
def test_a_network_from_its_packed_file_gives_its_outputs_to_the_bit(name):
    model = trained(name)
    tensors, notes = stored(pack_network(model))
    for count_bits in (True, False):
        again = NETWORKS[name]()
        load_packed(again, from_stored(tensors, notes, source="a file"), count_bits=count_bits)
        packed = [layer for layer in again.modules() if isinstance(layer, PackedConv | PackedLinear)]
        assert packed and all(layer.counts_bits == count_bits for layer in packed)
        assert torch.equal(outputs(again), outputs(model))


@pytest.mark.parametrize("scaling", ["binet", "xnor"])
def test_a_scaled_network_from_its_packed_file_gives_its_outputs_to_the_bit(scaling):
    config = BinaryResNetConfig(quantisation=QuantisationConfig(scaling=scaling))
    model, again = (BinaryResNet(config, 5, image_size=32) for _ in range(2))
    load_packed(again, pack_network(model))
    assert torch.equal(outputs(again), outputs(model))


@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("name", BINARY)
def test_a_network_goes_to_bmxnets_packed_layout_and_back_or_a_layer_is_named(name, word_bits):
    model, again = trained(name), NETWORKS[name]()
    try:
        arrays = export_network(model, word_bits=word_bits)
    except RunError as error:
        assert "input channels do not fill whole words of 64 bits" in str(error)
        assert word_bits == 64  # these networks grow by 32 channels
        return
    match = import_network(again, decode_params(encode_params(arrays)))
    assert {row.word_bits for row in match.rows} == {0, word_bits}
    assert torch.equal(outputs(again), outputs(model))
