"""The layers of a centre head. Shapes: B samples, C channels, H x W cells, K classes of one head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from sightline.models.centerpoint.head_config import CenterHeadConfig

PRIOR_LOGIT = -2.19
"""At first every cell is a centre with a probability of 0.1."""

PARTS = (("offset", 2), ("height", 1), ("size", 3), ("rotation", 2))
"""Channels of each part of a box."""

OPENPCDET_PARTS = {
    "offset": "center",
    "height": "center_z",
    "size": "dim",
    "rotation": "rot",
    "velocity": "vel",
    "heatmap": "hm",
}


class CenterMaps(NamedTuple):
    """What one head says of every cell."""

    heatmap: Tensor
    """(B, K, H, W), before the sigmoid."""
    codes: tuple[Tensor, ...]
    """(B, its channels, H, W) of each part of a box, in the order of its code: offset, height, size, rotation, and
    velocity where it is wanted."""


class CenterPredictor(nn.Module):
    """A shared convolution, and for every head small stacks of convolutions: one for each part of what it says.

    Args:
        config: Groups, channels, layers.
        in_channels: C.
        head_sizes: Classes of each head.

    Reference:
        Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021, section 4.
    """

    def __init__(self, config: CenterHeadConfig, in_channels: int, head_sizes: Sequence[int]) -> None:
        super().__init__()
        self.shared = _block(in_channels, config.channels, config.bias_before_norm)
        self.heads = nn.ModuleList(nn.ModuleDict(_stacks(config, size)) for size in head_sizes)

    def forward(self, bev: Tensor) -> list[CenterMaps]:
        """(B, C, H, W) -> what each head says."""
        shared = self.shared(bev)
        said = []
        for head in self.heads:
            assert isinstance(head, nn.ModuleDict)
            maps = {name: stack(shared) for name, stack in head.items()}
            said.append(CenterMaps(maps.pop("heatmap"), tuple(maps.values())))
        return said


def _stacks(config: CenterHeadConfig, num_classes: int) -> dict[str, nn.Module]:
    """The stacks of one head, by the part that they say."""
    parts = [*PARTS, *([("velocity", 2)] if config.velocity else [])]
    stacks: dict[str, nn.Module] = {name: _stack(config, config.layers, channels) for name, channels in parts}
    for stack in stacks.values():
        for layer in stack.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    heatmap = _stack(config, config.heatmap_layers, num_classes)
    last = heatmap[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    nn.init.constant_(last.bias, PRIOR_LOGIT)
    return {**stacks, "heatmap": heatmap}


def _stack(config: CenterHeadConfig, layers: int, out_channels: int) -> nn.Sequential:
    width = config.channels
    blocks = [_block(width, width, config.bias_before_norm) for _ in range(layers - 1)]
    return nn.Sequential(*blocks, nn.Conv2d(width, out_channels, 3, padding=1))


def _block(in_channels: int, out_channels: int, has_bias: bool) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=has_bias)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def openpcdet_center_names(config: CenterHeadConfig, *, theirs: str = "dense_head.") -> dict[str, str]:
    """OpenPCDet's names of the layers of ``CenterHead``, each with ours relative to ``CenterPredictor``."""
    names = {f"{theirs}shared_conv.{layer}": f"shared.{layer}" for layer in (0, 1)}
    for head in range(max(len(config.groups), 1)):
        for ours, part in OPENPCDET_PARTS.items():
            if ours == "velocity" and not config.velocity:
                continue
            own, other = f"heads.{head}.{ours}", f"{theirs}heads_list.{head}.{part}"
            last = (config.heatmap_layers if ours == "heatmap" else config.layers) - 1
            for block in range(last):
                for layer in (0, 1):
                    names[f"{other}.{block}.{layer}"] = f"{own}.{block}.{layer}"
            names[f"{other}.{last}"] = f"{own}.{last}"
    return names
