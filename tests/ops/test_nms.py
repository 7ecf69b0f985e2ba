import importlib.util
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.ops import nms as module
from sightline.ops.boxes2d import box_iou
from sightline.ops.nms import best_candidates, class_aware_nms


def naive(boxes, scores, labels, iou_threshold):
    """Greedy suppression as the textbook writes it: O(n^2), in float64."""
    iou = box_iou(boxes.double(), boxes.double())
    left = sorted(range(len(boxes)), key=lambda i: -scores[i].item())  # stable
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if labels[i] != labels[best] or iou[best, i] <= iou_threshold]
    return kept


def crowd(count, classes, seed, size=640.0):
    random = torch.Generator().manual_seed(seed)
    centers = torch.rand(max(count // 8, 1), 2, generator=random) * size
    near = torch.randint(len(centers), (count,), generator=random)
    low = centers[near] + torch.randn(count, 2, generator=random) * 6
    boxes = torch.cat((low, low + torch.rand(count, 2, generator=random) * 80 + 5), dim=1)
    # Scores of two digits: many are equal.
    scores = (torch.rand(count, generator=random) * 100).round() / 100
    return boxes, scores, torch.randint(classes, (count,), generator=random)


def test_the_weaker_of_two_overlapping_boxes_goes():
    # 10x10 boxes shifted by 1: intersection 90, union 110, IoU 0.82; the third is far away.
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.5, 0.9, 0.3])
    assert class_aware_nms(boxes, scores, torch.zeros(3).long(), 0.8).tolist() == [1, 2]
    assert class_aware_nms(boxes, scores, torch.zeros(3).long(), 0.83).tolist() == [1, 0, 2]


def test_other_classes_stay_unless_classes_are_ignored():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    scores = torch.tensor([0.5, 0.9])
    labels = torch.tensor([3, 7])
    assert class_aware_nms(boxes, scores, labels, 0.5).tolist() == [1, 0]
    assert class_aware_nms(boxes, scores, None, 0.5).tolist() == [1]


def test_an_overlap_equal_to_the_threshold_stays():
    # The lower half of the second box is the first: intersection 100, union 200, IoU exactly 0.5.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20]])
    assert class_aware_nms(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2).long(), 0.5).tolist() == [0, 1]


def test_no_boxes():
    nothing = torch.zeros(0)
    assert class_aware_nms(torch.zeros(0, 4), nothing, nothing.long(), 0.5).tolist() == []
    assert class_aware_nms(torch.zeros(0, 4), nothing, None, 0.5, max_kept=5).tolist() == []


@pytest.mark.parametrize("max_kept", [None, 1, 25])
@pytest.mark.parametrize("iou_threshold", [0.0, 0.45, 0.95])
@pytest.mark.parametrize("count, classes", [(1, 1), (60, 1), (400, 5), (700, 80)])
def test_same_as_the_textbook(count, classes, iou_threshold, max_kept):
    boxes, scores, labels = crowd(count, classes, seed=count)
    expected = naive(boxes, scores, labels, iou_threshold)[:max_kept]
    assert class_aware_nms(boxes, scores, labels, iou_threshold, max_kept=max_kept).tolist() == expected


def test_shifted_and_class_by_class_agree_far_from_the_origin_and_with_many_classes():
    boxes, scores, labels = crowd(3000, 500, seed=1, size=4000)
    order = scores.argsort(descending=True, stable=True)
    boxes, labels = boxes[order] - 1000, labels[order]
    shifted = module._shifted(boxes, labels, 0.5)
    assert torch.equal(shifted, module._by_class(boxes, labels, 0.5))
    assert 0 < len(shifted) < 3000


@pytest.mark.parametrize("max_kept", [10, 300, 2000])
def test_growing_prefixes_change_nothing(max_kept):
    boxes, scores, labels = crowd(6000, 7, seed=3)
    whole = class_aware_nms(boxes, scores, labels, 0.3)
    assert torch.equal(class_aware_nms(boxes, scores, labels, 0.3, max_kept=max_kept), whole[:max_kept])


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from([*range(10), math.nan]), max_size=80), st.integers(1, 90), st.sampled_from([None, 0, 5, 9])
)
def test_best_candidates_are_a_stable_sort_cut_off(values, limit, above):
    if above is None:
        values = [value for value in values if not math.isnan(value)]
    scores = torch.tensor(values, dtype=torch.float32)
    wanted = [i for i, value in enumerate(values) if above is None or value > above]
    expected = sorted(wanted, key=lambda i: -values[i])[:limit]
    assert best_candidates(scores, limit, above=above).tolist() == expected


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: class_aware_nms(torch.zeros(2, 5), torch.zeros(2), None, 0.5), "boxes_xyxy"),
        (lambda: class_aware_nms(torch.zeros(2, 4), torch.zeros(3), None, 0.5), "scores"),
        (lambda: class_aware_nms(torch.zeros(2, 4), torch.zeros(2), torch.zeros(1).long(), 0.5), "labels"),
        (lambda: class_aware_nms(torch.zeros(2, 4), torch.zeros(2), None, 45), "iou_threshold"),
        (lambda: best_candidates(torch.zeros(2), 0), "limit"),
    ],
)
def test_wrong_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_suppression_does_not_load_the_package_of_its_kernel_nor_a_compiler():
    code = """
import sys, torch
from sightline.ops.nms import class_aware_nms
boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]])
assert class_aware_nms(boxes, torch.tensor([0.5, 0.9]), torch.zeros(2).long(), 0.5).tolist() == [1]
print([name for name in ("torchvision", "torch._dynamo", "sympy") if name in sys.modules])
from torchvision.ops import nms  # and it can still be imported
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_without_the_kernel_s_file_the_package_is_used(monkeypatch):
    from torchvision.ops import nms

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    module._torchvision_nms.cache_clear()
    assert module._torchvision_nms() is nms
    module._torchvision_nms.cache_clear()
