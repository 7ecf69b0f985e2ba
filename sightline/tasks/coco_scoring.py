"""Scores of any tool's COCO result file: the twelve official figures and the table of classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sightline.data.formats.coco_results import read_coco_detections, read_coco_truth
from sightline.metrics.coco_ap import CocoAP, ScoredBoxes, TruthBoxes

TITLES = {
    "AP": "AP   IoU 0.50:0.95",
    "AP50": "AP   IoU 0.50",
    "AP75": "AP   IoU 0.75",
    "AP_small": "AP   small  (below 32²)",
    "AP_medium": "AP   medium",
    "AP_large": "AP   large  (above 96²)",
    "AR_1": "AR     1 detection an image and class",
    "AR_10": "AR    10 detections",
    "AR_100": "AR   100 detections",
    "AR_small": "AR   small",
    "AR_medium": "AR   medium",
    "AR_large": "AR   large",
}


@dataclass(frozen=True)
class ClassScore:
    """One row of the table of classes; a figure is -1 where the class has no truth that counts."""

    name: str
    ap: float
    ap50: float
    ar: float
    num_truths: int
    num_detections: int


@dataclass(frozen=True)
class ScoreResult:
    """What ``sightline score coco`` reports."""

    figures: dict[str, float]
    """The twelve figures by name; -1 where nothing defines one."""
    classes: tuple[ClassScore, ...]
    num_images: int
    num_truths: int
    num_crowds: int
    num_detections: int
    notes: tuple[str, ...]
    """What a reader must know to trust the figures."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def score_coco(truth_path: Path, detections_path: Path) -> ScoreResult:
    """Score a COCO result file against a COCO annotation file, as pycocotools does.

    Args:
        truth_path: Annotations, ``instances_*.json``.
        detections_path: Results, a JSON list of ``{image_id, category_id, bbox, score}``.

    Raises:
        DataError: If a file cannot be read or holds something impossible; names file and entry.
    """
    truth = read_coco_truth(truth_path)
    found = read_coco_detections(detections_path, truth)
    metric = CocoAP(len(truth.class_names))
    metric.update(
        np.arange(len(truth.image_numbers)),
        TruthBoxes(
            truth.images,
            truth.boxes_xywh,
            truth.labels,
            is_crowd=truth.is_crowd,
            areas=truth.areas,
            annotation_ids=np.where(truth.has_id_zero, 0, 1),
        ),
        ScoredBoxes(found.images, found.boxes_xywh, found.scores, found.labels),
    )
    result = metric.evaluate()
    notes = []
    if truth.has_id_zero.any():
        index = int(np.argmax(truth.has_id_zero))
        notes.append(
            f"annotations[{index}] has the id 0. The official tool counts it as never found, and so do these "
            "figures; number annotations from 1."
        )
    flat = int(((truth.boxes_xywh[:, 2:] <= 0).any(axis=1) & ~truth.is_crowd).sum())
    if flat:
        notes.append(f"{flat:,} true boxes have no area: no detection can find them, and they count as missed.")
    return ScoreResult(
        figures=result.figures,
        classes=tuple(
            ClassScore(truth.class_names[row.label], row.ap, row.ap50, row.ar, row.num_truths, row.num_detections)
            for row in result.classes
        ),
        num_images=len(truth.image_numbers),
        num_truths=len(truth.labels),
        num_crowds=int(truth.is_crowd.sum()),
        num_detections=len(found.labels),
        notes=tuple(notes),
    )
