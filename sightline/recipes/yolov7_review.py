"""The anchors of a YOLOv7 run against the boxes of its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sightline.config.printable import counted
from sightline.data.image_source import ImageTrainSource
from sightline.data.loader import BatchLoader
from sightline.engine.finding import Finding
from sightline.models.yolov7.anchor_fit import ENOUGH, judge_anchors
from sightline.models.yolov7.detector import YOLOv7
from sightline.recipes.detection2d_review import box_sizes
from sightline.tasks.detection2d import Detection2D

if TYPE_CHECKING:
    from sightline.engine.run_config import Problem
    from sightline.recipes.yolov7 import YOLOv7Run

FEWEST = 0.5
"""Where anchors fit fewer boxes, the run would not learn most of what it is shown."""


def review_anchors(config: YOLOv7Run, problem: Problem) -> Finding:
    """The best recall that the anchors allow on the training images as they are, without augmentation."""
    detector = cast(YOLOv7, cast(Detection2D, problem.task).detector)
    annotations = cast(ImageTrainSource, cast(BatchLoader, problem.train_loader).source).annotations
    sizes = box_sizes(annotations, config.image_size)  # (M, 2)
    if not len(sizes):
        return Finding("anchors", "note", "no box has a size to compare anchors with")
    fit = judge_anchors(
        sizes,
        detector.network.anchors_px.cpu(),
        ratio_threshold=config.model.loss.anchor_ratio_threshold,
        image_size=config.image_size,
        stride=detector.stride,
    )
    sides = sizes.prod(dim=1).sqrt().sort().values  # square root of the area
    least, middle, most = (sides[int(share * (len(sides) - 1))].item() for share in (0.01, 0.5, 0.99))
    text = (
        f"best possible recall {_share(fit.recall)} of {counted(len(sizes), 'box')} at image_size {config.image_size}: "
        f"boxes of {least:.2g} to {most:.3g} px, half of them below {middle:.3g} px"
    )
    if fit.recall >= ENOUGH:
        return Finding("anchors", "ok", text)
    text += f"; no anchor has the shape of {round((1 - fit.recall) * len(sizes)):,} boxes, which cannot be learned"
    cures = []
    if fit.larger_size is not None:
        cures.append(f"image_size={fit.larger_size} (recall above {ENOUGH:g})")
    if fit.better_anchors is not None:
        value = str([[list(wh) for wh in level] for level in fit.better_anchors]).replace(" ", "")
        cures.append(f"'model.anchors_px={value}' (recall {_share(fit.better_recall)})")
    return Finding("anchors", "note" if fit.recall >= FEWEST else "problem", text, ", or ".join(cures))


def _share(value: float) -> str:
    """Cut, not rounded: 1.000 is all of them."""
    return f"{int(value * 1000) / 1000:.3f}"
