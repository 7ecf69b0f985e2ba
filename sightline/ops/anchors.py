"""Anchors against boxes, by shape alone. Shapes: M boxes, A anchors."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.ops.checks import check_shape


def anchors_that_fit(sizes_wh: Tensor, anchors_wh: Tensor, *, ratio_threshold: float) -> Tensor:
    """Which anchors are shaped like which boxes: widths and heights both differ by a factor below the threshold.

    Args:
        sizes_wh: (M, 2) width and height of the boxes, pixels, above 0.
        anchors_wh: (A, 2) of the anchors, pixels.
        ratio_threshold: Above 1.

    Returns:
        (M, A) bool.
    """
    check_shape("sizes_wh", sizes_wh, ("M", 2))
    check_shape("anchors_wh", anchors_wh, ("A", 2))
    ratio = sizes_wh[:, None] / anchors_wh.to(sizes_wh)  # (M, A, 2)
    return torch.maximum(ratio, 1 / ratio).amax(dim=-1) < ratio_threshold


def best_possible_recall(sizes_wh: Tensor, anchors_wh: Tensor, *, ratio_threshold: float) -> float:
    """Share of boxes that at least one anchor fits: no detector can learn the others. 1 where there is no box."""
    fits = anchors_that_fit(sizes_wh, anchors_wh, ratio_threshold=ratio_threshold).any(dim=1)
    return float(fits.double().mean()) if len(fits) else 1.0


def fit_anchors(sizes_wh: Tensor, count: int, *, iterations: int = 50) -> Tensor:
    """Anchors for these boxes: k-means of the logarithms of width and height, so that factors count, not pixels.

    It begins at quantiles of the area, so equal boxes give equal anchors.

    Args:
        sizes_wh: (M, 2) with M at least 1.
        count: A.
        iterations: Rounds of k-means at most.

    Returns:
        (A, 2), smallest area first.

    Reference:
        Redmon and Farhadi, "YOLO9000", CVPR 2017, section 2, "Dimension Clusters".
    """
    check_shape("sizes_wh", sizes_wh, ("M", 2))
    if len(sizes_wh) == 0:
        raise ValueError("sizes_wh: anchors need at least 1 box to be fitted to.")
    points = sizes_wh.double().log()
    by_area = points[points.sum(dim=1).argsort(stable=True)]
    places = ((torch.arange(count) + 0.5) / count * len(points)).long()
    centers = by_area[places.clamp(max=len(points) - 1)]  # (A, 2)
    for _ in range(iterations):
        nearest = torch.cdist(points, centers).argmin(dim=1)  # (M,)
        counts = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        moved = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    return centers[centers.sum(dim=1).argsort(stable=True)].exp().to(sizes_wh)
