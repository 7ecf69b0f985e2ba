"""Anchors in space on a regular grid, and which of them answer for which boxes.

Shapes: B samples, H x W cells, L anchors of a cell, A = H * W * L anchors, K classes, M boxes of a batch, Q pairs of a
box and an anchor of its class, E places where the two overlap. Anchors lie in the order rows (y), columns (x), anchors
of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sightline.ops.boxes3d import BoxTargets3D, nearest_bev_aligned


class AnchorGrid(NamedTuple):
    """The same few anchors at every cell of a map."""

    xs: Tensor
    """(W,) centres along x, ascending, metres."""
    ys: Tensor
    """(H,) centres along y, ascending, metres."""
    shapes: Tensor
    """(L, 5): z of the centre, dx, dy, dz, yaw."""
    labels: Tensor
    """(L,) int64, the class that each answers for."""

    @property
    def num_anchors(self) -> int:
        """A."""
        return len(self.xs) * len(self.ys) * len(self.shapes)

    def boxes(self, index: Tensor | None = None) -> Tensor:
        """(N, 7) the anchors at ``index`` (N,) in 0..A-1; all of them where there is none."""
        if index is None:
            index = torch.arange(self.num_anchors, device=self.xs.device)
        cell, shape = index // len(self.shapes), index % len(self.shapes)
        row, column = cell // len(self.xs), cell % len(self.xs)
        return torch.cat((self.xs[column, None], self.ys[row, None], self.shapes[shape]), dim=1)


class AnchorMatches(NamedTuple):
    """Which anchors of a batch are not background. An anchor's index counts through all samples: b * A + anchor."""

    anchors: Tensor
    """(P,) int64, ascending: those that answer for a box."""
    boxes: Tensor
    """(P,) int64 in 0..M-1: the box of each."""
    ignored: Tensor
    """(I,) int64, ascending: those that are not trained."""


def cell_centers(low: float, high: float, cells: int, *, is_centered: bool) -> Tensor:
    """(cells,) float32: where anchors stand along an axis.

    Args:
        low: Where the range begins, metres.
        high: Where it ends, metres.
        cells: Their number.
        is_centered: In the middle of the cells; otherwise the first stands at ``low`` and the last at ``high``.
    """
    if is_centered:
        step = (high - low) / cells
        low = low + step / 2
    else:
        step = (high - low) / max(cells - 1, 1)
    return (torch.arange(cells, dtype=torch.float64) * step + low).float()


def match_anchors(
    grid: AnchorGrid, targets: BoxTargets3D, *, matched_iou: Sequence[float], unmatched_iou: Sequence[float]
) -> AnchorMatches:
    """Anchors that answer for boxes of their class, by the IoU of both boxes turned to the nearest axis, from above.

    An anchor answers for the box with which its IoU is largest, if that reaches ``matched_iou``, or if no anchor has a
    larger one with some box. Of equally large ones the first box counts. Anchors whose largest IoU is below
    ``unmatched_iou`` are background, the others are not trained.

    A box with a number that is not finite has no anchor.

    All anchors of a shape lie on a grid, so a box overlaps those of a rectangle of cells, and only these are looked at;
    the IoU is a product of two overlaps along the axes. The result is that of all anchors against all boxes.

    Args:
        grid: The anchors.
        targets: The boxes of B samples.
        matched_iou: (K,) for each class, above 0.
        unmatched_iou: (K,) for each class, above 0.

    Reference:
        Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2; thresholds as in PointPillars.
    """
    boxes, labels = targets.boxes3d.float(), targets.labels
    device = boxes.device
    is_box = boxes[:, :7].isfinite().all(dim=1)
    box, shape = ((labels[:, None] == grid.labels) & is_box[:, None]).nonzero().unbind(1)  # (Q,)
    if len(box) == 0:
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return AnchorMatches(nothing, nothing, nothing)
    bounds = nearest_bev_aligned(boxes)  # (M, 4)
    template = torch.cat((torch.zeros_like(grid.shapes[:, :2]), grid.shapes), dim=1)
    half = nearest_bev_aligned(template)[:, 2:]  # (L, 2)
    x = _along(grid.xs, half[:, 0], bounds[:, 0::2], box, shape)
    y = _along(grid.ys, half[:, 1], bounds[:, 1::2], box, shape)

    pair, offset = _ragged(x.cells * y.cells)  # (E,)
    width = x.cells[pair]
    row, column = y.first[pair] + offset // width, x.first[pair] + offset % width
    shape, box = shape[pair], box[pair]
    overlap = x.overlap[pair, column] * y.overlap[pair, row]
    area = x.extent[shape, column] * y.extent[shape, row]
    box_area = (bounds[:, 2] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 1])
    iou = overlap / (area + box_area[box] - overlap).clamp(min=1e-6)

    counts = torch.tensor(targets.counts, dtype=torch.int64, device=device)
    sample = torch.repeat_interleave(counts, output_size=len(boxes))
    place = ((sample[box] * len(grid.ys) + row) * len(grid.xs) + column) * len(grid.shapes) + shape
    anchors, slot = torch.unique(place, return_inverse=True)  # (U,) anchors that overlap something, (E,)
    best = iou.new_zeros(len(anchors)).scatter_reduce(0, slot, iou, "amax")
    is_best = iou == best[slot]
    of_anchor = torch.full_like(anchors, len(boxes)).scatter_reduce(0, slot[is_best], box[is_best], "amin")
    best_of_box = iou.new_zeros(len(boxes)).scatter_reduce(0, box, iou, "amax")
    is_forced = torch.zeros_like(anchors, dtype=torch.bool)
    is_forced[slot[(iou == best_of_box[box]) & (iou > 0)]] = True

    label = labels[of_anchor]
    answers = is_forced | (best >= best.new_tensor(matched_iou)[label])
    is_ignored = ~answers & (best >= best.new_tensor(unmatched_iou)[label])
    return AnchorMatches(anchors[answers], of_anchor[answers], anchors[is_ignored])


class _Along(NamedTuple):
    """Anchors and boxes along one axis of N cells."""

    overlap: Tensor
    """(Q, N) common length of a box and the anchor of a cell, metres."""
    extent: Tensor
    """(L, N) length of an anchor; rounded differently at different cells."""
    first: Tensor
    """(Q,) first cell with an overlap."""
    cells: Tensor
    """(Q,) cells with an overlap; they follow each other."""


def _along(centers: Tensor, half: Tensor, bounds: Tensor, box: Tensor, shape: Tensor) -> _Along:
    low, high = centers - half[:, None], centers + half[:, None]  # (L, N)
    box_low, box_high = bounds[box].unsqueeze(2).unbind(1)  # (Q, 1)
    overlap = (torch.minimum(high[shape], box_high) - torch.maximum(low[shape], box_low)).clamp(min=0)
    meets = overlap > 0
    return _Along(overlap, high - low, meets.byte().argmax(dim=1), meets.sum(dim=1))


def _ragged(counts: Tensor) -> tuple[Tensor, Tensor]:
    """(Q,) counts to (E,) row and (E,) 0, 1, ... inside each row."""
    row = torch.repeat_interleave(counts)
    begins = counts.cumsum(0) - counts
    return row, torch.arange(len(row), device=counts.device) - begins[row]
