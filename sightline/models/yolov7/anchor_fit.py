"""How well anchors fit a data set, and what would fit better."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sightline.models.yolov7.config import AnchorsPx
from sightline.ops.anchors import best_possible_recall, fit_anchors

ENOUGH = 0.98
"""A share of boxes above which anchors fit."""
MOST_ENLARGED = 4
"""A larger input is looked for up to so many times the present one."""


class AnchorFit(NamedTuple):
    """Shares of boxes that some anchor proposes itself for: the loss never asks for the others."""

    recall: float
    larger_size: int | None = None
    """The smallest larger ``image_size`` at which these anchors fit, if there is one."""
    better_anchors: AnchorsPx | None = None
    """Anchors made for the boxes, where they reach more."""
    better_recall: float = 0.0


def judge_anchors(
    sizes_wh: Tensor, anchors_px: Tensor, *, ratio_threshold: float, image_size: int, stride: int
) -> AnchorFit:
    """Compare anchors with boxes by shape.

    Args:
        sizes_wh: (M, 2) boxes in the network's input, pixels.
        anchors_px: (L, A, 2) of every level.
        ratio_threshold: As ``YOLOv7LossConfig.anchor_ratio_threshold``.
        image_size: Side of the input that the boxes were measured in.
        stride: Sides are multiples of it.
    """

    def recall(anchors: Tensor, side: int = image_size) -> float:
        scaled = sizes_wh * (side / image_size)
        return best_possible_recall(scaled, anchors.reshape(-1, 2), ratio_threshold=ratio_threshold)

    reached = recall(anchors_px)
    if reached >= ENOUGH:
        return AnchorFit(reached)
    sides = range(image_size + stride, MOST_ENLARGED * image_size + 1, stride)
    larger = next((side for side in sides if recall(anchors_px, side) >= ENOUGH), None)
    levels, per_level, _ = anchors_px.shape
    fitted = fit_anchors(sizes_wh, levels * per_level).round(decimals=1).clamp(min=1).reshape(anchors_px.shape)
    if recall(fitted) <= reached:
        return AnchorFit(reached, larger)
    table = tuple(tuple((float(f"{w:g}"), float(f"{h:g}")) for w, h in level) for level in fitted.tolist())
    return AnchorFit(reached, larger, table, recall(fitted))
