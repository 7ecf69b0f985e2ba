import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from sightline.config.errors import ConfigError
from sightline.models.binary_densenet.config import BinaryDenseNetConfig
from sightline.models.binary_densenet.model import BinaryDenseNet
from sightline.models.binary_resnet.blocks import UnitE1, UnitE2
from sightline.models.binary_resnet.config import BinaryResNetConfig, ShortcutConfig
from sightline.models.binary_resnet.model import BinaryResNet
from sightline.models.blocks.binary_layers import ActivatedConv, QuantisedConv2d, QuantisedLinear
from sightline.models.blocks.dense_trunk import transition_channels
from sightline.models.blocks.quantisation import QuantisationConfig
from sightline.models.lenet.config import LeNetConfig
from sightline.models.lenet.model import LeNet
from sightline.models.meliusnet.config import MeliusNetConfig
from sightline.models.meliusnet.model import ImprovementUnit, MeliusNet

SMALL = {"blocks": (1, 2, 1, 1), "growth": 32, "stem_channels": 32}
NETWORKS = {
    "resnet_v1": lambda: BinaryResNet(BinaryResNetConfig(variant="resnet18_v1"), 5, image_size=32),
    "resnet_e1": lambda: BinaryResNet(BinaryResNetConfig(), 5, image_size=32),
    "resnet_e2": lambda: BinaryResNet(
        BinaryResNetConfig(variant="resnet18_e2", shortcut={"conv": "full_precision", "pool": True, "groups": 4}),
        5,
        image_size=32,
    ),
    "densenet": lambda: BinaryDenseNet(BinaryDenseNetConfig(**SMALL), 5, image_size=32),
    "meliusnet": lambda: MeliusNet(MeliusNetConfig(**SMALL), 5, image_size=32),
    "meliusnet_a": lambda: MeliusNet(MeliusNetConfig(variant="meliusnet_a", **SMALL), 5, image_size=32),
    "naivenet": lambda: MeliusNet(MeliusNetConfig(variant="naivenet17", **SMALL), 5, image_size=32),
    "lenet": lambda: LeNet(LeNetConfig(), 5, image_size=32, in_channels=3),
    "lenet_float": lambda: LeNet(LeNetConfig(variant="full_precision"), 5, image_size=32, in_channels=3),
}
PLAIN, NO_SHORTCUT = QuantisationConfig(), ShortcutConfig()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def quantised(net):
    return [m for m in net.modules() if isinstance(m, (QuantisedConv2d, QuantisedLinear))]


@pytest.mark.parametrize("name", NETWORKS)
def test_images_give_logits_and_every_weight_a_gradient(name):
    net = NETWORKS[name]()
    logits = net(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 5)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for key, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
        else:
            assert key == "input_norm.weight"


@pytest.mark.parametrize("name", NETWORKS)
def test_first_and_last_layer_stay_in_full_precision(name):
    net = NETWORKS[name]()
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear, QuantisedConv2d, QuantisedLinear))]
    assert isinstance(layers[0], nn.Conv2d)
    assert layers[-1] is net.head
    assert isinstance(net.head, nn.Linear)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_go_from_one_network_to_another(name):
    net, other = NETWORKS[name]().eval(), NETWORKS[name]().eval()
    images = torch.randn(2, 3, 32, 32)
    assert not net(images).equal(other(images))
    other.load_state_dict(net.state_dict())
    assert net(images).equal(other(images))


@pytest.mark.parametrize("name", ["resnet_e1", "densenet", "meliusnet"])
def test_the_memory_format_changes_nothing_but_rounding(name):
    net = NETWORKS[name]().double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = net(images)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(images.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", ["densenet", "lenet"])
def test_a_network_compiles_as_one_graph(name):
    net = NETWORKS[name]().eval()
    images = torch.randn(1, 3, 32, 32)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), net(images))


