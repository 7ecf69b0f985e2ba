import json

import numpy as np
import pytest

from sightline.metrics.box_details import box_details
from sightline.metrics.coco_ap import CocoAP
from sightline.metrics.confusion_matrix import ConfusionMatrix
from sightline.metrics.detection_curves import detection_curves
from tests.metrics.official import random_images


def details_of(seed):
    image_ids, num_classes, truths, detections = random_images(seed)
    metric, matrix = CocoAP(num_classes + 1), ConfusionMatrix(num_classes + 1)  # one class without any truth
    metric.update(image_ids, truths, detections)
    matrix.update(truths, detections)
    result = metric.evaluate()
    names = [f"class {i}" for i in range(num_classes + 1)]
    return result, box_details(result, detection_curves(result), matrix, names)


@pytest.mark.parametrize("seed", range(10))
def test_the_table_survives_json_and_says_what_the_evaluation_says(seed):
    result, details = details_of(seed)
    read = json.loads(json.dumps(details, allow_nan=False))
    assert read == details
    for row, ours in zip(details["classes"], result.classes, strict=True):
        assert row["ap"] == (None if ours.ap == -1 else ours.ap)
        assert row["num_truths"] == ours.num_truths
    assert details["classes"][-1]["ap"] is None
    assert details["classes"][-1]["f1"] is None


def test_curves_have_the_length_of_their_axis():
    _, details = details_of(3)
    curves = details["curves"]
    for name in ("precision", "recall", "f1"):
        assert {len(row) for row in curves[name]} == {len(curves["confidences"])} == {len(curves[f"mean_{name}"])}
    assert {len(row) for row in curves["precision_at_recall"]} == {len(curves["recalls"])}
    assert (curves["confidences"][0], curves["confidences"][-1]) == (0, 1)
    assert np.shape(details["confusion"]["counts"]) == (len(curves["f1"]) + 1,) * 2
