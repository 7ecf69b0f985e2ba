import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from sightline.models.blocks.activated_conv import ActivatedConv
from sightline.models.blocks.batch_norm import BiasedBatchNorm
from sightline.models.blocks.binary_layers import (
    QuantisedActivation,
    QuantisedConv1d,
    QuantisedConv2d,
    QuantisedConv3d,
    QuantisedLinear,
)
from sightline.models.blocks.binary_size import binary_size
from sightline.models.blocks.channels import ChannelShuffle, add_to_channels
from sightline.models.blocks.initialisation import initialise
from sightline.models.blocks.quantisation import QuantisationConfig, activation_methods, weight_methods
from sightline.models.blocks.stems import build_stem, choose_stem, stem_output_size
from sightline.ops.binarize import det_sign

CONVS = [(QuantisedConv1d, (5,)), (QuantisedConv2d, (5, 4)), (QuantisedConv3d, (5, 4, 3))]
PLAIN = QuantisationConfig()


def random_signs(*shape):
    return torch.randint(0, 2, shape).float() * 2 - 1


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_a_dense_layer_counts_equal_bits_by_hand():
    layer = QuantisedLinear(4, 2)
    layer.weight.data = torch.tensor([[0.5, -2.0, 0.0, -0.1], [-1.0, -1.0, -1.0, -1.0]])  # signs + - + - and - - - -
    assert layer(torch.tensor([[1.0, 1.0, 1.0, -1.0]])).tolist() == [[3, 1]]


def test_without_the_offset_it_is_the_sum_of_products():
    layer = QuantisedLinear(4, 1, offset=False)
    layer.weight.data = torch.tensor([[0.5, -2.0, 0.0, -0.1]])
    assert layer(torch.tensor([[1.0, 1.0, 1.0, -1.0]])).tolist() == [[2]]  # 3 equal, 1 different


def test_a_dense_layer_takes_maps_as_flat_vectors():
    layer = QuantisedLinear(12, 5)
    x = random_signs(2, 3, 2, 2)
    assert layer(x).equal(layer(x.flatten(1)))


@pytest.mark.parametrize("conv, space", CONVS)
def test_a_binary_convolution_gives_whole_numbers_from_0_to_n(conv, space):
    layer = conv(6, 4, 3, padding=1)
    out = layer(random_signs(2, 6, *space))
    assert out.shape == (2, 4, *space)
    assert out.equal(out.round())
    n = 6 * 3 ** len(space)
    assert layer.inputs_per_output == n
    assert 0 <= out.min() < out.max() <= n


@pytest.mark.parametrize("conv, space", CONVS)
def test_a_convolution_counts_the_bits_that_brute_force_counts(conv, space):
    layer = conv(2, 3, 2)
    x = random_signs(1, 2, *space)
    out, signs = layer(x), layer.quantised_weight()
    for place in itertools.product(*(range(size - 1) for size in space)):
        window = x[0][(slice(None), *(slice(begin, begin + 2) for begin in place))]
        for channel in range(3):
            assert out[(0, channel, *place)] == (window == signs[channel]).sum()


def test_the_padding_is_minus_one_and_counts():
    layer = QuantisedConv2d(1, 1, 3, padding=1)
    layer.weight.data = -torch.ones(1, 1, 3, 3)
    # One cell of +1 and eight of -1 around it; all weights are -1.
    assert layer(torch.ones(1, 1, 1, 1)).item() == 8


def test_axes_may_have_their_own_sizes():
    layer = QuantisedConv2d(3, 4, (1, 3), stride=(2, 1), padding=(0, 1), dilation=(1, 1))
    assert layer(random_signs(1, 3, 6, 5)).shape == (1, 4, 3, 5)
    with pytest.raises(ValueError, match="has 3 numbers, expected 1 or 2"):
        QuantisedConv2d(3, 4, (1, 3, 3))


