import numpy as np
import pytest

from sightline.metrics.yolo_ap import YoloEvaluation, fitness, interpolated_area, match_yolo


def test_the_more_confident_detection_takes_the_truth():
    box = [[0, 0, 10, 10]]
    is_true = match_yolo(box * 2, [0.4, 0.9], [0, 0], box, [0])
    assert is_true.all(axis=1).tolist() == [False, True]


def test_no_second_choice():
    # Both like the first truth best; the weaker one does not fall back to the second.
    truths = [[0, 0, 10, 10], [0, 0, 10, 9]]
    is_true = match_yolo([[0, 0, 10, 10]] * 2, [0.9, 0.8], [0, 0], truths, [0, 0])
    assert is_true.any(axis=1).tolist() == [True, False]


def test_the_overlap_must_be_larger_than_the_threshold():
    # Half of a square: IoU exactly 0.5.
    assert not match_yolo([[0, 0, 10, 5]], [0.9], [0], [[0, 0, 10, 10]], [0]).any()


def test_another_class_does_not_match():
    assert not match_yolo([[0, 0, 10, 10]], [0.9], [1], [[0, 0, 10, 10]], [0]).any()


def test_area_of_full_precision_up_to_half_recall():
    # Default: 1 up to recall 0.5, falling to 0 at 0.51: 0.505. The other way: a triangle of 0.5 / 2 more.
    recall, precision = np.array([0.5]), np.array([1.0])
    assert interpolated_area(recall, precision) == pytest.approx(0.505)
    assert interpolated_area(recall, precision, to_full_recall=True) == pytest.approx(0.75)


def test_one_perfect_image():
    evaluation = YoloEvaluation()
    box = np.array([[0, 0, 10, 10]])
    evaluation.update(box, np.array([0.9]), np.array([0]), box, np.array([0]))
    other = YoloEvaluation()
    other.merge([evaluation])
    figures = other.compute()
    assert figures["recall"] == pytest.approx(1)
    # The axis ends at recall 1.01, which the 101 recalls never see.
    assert figures["AP"] == pytest.approx(1)


def test_images_without_anything():
    evaluation = YoloEvaluation()
    evaluation.update(np.zeros((0, 4)), np.zeros(0), np.zeros(0), np.zeros((0, 4)), np.zeros(0))
    assert evaluation.compute() == {"precision": 0, "recall": 0, "AP50": 0, "AP": 0, "fitness": 0}
    assert evaluation.evaluate().ap_of_classes(3).tolist() == [0, 0, 0]


def test_fitness_is_mostly_ap():
    assert fitness({"AP50": 0.5, "AP": 0.3}) == pytest.approx(0.32)
