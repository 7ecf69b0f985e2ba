"""How weights start when none are given: the page on 2D detection says it."""

import math

import pytest
import torch
from torch import nn

from sightline.models.yolov7.config import YOLOv7Config
from sightline.models.yolov7.model import YOLOv7Network


def network(seed: int = 0, *, variant: str = "tiny", width: float = 0.25) -> YOLOv7Network:
    torch.manual_seed(seed)
    return YOLOv7Network(YOLOv7Config(variant=variant, width=width), num_classes=3)


def test_the_first_convolution_has_the_spread_of_the_formula():
    # Uniform in +-1/sqrt(fan_in) has the standard deviation 1/sqrt(3 fan_in): 3 channels of 3x3, 1/sqrt(81) = 1/9.
    values = torch.cat([network(seed).layers[0].conv.weight.flatten() for seed in range(40)])  # 40 * 8 * 27
    assert values.std().item() == pytest.approx(1 / 9, rel=0.02)  # five standard errors of 8640 uniform numbers
    assert values.mean().item() == pytest.approx(0, abs=5 / 9 / math.sqrt(len(values)))
    assert values.abs().max() <= 1 / math.sqrt(27)


@pytest.mark.parametrize("variant", ["tiny", "yolov7", "w6"])
def test_so_have_all_convolutions_and_norms_start_as_the_identity(variant):
    scaled = []
    for module in network(variant=variant).modules():
        if isinstance(module, nn.Conv2d):
            scaled.append(module.weight.flatten() * math.sqrt(3 * module.weight[0].numel()))
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert (module.running_mean == 0).all()
            assert (module.running_var == 1).all()
    assert torch.cat(scaled).std().item() == pytest.approx(1, rel=0.01)


def test_the_implicit_tensors_spread_by_a_fiftieth():
    heads = [network(seed).head for seed in range(5)]
    offsets = torch.cat([offset.flatten() for head in heads for offset in head.implicit_offset])
    factors = torch.cat([factor.flatten() for head in heads for factor in head.implicit_factor])
    for values, mean in ((offsets, 0.0), (factors, 1.0)):
        assert values.mean().item() == pytest.approx(mean, abs=5 * 0.02 / math.sqrt(len(values)))
        assert values.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * len(values)))


def test_the_seed_decides_every_weight():
    first, again, other = (network(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.0.conv.weight"], other["layers.0.conv.weight"])