def test_groups_see_only_their_channels():
    layer = QuantisedConv2d(4, 2, 1, groups=2)
    x = random_signs(1, 4, 3, 3)
    other = x.clone()
    other[:, 2:] *= -1
    assert layer(x)[:, 0].equal(layer(other)[:, 0])
    assert (layer(x)[:, 1] + layer(other)[:, 1] == 2).all()  # of two pairs, those that were equal are not
    assert layer.inputs_per_output == 2
    with pytest.raises(ValueError, match="4 and 3 channels do not divide by 2"):
        QuantisedConv2d(4, 3, 1, groups=2)


def test_weights_of_k_bits_have_no_offset_in_a_convolution_and_one_in_a_dense_layer():
    x = torch.randn(2, 3, 4, 4)
    conv = QuantisedConv2d(3, 2, 3, method="dorefa", bits=4)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.quantised_weight()))
    dense = QuantisedLinear(48, 2, method="dorefa", bits=4)
    torch.testing.assert_close(dense(x), (x.flatten(1) @ dense.quantised_weight().T + 48) / 2)
    assert {round(v * 15, 3) % 2 for v in conv.quantised_weight().flatten().tolist()} == {1.0}  # 2 R / 15 - 1


@pytest.mark.parametrize("scaling", ["binet", "xnor"])
def test_a_scaled_convolution_is_the_plain_sum_times_the_mean_weight(scaling):
    x = random_signs(2, 3, 5, 5).double()
    scaled = QuantisedConv2d(3, 4, 3, scaling=scaling).double()
    plain = QuantisedConv2d(3, 4, 3, offset=False).double()
    plain.load_state_dict(scaled.state_dict())
    means = scaled.weight.abs().mean((1, 2, 3))
    torch.testing.assert_close(scaled(x), plain(x) * means[:, None, None])
    scaled(x).sum().backward()
    plain(x).sum().backward()
    through_signs = plain.weight.grad * means[:, None, None, None].detach()
    is_equal = torch.allclose(scaled.weight.grad, through_signs)
    assert is_equal == (scaling == "xnor")  # binet's gradient flows into the mean as well


def test_xnor_multiplies_by_the_mean_input_under_the_kernel():
    block = ActivatedConv(2, 1, 3, padding=1, quantisation=QuantisationConfig(scaling="xnor"))
    x = torch.tensor([3.0, -1.0]).reshape(1, 2, 1, 1)  # mean absolute value 2, and eight zeros around it
    assert block(x).item() == pytest.approx(2 / 9 * block.conv(block.activation(x)).item())
    x.requires_grad_()
    block(x).backward()
    assert x.grad.flatten()[0] == 0  # beyond the gate; the scale has no gradient


def test_xnor_with_a_dilation_is_refused():
    with pytest.raises(ValueError, match="not defined for dilation=2"):
        ActivatedConv(2, 2, 3, dilation=2, quantisation=QuantisationConfig(scaling="xnor"))


def test_latent_weights_get_the_whole_gradient_however_large_they_are():
    layer = QuantisedLinear(2, 1, offset=False)
    layer.weight.data = torch.tensor([[50.0, -0.1]])
    layer(torch.tensor([[3.0, 4.0]])).backward()
    assert layer.weight.grad.tolist() == [[3, 4]]


def test_the_activation_is_a_gate_and_then_a_quantiser():
    x = torch.tensor([-1.31, -0.5, 1.3, 2.0], requires_grad=True)
    out = QuantisedActivation(threshold=1.3)(x)
    out.sum().backward()
    assert out.tolist() == [-1, -1, 1, 1]
    assert x.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("method, bits", [(m, b) for b in (1, 2, 8, 32) for m in activation_methods(b)])
