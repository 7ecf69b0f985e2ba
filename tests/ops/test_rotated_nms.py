import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops import rotated_nms as module
from sightline.ops.rotated_iou import rotated_iou_bev
from sightline.ops.rotated_nms import rotated_nms, rotated_nms_per_class


def textbook(boxes3d, scores, iou_threshold, labels=None):
    """Greedy suppression box by box."""
    iou = rotated_iou_bev(boxes3d.double(), boxes3d.double())
    left = sorted(range(len(boxes3d)), key=lambda i: -scores[i].item())  # stable
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if iou[best, i] <= iou_threshold or (labels is not None and labels[i] != labels[best])]
    return kept


def crowd(count, seed, *, around=8, area=60.0):
    """Some boxes around each object; scores of two digits, so that many are equal."""
    random = torch.Generator().manual_seed(seed)
    objects = torch.rand(max(count // around, 1), 7, generator=random) * torch.tensor([area, area, 1, 3, 1.5, 1, 6.3])
    objects[:, 3:6] += 0.5
    boxes3d = objects[torch.randint(len(objects), (count,), generator=random)]
    boxes3d = boxes3d + torch.randn(count, 7, generator=random) * torch.tensor([0.4, 0.4, 0.2, 0.1, 0.1, 0.1, 0.2])
    scores = (torch.rand(count, generator=random) * 100).round() / 100
    return boxes3d, scores, torch.randint(3, (count,), generator=random)


def row_of_boxes(*places):
    return torch.tensor([[x, 0.0, 0, 4, 2, 1.5, 0] for x in places])


def test_the_weaker_of_two_overlapping_boxes_goes():
    # 4 x 2 boxes, 1 apart along x: common 6, union 10, IoU 0.6; the third is far away.
    boxes3d, scores = row_of_boxes(0, 1, 50), torch.tensor([0.5, 0.9, 0.3])
    assert rotated_nms(boxes3d, scores, 0.59).tolist() == [1, 2]
    assert rotated_nms(boxes3d, scores, 0.61).tolist() == [1, 0, 2]


def test_a_dropped_box_drops_nobody():
    # Neighbours in a row overlap, boxes two apart do not: the second goes, so the third stays, and so on.
    assert rotated_nms(row_of_boxes(0, 3, 6, 9, 12), torch.linspace(0.9, 0.1, 5), 0.05).tolist() == [0, 2, 4]


def test_boxes_whose_bounds_meet_but_which_do_not_overlap_stay():
    # Two long boxes side by side at 45 degrees, 1.5 apart across, 1 wide.
    side = 1.5 / math.sqrt(2)
    boxes3d = torch.tensor([[0.0, 0, 0, 8, 1, 1, math.pi / 4], [-side, side, 0, 8, 1, 1, math.pi / 4]])
    assert rotated_nms(boxes3d, torch.tensor([0.9, 0.8]), 0.0).tolist() == [0, 1]


def test_equal_boxes_leave_the_first_of_the_best():
    boxes3d = row_of_boxes(0, 0, 0, 0)
    assert rotated_nms(boxes3d, torch.tensor([0.5, 0.9, 0.9, 0.1]), 0.99).tolist() == [1]
    turned = boxes3d + torch.tensor([[0, 0, 0, 0, 0, 0, k * math.pi] for k in range(4)])
    assert rotated_nms(turned, torch.tensor([0.5, 0.9, 0.9, 0.1]), 0.99).tolist() == [1]


def test_an_overlap_equal_to_the_threshold_stays():
    boxes3d = torch.tensor([[0.0, 0, 0, 4, 4, 1, 0], [0, 1, 0, 4, 2, 1, 0]])  # the second is half of the first
    assert rotated_nms(boxes3d, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert rotated_nms(boxes3d, torch.tensor([0.9, 0.8]), 0.499).tolist() == [0]


def test_height_does_not_matter():
    boxes3d = row_of_boxes(0, 0)
    boxes3d[1, 2] = 100
    assert rotated_nms(boxes3d, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]


def test_limits_of_score_candidates_and_results():
    boxes3d, scores = row_of_boxes(0, 1, 20, 40, 60), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    assert rotated_nms(boxes3d, scores, 0.1, score_threshold=0.6).tolist() == [0, 2, 3]  # 0.6 itself takes part
    assert rotated_nms(boxes3d, scores, 0.1, max_candidates=3).tolist() == [0, 2]
    assert rotated_nms(boxes3d, scores, 0.1, max_kept=2).tolist() == [0, 2]
    assert rotated_nms(boxes3d, scores, 0.1, score_threshold=2.0, max_candidates=3, max_kept=2).tolist() == []


def test_no_boxes():
    none = torch.zeros(0, 7)
    assert rotated_nms(none, torch.zeros(0), 0.5, score_threshold=0.1).tolist() == []
    for classes in (0, 2):
        kept, labels = rotated_nms_per_class(none, torch.zeros(0, classes), 0.5)
        assert kept.tolist() == labels.tolist() == []
        assert kept.dtype == labels.dtype == torch.int64


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="boxes3d: expected shape"):
        rotated_nms(torch.zeros(2, 5), torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match="scores: expected shape"):
        rotated_nms(torch.zeros(2, 7), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="labels: expected shape"):
        rotated_nms(torch.zeros(2, 7), torch.zeros(2), 0.5, labels=torch.zeros(1))
    with pytest.raises(ValueError, match="class_scores: expected shape"):
        rotated_nms_per_class(torch.zeros(2, 7), torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match="iou_threshold: expected a number"):
        rotated_nms(torch.zeros(2, 7), torch.zeros(2), 1.5)


def test_classes_that_are_told_do_not_suppress_each_other():
    boxes3d, scores = row_of_boxes(0, 0, 0.1), torch.tensor([0.5, 0.9, 0.7])
    assert rotated_nms(boxes3d, scores, 0.5, labels=torch.tensor([0, 1, 1])).tolist() == [1, 0]


def test_each_class_alone_can_keep_the_same_box():
    boxes3d = row_of_boxes(0, 1, 20)
    class_scores = torch.tensor([[0.9, 0.2], [0.8, 0.7], [0.1, 0.6]])
    kept, labels = rotated_nms_per_class(boxes3d, class_scores, 0.5, score_threshold=0.15)
    assert kept.tolist() == [0, 1, 2]
    assert labels.tolist() == [0, 1, 1]
    kept, labels = rotated_nms_per_class(boxes3d, class_scores, 0.7, max_kept=2)
    assert kept.tolist() == [0, 1, 1, 2]
    assert labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_box_that_is_not_finite_stays_and_harms_no_other(number, place):
    boxes3d, scores = row_of_boxes(0, 1, 50, 20), torch.tensor([0.5, 0.8, 0.3, 0.9])
    boxes3d[3, place] = number
    assert {1, 2} <= set(rotated_nms(boxes3d, scores, 0.5).tolist()) <= {1, 2, 3}


@pytest.mark.parametrize("iou_threshold", [0.0, 0.01, 0.1, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("count, around", [(1, 1), (2, 2), (60, 8), (300, 300), (500, 10)])
def test_same_as_the_textbook(count, around, iou_threshold):
    boxes3d, scores, labels = crowd(count, seed=count, around=around)
    assert rotated_nms(boxes3d, scores, iou_threshold).tolist() == textbook(boxes3d, scores, iou_threshold)
    expected = textbook(boxes3d, scores, iou_threshold, labels)
    assert rotated_nms(boxes3d, scores, iou_threshold, labels=labels).tolist() == expected


@pytest.mark.parametrize("worth", [0.0, 0.3, 2.0])
def test_rounds_and_the_walk_agree(monkeypatch, worth):
    monkeypatch.setattr(module, "_WORTH_A_ROUND", worth)  # never walk, sometimes, at once
    monkeypatch.setattr(module, "_FIRST_BLOCK", 1000)
    for seed, iou_threshold in enumerate((0.05, 0.4, 0.8)):
        boxes3d, scores, _ = crowd(200, seed=seed, around=40)
        assert rotated_nms(boxes3d, scores, iou_threshold).tolist() == textbook(boxes3d, scores, iou_threshold)


def test_a_long_chain_of_boxes():
    places = torch.randperm(2000, generator=torch.Generator().manual_seed(0)).argsort()  # best first along the row
    boxes3d = torch.tensor([[3.0 * i, 0, 0, 4, 2, 1.5, 0] for i in range(2000)])[places]
    kept = rotated_nms(boxes3d, -places.float(), 0.05)
    assert sorted(places[kept].tolist()) == list(range(0, 2000, 2))


def test_the_size_of_blocks_changes_nothing(monkeypatch):
    boxes3d, scores, labels = crowd(300, seed=9, around=30)
    whole = rotated_nms(boxes3d, scores, 0.3, labels=labels)
    for first, largest in ((1, 1), (7, 20), (1000, 1000)):
        monkeypatch.setattr(module, "_FIRST_BLOCK", first)
        monkeypatch.setattr(module, "_LARGEST_BLOCK", largest)
        assert torch.equal(rotated_nms(boxes3d, scores, 0.3, labels=labels), whole)
        for max_kept in (0, 1, 8, 200):
            assert torch.equal(rotated_nms(boxes3d, scores, 0.3, labels=labels, max_kept=max_kept), whole[:max_kept])


boxes = st.tuples(
    st.floats(-6, 6), st.floats(-6, 6), st.just(0), st.floats(0, 5), st.floats(0, 5), st.just(1), st.floats(-7, 7)
)


@given(st.lists(st.tuples(boxes, st.integers(0, 5)), max_size=12), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_few_boxes_of_any_kind_as_the_textbook_has_them(items, iou_threshold):
    boxes3d = torch.tensor([box for box, _ in items], dtype=torch.float64).reshape(-1, 7)
    scores = torch.tensor([float(score) for _, score in items])
    assert rotated_nms(boxes3d, scores, iou_threshold).tolist() == textbook(boxes3d, scores, iou_threshold)


@pytest.mark.gpu
def test_a_gpu_keeps_the_same_boxes():
    boxes3d, scores, labels = crowd(3000, seed=3)
    for iou_threshold in (0.01, 0.5):
        on_gpu = rotated_nms(boxes3d.cuda(), scores.cuda(), iou_threshold, labels=labels.cuda())
        assert on_gpu.cpu().tolist() == rotated_nms(boxes3d, scores, iou_threshold, labels=labels).tolist()
