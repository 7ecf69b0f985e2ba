"""The training loss of centre heads. Shapes: B samples, K classes of a head, H x W cells, P boxes, D numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sightline.losses.heatmap_focal import heatmap_focal_loss, known_l1_loss
from sightline.models.centerpoint.predictor import CenterMaps
from sightline.models.centerpoint.targets import CenterTargets
from sightline.ops.heatmap import gather_cells
from sightline.ops.process_shares import share_divisors

SMALLEST_PROB = 1e-4
"""Probabilities are kept so far away from 0 and from 1."""


class HeadLoss(NamedTuple):
    """Losses of one head, not weighted yet."""

    heatmap: Tensor
    """(): sum over all cells, over the number of centres."""
    codes: Tensor
    """(D,): sums over the boxes, over their number."""


def center_losses(
    said: Sequence[CenterMaps], labels_of_heads: Sequence[Sequence[int]], targets: CenterTargets, labels: Tensor
) -> list[HeadLoss]:
    """The losses of every head, in float32 or float64.

    Numbers of centres and of boxes are those of the whole batch, also where several processes share it; at least 1.
    Several boxes of a class at one cell are one centre, and each of them counts as a box.

    Args:
        said: What each head says.
        labels_of_heads: Labels of the classes of each head, as its heat map has them.
        targets: What they should say.
        labels: (P,) of the boxes that are trained.

    Reference:
        Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021, section 4.1.
    """
    rows_of_heads = [torch.isin(labels, labels.new_tensor(own)).nonzero().squeeze(1) for own in labels_of_heads]
    wanted_maps = [targets.heatmaps[:, list(own)] for own in labels_of_heads]
    counts = [(wanted == 1).sum() for wanted in wanted_maps]
    counts += [torch.tensor(len(rows), device=labels.device) for rows in rows_of_heads]
    divisors = share_divisors(torch.stack(counts))
    centres, boxes = divisors[: len(rows_of_heads)], divisors[len(rows_of_heads) :]
    losses = []
    for head, maps in enumerate(said):
        exact = torch.float64 if maps.heatmap.dtype == torch.float64 else torch.float32
        probs = maps.heatmap.to(exact).sigmoid().clamp(SMALLEST_PROB, 1 - SMALLEST_PROB)
        focal = heatmap_focal_loss(probs, wanted_maps[head].to(exact)).sum()
        rows = rows_of_heads[head]
        samples, cells = targets.samples[rows], targets.cells[rows]
        codes = torch.cat([gather_cells(part, samples, cells) for part in maps.codes], dim=1).to(exact)  # (P_h, D)
        difference = known_l1_loss(codes, targets.codes[rows].to(exact)).sum(dim=0)
        losses.append(HeadLoss(focal / centres[head].to(exact), difference / boxes[head].to(exact)))
    return losses