def test_every_valid_activation_runs_and_keeps_gate_shape_and_dtype(method, bits):
    x = torch.tensor([[-3.0, -0.4, 0.0, 0.4, 3.0]], dtype=torch.float64, requires_grad=True)
    out = QuantisedActivation(method, bits, threshold=0.5)(x)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    out[:, 0].sum().backward()
    if method != "dorefa":  # where the gate lets the gradient of the maximum pass, at another place
        assert x.grad[0, 0] == 0


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"activation_bits": 4}, "activation_method='det_sign' does not go with activation_bits=4; .*'round' or 'dore"),
        ({"activation_method": "relu"}, "'relu' does not go with activation_bits=1; .* 'det_sign' or 'sign_approx"),
        ({"activation_bits": 32}, "go with 'identity' or 'approx_sign' or 'relu' or 'clip' or 'leaky_clip'"),
        ({"weight_bits": 2}, "weight_method='det_sign' does not go with weight_bits=2; .* with 'dorefa'"),
        ({"weight_bits": 32, "weight_method": "dorefa"}, "that many bits go with 'identity'"),
        ({"weight_bits": 0}, "greater than or equal to 1"),
        ({"activation_bits": 33}, "less than or equal to 32"),
        ({"scaling": "abc"}, "Input should be 'none', 'binet' or 'xnor'"),
        ({"threshold": 0.0}, "greater than 0"),
        ({"activation_method": "sign"}, "Input should be 'det_sign', 'sign_approx_sign', 'round'"),
    ],
)
def test_an_invalid_combination_is_refused_with_the_valid_ones(keys, message):
    with pytest.raises(ValidationError, match=message):
        QuantisationConfig(**keys)


def test_layers_refuse_it_as_well():
    with pytest.raises(ValueError, match="that many bits go with 'round' or 'dorefa'"):
        QuantisedActivation("det_sign", 4)
    with pytest.raises(ValueError, match="that many bits go with 'dorefa'"):
        QuantisedLinear(2, 2, bits=4)
    with pytest.raises(ValueError, match="weight_bits: 64"):
        QuantisedConv2d(2, 2, 1, bits=64)
    with pytest.raises(ValueError, match="must be above 0"):
        QuantisedActivation(threshold=0)


@pytest.mark.parametrize("bits", range(1, 33))
def test_every_number_of_bits_has_a_weight_and_an_activation(bits):
    QuantisationConfig(
        weight_bits=bits,
        weight_method=weight_methods(bits)[0],
        activation_bits=bits,
        activation_method=activation_methods(bits)[0],
    )


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (2, 3, 4, 5)])
def test_batch_norm_averages_the_biased_variance(shape):
    x = torch.randn(shape) * 3 + 1
    norm, usual = BiasedBatchNorm(3), nn.BatchNorm1d(3)
    torch.testing.assert_close(norm(x), usual(x.reshape(*shape[:2], -1)).reshape(shape))
    axes = [0, *range(2, len(shape))]
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.var(axes, correction=0))
    torch.testing.assert_close(norm.running_mean, usual.running_mean)
    assert norm.num_batches_tracked == 1


def test_batch_norm_evaluates_with_its_averages():
    norm = BiasedBatchNorm(2).eval()
    norm.running_mean.copy_(torch.tensor([1.0, 0.0]))
    norm.running_var.copy_(torch.tensor([4.0, 1.0]))
    torch.testing.assert_close(norm(torch.tensor([[5.0, 3.0]])), torch.tensor([[2.0, 3.0]]), rtol=1e-5, atol=1e-5)


def test_two_forward_passes_before_a_backward_pass_are_fine():
    norm = BiasedBatchNorm(2)
    total = sum(norm(torch.randn(4, 2, requires_grad=True)).square().sum() for _ in range(2))
    total.backward()


def test_a_batch_norm_without_scale_trains_its_shift_alone():
    norm = BiasedBatchNorm(3, eps=2e-5, has_scale=False)
    norm(torch.randn(4, 3)).sum().backward()
    assert norm.weight.grad is None
    assert norm.bias.grad.tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match=r"expected \(B, 3, ...\), got \(4, 2\)"):
        norm(torch.zeros(4, 2))


def test_an_update_reaches_only_its_channels():
    x = torch.zeros(1, 4, 1, 1)
    update = torch.ones(1, 2, 1, 1)
    assert add_to_channels(x, update, 1).flatten().tolist() == [0, 1, 1, 0]
    assert add_to_channels(x, torch.ones(1, 4, 1, 1), 0).flatten().tolist() == [1, 1, 1, 1]


