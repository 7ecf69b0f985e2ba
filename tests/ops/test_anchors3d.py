"""Anchors on a grid, and which answer for which boxes, against the rule written out for all pairs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops.anchors3d import AnchorGrid, cell_centers, match_anchors
from sightline.ops.boxes2d import box_iou
from sightline.ops.boxes3d import BoxTargets3D, nearest_bev_aligned

MATCHED, UNMATCHED = [0.6, 0.5], [0.45, 0.35]


def grid(width=12, height=10):
    shapes = torch.tensor([[0, 4, 2, 1.5, 0], [0, 4, 2, 1.5, 1.57], [0, 1, 0.8, 1.7, 0], [0, 1, 0.8, 1.7, 1.57]])
    xs, ys = (cell_centers(0, 12, cells, is_centered=True) for cells in (width, height))
    return AnchorGrid(xs, ys, shapes, torch.tensor([0, 0, 1, 1]))


def by_the_rule(anchors, boxes, labels, anchor_labels):
    """-1, 0 or 1 for each anchor, and its box."""
    kinds, answers_for = torch.zeros(len(anchors), dtype=torch.int64), torch.full((len(anchors),), -1)
    for label in range(2):
        mine, truth = (anchor_labels == label).nonzero()[:, 0], (labels == label).nonzero()[:, 0]
        if len(truth) == 0:
            continue
        # In float32 and this order of operations, as the thresholds are met or not by single bits.
        a, b = nearest_bev_aligned(anchors[mine]), nearest_bev_aligned(boxes[truth])
        low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
        width, depth = (high - low).clamp(min=0).unbind(2)
        overlap = width * depth
        area_a, area_b = ((c[:, 2] - c[:, 0]) * (c[:, 3] - c[:, 1]) for c in (a, b))
        iou = overlap / (area_a[:, None] + area_b - overlap).clamp(min=1e-6)
        torch.testing.assert_close(iou, box_iou(a, b), rtol=1e-5, atol=1e-6)
        best, which = iou.max(dim=1)
        best_of_box = iou.max(dim=0).values
        forced = ((iou == best_of_box) & (iou > 0)).any(dim=1)
        answers = forced | (best >= MATCHED[label])
        kinds[mine[~answers & (best >= UNMATCHED[label])]] = -1
        kinds[mine[answers]] = 1
        answers_for[mine[answers]] = truth[which[answers]]
    return kinds, answers_for


box = st.tuples(
    st.floats(-3, 15), st.floats(-3, 15), st.floats(0.3, 9), st.floats(0.3, 9), st.floats(-7, 7), st.integers(0, 1)
)


@given(st.lists(st.lists(box, max_size=6), min_size=1, max_size=3))
def test_targets_are_those_of_all_anchors_against_all_boxes(samples):
    rows = [one for sample in samples for one in sample]
    boxes = torch.tensor([[x, y, 0, dx, dy, 1, yaw] for x, y, dx, dy, yaw, _ in rows]).reshape(-1, 7)
    labels = torch.tensor([row[-1] for row in rows], dtype=torch.int64)
    targets = BoxTargets3D(boxes, labels, tuple(len(sample) for sample in samples))
    anchors = grid()
    found = match_anchors(anchors, targets, matched_iou=MATCHED, unmatched_iou=UNMATCHED)
    kinds = torch.zeros(len(samples) * anchors.num_anchors, dtype=torch.int64)
    answers_for = torch.full_like(kinds, -1)
    kinds[found.anchors], kinds[found.ignored] = 1, -1
    answers_for[found.anchors] = found.boxes
    of_anchor = anchors.labels.repeat(anchors.num_anchors // len(anchors.labels))
    first = 0
    for number, (own, own_labels) in enumerate(targets.split()):
        wanted, wanted_boxes = by_the_rule(anchors.boxes(), own, own_labels, of_anchor)
        part = slice(number * anchors.num_anchors, (number + 1) * anchors.num_anchors)
        assert torch.equal(kinds[part], wanted)
        assert torch.equal(answers_for[part], torch.where(wanted_boxes < 0, -1, wanted_boxes + first))
        first += len(own)


def test_a_box_between_two_anchors_has_both():
    # Anchors every metre; a box of their size half a metre off overlaps two of them alike: 3.5 / 4.5.
    anchors = grid(width=12, height=12)
    targets = BoxTargets3D(torch.tensor([[6.0, 5.5, 0, 4, 2, 1.5, 0]]), torch.tensor([0]), (1,))
    found = match_anchors(anchors, targets, matched_iou=[0.9, 0.9], unmatched_iou=UNMATCHED)
    assert anchors.boxes(found.anchors)[:, :2].tolist() == [[5.5, 5.5], [6.5, 5.5]]


def test_boxes_beside_the_map_and_frames_without_boxes_have_no_anchor():
    boxes = torch.tensor([[50.0, 50, 0, 4, 2, 1.5, 0]])
    for targets in (
        BoxTargets3D(boxes, torch.tensor([0]), (1, 0)),
        BoxTargets3D(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64), (0, 0)),
    ):
        found = match_anchors(grid(), targets, matched_iou=MATCHED, unmatched_iou=UNMATCHED)
        assert [len(part) for part in found] == [0, 0, 0]


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_box_with_a_number_that_is_not_finite_has_no_anchor(place, number):
    boxes = torch.tensor([[6.0, 5.5, 0, 4, 2, 1.5, 0]] * 2)
    boxes[0, place] = number
    found = match_anchors(
        grid(), BoxTargets3D(boxes, torch.tensor([0, 0]), (1, 1)), matched_iou=MATCHED, unmatched_iou=UNMATCHED
    )
    assert len(found.boxes) and (found.boxes == 1).all()


def test_anchors_stand_on_the_edge_or_in_the_middle_of_cells():
    assert cell_centers(0, 8, 5, is_centered=False).tolist() == [0, 2, 4, 6, 8]
    assert cell_centers(0, 8, 4, is_centered=True).tolist() == [1, 3, 5, 7]
    assert cell_centers(2, 8, 1, is_centered=False).tolist() == [2]


def test_anchors_can_be_had_one_by_one():
    anchors = grid()
    index = torch.tensor([0, 7, 479])
    assert torch.equal(anchors.boxes(index), anchors.boxes()[index])
