import numpy as np
import pytest

from sightline.metrics import matching
from sightline.metrics.matching import BoxPairs, match_by_overlap, overlapping_pairs, place_in_run


def pairs_of(detections, truths, *, groups=None, truth_groups=None, crowd=None, min_iou=0.5):
    return overlapping_pairs(
        np.zeros(len(detections), int) if groups is None else np.array(groups),
        np.array(detections, float),
        np.zeros(len(truths), int) if truth_groups is None else np.array(truth_groups),
        np.array(truths, float),
        np.zeros(len(truths), bool) if crowd is None else np.array(crowd),
        min_iou=min_iou,
    )


def test_squares_that_share_a_third():
    # Two 2x2 squares, one shifted by 1: intersection 2, union 4 + 4 - 2 = 6.
    pairs = pairs_of([[0, 0, 2, 2]], [[1, 0, 2, 2]], min_iou=0.3)
    assert pairs.iou == pytest.approx([1 / 3])


def test_only_boxes_of_one_group_pair():
    box = [0, 0, 2, 2]
    pairs = pairs_of([box] * 3, [box] * 2, groups=[7, 3, 5], truth_groups=[3, 7])
    assert list(zip(pairs.detections, pairs.truths, strict=True)) == [(0, 1), (1, 0)]


def test_overlap_with_a_crowd_is_a_share_of_the_detection():
    # Half of the detection lies in the crowd: 0.5, though the IoU is 2 / (4 + 100 - 2).
    pairs = pairs_of([[-1, 0, 2, 2]], [[0, 0, 10, 10]], crowd=[True])
    assert pairs.iou == pytest.approx([0.5])


def test_many_boxes_are_looked_at_in_pieces(monkeypatch):
    random = np.random.default_rng(0)
    detections, truths = random.uniform(0, 9, (40, 4)), random.uniform(0, 9, (30, 4))
    groups, truth_groups = random.integers(0, 3, 40), np.sort(random.integers(0, 3, 30))
    whole = pairs_of(detections, truths, groups=groups, truth_groups=truth_groups, min_iou=0.1)
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", 17)
    pieces = pairs_of(detections, truths, groups=groups, truth_groups=truth_groups, min_iou=0.1)
    assert len(whole.iou) > 50
    for column in ("detections", "truths", "iou"):
        np.testing.assert_array_equal(getattr(pieces, column), getattr(whole, column))


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_no_boxes(n, m):
    assert len(pairs_of(np.ones((n, 4)), np.ones((m, 4))).iou) == 0


def test_the_largest_overlap_goes_first_and_nobody_chooses_twice():
    # Detection 0 and 1 both like truth 0 best; 1 overlaps it more. Detection 0 does not fall back to truth 1.
    pairs = BoxPairs(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.7, 0.6, 0.8]))
    detections, truths = match_by_overlap(pairs)
    assert (detections.tolist(), truths.tolist()) == ([1], [0])


def test_places_are_counted_anew_in_every_run_of_equal_keys():
    assert place_in_run(np.array([5, 5, 2, 5])).tolist() == [0, 1, 0, 0]
    assert place_in_run(np.zeros(0)).tolist() == []
