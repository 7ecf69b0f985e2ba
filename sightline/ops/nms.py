"""Greedy non-maximum suppression of axis-aligned boxes, class by class. Shapes: N boxes.

There is no limit of time: the work is bounded by how many candidates the caller hands in and how many
detections it wants, so the same boxes come out on a slow machine.
"""

import importlib.util
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sightline.ops.checks import check_shape

SHIFTED_LIMIT = 1000
"""Up to about so many boxes one pass over all classes at once is cheaper than a pass for each class."""

SHIFTED_LIMIT_ON_ACCELERATOR = 20_000
"""The same on a GPU, where one large kernel beats many small ones for longer."""

_LIBRARIES = {".so", ".dylib", ".pyd"}


def best_candidates(scores: Tensor, limit: int, *, above: float | None = None) -> Tensor:
    """Indices of the ``limit`` highest scores, best first; equal scores stay in their order.

    Args:
        scores: (N,), finite.
        limit: At most so many, >= 1.
        above: Only scores above this one; then NaN is allowed and left out.

    Returns:
        (M,) int64, M <= min(N, limit).

    Raises:
        ValueError: If the shape or the limit is wrong.
    """
    check_shape("scores", scores, ("N",))
    if limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}.")
    is_chosen = torch.ones_like(scores, dtype=torch.bool) if above is None else scores > above
    if len(scores) > limit and is_chosen.count_nonzero() > limit:
        # Sorting everything costs more than leaving out most of it before. The best of each of some groups are
        # different scores, so no score that gets in is lower than the last of the ``limit`` best of those.
        groups = min(4 * limit, len(scores))
        per_group = len(scores) // groups
        best_of_groups = scores[: per_group * groups].reshape(per_group, groups).amax(dim=0)
        is_chosen &= ~(scores < best_of_groups.topk(limit, sorted=False).values.min())
    chosen = is_chosen.nonzero().squeeze(1)
    return chosen[scores[chosen].argsort(descending=True, stable=True)[:limit]]


def class_aware_nms(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    *,
    max_kept: int | None = None,
) -> Tensor:
    """Greedy suppression: walk from the best box down, drop what overlaps a kept box of its own class.

    A greedy pass over the best n candidates gives the beginning of the pass over all of them, so when only
    ``max_kept`` are wanted, growing prefixes are tried until one yields enough. The result is the same.

    Args:
        boxes_xyxy: (N, 4), finite, any unit.
        scores: (N,), finite. Equal scores are taken in the order given.
        labels: (N,) integers; None lets boxes of all classes suppress each other.
        iou_threshold: Boxes with a larger IoU are dropped, in [0, 1].
        max_kept: Stop after so many kept boxes.

    Returns:
        (K,) int64 indices of the kept boxes, best first.

    Raises:
        ValueError: If a shape or the threshold is wrong.
    """
    check_shape("boxes_xyxy", boxes_xyxy, ("N", 4))
    check_shape("scores", scores, (len(boxes_xyxy),))
    if labels is not None:
        check_shape("labels", labels, (len(boxes_xyxy),))
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold: expected a number in [0, 1], got {iou_threshold}.")
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes_xyxy[order] if boxes_xyxy.dtype == torch.float64 else boxes_xyxy[order].float()
    labels = None if labels is None else labels[order]
    count = len(order)
    size = count if max_kept is None else min(count, 2 * max(max_kept, 1))
    while True:
        kept = _suppress_sorted(boxes[:size], None if labels is None else labels[:size], iou_threshold)
        if max_kept is None:
            return order[kept]
        if size == count or len(kept) >= max_kept:
            return order[kept[:max_kept]]
        wanted = 1.25 * size * max_kept / max(len(kept), 1)  # later boxes are dropped more often
        size = min(max(int(wanted), size + 1), 4 * size, count)


@cache
def _torchvision_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    """The kernel of torchvision, without its Python package where that is possible.

    The package loads torch's compiler too: a second, and more memory than most models. The kernel's file is not part
    of the package's public face, so where it is not found, or says no, the package is imported after all.
    """
    package = importlib.util.find_spec("torchvision")
    folders = [] if package is None else list(package.submodule_search_locations or [])
    for path in sorted(path for folder in folders for path in Path(folder).glob("_C*") if path.suffix in _LIBRARIES):
        with suppress(OSError, AttributeError):
            torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
            kernel: Callable[[Tensor, Tensor, float], Tensor] = torch.ops.torchvision.nms
            return kernel
    from torchvision.ops import nms

    return nms  # type: ignore[no-any-return]


def _suppress_sorted(boxes_xyxy: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    """Kept positions, ascending, of boxes that are already sorted best first."""
    if labels is None or len(labels) == 0:
        return _torchvision_nms()(boxes_xyxy, _descending(boxes_xyxy), iou_threshold)
    is_small = len(labels) <= (SHIFTED_LIMIT if boxes_xyxy.device.type == "cpu" else SHIFTED_LIMIT_ON_ACCELERATOR)
    return (_shifted if is_small else _by_class)(boxes_xyxy, labels, iou_threshold)


def _shifted(boxes_xyxy: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """One pass over all boxes, each class moved to a place of its own.

    In float64, because float32 would round coordinates by hundredths of a pixel at class 80 and change which
    boxes are kept. (Apple's GPUs have no float64.)
    """
    exact = boxes_xyxy.to(torch.float32 if boxes_xyxy.device.type == "mps" else torch.float64)
    extent = exact.max() - exact.min() + 1
    shifted = exact + (labels.to(exact) * extent)[:, None]
    return _torchvision_nms()(shifted, _descending(shifted), iou_threshold)


def _by_class(boxes_xyxy: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """One pass for each class: linear in the number of classes, not quadratic in the number of boxes."""
    nms = _torchvision_nms()
    scores = _descending(boxes_xyxy)
    by_class = labels.argsort(stable=True)  # inside a class still best first
    kept = []
    start = 0
    for size in torch.bincount(labels).tolist():
        same = by_class[start : start + size]
        kept.append(same[nms(boxes_xyxy[same], scores[same], iou_threshold)])
        start += size
    return torch.cat(kept).sort().values


def _descending(boxes: Tensor) -> Tensor:
    """Scores for boxes that are already in their order, without equals."""
    return -torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
