"""Geometry, colours and batches of the input pipeline against the recorded ones.

Geometry agrees to rounding errors of float32. Pixels are compared with a difference of one level on 99 %. OpenCV's warp
and colour conversion differ between its releases 4 and 5: what was recorded of the one that is installed counts.
"""

import json

import cv2
import numpy as np
import pytest
import torch

from sightline.data.memory import Scratch
from sightline.data.sampler import RectangularSampler
from sightline.data.transforms.affine import (
    Affine,
    affine_matrix,
    boxes_worth_keeping,
    clip_boxes,
    transform_boxes,
)
from sightline.data.transforms.colour import apply_hsv, hsv_tables
from sightline.data.transforms.image import PAD_VALUE, mix_up, plan_letterbox, resize, resized_hw, write_planes
from sightline.data.transforms.mosaic import border_of, mosaic4_tiles, mosaic9_tiles, paint, place, warp
from sightline.metrics.coco_ap import xyxy_to_xywh
from sightline.metrics.matching import overlapping_pairs
from sightline.ops.boxes2d import cxcywh_to_xyxy, xyxy_to_cxcywh
from tests.conftest import oracle, recorded

META = recorded("yolov7", "data", "meta.json")


def arrays(name):
    found = dict(np.load(oracle("yolov7", "data", f"{name}.npz"), allow_pickle=False))
    if int(cv2.__version__.partition(".")[0]) < 5:
        with np.load(oracle("yolov7", "data", "opencv4_differences.npz"), allow_pickle=False) as others:
            found |= {key.partition(":")[2]: others[key] for key in others if key.startswith(f"{name}:")}
    return found


def each(name, **conditions):
    """Runs a test for all recorded cases of a section; skips, naming the file, where there is none."""
    if not META.exists():
        return pytest.mark.skip(reason="oracle file missing: yolov7/data/meta.json (set SIGHTLINE_ORACLES)")
    found = [case for case in json.loads(META.read_text())[name] if conditions.items() <= case.items()]
    return pytest.mark.parametrize("case", found, ids=[str(case["i"]) for case in found])


def assert_same_picture(image, expected):
    assert image.shape == expected.shape
    assert (np.abs(image.astype(int) - expected) <= 1).mean() >= 0.99


def xyxy_of(rows, hw):
    """(N, 5) class and normalised centre and size -> (N, 4) corners in pixels."""
    centre, half = rows[:, 1:3].astype(np.float64), rows[:, 3:5].astype(np.float64) / 2
    return np.concatenate((centre - half, centre + half), axis=1) * np.array((hw[1], hw[0]) * 2)


@each("letterbox")
def test_letterboxing_gives_the_recorded_image_scale_and_padding(case):
    recorded = arrays("letterbox")
    image, expected = recorded[f"in{case['i']}"], recorded[f"out{case['i']}"]
    shape, options = case["new_shape"], dict(case["kwargs"])
    input_hw = tuple(shape) if isinstance(shape, list) else (shape, shape)
    stretch = options.get("scaleFill", False)
    plan = plan_letterbox(
        image.shape[:2],
        input_hw,
        stride=options.get("stride", 32) if options.get("auto", True) else None,
        stretch=stretch,
        upscale=options.get("scaleup", True),
    )
    assert plan.input_hw == tuple(case["out_shape"][:2])
    assert plan.scale_xy == pytest.approx(case["ratio"], rel=1e-12)  # a quotient, but for its last bit
    assert plan.half_pad_xy == tuple(case["pad"])
    planes = np.empty((3, *plan.input_hw), np.uint8)  # as the loader and the predictor pad
    resized = resize(image, plan.resized_hw)
    write_planes(resized, planes, Scratch(), left_top=plan.left_top, background=PAD_VALUE)
    assert_same_picture(planes.transpose(1, 2, 0), expected)


@each("load_image")
def test_loading_gives_the_recorded_size_and_pixels(case):
    recorded = arrays("load_image")
    image, expected = recorded[f"in{case['i']}"], recorded[f"out{case['i']}"]
    hw = resized_hw(image.shape[:2], case["img_size"])
    assert hw == tuple(case["out_hw"])
    assert_same_picture(resize(image, hw, area=not case["augment"]), expected)


def affine_of(draws):
    return Affine(
        perspective_xy=(draws["P20"], draws["P21"]),
        angle_degrees=draws["angle_deg"],
        scale=draws["scale"],
        shear_degrees_xy=(draws["shear_x_deg"], draws["shear_y_deg"]),
        shift_xy=(draws["tx_frac"], draws["ty_frac"]),
    )


