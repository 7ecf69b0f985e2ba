"""Networks of BMXNet v2: how many values they have, how many are binary, and the bytes of both forms, exactly.

The recorded names say which network: ``resnet18_e1+fp+pool|thumbnail|32``. Of what the original cannot build, or builds
with weights for another network, ours says why it does not.
"""

import json

import pytest
import torch
from pydantic import ValidationError

from sightline.config.errors import ConfigError
from sightline.models.binary_densenet.config import BinaryDenseNetConfig
from sightline.models.binary_densenet.model import BinaryDenseNet
from sightline.models.binary_resnet.config import BinaryResNetConfig
from sightline.models.binary_resnet.model import BinaryResNet
from sightline.models.blocks.binary_size import binary_size
from sightline.models.meliusnet.config import MeliusNetConfig
from sightline.models.meliusnet.model import MeliusNet
from tests.conftest import oracle, recorded

FAMILIES = {
    "resnet": (BinaryResNetConfig, BinaryResNet),
    "densenet": (BinaryDenseNetConfig, BinaryDenseNet),
    "meliusnet": (MeliusNetConfig, MeliusNet),
    "naivenet": (MeliusNetConfig, MeliusNet),
}
NOT_OURS = ("resnet50", "resnet101", "resnet152", "binet")
"""Bottleneck widths in units of two 3x3 convolutions make 340 million weights; the others cannot be built there."""


def read():
    path = recorded("bmxnet", "model_sizes.json")
    return json.loads(path.read_text()) if path.exists() else {}


def names(*, ours):
    found = [name for name in read() if name.startswith(NOT_OURS) != ours]
    return pytest.mark.parametrize("name", found or [None])


def size_of(name):
    if name is None:
        oracle("bmxnet", "model_sizes.json")
        pytest.skip("no such network is recorded")
    return read()[name]


def parts(name, size):
    """Family, keys of its configuration, and image size."""
    network, *options = name.split("|")[0].split("+")
    keys = {"variant": network, "stem": size["stem"].removesuffix("_stem")}
    if options:
        conv = "full_precision" if "fp" in options else "binary"
        keys["shortcut"] = {"conv": conv, "pool": "pool" in options}
    family = next((prefix for prefix in FAMILIES if network.startswith(prefix)), "resnet")
    return FAMILIES[family], keys


@names(ours=True)
def test_a_network_has_the_recorded_size_or_its_images_are_refused(name):
    size = size_of(name)
    (config, network), keys = parts(name, size)
    _, channels, height, _ = size["input"]
    with torch.device("meta"):
        if "error" in size:
            with pytest.raises(ConfigError, match=rf"images of {height} x {height} pixels .* fit"):
                network(config(**keys), 10, image_size=height, in_channels=channels)
            return
        net = network(config(**keys), size["classes"], image_size=height, in_channels=channels).eval()
        assert list(net(torch.empty(size["input"])).shape) == size["out"]
    ours = binary_size(net)
    assert ours.values == size["all_params_incl_running_stats"]
    assert ours.trained == size["trainable"]
    assert ours.quantised_weights == size["binary_weights"]
    assert ours.quantised_layers == size["n_binary_convs"]
    assert ours.float_bytes == size["float_bytes"]
    assert ours.packed_bytes == size["packed_bytes"]


@names(ours=False)
def test_a_network_that_is_not_ours_is_refused_and_the_others_are_named(name):
    (config, _), keys = parts(name, size_of(name))
    with pytest.raises(ValidationError, match=r"variant\n +Input should be 'resnet18_v1', 'resnet18_e1'"):
        config(**keys)
