"""COCO box AP, from arrays in memory to the twelve figures, against pycocotools.

    python -m benchmarks coco-ap                 5000 images, one round (pycocotools takes over half a minute)
    python -m benchmarks coco-ap --images 500 --rounds 5

The images are drawn from a seed: about 7 true boxes of 80 classes with the frequencies of a Zipf law, and 100
detections an image, half of them near a true box. The figures of both must agree to 1e-9.
"""

import argparse
import contextlib
import importlib.metadata
import io
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.timing import emit, paired, ratios
from sightline.metrics.coco_ap import CocoAP, ScoredBoxes, TruthBoxes


def draw(num_images: int, num_classes: int, per_image: int, seed: int = 0) -> tuple[TruthBoxes, ScoredBoxes]:
    """True boxes and detections of ``num_images`` images of 640x640."""
    random = np.random.default_rng(seed)

    def random_boxes(count: int) -> Any:
        sizes = np.exp(random.normal(4.0, 1.0, (count, 2))).clip(4, 600)
        return np.concatenate((random.uniform(0, 1, (count, 2)) * (640 - sizes), sizes), axis=1)

    def random_labels(count: int) -> Any:
        return (random.zipf(1.4, count) - 1) % num_classes

    counts = 1 + random.poisson(6.3, num_images)
    truth_images = np.repeat(np.arange(num_images), counts)
    truth_boxes, truth_labels = random_boxes(len(truth_images)), random_labels(len(truth_images))

    images = np.repeat(np.arange(num_images), per_image)
    total = len(images)
    nearest = (np.cumsum(counts) - counts)[images] + (random.random(total) * counts[images]).astype(int)
    is_near = random.random(total) < 0.5
    boxes = np.where(
        is_near[:, None], truth_boxes[nearest] * np.exp(random.normal(0, 0.12, (total, 4))), random_boxes(total)
    )
    is_right = is_near & (random.random(total) < 0.85)
    labels = np.where(is_right, truth_labels[nearest], random_labels(total))
    scores = np.where(is_near, random.beta(2, 2, total), random.beta(1, 8, total))
    return TruthBoxes(truth_images, truth_boxes, truth_labels), ScoredBoxes(images, boxes, scores, labels)


def official(truths: TruthBoxes, detections: ScoredBoxes, num_images: int, num_classes: int) -> Callable[[], Any]:
    """The peer's evaluation, from its own form of the same boxes."""
    annotations = [
        {"id": i + 1, "image_id": int(image), "category_id": int(label), "bbox": box, "area": box[2] * box[3]}
        for i, (image, label, box) in enumerate(
            zip(truths.image_ids, truths.labels, truths.boxes_xywh.tolist(), strict=True)
        )
    ]
    results = np.concatenate(
        (detections.image_ids[:, None], detections.boxes_xywh, detections.scores[:, None], detections.labels[:, None]),
        axis=1,
    )

    def run() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = {
                "images": [{"id": i} for i in range(num_images)],
                "categories": [{"id": i} for i in range(num_classes)],
                "annotations": [{**annotation, "iscrowd": 0} for annotation in annotations],
            }
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(results.copy()), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation.stats

    return run


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks coco-ap", description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    options = parser.parse_args(arguments)
    truths, detections = draw(options.images, options.classes, options.detections)

    def ours() -> Any:
        metric = CocoAP(options.classes)
        metric.update(np.arange(options.images), truths, detections)
        return np.array(list(metric.compute().values()))

    results: dict[str, Any] = {}
    runs = {"ours": ours, "pycocotools": official(truths, detections, options.images, options.classes)}
    variants = {name: lambda name=name, run=run: results.update({name: run()}) for name, run in runs.items()}
    table = ratios(paired(variants, rounds=options.rounds), base="pycocotools")
    difference = float(np.abs(results["ours"] - results["pycocotools"]).max())
    if difference > 1e-9:
        raise SystemExit(f"the figures differ by {difference:g}: the comparison is void")
    emit(
        "coco_ap",
        figure=table["ours"]["cpu"],
        unit="of the peer's CPU time",
        peer=f"pycocotools {importlib.metadata.version('pycocotools')}",
        goal="<= 0.05",
        rounds=options.rounds,
        images=options.images,
        detections=len(detections.scores),
        largest_difference=difference,
        ap=float(results["ours"][0]),
        rows=table,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
