import pytest
import torch
from torch import nn

from sightline.config.errors import RunError
from sightline.models.blocks.activated_conv import ActivatedConv
from sightline.models.blocks.batch_norm import BiasedBatchNorm
from sightline.models.blocks.binary_layers import (
    QuantisedActivation,
    QuantisedConv1d,
    QuantisedConv2d,
    QuantisedConv3d,
    QuantisedLinear,
)
from sightline.models.blocks.packed_file import from_stored, sizes, stored
from sightline.models.blocks.packed_layers import PackedConv, PackedLinear, load_packed, load_unpacked, pack_network
from sightline.models.blocks.quantisation import QuantisationConfig

CONVS = {
    "counts": lambda: QuantisedConv2d(20, 6, 3, padding=1),
    "sums": lambda: QuantisedConv2d(20, 6, 3, padding=1, offset=False),
    "strided": lambda: QuantisedConv2d(64, 6, (3, 1), stride=(2, 1), padding=(0, 2)),
    "groups": lambda: QuantisedConv2d(12, 6, 3, padding=1, groups=3),
    "dilated": lambda: QuantisedConv2d(12, 6, 3, padding=2, dilation=2),
    "scaled, binet": lambda: QuantisedConv2d(20, 6, 3, padding=1, scaling="binet"),
    "scaled, xnor": lambda: QuantisedConv2d(20, 6, 3, padding=1, scaling="xnor"),
    "scaled groups": lambda: QuantisedConv2d(12, 6, 3, padding=1, groups=2, scaling="binet"),
    "one axis": lambda: QuantisedConv1d(20, 6, 3, padding=1),
    "one axis, scaled": lambda: QuantisedConv1d(20, 6, 3, scaling="binet"),
    "three axes": lambda: QuantisedConv3d(20, 6, 2, padding=1),
    "dense": lambda: QuantisedLinear(70, 6),
    "dense sums": lambda: QuantisedLinear(70, 6, offset=False),
}


