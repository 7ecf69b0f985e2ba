"""Boxes, points, calibration, overlaps and suppression of OpenPCDet."""

import json
import math
import re

import numpy as np
import pytest
import torch

from sightline.data.transforms.points import PointScene, WorldMove, move_world
from sightline.ops.boxes2d import box_iou, cxcywh_to_xyxy
from sightline.ops.boxes3d import (
    centers_in_range,
    corners3d,
    enlarged,
    nearest_bev_aligned,
    num_corners_in_range,
    wrap,
)
from sightline.ops.frames import (
    Calibration,
    boxes_camera_to_lidar,
    boxes_lidar_to_camera,
    camera_corners,
    image_boxes,
    observation_angles,
)
from sightline.ops.nms import class_aware_nms
from sightline.ops.point_pairs import inside_pairs
from sightline.ops.points import points_in_range
from sightline.ops.rotated_iou import paired_rotated_iou_3d, rotated_iou, rotated_iou_3d, rotated_iou_bev
from sightline.ops.rotated_nms import rotated_nms, rotated_nms_per_class
from tests.conftest import dataset, oracle

COORDINATES = {"rtol": 1e-6, "atol": 2e-5}
EXACT = {"rtol": 0, "atol": 1e-5}
WITH_MARGIN = {"rtol": 0, "atol": 5e-3}  # the original widens corners by 1 cm


def points_in_boxes(points, boxes3d, **options):
    """(N, P) mask."""
    inside = np.zeros((len(boxes3d), len(points)), bool)
    rows, owners = inside_pairs(points, boxes3d, **options)
    inside[owners, rows] = True
    return inside


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


def test_overlaps_without_angles_are_the_recorded_ones():
    arrays = recorded("iou.npz")
    a, b = torch.from_numpy(arrays["boxes_a"]), torch.from_numpy(arrays["boxes_b"])
    nearest = box_iou(nearest_bev_aligned(a), nearest_bev_aligned(b))
    np.testing.assert_allclose(nearest, arrays["nearest_bev_iou_original32"], rtol=1e-6, atol=1e-6)
    # Boxes without angles, less the distance of their centres over the diagonal around both (Zheng et al., AAAI 2020).
    pairs = len(arrays["diou_axis_aligned_paired"])
    a, b = (torch.cat((boxes[:pairs, :6], torch.zeros(pairs, 1)), dim=1) for boxes in (a, b))
    high = torch.maximum(a[:, :3] + a[:, 3:6] / 2, b[:, :3] + b[:, 3:6] / 2)
    low = torch.minimum(a[:, :3] - a[:, 3:6] / 2, b[:, :3] - b[:, 3:6] / 2)
    apart = (a[:, :3] - b[:, :3]).square().sum(1) / (high - low).square().sum(1)
    diou = paired_rotated_iou_3d(a, b) - apart
    np.testing.assert_allclose(diou, arrays["diou_axis_aligned_paired"], rtol=1e-6, atol=1e-6)


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


def frames(name):
    """Arrays of each recorded frame, by name, and its calibration and points."""
    by_frame = {}
    for key, array in recorded(name).items():
        frame, _, field = key.partition("/")
        by_frame.setdefault(frame, {})[field] = array
    assert by_frame
    calibrations = recorded("data_calib_fov.npz")
    for frame, arrays in by_frame.items():
        calibration = Calibration(*(calibrations[f"{frame}/{field}"] for field in ("P2", "R0", "V2C")))
        path = dataset("kitti_mini") / "training" / "velodyne" / f"{frame}.bin"
        size_hw = tuple(calibrations[f"{frame}/image_shape_hw"].tolist())
        yield frame, arrays, calibration, np.fromfile(path, dtype=np.float32).reshape(-1, 4), size_hw


def unpacked(packed, count):
    return np.unpackbits(packed, axis=-1)[..., :count].astype(bool)