@each("random_perspective")
def test_a_geometric_change_gives_the_recorded_matrix_pixels_and_boxes(case):
    recorded, i = arrays("random_perspective"), case["i"]
    image, affine = recorded[f"in{i}"], affine_of(case["draws"])
    output_hw = tuple(case["dsize"][::-1])
    matrix = affine_matrix(affine, image.shape[:2], output_hw)
    expected = recorded[f"M{i}"]
    np.testing.assert_allclose(matrix[: len(expected)], expected, rtol=1e-9, atol=1e-9)

    output = np.empty((*output_hw, 3), np.uint8)
    warp(image, affine, output)
    assert_same_picture(output, recorded[f"out{i}"])
    if case["use_segments"]:
        return  # boxes of polygons; ours are boxes of boxes
    before = recorded[f"boxes_in{i}"]
    after = clip_boxes(transform_boxes(before[:, 1:], matrix), output_hw)
    keep = boxes_worth_keeping(before[:, 1:] * affine.scale, after)
    np.testing.assert_array_equal(before[keep, 0], recorded[f"boxes_out{i}"][:, 0])
    np.testing.assert_allclose(after[keep], recorded[f"boxes_out{i}"][:, 1:], rtol=1e-6, atol=1e-6)


def test_the_recorded_boxes_are_worth_keeping():
    recorded = arrays("boxes")
    before, after = recorded["bc_box1"].T, recorded["bc_box2"].T
    np.testing.assert_array_equal(boxes_worth_keeping(before, after), recorded["bc_default"])
    shares = [name.removeprefix("bc_area") for name in recorded if name.startswith("bc_area")]
    assert shares
    for share in shares:
        kept = boxes_worth_keeping(before, after, min_area_share=float(share))
        np.testing.assert_array_equal(kept, recorded[f"bc_area{share}"])


