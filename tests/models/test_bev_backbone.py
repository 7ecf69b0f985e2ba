"""The pyramid on a bird's-eye-view map."""

import pytest
import torch

from sightline.models.blocks.bev_backbone import BevBackbone, BevBackboneConfig, openpcdet_backbone_names
from sightline.ops.filled_cells import FilledCells


def small(**changes):
    values = {"layers": (1, 2), "strides": (2, 2), "channels": (4, 8), "up_strides": (1, 2), "up_channels": (3, 5)}
    return BevBackboneConfig(**{**values, **changes})


def test_stages_are_joined_at_the_resolution_of_the_first():
    backbone = BevBackbone(small(), in_channels=6)
    assert backbone(torch.randn(2, 6, 16, 24)).shape == (2, 8, 8, 12)
    assert (backbone.out_channels, backbone.stride) == (8, 2)


def test_a_stage_can_be_made_coarser():
    config = small(up_strides=(0.5, 1))
    assert BevBackbone(config, in_channels=6)(torch.randn(1, 6, 16, 16)).shape == (1, 8, 4, 4)
    assert config.stride == 4


@pytest.mark.parametrize(
    ("strides", "up_strides", "stride", "divisor"),
    [((2, 2), (1, 2), 2, 4), ((2, 2), (0.5, 1), 4, 4), ((2, 1), (0.333, 0.333), 6, 6), ((1, 2), (0.25, 0.5), 4, 4)],
)
def test_a_map_of_the_divisor_leaves_whole_cells_in_every_stage(strides, up_strides, stride, divisor):
    config = small(strides=strides, up_strides=up_strides)
    assert (config.stride, config.divisor) == (stride, divisor)
    side = 2 * divisor
    assert BevBackbone(config, in_channels=6)(torch.randn(2, 6, side, side)).shape[2] == side / stride


def test_a_map_can_be_given_by_its_filled_cells():
    backbone = BevBackbone(small(), in_channels=6).eval()
    coords = torch.tensor([[0, 0, 3, 5], [1, 0, 15, 0], [1, 0, 8, 8]])
    cells = FilledCells(torch.randn(3, 6), coords, 2, (16, 16))
    torch.testing.assert_close(backbone(cells), backbone(cells.to_map()), rtol=1e-4, atol=1e-5)


def test_every_layer_of_the_original_has_its_place():
    config = small()
    names = openpcdet_backbone_names(config)
    backbone = BevBackbone(config, in_channels=6)
    with_weights = {name.rpartition(".")[0] for name in backbone.state_dict()}
    assert set(names.values()) == with_weights
    assert names["backbone_2d.blocks.1.4"] == "stages.1.3"  # second convolution: pad, conv, norm, relu come before


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"layers": (1,)}, "lengths"),
        ({"up_strides": (1, 1)}, "resolutions"),
        ({"up_strides": (1.5, 3)}, "whole numbers, or 1 over one"),
        ({"up_strides": (0.4, 0.8)}, "whole numbers, or 1 over one"),
        ({"up_strides": (4, 8)}, "0.5 cells of the input"),  # finer than the input
        ({"strides": (3, 2), "up_strides": (2, 4)}, "1.5 cells of the input"),
        ({"up_strides": (float("inf"), float("inf"))}, "finite"),
        ({"up_strides": (1e-9, 2e-9)}, "up to 1024"),
    ],
)
def test_stages_that_do_not_fit_are_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        small(**changes)
