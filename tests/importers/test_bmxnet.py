import numpy as np
import pytest
import torch
from torch import nn

from sightline.config.errors import RunError
from sightline.importers.bmxnet import export_network, import_network, match_layers
from sightline.importers.mxnet_params import decode_params, encode_params
from sightline.models.blocks.activated_conv import ActivatedConv
from sightline.models.blocks.batch_norm import BiasedBatchNorm
from sightline.models.blocks.binary_layers import QuantisedActivation, QuantisedConv2d, QuantisedLinear
from sightline.models.blocks.packed_layers import load_packed, pack_network
from sightline.models.blocks.quantisation import QuantisationConfig
from sightline.ops.bit_packing import pack_conv_words, pack_dense_words


def network(seed=0, width=64, **quantisation):
    torch.manual_seed(seed)
    config = QuantisationConfig(**quantisation)
    model = nn.Sequential(
        BiasedBatchNorm(3, has_scale=False),
        nn.Conv2d(3, width, 3, bias=False),
        BiasedBatchNorm(width),
        ActivatedConv(width, 64, 3, quantisation=config),
        BiasedBatchNorm(64),
        nn.Flatten(),
        QuantisedActivation(),
        QuantisedLinear(64 * 9, 20),
        nn.Linear(20, 5),
    )
    model(torch.randn(4, 3, 7, 7))
    return model.eval()


def file_of(model):
    """As gluon's ``save_parameters`` writes it: all floats, structural names, batch norms in MXNet's words."""
    arrays, names = {}, {"3.conv": "features.3.qconv", "7": "features.5.qdense", "8": "output"}
    norm = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
    for name, module in model.named_modules():
        roles = norm if isinstance(module, BiasedBatchNorm) else {"weight": "weight", "bias": "bias"}
        for ours, theirs in roles.items():
            value = getattr(module, ours, None)
            if isinstance(value, torch.Tensor):
                arrays[f"{names.get(name, f'features.{name}')}.{theirs}"] = value.detach().numpy().copy()
    return arrays


def signs(model):
    """The network with the signs of its binary weights in their place."""
    for module in model.modules():
        if isinstance(module, QuantisedConv2d | QuantisedLinear):
            module.weight.data = torch.where(module.weight < 0, -1.0, 1.0)
    return model


def test_a_file_of_floats_goes_into_the_network_it_came_from():
    source, target, x = network(0), network(1), torch.randn(2, 3, 7, 7)
    match = import_network(target, decode_params(encode_params(file_of(source))))
    assert torch.equal(target(x), source(x))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    assert [(row.source, row.target) for row in match.rows] == [
        ("features.0", "0"), ("features.1", "1"), ("features.2", "2"), ("features.3.qconv", "3.conv"),
        ("features.4", "4"), ("features.5.qdense", "7"), ("output", "8"),
    ]  # fmt: skip
    assert "features.3.qconv -> 3.conv (64, 64, 3, 3)" in match.table()


@pytest.mark.parametrize("word_bits", [32, 64])
def test_a_converted_network_comes_back_with_its_signs(word_bits):
    source, target, x = network(0), network(1), torch.randn(2, 3, 7, 7)
    arrays = export_network(source, word_bits=word_bits)
    match = import_network(target, decode_params(encode_params(arrays)))
    assert torch.equal(target(x), source(x))
    assert all(torch.equal(a, b) for a, b in zip(signs(source).parameters(), target.parameters(), strict=True))
    assert [row.word_bits for row in match.rows] == [0, 0, 0, word_bits, 0, word_bits, 0]


def test_words_lie_in_bmxnets_layout_under_a_float_type():
    model = network()
    arrays = export_network(model)
    conv, dense = arrays["arg:3_conv_weight"], arrays["arg:7_weight"]
    assert conv.shape == (64, 2, 3, 3) and conv.dtype == np.float32
    assert dense.shape == (20, 18) and dense.dtype == np.float32
    np.testing.assert_array_equal(conv.view(np.uint32), pack_conv_words(model[3].conv.weight.detach().numpy()))
    np.testing.assert_array_equal(dense.view(np.uint32).reshape(-1), pack_dense_words(model[7].weight.detach().numpy()))
    assert list(arrays)[:4] == ["arg:0_beta", "aux:0_running_mean", "aux:0_running_var", "arg:0_gamma"]


def test_an_export_may_carry_the_names_of_the_file_that_was_imported():
    model = network()
    match = import_network(model, file_of(network(1)))
    arrays = export_network(model, names={row.target: row.source for row in match.rows})
    assert {name for name in arrays if "qconv" in name} == {"features.3.qconv.weight"}
    assert match_layers(model, arrays).is_in_order
    with pytest.raises(RunError, match=r"^7: has no name for the file"):
        export_network(model, names={row.target: row.source for row in match.rows if row.target != "7"})


def test_a_scale_that_is_fixed_stays_at_1_whatever_the_file_says():
    arrays = file_of(network(1))
    arrays["features.0.gamma"][:] = 7
    model = network()
    import_network(model, arrays)
    assert model[0].weight.tolist() == [1, 1, 1]


def test_half_precision_becomes_single():
    arrays = {name: value.astype(np.float16) for name, value in file_of(network(1)).items()}
    model = network()
    import_network(model, arrays)
    np.testing.assert_array_equal(model[8].bias.detach().numpy(), arrays["output.bias"].astype(np.float32))


def refused(arrays, model=None):
    model = model or network()
    before = [value.clone() for value in model.state_dict().values()]
    with pytest.raises(RunError) as told:
        import_network(model, arrays)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    return str(told.value)


