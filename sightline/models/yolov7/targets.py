"""Which anchors of which cells answer for which true box.

Two steps: every box proposes the cells around its centre on each level whose anchors have about its shape
(``find_candidates``); then either all of them are positives, or a matching picks the ones whose present
predictions fit best (``match_predictions``, a simplified optimal transport).

Shapes: B images, L levels, A anchors a level, H x W cells, K classes, M true boxes, C candidates.

Reference: Wang et al., "YOLOv7", CVPR 2023; Ge et al., "OTA", CVPR 2021, and "YOLOX", 2021 (dynamic k).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sightline.ops.boxes2d import cxcywh_to_xyxy
from sightline.ops.checks import check_shape

MAX_PAIRS = 1 << 22
"""(box, candidate) pairs that are compared at once: 16 MiB per float32 table of costs."""

IOU_COST = 3.0
"""Weight of the box part of the matching cost against the class part."""


class Positives(NamedTuple):
    """Anchors in charge of a true box; all fields (C,) int64, sorted by level."""

    level: Tensor
    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    target: Tensor
    """Which true box."""

    def take(self, index: Tensor) -> "Positives":
        """The chosen rows, in the order of ``index``."""
        return Positives(*(field[index] for field in self))

    def by_level(self, num_levels: int) -> list["Positives"]:
        """One slice a level."""
        sizes = torch.bincount(self.level, minlength=num_levels).tolist()
        ends = torch.tensor(sizes).cumsum(0).tolist()
        return [Positives(*(field[end - size : end] for field in self)) for size, end in zip(sizes, ends, strict=True)]


@torch.no_grad()
def find_candidates(
    boxes_cxcywh: Tensor,
    image_index: Tensor,
    anchors_px: Tensor,
    strides: Sequence[int],
    grids_hw: Sequence[tuple[int, int]],
    *,
    ratio_threshold: float = 4.0,
    reach: float = 0.5,
) -> Positives:
    """Anchors shaped like a box, in the cell of its centre and in neighbour cells nearer than ``reach``.

    With reach 0.5 a box gets its own cell and the nearer one to the left or right and above or below: three
    cells. With reach 1 all four neighbours: five cells. Cells outside the grid are moved to its edge, so one
    anchor may be proposed twice.

    Args:
        boxes_cxcywh: (M, 4) true boxes in input pixels.
        image_index: (M,) the image of each.
        anchors_px: (L, A, 2) width and height in input pixels.
        strides: Pixels per cell of each level.
        grids_hw: Cells of each level.
        ratio_threshold: The sides of box and anchor may differ by a factor below this.
        reach: In cells, in (0, 1].

    Returns:
        Candidates sorted by level; inside a level by [own, left, above, right, below] cell, then by anchor,
        then by box. The order decides which of two candidates for one anchor sets its objectness.
    """
    check_shape("boxes_cxcywh", boxes_cxcywh, ("M", 4))
    check_shape("anchors_px", anchors_px, (len(strides), "A", 2))
    stride = boxes_cxcywh.new_tensor(strides)[:, None, None]  # (L, 1, 1)
    grid_wh = torch.tensor([(width, height) for height, width in grids_hw], device=boxes_cxcywh.device)
    centers = (boxes_cxcywh[:, :2] / stride).float()  # (L, M, 2) in cells
    sizes = (boxes_cxcywh[:, 2:] / stride).float()
    anchors = anchors_px.to(stride) / stride  # (L, A, 2)

    ratio = sizes[:, None] / anchors.float()[:, :, None]  # (L, A, M, 2)
    fits = torch.maximum(ratio, 1 / ratio).amax(dim=-1) < ratio_threshold  # (L, A, M)
    from_end = grid_wh[:, None] - centers
    near_start = (centers % 1 < reach) & (centers > 1)  # (L, M, 2): left, above
    near_end = (from_end % 1 < reach) & (from_end > 1)  # (L, M, 2): right, below
    own = torch.ones_like(near_start[..., :1])
    cells = torch.cat((own, near_start, near_end), dim=-1).transpose(1, 2)  # (L, 5, M)
    level, cell, anchor, target = (cells[:, :, None] & fits[:, None]).nonzero(as_tuple=True)  # (L, 5, A, M)

    steps = centers.new_tensor([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]]) * reach
    column_row = (centers[level, target] - steps[cell]).long()
    column_row = torch.minimum(column_row.clamp(min=0), grid_wh[level] - 1)
    return Positives(level, image_index[target], anchor, column_row[:, 1], column_row[:, 0], target)


@torch.no_grad()
def match_predictions(
    raw: Sequence[Tensor],
    candidates: Positives,
    boxes_cxcywh: Tensor,
    labels: Tensor,
    image_index: Tensor,
    anchors_px: Tensor,
    strides: Sequence[int],
    *,
    iou_candidates: int = 10,
    max_pairs: int = MAX_PAIRS,
) -> Positives:
    """Of an image's candidates keep those whose predictions are the cheapest answers to its boxes.

    The cost of a (box, candidate) pair is the binary cross-entropy of ``sqrt(objectness * class)`` against
    the box's class, summed over classes, plus 3 times ``-log(IoU)``. A box gets as many candidates as the
    ``iou_candidates`` largest IoUs add up to, rounded down, at least one: the cheapest ones, also such that
    another box has proposed. A candidate that several boxes claim goes to the box for which it is cheapest.

    The images are worked on together, in chunks of at most ``max_pairs`` pairs, or one box where one is more.

    Args:
        raw: Lead predictions, one (B, A, H, W, 5 + K) a level, before the sigmoid.
        candidates: From ``find_candidates``.
        boxes_cxcywh: (M, 4) true boxes in input pixels.
        labels: (M,) their classes.
        image_index: (M,) the image of each.
        anchors_px: (L, A, 2).
        strides: Pixels per cell of each level.
        iou_candidates: See above.
        max_pairs: Bounds the memory, not the result.

    Returns:
        The kept candidates with the box each now answers for, by level, then image, then candidate.
    """
    count = len(candidates.level)
    if count == 0:
        return candidates
    predicted, answers = _predictions_at(raw, candidates, anchors_px, strides)
    truth = cxcywh_to_xyxy(boxes_cxcywh.float())
    by_image = candidates.image.argsort(stable=True)
    boxes_by_image = image_index.argsort(stable=True)
    num_images = len(raw[0])
    sizes = torch.stack(
        (
            torch.bincount(candidates.image, minlength=num_images),
            torch.bincount(image_index, minlength=num_images),
        )
    )
    starts = sizes.cumsum(1) - sizes

    matched = torch.full((count,), -1, device=predicted.device)
    widths, heights = sizes.tolist()
    for images, box_step in _chunks(list(zip(widths, heights, strict=True)), max_pairs):
        slots, is_candidate = _padded(by_image, starts[0, images], sizes[0, images])  # (I, P)
        box_slots, is_box = _padded(boxes_by_image, starts[1, images], sizes[1, images])  # (I, G)
        claims = torch.zeros_like(slots)
        claimed_by = torch.full_like(slots, -1)  # the last box that claims a candidate
        cheapest = torch.full_like(slots, -1)  # the box for which it is cheapest
        lowest = torch.full(slots.shape, torch.inf, device=slots.device)
        for first in range(0, box_slots.shape[1], box_step):
            part = slice(first, first + box_step)
            iou = _iou_table(truth[box_slots[:, part]], predicted[slots])  # (I, G', P)
            iou *= is_candidate[:, None]
            cost = answers.cost(slots, labels[box_slots[:, part]]) - IOU_COST * (iou + 1e-8).log()
            cost = cost.clamp_(min=0).nan_to_num_(nan=torch.inf)
            pair_exists = is_box[:, part, None] & is_candidate[:, None]
            cost = cost.masked_fill_(~pair_exists, torch.inf)

            k = iou.topk(min(iou_candidates, iou.shape[2])).values.sum(dim=2).long().clamp(min=1)  # (I, G')
            image, box, place = _cheapest(cost, k * is_box[:, part], widths[images])
            place = image * slots.shape[1] + place
            claims.view(-1).scatter_add_(0, place, torch.ones_like(place))
            claimed_by.view(-1).scatter_reduce_(0, place, box + first, "amax")

            part_lowest, part_cheapest = cost.min(dim=1)
            is_lower = part_lowest < lowest
            lowest = torch.where(is_lower, part_lowest, lowest)
            cheapest = torch.where(is_lower, part_cheapest + first, cheapest)
        owner = torch.where(claims > 1, cheapest, claimed_by)  # (I, P)
        is_kept = owner >= 0
        matched[slots[is_kept]] = box_slots.gather(1, owner.clamp(min=0))[is_kept]

    kept = by_image[matched[by_image] >= 0]
    kept = kept[candidates.level[kept].argsort(stable=True)]
    return candidates._replace(target=matched).take(kept)


class _Answers(NamedTuple):
    """What the candidates say about objectness and class, made ready for the class part of the cost.

    With p = sqrt(objectness * class), the cross-entropy against one class c, summed over classes, is
    ``sum_k -log(1 - p_k)  -  (log p_c - log(1 - p_c))``: one number a candidate and one look-up a pair,
    instead of K terms a pair.
    """

    all_absent: Tensor
    """(C,) the sum."""
    present: Tensor
    """(C, K) the bracket for each class."""

    def cost(self, slots: Tensor, labels: Tensor) -> Tensor:
        """(I, P) candidates and (I, G) classes of boxes to (I, G, P)."""
        position = slots[:, None] * self.present.shape[1] + labels[:, :, None]
        return self.all_absent[slots][:, None] - self.present.take(position)


def _predictions_at(
    raw: Sequence[Tensor], candidates: Positives, anchors_px: Tensor, strides: Sequence[int]
) -> tuple[Tensor, _Answers]:
    """(C, 4) predicted boxes_xyxy in pixels, and the answers, in the order of the candidates."""
    probs_by_level, cells, anchors = [], [], []
    for i, here in enumerate(candidates.by_level(len(raw))):
        probs_by_level.append(raw[i][here.image, here.anchor, here.row, here.column].float().sigmoid_())
        cells.append(torch.stack((here.column, here.row), dim=1))
        anchors.append(anchors_px[i, here.anchor])
    probs = torch.cat(probs_by_level)
    stride = torch.tensor(strides, device=probs.device)[candidates.level][:, None]
    centers = (2 * probs[:, :2] - 0.5 + torch.cat(cells)) * stride
    sizes = (2 * probs[:, 2:4]).square() * torch.cat(anchors).float()
    joint = (probs[:, 5:] * probs[:, 4:5]).sqrt_()
    # Away from 0 and 1, where a logarithm is infinite: a saturated answer costs about 16 or 87, never NaN.
    joint.clamp_(min=torch.finfo(torch.float32).tiny, max=1 - torch.finfo(torch.float32).eps)
    log_absent = torch.log1p(-joint)
    return cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1)), _Answers(
        -log_absent.sum(dim=1), joint.log_().sub_(log_absent)
    )


def _chunks(sizes: Sequence[Sequence[int]], max_pairs: int) -> Iterator[tuple[slice, int]]:
    """Runs of images whose padded table stays below ``max_pairs``, and how many boxes of each to take at once.

    Args:
        sizes: (candidates, boxes) of each image.
        max_pairs: Pairs at once.
    """
    first = 0
    while first < len(sizes):
        end, most_candidates, most_boxes = first, 0, 0
        while end < len(sizes):
            wider, higher = max(most_candidates, sizes[end][0]), max(most_boxes, sizes[end][1])
            if end > first and (end + 1 - first) * wider * higher > max_pairs:
                break
            end, most_candidates, most_boxes = end + 1, wider, higher
        if most_candidates and most_boxes:
            yield slice(first, end), max(1, min(most_boxes, max_pairs // ((end - first) * most_candidates)))
        first = end


def _padded(order: Tensor, starts: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of ``order`` side by side: (I, longest) entries, and which of them are real."""
    steps = torch.arange(int(sizes.max()), device=order.device)
    index = (starts[:, None] + steps).clamp(max=len(order) - 1)
    return order[index], steps < sizes[:, None]


