import numpy as np
import pytest

from sightline.metrics.coco_ap import CocoAP, ScoredBoxes, TruthBoxes
from sightline.metrics.detection_curves import detection_curves
from tests.metrics.official import random_images


def evaluate(image_ids, num_classes, truths, detections):
    metric = CocoAP(num_classes)
    metric.update(image_ids, truths, detections)
    return metric.evaluate()


def two_truths_three_detections(num_classes=1):
    # Right at 0.9, wrong at 0.6, right at 0.3.
    boxes = np.array([[0, 0, 10, 10], [300, 300, 10, 10], [50, 50, 10, 10]])
    return evaluate(
        [0],
        num_classes,
        TruthBoxes(np.zeros(2), boxes[[0, 2]], np.zeros(2)),
        ScoredBoxes(np.zeros(3), boxes, np.array([0.9, 0.6, 0.3]), np.zeros(3)),
    )


def test_precision_recall_and_f1_of_each_confidence_by_hand():
    curves = detection_curves(two_truths_three_detections(), np.array([0.0, 0.3, 0.5, 0.6, 0.8, 0.95]))
    np.testing.assert_allclose(curves.precision[0], [2 / 3, 2 / 3, 1 / 2, 1 / 2, 1, 1])
    np.testing.assert_allclose(curves.recall[0], [1, 1, 1 / 2, 1 / 2, 1 / 2, 0])
    np.testing.assert_allclose(curves.f1[0], [0.8, 0.8, 1 / 2, 1 / 2, 2 / 3, 0])
    assert curves.best_confidence == 0.3
    assert curves.at_best() == pytest.approx({"precision": 2 / 3, "recall": 1, "f1": 0.8, "confidence": 0.3})


def test_precision_over_recall_is_that_of_ap50():
    result = two_truths_three_detections()
    curves = detection_curves(result)
    np.testing.assert_allclose(curves.precision_at_recall[0], [1] * 51 + [2 / 3] * 50)
    assert curves.precision_at_recall.mean() == pytest.approx(result.figures["AP50"])


def test_a_class_without_truth_is_in_no_mean():
    curves = detection_curves(two_truths_three_detections(num_classes=2))
    assert np.isnan(curves.precision[1]).all()
    np.testing.assert_array_equal(curves.mean_f1, curves.f1[0])


def test_nothing_at_all():
    curves = detection_curves(CocoAP(2).evaluate())
    assert curves.at_best() == {"precision": 0, "recall": 0, "f1": 0, "confidence": 0}


def test_a_detector_that_finds_nothing_has_no_precision():
    truths = TruthBoxes(np.zeros(1), np.array([[0, 0, 10, 10]]), np.zeros(1))
    wrong = ScoredBoxes(np.zeros(1), np.array([[300, 300, 10, 10]]), np.array([0.9]), np.zeros(1))
    none = ScoredBoxes(np.zeros(0), np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    for detections in (wrong, none):
        at_best = detection_curves(evaluate([0], 1, truths, detections)).at_best()
        assert (at_best["precision"], at_best["recall"], at_best["f1"]) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(30))
def test_recall_at_zero_is_that_of_the_evaluation(seed):
    result = evaluate(*random_images(seed))
    curves = detection_curves(result)
    has_truths = result.judged.num_truths > 0
    np.testing.assert_allclose(curves.recall[has_truths, 0], result.recall[0, has_truths, 0, 2])
    assert (np.diff(curves.recall[has_truths], axis=1) <= 0).all()
    both = curves.precision[has_truths] + curves.recall[has_truths]
    harmonic = 2 * curves.precision[has_truths] * curves.recall[has_truths] / np.where(both, both, 1)
    np.testing.assert_allclose(curves.f1[has_truths], harmonic, atol=1e-12)
