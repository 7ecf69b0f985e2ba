"""CenterPoint on pillars as other programs run it. Shapes: G heads, H x W cells, K classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sightline.models.blocks.pillar_graph import UNDECIDED, PillarGraph
from sightline.models.centerpoint.predictor import CenterMaps

SHORT = 100 * UNDECIDED
"""The direction of a shorter vector of cosine and sine is left to roundings."""


class CenterPointGraph(PillarGraph):
    """What is exported: for every head the boxes of all cells of its map, N = G * H * W."""

    scores_are = "a box may be several detections, each of a class; 0 for classes of other heads"

    @property
    def suppression(self) -> dict[str, Any]:
        """Threshold, space, overlap, how many, and the classes of each head."""
        head = self.model.config.head
        names = ("score_threshold", "max_peaks", "nms_iou_threshold", "max_candidates", "max_detections")
        return {
            **{name: getattr(head, name) for name in names},
            "center_range": list(head.center_range),
            "labels_of_heads": [list(labels) for labels in self.model.head.labels_of_heads],
        }

    def maps(self, points: Tensor, num_points: Tensor, coords: Tensor) -> list[CenterMaps]:
        """What each head says, of what ``forward`` takes."""
        said: list[CenterMaps] = self.model.head(self.model.backbone(self.bev(points, num_points, coords)))
        return said

    def forward(self, points: Tensor, num_points: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """See ``PillarGraph``; boxes (N, 7 or 9), those of one head after those of another, by y, then x."""
        head = self.model.head
        boxes3d, scores = [], []
        for maps, labels in zip(self.maps(points, num_points, coords), head.labels_of_heads, strict=True):
            codes = [part[0].flatten(1).T for part in maps.codes]
            boxes3d.append(head.boxes_at(codes, torch.arange(len(codes[0]), device=codes[0].device)))
            probs = maps.heatmap[0].flatten(1).sigmoid()
            own = dict(zip(labels, probs, strict=True))
            nothing = torch.zeros_like(probs[0])
            scores.append(torch.stack([own.get(label, nothing) for label in range(head.num_classes)], dim=1))
        return torch.cat(boxes3d), torch.cat(scores)

    def undecided(self, points: Tensor, num_points: Tensor, coords: Tensor) -> Tensor:
        """(N,) bool: cosine and sine are nearly 0, or the yaw is nearly half a turn."""
        found = []
        for maps in self.maps(points, num_points, coords):
            cosine, sine = maps.codes[3][0].flatten(1)
            is_behind = torch.atan2(sine, cosine).abs() >= math.pi - UNDECIDED
            found.append(is_behind | (torch.hypot(cosine, sine) <= SHORT))
        return torch.cat(found)
