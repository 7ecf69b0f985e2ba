"""The classifiers that are not binary: our small one, and those of torchvision and timm by their names."""

import sys

import pytest
import torch
from torchvision import models

from sightline.config.errors import ConfigError
from sightline.models.small_cnn.config import SmallCNNConfig
from sightline.models.small_cnn.model import SmallCNN
from sightline.models.timm_zoo.config import TimmConfig
from sightline.models.timm_zoo.model import build_timm
from sightline.models.torchvision_zoo.config import TorchvisionConfig
from sightline.models.torchvision_zoo.model import build_torchvision


@pytest.mark.parametrize("hw", [(32, 32), (28, 28), (17, 40)])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_the_small_network_takes_any_size(hw, in_channels):
    network = SmallCNN(SmallCNNConfig(width=4), num_classes=7, in_channels=in_channels)
    assert network(torch.zeros(2, in_channels, *hw)).shape == (2, 7)


def test_weights_of_the_small_network_by_hand():
    # stem 3*4*9; block 4 -> 4: norms 2*8, convolutions 2*4*4*9; block 4 -> 8: norms 8 + 16, convolutions 4*8*9 + 8*8*9,
    # shortcut 4*8; last norm 16, last layer 8*2 + 2.
    network = SmallCNN(SmallCNNConfig(width=4, stages=2), num_classes=2)
    expected = 108 + (16 + 288) + (24 + 288 + 576 + 32) + 16 + 18
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_a_block_without_weights_is_its_shortcut():
    network = SmallCNN(SmallCNNConfig(width=4, stages=1), num_classes=2)
    (block,) = network.blocks
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(block(x), x)


SMALLEST = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn",
    "vit_b_16", "wide_resnet50_2",
)  # fmt: skip
"""One classifier of each kind that torchvision has."""


def test_every_kind_of_classifier_is_tried():
    def kind(name):
        return name.rstrip("0123456789").removesuffix("_").split("_")[0].rstrip("0123456789x")

    assert {kind(name) for name in SMALLEST} == {kind(name) for name in models.list_models(module=models)}


@pytest.mark.parametrize("name", SMALLEST)
def test_a_classifier_of_torchvision_is_built_for_any_number_of_classes(name):
    if name.startswith("regnet"):  # computes its widths with tensors, which need memory
        network = build_torchvision(TorchvisionConfig(name=name), num_classes=7, image_size=224)
        assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
        return
    with torch.device("meta"):
        network = build_torchvision(TorchvisionConfig(name=name), num_classes=7, image_size=224)
        size = 299 if name == "inception_v3" else 224
        assert network.eval()(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_classifiers_with_auxiliary_heads_give_logits_alone_in_training(name):
    with torch.device("meta"):
        network = build_torchvision(TorchvisionConfig(name=name), num_classes=7, image_size=299)
        assert network.train()(torch.zeros(2, 3, 299, 299)).shape == (2, 7)


def test_a_transformer_is_built_for_the_size_of_the_images():
    network = build_torchvision(TorchvisionConfig(name="vit_b_32"), num_classes=3, image_size=64)
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_size_that_a_transformer_cannot_be_built_for_is_an_error():
    with pytest.raises(ConfigError, match=r"image_size: vit_b_32 cannot be built for images of 50 pixels.*224"):
        build_torchvision(TorchvisionConfig(name="vit_b_32"), num_classes=3, image_size=50)


def test_a_wrong_name_is_told_with_the_nearest():
    with pytest.raises(ValueError, match=r"torchvision has no classifier 'resnet81'\. Did you mean 'resnet18'"):
        TorchvisionConfig(name="resnet81")


def test_without_timm_its_models_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'sightline\[timm\]'"):
        build_timm(TimmConfig(), num_classes=2, in_channels=3, image_size=32)


def test_models_of_timm_take_any_number_of_channels_and_classes():
    pytest.importorskip("timm", reason="the extra timm is not installed")
    for name in ("resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"):
        network = build_timm(TimmConfig(name=name), num_classes=5, in_channels=1, image_size=64)
        assert network.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, 5)
    with pytest.raises(ConfigError, match=r"timm has no 'resnet81'"):
        build_timm(TimmConfig(name="resnet81"), num_classes=5, in_channels=1, image_size=64)
