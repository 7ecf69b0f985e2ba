"""The official COCO evaluation, and random images to compare it with."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sightline.metrics.coco_ap import ScoredBoxes, TruthBoxes

FIGURES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


def official(image_ids, num_classes, truths: TruthBoxes, detections: ScoredBoxes, iou_thresholds=None) -> COCOeval:
    """COCOeval after ``summarize``; its ``stats`` are the twelve figures in the order of ``FIGURES``."""
    count = len(truths.image_ids)
    boxes = np.asarray(truths.boxes_xywh, dtype=float).reshape(-1, 4)
    crowd = np.zeros(count, bool) if truths.is_crowd is None else truths.is_crowd
    areas = boxes[:, 2] * boxes[:, 3] if truths.areas is None else truths.areas
    ids = np.arange(1, count + 1) if truths.annotation_ids is None else truths.annotation_ids
    images = [{"id": int(i)} for i in image_ids]
    categories = [{"id": k} for k in range(num_classes)]
    truth, found = COCO(), COCO()
    truth.dataset = {
        "images": images,
        "categories": categories,
        "annotations": [
            {
                "id": int(ids[i]),
                "image_id": int(truths.image_ids[i]),
                "category_id": int(truths.labels[i]),
                "bbox": boxes[i].tolist(),
                "area": float(areas[i]),
                "iscrowd": int(crowd[i]),
            }
            for i in range(count)
        ],
    }
    found.dataset = {
        "images": images,
        "categories": categories,
        # What loadRes makes of a result file; it cannot take an empty one.
        "annotations": [
            {
                "id": i + 1,
                "image_id": int(detections.image_ids[i]),
                "category_id": int(detections.labels[i]),
                "bbox": list(map(float, box)),
                "score": float(detections.scores[i]),
                "area": float(box[2] * box[3]),
                "iscrowd": 0,
            }
            for i, box in enumerate(np.asarray(detections.boxes_xywh, dtype=float).reshape(-1, 4))
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        if iou_thresholds is not None:
            evaluation.params.iouThrs = np.array(iou_thresholds)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def random_images(seed: int, *, max_truths=40, max_detections=200):
    """Images with crowds, coarse boxes and scores (so that scores and IoUs tie), boxes without area.

    Returns:
        image_ids, num_classes, truths, detections.
    """
    random = np.random.default_rng(seed)
    image_ids = random.permutation(60)[: random.integers(1, 8)]
    num_classes = int(random.integers(1, 5))
    grid, size = random.choice([0.001, 1, 5, 20]), random.choice([20, 100, 300])
    num_truths, num_detections = random.integers(0, max_truths), random.integers(0, max_detections)

    def boxes(count):
        return random.uniform(0, size, (count, 4))

    truth_boxes = np.round(boxes(num_truths) / grid) * grid
    found = boxes(num_detections)
    if num_truths:
        near = random.random(num_detections) < 0.7
        found[near] = truth_boxes[random.integers(0, num_truths, near.sum())]
        found[near] += random.normal(0, size * 0.05, (near.sum(), 4))
    truths = TruthBoxes(
        random.choice(image_ids, num_truths),
        truth_boxes,
        random.integers(0, num_classes, num_truths),
        is_crowd=random.random(num_truths) < 0.2,
        areas=truth_boxes[:, 2] * truth_boxes[:, 3] * random.choice([1, 0.5], num_truths),
        annotation_ids=np.arange(num_truths) + random.integers(0, 2),
    )
    detections = ScoredBoxes(
        random.choice(image_ids, num_detections),
        np.round(found / grid) * grid,
        np.round(random.random(num_detections), random.integers(1, 5)),
        random.integers(0, num_classes, num_detections),
    )
    return image_ids, num_classes, truths, detections
