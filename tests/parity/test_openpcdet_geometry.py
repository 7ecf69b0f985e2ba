"""Boxes, points, calibration, overlaps and suppression of OpenPCDet."""

import re

import numpy as np
import pytest
import torch

from sightline.ops.boxes2d import cxcywh_to_xyxy
from sightline.ops.nms import class_aware_nms
from sightline.ops.rotated_iou import paired_rotated_iou_3d, rotated_iou, rotated_iou_3d, rotated_iou_bev
from sightline.ops.rotated_nms import rotated_nms, rotated_nms_per_class
from tests.conftest import oracle

EXACT = {"rtol": 0, "atol": 1e-5}
WITH_MARGIN = {"rtol": 0, "atol": 5e-3}  # the original widens corners by 1 cm


def recorded(name):
    with np.load(oracle("openpcdet", name)) as file:
        return {key: file[key] for key in file.files}


def test_overlaps_of_boxes_are_the_exact_ones():
    arrays = recorded("iou.npz")
    a, b = torch.from_numpy(arrays["boxes_a"]), torch.from_numpy(arrays["boxes_b"])
    area = rotated_iou_bev(a, b, over="nothing")
    np.testing.assert_allclose(area, arrays["bev_intersection_exact64"], **EXACT)
    np.testing.assert_allclose(rotated_iou_bev(a, b), arrays["bev_iou_exact64"], **EXACT)
    np.testing.assert_allclose(rotated_iou_3d(a, b), arrays["iou3d_exact64"], **EXACT)


def test_overlaps_of_boxes_are_near_the_recorded_ones():
    arrays = recorded("iou.npz")
    a, b = torch.from_numpy(arrays["boxes_a"]), torch.from_numpy(arrays["boxes_b"])
    np.testing.assert_allclose(rotated_iou_bev(a, b), arrays["bev_iou_original32"], **WITH_MARGIN)
    np.testing.assert_allclose(rotated_iou_3d(a, b), arrays["iou3d_original32"], **WITH_MARGIN)
    pairs = len(arrays["paired_iou3d_original32"])
    paired = paired_rotated_iou_3d(a[:pairs], b[:pairs])
    np.testing.assert_allclose(paired, arrays["paired_iou3d_original32"], **WITH_MARGIN)


@pytest.mark.parametrize("criterion, over", [(-1, "union"), (0, "second"), (1, "first"), (2, "nothing")])
def test_overlaps_of_the_evaluation_are_the_recorded_ones_where_the_original_is_right(criterion, over):
    arrays = recorded("kitti_eval_overlaps.npz")
    mirror = np.array([1, 1, 1, 1, -1])  # x and z of the camera: the angle turns the other way
    boxes, query = (torch.from_numpy(arrays[name] * mirror) for name in ("boxes", "query"))
    expected = arrays[f"rotate_iou_criterion_{criterion}"]
    overlaps = rotated_iou(boxes, query, over=over).numpy()
    is_equal = np.abs(arrays["boxes"][:, None] - arrays["query"]).max(axis=2) < 1e-4  # there the original is wrong
    np.testing.assert_allclose(np.where(is_equal, 0, overlaps), np.where(is_equal, 0, expected), rtol=0, atol=8e-4)
    if over != "nothing":
        assert (overlaps[is_equal] > 0.999).all()


def suppression_cases(kind):
    """Recorded boxes and scores, and of each case its numbers and arrays."""
    arrays = recorded("nms.npz")
    pattern = re.compile(
        rf"{kind}_(?P<iou>[\d.]+)(_pre(?P<max_candidates>\d+))?(_post(?P<max_kept>\d+))?"
        r"(_score(?P<score>[\d.]+))?(?P<array>/.*)?"
    )
    cases = {}
    for name in arrays:
        if found := pattern.fullmatch(name):
            limits = {key: int(found[key]) for key in ("max_candidates", "max_kept") if found[key]}
            limits |= {"score_threshold": float(found["score"])} if found["score"] else {}
            cases.setdefault((float(found["iou"]), tuple(limits.items())), {})[found["array"] or ""] = arrays[name]
    assert cases
    tensors = {name: torch.from_numpy(arrays[name]) for name in ("boxes", "scores", "class_scores")}
    return tensors, [(iou, dict(limits), expected) for (iou, limits), expected in cases.items()]


def test_suppression_keeps_the_recorded_boxes():
    tensors, cases = suppression_cases("nms_rotated")
    for iou_threshold, limits, expected in cases:
        kept = rotated_nms(tensors["boxes"], tensors["scores"], iou_threshold, **limits)
        assert kept.tolist() == expected[""].tolist(), (iou_threshold, limits)


def test_suppression_of_all_classes_together_keeps_the_recorded_boxes():
    tensors, cases = suppression_cases("class_agnostic")
    for iou_threshold, limits, expected in cases:
        kept = rotated_nms(tensors["boxes"], tensors["scores"], iou_threshold, **limits)
        assert kept.tolist() == expected["/selected"].tolist()
        assert tensors["scores"][kept].tolist() == expected["/scores"].tolist()


def test_suppression_of_each_class_keeps_the_recorded_boxes():
    tensors, cases = suppression_cases("multi_class")
    for iou_threshold, limits, expected in cases:
        kept, labels = rotated_nms_per_class(tensors["boxes"], tensors["class_scores"], iou_threshold, **limits)
        assert labels.tolist() == expected["/labels0"].tolist()
        assert tensors["class_scores"][kept, labels].tolist() == expected["/scores"].tolist()
        assert tensors["boxes"][kept].tolist() == expected["/boxes"].tolist()


def test_suppression_without_angles_keeps_the_recorded_boxes():
    tensors, cases = suppression_cases("nms_axis_aligned_ignoring_heading")
    boxes_xyxy = cxcywh_to_xyxy(tensors["boxes"][:, (0, 1, 3, 4)])
    for iou_threshold, limits, expected in cases:
        assert not limits
        assert class_aware_nms(boxes_xyxy, tensors["scores"], None, iou_threshold).tolist() == expected[""].tolist()