def test_arrays_and_layers_that_are_left_over_are_named():
    arrays = file_of(network(1))
    arrays["state"] = np.ones(3, np.float32)
    arrays["output.weight"] = np.ones((7, 20), np.float32)
    message = refused(arrays)
    assert message.startswith(
        "3 arrays of the file have no place in this network (state float32 (3,), output.weight float32 (7, 20), "
        "output.bias float32 (5,)), and 1 of its layers are not in the file (8). Build"
    )
    match = match_layers(network(), arrays)
    assert (match.unused, match.missing) == (["state", "output.weight", "output.bias"], ["8"])
    assert "nothing -> 8" in match.table() and "state -> nothing" in match.table()


def test_layers_in_another_order_are_refused_with_the_table():
    arrays = file_of(network(1))
    turned = {**{name: arrays.pop(name) for name in list(arrays) if name.startswith("features.4.")}, **arrays}
    message = refused(turned)
    assert "stand in another order" in message
    assert "features.4 -> 2 (64,)" in message


def test_a_name_that_says_quantised_must_go_to_a_quantised_layer():
    pair = nn.Sequential(nn.Conv2d(32, 32, 1, bias=False), QuantisedConv2d(32, 32, 1))
    weight = np.ones((32, 32, 1, 1), np.float32)
    message = refused({"a.qconv.weight": weight, "b.weight": weight}, pair)
    assert message.startswith("a.qconv would go to 0, which is not quantised, against its name")
    message = refused({"a.weight": weight, "b.weight": weight, "c.qconv.weight": weight[:, :16]}, pair)
    assert "c.qconv.weight" in message


def test_words_under_another_type_and_weights_that_are_no_floats_are_refused():
    arrays = export_network(network(1))
    arrays["arg:3_conv_weight"] = np.ones(arrays["arg:3_conv_weight"].shape, np.float64)
    assert "arg:3_conv_weight float64 (64, 2, 3, 3)" in refused(arrays)
    arrays = file_of(network(1))
    arrays["output.weight"] = np.zeros((5, 20), np.int32)
    assert "output.weight int32 (5, 20)" in refused(arrays)
    arrays = file_of(network(1))
    arrays["output.bias"] = np.zeros(5, np.int32)
    assert refused(arrays).startswith("output.bias: holds int32, expected floats")


def test_words_of_64_bits_are_not_taken_for_words_of_32_of_the_same_shape():
    # (128, 2, 1, 1) is 128 channels in words of 64 or 64 channels in words of 32
    pair = nn.Sequential(QuantisedConv2d(64, 128, 1), QuantisedConv2d(128, 128, 1))
    again = nn.Sequential(QuantisedConv2d(64, 128, 1), QuantisedConv2d(128, 128, 1))
    match = import_network(again, export_network(pair, word_bits=64))
    assert [(row.source, row.target, row.word_bits) for row in match.rows] == [("0", "0", 64), ("1", "1", 64)]
    assert all(torch.equal(a, b) for a, b in zip(signs(pair).parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: QuantisedConv2d(48, 4, 3), "0: 48 input channels do not fill whole words of 32 bits"),
        (lambda: QuantisedConv2d(64, 4, 3, groups=2), "0: has 2 groups"),
        (lambda: QuantisedConv2d(64, 4, 3, scaling="binet"), r"0: is scaled \(binet\)"),
        (lambda: QuantisedConv2d(64, 4, 3, offset=False), r"0: returns sums \(offset=False\)"),
        (lambda: QuantisedLinear(64, 4, offset=False), r"0: returns sums \(offset=False\)"),
        (lambda: QuantisedActivation("round", 1), "0: the activation is round; BMXNet's packed layers take signs"),
    ],
)
def test_a_layer_that_bmxnet_cannot_pack_is_named(make, says):
    with pytest.raises(RunError, match=f"^{says}"):
        export_network(nn.Sequential(make()))


def test_layers_that_would_be_passed_over_are_refused():
    source, packed = network(), network(1)
    load_packed(packed, pack_network(source))
    for call in (export_network, lambda model: import_network(model, file_of(source))):
        with pytest.raises(
            RunError, match=r"layers that BMXNet does not know: 3\.conv\.signs, 7\.signs\. Packed layers"
        ):
            call(packed)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"scaling": "binet"}, r"0_weight holds words for 0, which is scaled \(binet\)"),
        ({"offset": False}, r"0_weight holds words for 0, which returns sums"),
    ],
)
def test_words_are_refused_for_a_layer_that_bmxnet_does_not_pack(keys, says):
    words = export_network(nn.Sequential(QuantisedConv2d(64, 8, 3)))
    model = nn.Sequential(QuantisedConv2d(64, 8, 3, **keys))
    before = model[0].weight.clone()
    with pytest.raises(RunError, match=says):
        import_network(model, words)
    assert torch.equal(model[0].weight, before)


def test_words_are_refused_beside_an_activation_that_gives_no_signs():
    words = export_network(nn.Sequential(QuantisedActivation(), QuantisedConv2d(64, 8, 3)))
    with pytest.raises(RunError, match="the activation is round; BMXNet's packed layers take signs"):
        import_network(nn.Sequential(QuantisedActivation("round", 1), QuantisedConv2d(64, 8, 3)), words)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused_by_name(value):
    model = nn.Sequential(nn.Linear(3, 2))
    arrays = {name: array.astype(np.float64) for name, array in export_network(model, word_bits=None).items()}
    arrays["arg:0_bias"][1] = value
    with pytest.raises(RunError, match="arg:0_bias: holds NaN, or a number too large for float32"):
        import_network(model, arrays)