def test_a_shuffle_deals_out_the_groups_in_turn():
    x = torch.arange(6.0).reshape(1, 6, 1, 1)  # groups 0 1 2 and 3 4 5
    assert ChannelShuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("stem", ["thumbnail", "imagenet", "grouped"])
@pytest.mark.parametrize("size", [32, 61, 64])
def test_a_stem_makes_maps_of_the_promised_size(stem, size):
    out = build_stem(stem, 3, 64)(torch.randn(2, 3, size, size))
    assert out.shape == (2, 64, stem_output_size(stem, size), stem_output_size(stem, size))


def test_small_images_get_the_small_stem():
    assert choose_stem("auto", 49) == "thumbnail"
    assert choose_stem("auto", 50) == "imagenet"
    assert choose_stem("grouped", 32) == "grouped"


@pytest.mark.parametrize(
    "kind, deviation",
    [
        ("gaussian", math.sqrt(2 / 900)),  # fan_in 100 * 9
        ("xavier", math.sqrt(2 / 1350) / math.sqrt(3)),  # mean fan (100 + 200) / 2 * 9; uniform
        ("prelu_in", math.sqrt(32 / 17 / 900)),
        ("prelu_average", math.sqrt(32 / 17 / 1350)),
        ("small", 0.01),
    ],
)
def test_weights_start_with_the_spread_of_their_rule(kind, deviation):
    net = nn.Sequential(QuantisedConv2d(100, 200, 3), nn.Conv2d(100, 200, 3), BiasedBatchNorm(2), nn.Linear(2, 2))
    initialise(net, kind)
    for layer in net[:2]:
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.01)  # of 180 000 numbers
        assert layer.weight.mean().abs() < deviation / 50
    if kind == "xavier":
        assert net[0].weight.abs().max() <= math.sqrt(2 / 1350)
    assert net[1].bias.eq(0).all()
    assert net[2].weight.eq(1).all()


def test_the_size_of_a_network_by_hand():
    net = nn.Sequential(
        QuantisedConv2d(3, 4, 1), BiasedBatchNorm(4), nn.Linear(4, 2), QuantisedLinear(2, 2, method="dorefa", bits=3)
    )
    # 12 weights of 1 bit and 4 of 3 bits; 8 + 8 of the norm and 10 of the dense layer have 32: 24 + 26 * 32 = 856 bits.
    size = binary_size(net)
    assert size.values == 12 + 16 + 10 + 4
    assert size.trained == 12 + 8 + 10 + 4
    assert size.quantised_weights == 16
    assert size.quantised_layers == 2
    assert size.float_bytes == 42 * 4
    assert size.packed_bytes == 107


@pytest.mark.parametrize("scaling", ["none", "binet", "xnor"])
def test_a_unit_compiles_as_one_graph_with_the_same_numbers(scaling):
    block = nn.Sequential(
        ActivatedConv(3, 4, 3, padding=1, quantisation=QuantisationConfig(scaling=scaling)), BiasedBatchNorm(4)
    )
    twin = nn.Sequential(
        ActivatedConv(3, 4, 3, padding=1, quantisation=QuantisationConfig(scaling=scaling)), BiasedBatchNorm(4)
    )
    twin.load_state_dict(block.state_dict())
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    inputs = torch.randn(2, 2, 3, 5, 5)
    for x in inputs:
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        out, other = block(a), compiled(b)
        torch.testing.assert_close(other, out)
        out.square().sum().backward()
        other.square().sum().backward()
        torch.testing.assert_close(b.grad, a.grad)
    for name, tensor in block.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], tensor)
    torch.testing.assert_close(twin[0].conv.weight.grad, block[0].conv.weight.grad)


@pytest.mark.parametrize("layer", [QuantisedConv2d(64, 8, 3), QuantisedLinear(64 * 25, 8)])
def test_counts_stay_whole_in_half_precision(layer):
    # Around n / 2 = 288 (or 800) bf16 knows even numbers (or multiples of 4) only.
    x = det_sign(torch.randn(4, 64, 5, 5, generator=torch.Generator().manual_seed(0)))
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.float32 and torch.equal(found, exact)