class Small(nn.Module):
    """Layers of full precision around one of every kind with bits."""

    def __init__(self, bits=1, method="det_sign", scaling="none"):
        super().__init__()
        quantisation = QuantisationConfig(activation_bits=bits, activation_method=method, scaling=scaling)
        self.stem = nn.Conv2d(3, 20, 3, bias=False)
        self.unit = nn.Sequential(ActivatedConv(20, 24, 3, 2, 1, quantisation=quantisation), BiasedBatchNorm(24))
        self.activation = QuantisedActivation(method, bits)
        self.dense = QuantisedLinear(24 * 9, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        return self.head(self.dense(self.activation(self.unit(self.stem(x)))).tanh())


def trained(*arguments, **keywords):
    torch.manual_seed(1)
    model = Small(*arguments, **keywords)
    model(torch.randn(16, 3, 7, 7))  # running statistics
    return model.eval()


def packed_and_loaded(model, fresh, count_bits=True):
    tensors, notes = stored(pack_network(model))
    load_packed(fresh, from_stored(tensors, notes, source="a file"), count_bits=count_bits)
    return fresh


HALF_LAYERS = {
    "counts": lambda: QuantisedConv2d(67, 6, 5, padding=2),  # n = 1675: sums above 256 are rounded in bf16
    "sums": lambda: QuantisedConv2d(67, 6, 5, offset=False),
    "scaled": lambda: QuantisedConv2d(67, 6, 5, scaling="binet"),
    "dense": lambda: QuantisedLinear(67 * 49, 6),
    "dense sums": lambda: QuantisedLinear(67 * 49, 6, offset=False),
}


@pytest.mark.parametrize("count_bits", [True, False])
@pytest.mark.parametrize("x_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", HALF_LAYERS.values(), ids=HALF_LAYERS)
def test_a_packed_layer_gives_the_layers_numbers_in_autocast_too(make, x_type, count_bits):
    torch.manual_seed(0)
    model = nn.Sequential(QuantisedActivation(), make()).eval()
    model[1].weight.data[0].abs_()  # equal to most bits of the input, so its sums are large
    packed = packed_and_loaded(model, nn.Sequential(QuantisedActivation(), make()), count_bits)
    x = (torch.randn(2, 67, 7, 7) + 1).to(x_type)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = model(x), packed(x)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("make", CONVS.values(), ids=CONVS)
def test_a_packed_layer_gives_the_layers_numbers_to_the_bit(make):
    torch.manual_seed(0)
    model = nn.Sequential(QuantisedActivation(), make())
    layer = model[1]
    layer.weight.data[0].clamp_(min=0)  # zeros are positive
    shape = (3, 70) if isinstance(layer, QuantisedLinear) else (3, layer.in_channels, *[9] * layer.axes)
    x = torch.randn(shape)
    with torch.no_grad():
        expected = model(x)
    packed = packed_and_loaded(model, nn.Sequential(QuantisedActivation(), make()))
    assert isinstance(packed[1], PackedLinear | PackedConv)
    in_floats = packed_and_loaded(model, nn.Sequential(QuantisedActivation(), make()), count_bits=False)
    assert packed[1].signs.dtype == torch.int64 and in_floats[1].signs.dtype == torch.float32
    for ours in (packed(x), in_floats(x)):
        assert torch.equal(ours, expected)
        assert ours.stride() == expected.stride()


@pytest.mark.parametrize("scaling", ["none", "binet", "xnor"])
@pytest.mark.parametrize("method", ["det_sign", "sign_approx_sign"])
def test_a_packed_network_gives_the_networks_numbers_to_the_bit(method, scaling):
    model = trained(1, method, scaling)
    packed = packed_and_loaded(model, Small(1, method, scaling))
    x = torch.randn(5, 3, 7, 7)
    assert torch.equal(packed(x), model(x))
    assert torch.equal(packed(x.to(memory_format=torch.channels_last)), model(x.to(memory_format=torch.channels_last)))
    kinds = [type(layer).__name__ for layer in packed.modules() if isinstance(layer, PackedConv | PackedLinear)]
    assert kinds == ["PackedConv", "PackedLinear"]


@pytest.mark.parametrize("bits, method", [(1, "round"), (4, "round"), (4, "dorefa"), (32, "leaky_clip")])
@pytest.mark.parametrize("scaling", ["none", "binet"])
def test_inputs_that_are_no_signs_are_multiplied_by_the_signs_of_the_weights(bits, method, scaling):
    model = trained(bits, method, scaling)
    packed = packed_and_loaded(model, Small(bits, method, scaling))
    x = torch.randn(5, 3, 7, 7)
    assert torch.equal(packed(x), model(x))
    assert not packed.dense.counts_bits


@pytest.mark.parametrize("scaling", ["none", "binet", "xnor"])
def test_unpacked_signs_times_scales_are_weights_with_the_same_outputs(scaling):
    model, again, x = trained(scaling=scaling), Small(scaling=scaling), torch.randn(4, 3, 7, 7)
    load_unpacked(again, pack_network(model))
    expected = model.unit[0].conv.weight.sign() * (1 if scaling == "none" else model.unit[0].conv.scale())
    assert torch.equal(again.unit[0].conv.weight, expected)
    # a mean of equal numbers may differ from them in its last digit
    torch.testing.assert_close(again.eval()(x), model(x), rtol=0 if scaling == "none" else 1e-5, atol=0)


def test_weights_of_more_bits_stay_as_they_are():
    model = nn.Sequential(QuantisedActivation(), QuantisedLinear(8, 4, method="dorefa", bits=4), QuantisedLinear(4, 2))
    packed = pack_network(model)
    assert list(packed.weights) == ["2.weight"]
    assert torch.equal(packed.values["1.weight"], model[1].weight)


def test_counters_of_batch_norms_are_left_out():
    packed = pack_network(trained())
    assert not [name for name in packed.values if "num_batches" in name]
    assert "unit.1.running_var" in packed.values


def test_a_weight_takes_one_bit_and_another_number_32():
    # stem 3 * 20 * 9, batch norm 4 * 24, head 10 * 4 + 4: 680 numbers; 20 * 24 * 9 + 24 * 9 * 10 bits
    rows = sizes(pack_network(trained()))
    assert sum(row.bytes for row in rows) == 4 * 680 + (4320 + 2160) // 8
    assert sum(row.float_bytes for row in rows) == 4 * (680 + 4320 + 2160)


def test_packing_leaves_the_network_as_it_is():
    model = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pack_network(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_without_binary_layers_is_not_packed():
    with pytest.raises(RunError, match="no layer with weights of one bit"):
        pack_network(nn.Linear(3, 2))


def test_a_weight_that_is_not_finite_is_named():
    model = trained()
    model.dense.weight.data[1, 2] = float("nan")
    with pytest.raises(RunError, match=r"dense\.weight: holds a value that is not finite"):
        pack_network(model)


def test_a_file_of_another_network_is_refused_and_changes_nothing():
    packed = pack_network(trained())
    other = Small(scaling="binet")
    other.head = nn.Linear(10, 5)
    other.more = nn.Linear(1, 1)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(
        RunError, match=r"net\.safetensors: 5 tensors do not fit the network: head\.bias is \(4,\)"
    ) as told:
        load_packed(other, packed, source="net.safetensors")
    assert "head.weight is (4, 10), expected (5, 10); more.bias is missing" in str(told.value)
    assert before.keys() == other.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    with pytest.raises(RunError, match="stored with scaling '', the network has 'binet'"):
        load_packed(Small(scaling="binet"), packed)


@pytest.mark.gpu
@pytest.mark.parametrize("scaling", ["none", "binet", "xnor"])
def test_counts_on_a_gpu_are_those_of_the_cpu(scaling):
    model = trained(scaling=scaling)
    packed = packed_and_loaded(model, Small(scaling=scaling)).cuda()
    x = torch.where(torch.rand(5, 20, 5, 5) < 0.5, -1.0, 1.0)
    assert torch.equal(packed.unit[0].conv(x.cuda()).cpu(), model.unit[0].conv(x))