def test_a_small_network_learns_a_batch_by_heart():
    net = MeliusNet(MeliusNetConfig(quantisation={"threshold": 1.3}, **SMALL), 4, image_size=32)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_bf16_trains():
    net = NETWORKS["densenet"]()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(net(torch.randn(4, 3, 32, 32)).float(), torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


# ---- residual networks


@pytest.mark.parametrize("variant, units", [("resnet18_e1", 16), ("resnet34_e2", 32), ("resnet18_v1", 8)])
def test_the_depth_decides_the_units(variant, units):
    with torch.device("meta"):
        net = BinaryResNet(BinaryResNetConfig(variant=variant), 10, image_size=32)
    assert sum(len(stage) for stage in net.stages) == units


def test_an_e2_unit_starts_its_shortcut_from_the_normalised_input_only_where_channels_change():
    x = torch.randn(3, 8, 4, 4)
    same = UnitE2(8, 8, shortcut=NO_SHORTCUT, quantisation=PLAIN)
    assert same(x).equal(x + same.conv(same.norm(x)))
    down = UnitE2(8, 16, 2, shortcut=NO_SHORTCUT, quantisation=PLAIN)
    normed = down.norm(x)
    assert down(x).equal(down.shortcut.conv(normed) + down.conv(normed))


def test_a_sliced_unit_leaves_the_other_channels_alone():
    x = torch.randn(2, 8, 4, 4)
    for unit in (UnitE1, UnitE2):
        out = unit(8, 8, shortcut=NO_SHORTCUT, quantisation=PLAIN, slices=4, index=2)(x)
        assert out[:, :4].equal(x[:, :4])
        assert out[:, 6:].equal(x[:, 6:])
        assert not out[:, 4:6].isclose(x[:, 4:6]).all(dim=(0, 2, 3)).any()


def test_slices_take_turns_and_the_unit_that_halves_the_map_is_whole():
    with torch.device("meta"):
        net = BinaryResNet(BinaryResNetConfig(slices=2), 10, image_size=32)
    first, second = net.stages[0], net.stages[1]
    assert [unit.begin for unit in first] == [0, 32] * 4
    assert [unit.norm.num_features for unit in first] == [32] * 8
    assert [unit.begin for unit in second] == [0] + [0, 64] * 3
    assert [unit.norm.num_features for unit in second] == [128] + [64] * 6
    assert net(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 10)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"variant": "resnet50_e1"}, "Input should be 'resnet18_v1'"),
        ({"shortcut": {"groups": 2}}, "groups=2 needs conv='full_precision'"),
        ({"shortcut": {"groups": 3, "conv": "full_precision"}}, "does not divide 64 channels"),
        ({"slices": 3}, "Input should be 1, 2, 4 or 8"),
        ({"slices": 2, "variant": "resnet18_v1"}, "slices=2 does nothing in resnet18_v1"),
        ({"stem": "small"}, "Input should be 'auto', 'thumbnail', 'imagenet' or 'grouped'"),
        ({"quantisation": {"activation_bits": 4}}, "quantisation\n.*'round' or 'dorefa'"),
    ],
)
def test_a_residual_network_that_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        BinaryResNetConfig(**keys)


def test_pooled_shortcuts_refuse_maps_that_cannot_be_halved():
    config = BinaryResNetConfig(shortcut={"pool": True})
    with pytest.raises(ConfigError, match=r"28 x 28 pixels: .* multiples of 8, not 28"):
        BinaryResNet(config, 10, image_size=28)
    net = BinaryResNet(config, 10, image_size=32)
    with pytest.raises(ConfigError, match=r"32 x 36 pixels"):
        net(torch.zeros(1, 3, 32, 36))
    assert BinaryResNet(BinaryResNetConfig(), 10, image_size=28, in_channels=1)(torch.randn(2, 1, 28, 28)).shape == (
        2,
        10,
    )


# ---- networks that grow


def test_a_dense_unit_keeps_what_it_got_and_appends():
    net = BinaryDenseNet(BinaryDenseNetConfig(**SMALL), 5, image_size=32)
    unit = net.stages[0][0]
    x = torch.randn(2, 32, 4, 4)
    out = unit(x)
    assert out.shape == (2, 64, 4, 4)
    assert out[:, :32].equal(x)
    assert out[:, 32:].equal(unit.conv(unit.norm(x)))


def test_an_improvement_unit_changes_the_last_channels():
    unit = ImprovementUnit(6, 2, 1, quantisation=PLAIN)
    x = torch.randn(2, 6, 4, 4)
    out = unit(x)
    assert out[:, :4].equal(x[:, :4])
    assert out[:, 4:].equal(x[:, 4:] + unit.conv(unit.norm(x)))


@pytest.mark.parametrize(
    "config, expected",
    [
        # 64 + 6 * 64 = 448; 448 // 2.7 = 165 -> 160; 544 // 2.7 = 201 -> 192; 576 // 2.2 = 261 -> 256.
        (BinaryDenseNetConfig(), [(448, 160), (544, 192), (576, 256)]),
        (MeliusNetConfig(), [(320, 160), (480, 224), (480, 256)]),
        (MeliusNetConfig(variant="meliusnet29"), [(320, 128), (512, 192), (704, 256)]),
        (MeliusNetConfig(variant="meliusnet42"), [(384, 160), (672, 256), (1152, 416)]),
        (MeliusNetConfig(variant="meliusnet59"), [(448, 192), (960, 320), (1856, 544)]),
        (MeliusNetConfig(variant="meliusnet_b"), [(320, 160), (544, 224), (736, 320)]),
        (MeliusNetConfig(variant="meliusnet_c"), [(256, 128), (448, 192), (832, 288)]),
        (BinaryDenseNetConfig(reductions=(2, 4, 99)), [(448, 224), (608, 160), (544, 32)]),
    ],
)
def test_transitions_leave_multiples_of_32(config, expected):
    assert list(transition_channels(config)) == expected


@pytest.mark.parametrize("variant", ["densenet37", "densenet45"])
def test_the_larger_dense_networks_run(variant):
    with torch.device("meta"):
        net = BinaryDenseNet(BinaryDenseNetConfig(variant=variant, stem="grouped"), 1000, image_size=224)
        assert net(torch.empty(1, 3, 224, 224)).shape == (1, 1000)