def test_points_go_to_the_camera_and_into_the_picture_and_back_as_recorded():
    for frame, arrays, calibration, points, _ in frames("data_calib_fov.npz"):
        chosen = points[arrays["sample_index"]]
        rect = calibration.lidar_to_rect(chosen)
        np.testing.assert_allclose(rect, arrays["sample_rect"], **COORDINATES, err_msg=frame)
        pixels, depths = calibration.rect_to_image(arrays["sample_rect"])
        np.testing.assert_allclose(depths, arrays["sample_depth"], **COORDINATES)
        np.testing.assert_allclose(pixels, arrays["sample_img"], **COORDINATES)
        back = calibration.image_to_rect(arrays["sample_img"], arrays["sample_depth"])
        np.testing.assert_allclose(back, arrays["sample_rect_back_from_img"], **COORDINATES)
        np.testing.assert_allclose(calibration.rect_to_lidar(rect), arrays["sample_lidar_back"], **COORDINATES)
        assert all(array.dtype == np.float32 for array in (rect, pixels, depths, back))
        P2 = calibration.image_from_rect
        named = [P2[0, 2], P2[1, 2], P2[0, 0], P2[1, 1], -P2[0, 3] / P2[0, 0], -P2[1, 3] / P2[1, 1]]
        np.testing.assert_allclose(named, arrays["cu_cv_fu_fv_tx_ty"], rtol=1e-6)


def test_the_points_that_the_camera_sees_and_those_in_range_are_the_recorded_ones():
    used = json.loads(oracle("openpcdet", "train_config_cli.json").read_text())
    for frame, arrays, calibration, points, size_hw in frames("data_calib_fov.npz"):
        assert len(points) == arrays["num_points"]
        seen = calibration.is_in_image(points, size_hw)
        np.testing.assert_array_equal(seen, unpacked(arrays["fov_mask_packed"], len(points)), err_msg=frame)
        assert seen.sum() == arrays["fov_count"]
        names = [name.removeprefix("range_count_") for name in arrays if name.startswith("range_count_")]
        assert names
        for name in names:
            inside = points_in_range(points[seen], used[f"merged_{name}"]["DATA_CONFIG"]["POINT_CLOUD_RANGE"])
            expected = unpacked(arrays[f"range_mask_packed_of_fov_{name}"], len(inside))
            np.testing.assert_array_equal(inside, expected, err_msg=f"{frame} {name}")
            assert inside.sum() == arrays[f"range_count_{name}"]


def test_boxes_go_from_the_camera_to_the_lidar_and_back_as_recorded():
    for frame, arrays, calibration, _, _ in frames("data_boxes.npz"):
        camera, lidar = arrays["boxes_camera"], arrays["boxes_lidar_loader"]
        moved = boxes_camera_to_lidar(camera, calibration)
        assert moved.dtype == np.float32
        np.testing.assert_allclose(moved, lidar, **COORDINATES, err_msg=frame)
        moved = boxes_camera_to_lidar(camera.astype(np.float64), calibration)
        np.testing.assert_allclose(moved, arrays["boxes_lidar_infos"], **COORDINATES)
        back = boxes_lidar_to_camera(lidar, calibration)
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, arrays["boxes_camera_back"], **COORDINATES)
        angles = observation_angles(lidar, camera)
        np.testing.assert_allclose(angles, arrays["observation_angle_formula"], rtol=1e-6, atol=1e-6)


def test_corners_and_boxes_in_the_picture_are_the_recorded_ones():
    for frame, arrays, calibration, _, size_hw in frames("data_boxes.npz"):
        camera, lidar = arrays["boxes_camera"], torch.from_numpy(arrays["boxes_lidar_loader"])
        np.testing.assert_allclose(corners3d(lidar), arrays["corners_lidar"], **COORDINATES, err_msg=frame)
        np.testing.assert_allclose(camera_corners(camera), arrays["corners_camera"], **COORDINATES)
        unclipped, clipped = image_boxes(camera, calibration), image_boxes(camera, calibration, size_hw)
        np.testing.assert_allclose(unclipped, arrays["image_boxes_unclipped"], **COORDINATES)
        np.testing.assert_allclose(clipped, arrays["image_boxes_clipped"], **COORDINATES)
        aligned = nearest_bev_aligned(lidar)
        np.testing.assert_allclose(aligned, arrays["nearest_bev_aligned_boxes"], **COORDINATES)


