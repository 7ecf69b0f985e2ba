import numpy as np
import pytest

from sightline.metrics.coco_ap import ScoredBoxes, TruthBoxes
from sightline.metrics.confusion_matrix import ConfusionMatrix
from tests.metrics.official import random_images

HERE, THERE, ELSEWHERE = [0, 0, 10, 10], [50, 50, 10, 10], [90, 0, 10, 10]


def truths(boxes, labels, **columns):
    return TruthBoxes(np.zeros(len(boxes)), np.array(boxes).reshape(-1, 4), np.array(labels), **columns)


def found(boxes, labels, scores):
    return ScoredBoxes(np.zeros(len(boxes)), np.array(boxes).reshape(-1, 4), np.array(scores), np.array(labels))


def counts(truth, detections, num_classes=2):
    matrix = ConfusionMatrix(num_classes)
    matrix.update(truth, detections)
    return matrix.counts.tolist()


def test_rows_are_predicted_and_columns_true():
    # A thing of class 1 is called class 0; another of class 0 is missed; a detection of class 1 is nothing.
    assert counts(truths([HERE, THERE], [1, 0]), found([HERE, ELSEWHERE], [0, 1], [0.9, 0.8])) == [
        [0, 1, 0],
        [0, 0, 1],
        [1, 0, 0],
    ]


def test_weak_detections_are_not_looked_at():
    assert counts(truths([HERE], [0]), found([HERE], [0], [0.25])) == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_false_detections_count_where_nothing_matched():
    assert counts(truths([], []), found([HERE, THERE], [0, 1], [0.9, 0.9])) == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_a_crowd_and_what_lies_in_it_are_left_out():
    crowd = truths([[0, 0, 100, 100], [200, 200, 10, 10]], [0, 1], is_crowd=np.array([True, False]))
    assert counts(crowd, found([HERE, THERE], [0, 1], [0.9, 0.9])) == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("seed", range(20))
def test_columns_sum_to_truths_and_rows_to_detections(seed):
    image_ids, num_classes, truth, detections = random_images(seed)
    matrix = ConfusionMatrix(num_classes)
    plain = TruthBoxes(truth.image_ids, truth.boxes_xywh, truth.labels)
    matrix.update(plain, detections)
    strong = detections.scores > 0.25
    assert matrix.counts[:, :-1].sum(axis=0).tolist() == np.bincount(truth.labels, minlength=num_classes).tolist()
    assert (
        matrix.counts[:-1].sum(axis=1).tolist()
        == np.bincount(detections.labels[strong], minlength=num_classes).tolist()
    )

    # Image by image in several processes gives the same counts.
    shares = [ConfusionMatrix(num_classes) for _ in range(2)]
    for turn, image in enumerate(image_ids):
        mine, my_detections = plain.image_ids == image, detections.image_ids == image
        shares[turn % 2].update(
            TruthBoxes(plain.image_ids[mine], plain.boxes_xywh[mine], plain.labels[mine]),
            ScoredBoxes(*(column[my_detections] for column in vars(detections).values())),
        )
    shares[0].merge(shares[1:])
    np.testing.assert_array_equal(shares[0].counts, matrix.counts)


def test_a_label_that_is_no_class():
    with pytest.raises(ValueError, match="detections: label 2"):
        counts(truths([], []), found([HERE], [2], [0.9]))