def test_a_dilated_network_keeps_its_maps_large():
    config = BinaryDenseNetConfig(dilated=True, **SMALL)
    with torch.device("meta"):
        net = BinaryDenseNet(config, 10, image_size=224)
        x = net.stages[0](net.stem(torch.empty(1, 3, 224, 224)))
        for transition, stage in zip(net.transitions, net.stages[1:], strict=True):
            x = stage(transition(x))
    assert x.shape[2:] == (28, 28)
    assert [net.stages[i][0].conv.conv.dilation for i in range(4)] == [(1, 1), (1, 1), (2, 2), (4, 4)]
    with pytest.raises(ConfigError, match=r"32 x 32 pixels leave a last map of 16 x 16 .* 56 to 57 pixels fit"):
        BinaryDenseNet(config, 10, image_size=32)


def test_the_parts_of_a_transition_stand_in_their_order():
    parts = ("average_pool", "norm", "shuffle", "binary_conv")
    net = BinaryDenseNet(BinaryDenseNetConfig(transition=parts, **SMALL), 5, image_size=32)
    names = [type(part).__name__ for part in net.transitions[0]]
    assert names == ["AvgPool2d", "BiasedBatchNorm", "ChannelShuffle", "ActivatedConv"]
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"variant": "densenet21"}, "Input should be 'densenet28', 'densenet37' or 'densenet45'"),
        ({"transition": ("norm", "max_pool", "relu")}, "exactly one conv or binary_conv"),
        ({"transition": ("norm", "conv")}, "exactly one max_pool or average_pool"),
        ({"transition": ("max_pool", "binary_conv"), "transition_groups": 2}, "does nothing without conv"),
        ({"transition_groups": 3}, "transition_groups=3 does not divide 448 and 160 channels"),
        ({"transition": ("max_pool", "shuffle", "conv"), "growth": 60, "blocks": (1, 1, 1, 1)}, "not 124"),
        ({"stem": "grouped", "stem_channels": 40}, "needs a multiple of 16"),
        ({"blocks": (1, 2, 3)}, "blocks"),
        ({"dilated": True, "quantisation": {"scaling": "xnor"}}, "not defined for dilated=true"),
        ({"reductions": (0.5, 2, 2)}, "greater than or equal to 1"),
    ],
)
def test_a_dense_network_that_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        BinaryDenseNetConfig(**keys)


@pytest.mark.parametrize("network, config", [(BinaryDenseNet, BinaryDenseNetConfig), (MeliusNet, MeliusNetConfig)])
def test_images_that_do_not_end_in_the_averaged_window_are_refused(network, config):
    with pytest.raises(ConfigError, match=r"28 x 28 pixels leave a last map of 3 x 3 .* 4 x 4 .* 32 to 39 pixels fit"):
        network(config(), 10, image_size=28)
    with pytest.raises(ConfigError, match=r"7 x 7 are averaged\. With the stem 'imagenet' sides of 221 to 252"):
        network(config(), 10, image_size=64)
    net = network(config(**SMALL), 10, image_size=32)
    with pytest.raises(ConfigError, match="images of 32 x 64 pixels"):
        net(torch.zeros(1, 3, 32, 64))
    with pytest.raises(ValueError, match=r"images: expected shape \(B, 3, H, W\)"):
        net(torch.zeros(1, 1, 32, 32))


# ---- LeNet


def test_lenet_takes_the_images_it_was_made_for():
    net = LeNet(LeNetConfig(), 10, image_size=28)
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    dense = next(m for m in net.modules() if isinstance(m, QuantisedLinear))
    assert dense.weight.shape == (1000, 64 * 4 * 4)  # 28 -> 24 -> 12 -> 8 -> 4
    with pytest.raises(ValueError, match=r"expected shape \(B, 1, 28, 28\)"):
        net(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ConfigError, match="16 pixels or more"):
        LeNet(LeNetConfig(), 10, image_size=15)
    assert LeNet(LeNetConfig(channels=4), 10, image_size=16)(torch.randn(2, 1, 16, 16)).shape == (2, 10)


def test_the_float_lenet_quantises_nothing_and_says_that_bits_do_nothing():
    config = LeNetConfig(variant="full_precision")
    assert not quantised(LeNet(config, 10, image_size=28))
    assert set(config.without_effect()) == {"quantisation"}
    assert not LeNetConfig().without_effect()


def test_bits_reach_every_inner_layer():
    config = QuantisationConfig(weight_bits=2, weight_method="dorefa", activation_bits=4, activation_method="round")
    nets = [
        LeNet(LeNetConfig(quantisation=config), 5, image_size=28),
        MeliusNet(MeliusNetConfig(quantisation=config, **SMALL), 5, image_size=32),
        BinaryResNet(BinaryResNetConfig(quantisation=config), 5, image_size=32),
    ]
    for net in nets:
        assert {layer.bits for layer in quantised(net)} == {2}
        units = [m for m in net.modules() if isinstance(m, ActivatedConv)]
        assert {unit.activation.bits for unit in units} == {4}