def test_the_points_in_boxes_of_whole_clouds_are_the_recorded_ones():
    for frame, arrays, _, points, _ in frames("data_boxes.npz"):
        inside = points_in_boxes(points, arrays["boxes_lidar_loader"])
        expected = unpacked(arrays["points_in_boxes_packed"], len(points))
        np.testing.assert_array_equal(inside, expected, err_msg=frame)
        assert inside.sum(axis=1).tolist() == arrays["points_in_boxes_count_all_points"].tolist()


def test_the_seen_points_between_the_faces_of_boxes_are_as_many_as_recorded():
    for frame, arrays, calibration, points, size_hw in frames("data_boxes.npz"):
        seen = points[calibration.is_in_image(points, size_hw)]
        inside = points_in_boxes(seen.astype(np.float64), arrays["boxes_lidar_infos"], side_margin=0.0)
        recorded_counts = arrays["num_points_in_gt_hull_fov"]
        assert inside.sum(axis=1).tolist() == recorded_counts[recorded_counts >= 0].tolist(), frame


def test_boxes_beside_a_range_are_the_recorded_ones():
    arrays = recorded("data_box_utils.npz")
    boxes3d, point_range = torch.from_numpy(arrays["boxes"]), arrays["range"].tolist()
    assert centers_in_range(boxes3d, point_range).tolist() == arrays["mask_center"].tolist()
    corners = num_corners_in_range(boxes3d, point_range)
    least = [int(name.removeprefix("mask_corners_min")) for name in arrays if name.startswith("mask_corners_min")]
    assert least
    for count in least:
        assert (corners >= count).tolist() == arrays[f"mask_corners_min{count}"].tolist()


def test_corners_enlarged_boxes_and_wrapped_angles_are_the_recorded_ones():
    arrays = recorded("data_box_utils.npz")
    boxes3d, angles = torch.from_numpy(arrays["boxes"]), torch.from_numpy(arrays["angles"])
    np.testing.assert_allclose(corners3d(boxes3d), arrays["corners"], **COORDINATES)
    extras = [name for name in arrays if name.startswith("enlarge_")]
    assert extras
    for name in extras:
        larger = enlarged(boxes3d[: len(arrays[name])], [float(number) for number in name.split("_")[1:]])
        np.testing.assert_allclose(larger, arrays[name], rtol=1e-6)
    found = [re.fullmatch(r"limit_period_offset(-?[\d.]+)_period(\d*)pi", name) for name in arrays]
    assert any(found)
    for case in filter(None, found):
        wrapped = wrap(angles, float(case[1]), int(case[2] or 1) * math.pi)
        np.testing.assert_allclose(wrapped, arrays[case[0]], rtol=1e-6, atol=2e-6, err_msg=case[0])


def test_turned_points_are_the_recorded_ones():
    arrays = recorded("data_box_utils.npz")
    (expected,) = arrays["rotated_points"]
    scene = PointScene(arrays["boxes"][: len(expected), :3], np.zeros((0, 7), np.float32), np.zeros(0, np.int64))
    turned = move_world(scene, WorldMove(angle=float(arrays["rotated_points_angle"]))).points
    np.testing.assert_allclose(turned, expected, **COORDINATES)


def test_points_in_boxes_are_the_recorded_ones():
    arrays = recorded("data_box_utils.npz")
    points, boxes3d = arrays["points_in_boxes_pts"], arrays["boxes"]
    inside = points_in_boxes(points, boxes3d)
    np.testing.assert_array_equal(inside, arrays["points_in_boxes_mask"])
    np.testing.assert_array_equal(points[~inside[:60].any(axis=0)], arrays["points_left_after_removal"])
    unit_box = np.array([[0, 0, 0, 1, 1, 1, 0]], dtype=np.float32)
    edge = points_in_boxes(arrays["edge_points_unit_box"], unit_box)
    np.testing.assert_array_equal(edge, arrays["edge_inside_unit_box"].astype(bool))