def test_corners_and_centres_are_the_recorded_ones():
    recorded = arrays("boxes")
    corners, centres = (torch.from_numpy(recorded[name]) for name in ("xywhn2xyxy", "xyxy2xywh"))
    torch.testing.assert_close(xyxy_to_cxcywh(corners), centres, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(cxcywh_to_xyxy(centres), corners, rtol=1e-6, atol=1e-6)


def test_shares_of_boxes_inside_another_are_the_recorded_ones():
    # As of detections in a crowd: intersection over the area of the box.
    recorded = arrays("boxes")
    whole, parts = recorded["ioa_box1"][None], recorded["ioa_boxes2"]
    pairs = overlapping_pairs(
        np.zeros(len(parts), int),
        xyxy_to_xywh(parts),
        np.zeros(1, int),
        xyxy_to_xywh(whole),
        np.ones(1, bool),
        min_iou=1e-12,
    )
    shares = np.zeros(len(parts))
    shares[pairs.detections] = pairs.iou
    np.testing.assert_allclose(shares, recorded["ioa"], rtol=1e-6, atol=1e-6)


@each("hsv")
def test_a_change_of_colours_has_the_recorded_tables_and_pixels(case):
    recorded, i = arrays("hsv"), case["i"]
    gains = tuple(recorded[f"gains{i}"].tolist())
    np.testing.assert_array_equal(hsv_tables(gains), recorded[f"luts{i}"])
    image = recorded[f"in{i}"][..., ::-1].copy()  # recorded as BGR
    image = apply_hsv(image, gains, Scratch())
    assert_same_picture(image[..., ::-1], recorded[f"out{i}"])


def test_mixed_images_are_the_recorded_ones():
    recorded = arrays("mixup")
    for ratio, expected in zip(recorded["ratios"], recorded["out"], strict=True):
        assert_same_picture(mix_up(recorded["a"], recorded["b"], float(ratio)), expected)


class Mosaic:
    """A recorded mosaic, and the tiles and the change that we make of its draws."""

    def __init__(self, case):
        self.recorded, self.prefix, self.side = arrays("mosaic"), f"c{case['i']}_", case["img_size"]
        uniform = [value for kind, value in case["draws"] if kind == "uniform"]
        partners = next(value for kind, value in case["draws"] if kind == "choices")
        sample_ids = [case["first_index"], *partners]
        self.images = [self[f"src{i}"] for i in sample_ids]
        self.labels = [self[f"labels{i}"] for i in sample_ids]
        sizes_hw = [image.shape[:2] for image in self.images]
        corner = int(uniform[1]), int(uniform[0])
        nine = len(self.images) == 9
        self.tiles = mosaic9_tiles(sizes_hw, self.side, corner) if nine else mosaic4_tiles(sizes_hw, corner)
        keys = ("P20", "P21", "angle_deg", "scale", "shear_x_deg", "shear_y_deg", "tx_frac", "ty_frac")
        self.affine = affine_of(dict(zip(keys, uniform[2:], strict=True)))
        self.canvas_hw = (2 * self.side, 2 * self.side)
        self.matrix = affine_matrix(self.affine, self.canvas_hw, (self.side, self.side))

    def __getitem__(self, name):
        return self.recorded[f"{self.prefix}{name}"]


@each("mosaic")
def test_a_mosaic_is_moved_by_the_recorded_matrix(case):
    mosaic = Mosaic(case)
    np.testing.assert_allclose(mosaic.matrix[: len(mosaic["M"])], mosaic["M"], rtol=1e-9, atol=1e-9)


@each("mosaic", copy_paste=0.0)  # with it, polygons are pasted onto the canvas, which we do not
def test_a_mosaic_has_the_recorded_canvas_and_output(case):
    mosaic = Mosaic(case)
    canvas = np.empty((*mosaic.canvas_hw, 3), np.uint8)
    paint(mosaic.images, mosaic.tiles, canvas)
    np.testing.assert_array_equal(canvas, mosaic["canvas"])
    output = np.empty((mosaic.side, mosaic.side, 3), np.uint8)
    warp(canvas, mosaic.affine, output)
    assert_same_picture(output, mosaic["out"])


@each("mosaic", copy_paste=0.0, segments=False)  # with polygons, boxes go round points of theirs
def test_a_mosaic_has_the_recorded_boxes(case):
    mosaic = Mosaic(case)
    labels = np.concatenate([rows[:, 0] for rows in mosaic.labels])
    boxes = [
        xyxy_of(rows, tile.hw) + np.array(tile.left_top * 2)
        for rows, tile in zip(mosaic.labels, mosaic.tiles, strict=True)
    ]
    before = clip_boxes(np.concatenate(boxes), mosaic.canvas_hw)
    tolerance = 1e-6 * 2 * mosaic.side  # recorded in float32
    np.testing.assert_array_equal(labels, mosaic["canvas_labels"][:, 0])
    np.testing.assert_allclose(before, mosaic["canvas_labels"][:, 1:], atol=tolerance)

    after = clip_boxes(transform_boxes(before, mosaic.matrix), (mosaic.side, mosaic.side))
    keep = boxes_worth_keeping(before * mosaic.affine.scale, after)
    np.testing.assert_array_equal(labels[keep], mosaic["out_labels"][:, 0])
    np.testing.assert_allclose(after[keep], mosaic["out_labels"][:, 1:], atol=tolerance)


@each("mosaic", copy_paste=0.0)
def test_cropped_and_resized_tiles_look_like_the_warped_canvas(case):
    # Not the same operation: tiles end on whole pixels, and a resize takes the centres of pixels where the warp takes
    # their corners. So both are compared as pictures, blurred over a fifth of their side: 3 % of the range.
    mosaic = Mosaic(case)
    if not mosaic.affine.is_scale_and_shift:
        pytest.skip("a turned or sheared canvas is always warped")
    side, border = mosaic.side, border_of(mosaic.affine)
    framed = np.empty((side + 2 * border, side + 2 * border, 3), np.uint8)
    place(mosaic.images, mosaic.tiles, mosaic.canvas_hw, mosaic.matrix, framed, border)
    ours, theirs = (
        cv2.blur(image.astype(np.float32), (side // 5, side // 5), borderType=cv2.BORDER_REPLICATE)
        for image in (framed[border:-border, border:-border], mosaic["out"])
    )

    assert np.abs(ours - theirs).mean() < 0.03 * 255


def test_rectangular_batches_have_the_recorded_order_and_shapes():
    for case in json.loads(oracle("yolov7", "data", "meta.json").read_text())["rect"]:
        sizes_hw = [(height, width) for width, height in case["image_wh"]]
        sampler = RectangularSampler(
            sizes_hw, case["batch_size"], image_size=case["img_size"], stride=case["stride"], pad=case["pad"]
        )
        requests = [sampler.request(0, k) for k in range(sampler.batches_per_epoch)]
        assert [i for request in requests for i in request.sample_ids] == case["order"]
        assert [request.index for request in requests for _ in request.sample_ids] == case["batch_index"]
        assert [list(request.input_hw) for request in requests] == case["batch_shapes_hw"]
