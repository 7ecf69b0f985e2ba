"""What an anchor head predicts for every anchor of a bird's-eye-view map.

Shapes: B samples, C channels, H x W cells, L anchors of a cell, A = H * W * L anchors, K classes, D direction bins.
Anchors lie in the order rows (y), columns (x), anchors of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.models.blocks.anchor_config import BOX_CODE

PRIOR_PROBABILITY = 0.01


class AnchorPredictions(NamedTuple):
    """What the head says of every anchor."""

    logits: Tensor
    """(B, A, K), before the sigmoid."""
    deltas: Tensor
    """(B, A, 7) residuals, see ``ops.residual_code``."""
    directions: Tensor | None
    """(B, A, D), before the softmax."""


class AnchorPredictor(nn.Module):
    """Three 1x1 convolutions on a map, computed as one.

    Args:
        in_channels: C.
        num_classes: K.
        anchors_per_cell: L.
        direction_bins: D; 0 for none.

    Reference:
        Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018, section 3.2.
    """

    def __init__(self, in_channels: int, *, num_classes: int, anchors_per_cell: int, direction_bins: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.anchors_per_cell = anchors_per_cell
        self.direction_bins = direction_bins
        self.classes = nn.Conv2d(in_channels, anchors_per_cell * num_classes, 1)
        self.boxes = nn.Conv2d(in_channels, anchors_per_cell * BOX_CODE, 1)
        self.directions = nn.Conv2d(in_channels, anchors_per_cell * direction_bins, 1) if direction_bins else None
        # At first everything is background with a probability of 0.99, and every box is its anchor.
        assert self.classes.bias is not None
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        nn.init.normal_(self.boxes.weight, std=0.001)

    def forward(self, bev: Tensor | Sequence[Tensor]) -> AnchorPredictions:
        """What is predicted for every anchor.

        Args:
            bev: (B, C, H, W), or several maps whose channels add up to C: the same as if they were joined, without the
                time and memory that joining takes.
        """
        maps = [bev] if isinstance(bev, Tensor) else bev
        heads = [self.classes, self.boxes, *([] if self.directions is None else [self.directions])]
        weight = torch.cat([head.weight for head in heads]).flatten(1)
        bias = torch.cat([head.bias for head in heads if head.bias is not None])
        parts = torch.split(weight, [one.shape[1] for one in maps], dim=1)
        raw = F.linear(maps[0].permute(0, 2, 3, 1), parts[0], bias)  # (B, H, W, all)
        for one, part in zip(maps[1:], parts[1:], strict=True):
            raw = raw + F.linear(one.permute(0, 2, 3, 1), part)
        samples, height, width = raw.shape[:3]
        anchors = height * width * self.anchors_per_cell
        fields = torch.split(raw, [head.out_channels for head in heads], dim=-1)
        logits = fields[0].reshape(samples, anchors, self.num_classes)
        deltas = fields[1].reshape(samples, anchors, BOX_CODE)
        directions = fields[2].reshape(samples, anchors, self.direction_bins) if len(fields) > 2 else None
        return AnchorPredictions(logits, deltas, directions)