def _iou_table(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """IoU of (I, G, 4) with (I, P, 4) boxes_xyxy: (I, G, P), 0 for boxes without area."""
    left_a, top_a, right_a, bottom_a = boxes_a[:, :, None].unbind(-1)  # (I, G, 1)
    left_b, top_b, right_b, bottom_b = boxes_b[:, None].unbind(-1)  # (I, 1, P)
    width = torch.minimum(right_a, right_b).sub_(torch.maximum(left_a, left_b)).clamp_(min=0)
    height = torch.minimum(bottom_a, bottom_b).sub_(torch.maximum(top_a, top_b)).clamp_(min=0)
    overlap = width.mul_(height)
    area_a, area_b = (right_a - left_a) * (bottom_a - top_a), (right_b - left_b) * (bottom_b - top_b)
    return overlap.div_((area_a + area_b - overlap).clamp_(min=torch.finfo(torch.float32).tiny))


def _cheapest(cost: Tensor, k: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` cheapest candidates of each box: image, box and candidate, flat.

    Candidates that stand in a list twice cost the same, and which of them is taken can decide what remains
    for another box. ``topk`` leaves that open; on the CPU its choice depends on k and on the length of the
    row and nothing else, so there each box is asked for exactly k out of exactly its image's candidates, as
    a loop over boxes would. On other devices one call for all boxes is much faster.

    Args:
        cost: (I, G, P), infinite where there is no pair.
        k: (I, G) at least 1, or 0 for padding.
        widths: Candidates of each image.
    """
    return _cheapest_row_by_row(cost, k, widths) if cost.device.type == "cpu" else _cheapest_at_once(cost, k)


def _cheapest_at_once(cost: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values, place = cost.topk(min(int(k.max()), cost.shape[2]), largest=False)  # (I, G, most)
    is_claim = (torch.arange(place.shape[2], device=k.device) < k[..., None]) & values.isfinite()
    image, box, _ = is_claim.nonzero(as_tuple=True)
    return image, box, place[is_claim]


def _cheapest_row_by_row(cost: Tensor, k: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    images, boxes, places = [k.new_empty(0)], [k.new_empty(0)], [k.new_empty(0)]
    for i, width in enumerate(widths):
        wanted = k[i].clamp(max=width)
        for count in sorted(set(wanted.tolist()) - {0}):
            rows = (wanted == count).nonzero().squeeze(1)
            values, place = cost[i, rows, :width].topk(count, largest=False)
            is_claim = values.isfinite()
            places.append(place[is_claim])
            boxes.append(rows[:, None].expand_as(place)[is_claim])
            images.append(torch.full_like(boxes[-1], i))
    return torch.cat(images), torch.cat(boxes), torch.cat(places)
