"""From raw head outputs to boxes, and from boxes to detections.

Shapes: B images, L levels, A anchors a level, H x W cells, K classes, N = sum of A * H * W.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.ops.boxes2d import Detections, cxcywh_to_xyxy
from sightline.ops.checks import check_shape
from sightline.ops.nms import best_candidates, class_aware_nms

SHORT_LIST = 4
"""So many candidates for each detection that is asked for are tried before all of them: mostly they are enough."""

MANY = 8
"""Only images with so many times more pairs than the short list are worth the second try."""


def decode_levels(raw: Sequence[Tensor], anchors_px: Tensor, strides: Sequence[int]) -> Tensor:
    """Boxes in pixels and probabilities of every anchor of every cell.

    Centre = ``(2 sigmoid - 0.5 + cell) * stride``, size = ``(2 sigmoid)^2 * anchor``.

    Args:
        raw: One (B, A, H, W, 5 + K) tensor a level, finest first: x, y, w, h, objectness, classes, all
            before the sigmoid. Half precision is decoded in float32.
        anchors_px: (L, A, 2) anchor width and height in input pixels.
        strides: Input pixels per cell of each level.

    Returns:
        (B, N, 5 + K): cx, cy, w, h in input pixels, objectness, class probabilities. Level by level, inside
        a level anchor by anchor, then row by row.

    Raises:
        ValueError: If the number of levels or a shape is wrong.
    """
    if not len(raw) == len(anchors_px) == len(strides):
        raise ValueError(f"raw, anchors_px, strides: {len(raw)}, {len(anchors_px)} and {len(strides)} levels.")
    decoded = []
    for logits, anchors, stride in zip(raw, anchors_px, strides, strict=True):
        check_shape("raw", logits, ("B", len(anchors), "H", "W", "5+K"))
        height, width = logits.shape[2:4]
        probs = (logits if logits.dtype == torch.float64 else logits.float()).sigmoid()
        rows = torch.arange(height, device=probs.device, dtype=probs.dtype)
        columns = torch.arange(width, device=probs.device, dtype=probs.dtype)
        cells_xy = torch.stack((columns.expand(height, width), rows[:, None].expand(height, width)), dim=-1)
        centers = (2 * probs[..., :2] - 0.5 + cells_xy) * stride
        sizes = (2 * probs[..., 2:4]).square() * anchors.to(probs)[:, None, None, :]
        decoded.append(torch.cat((centers, sizes, probs[..., 4:]), dim=-1).flatten(1, 3))
    return torch.cat(decoded, dim=1)


@torch.no_grad()
def postprocess(
    decoded: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_candidates: int = 30_000,
    max_detections: int = 300,
    class_agnostic: bool = False,
    multi_label: bool = True,
    only_labels: Sequence[int] | None = None,
) -> list[Detections]:
    """Detections of every image: threshold, keep the best candidates, suppress, keep the best detections.

    The score is objectness times class probability; with one class it is the objectness alone, because the
    class output of such a model is not trained.

    Args:
        decoded: (B, N, 5 + K) from ``decode_levels``.
        score_threshold: Candidates must have both a higher objectness and a higher score.
        iou_threshold: Of two boxes of a class with a larger IoU the weaker is dropped.
        max_candidates: The best so many (box, class) pairs of an image enter the suppression.
        max_detections: At most so many detections an image.
        class_agnostic: Boxes of different classes suppress each other too.
        multi_label: A box may be detected as several classes; otherwise only as its most probable one.
        only_labels: Report these classes only; None reports all.

    Returns:
        One ``Detections`` an image, best first, float32, boxes in input pixels and not clipped.

    Raises:
        ValueError: If a shape or a limit is wrong.
    """
    check_shape("decoded", decoded, ("B", "N", "5+K"))
    results = []
    for image in decoded:
        rows = image[image[:, 4] > score_threshold].float()
        boxes_xyxy = cxcywh_to_xyxy(rows[:, :4])
        scores, labels = _scores_and_labels(rows, multi_label, only_labels)  # (N, C), C classes or 1
        pairs = scores.flatten()
        short = min(SHORT_LIST * max_detections, max_candidates)
        for limit in (short, max_candidates) if len(pairs) > MANY * short else (max_candidates,):
            best = best_candidates(pairs, limit, above=score_threshold)
            row, column = best // scores.shape[1], best % scores.shape[1]
            found = Detections(boxes_xyxy[row], pairs[best], labels[row, column])
            classes = None if class_agnostic else found.labels
            kept = class_aware_nms(found.boxes_xyxy, found.scores, classes, iou_threshold, max_kept=max_detections)
            if len(kept) == max_detections or len(best) < limit:
                break
        results.append(Detections(*(field[kept] for field in found)))
    return results


def _scores_and_labels(rows: Tensor, multi_label: bool, only_labels: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """Scores and labels of (N, 5 + K) rows: (N, K), or (N, 1) of the best class.

    Classes that were not asked for score -1.
    """
    num_classes = rows.shape[1] - 5
    scores = rows[:, 4:5] if num_classes == 1 else rows[:, 5:] * rows[:, 4:5]  # (N, K)
    classes = torch.arange(num_classes, device=rows.device)
    labels = classes.expand(len(rows), num_classes)
    if not multi_label:
        scores, labels = scores.max(dim=1, keepdim=True)
    if only_labels is not None:
        is_asked = torch.isin(classes, torch.tensor(list(only_labels), device=rows.device))
        scores = scores.masked_fill(~is_asked[labels], -1.0)
    return scores, labels
