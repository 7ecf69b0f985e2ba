"""YOLOv7's suppression of overlaps, and boxes back in pixels of the image file, against recorded results."""

import json

import numpy as np
import pytest
import torch

from sightline.data.sample import ImageGeometry
from sightline.models.yolov7.decode import postprocess
from tests.conftest import oracle, recorded

META = recorded("yolov7", "post", "meta.json")
RECORDED = json.loads(META.read_text()) if META.exists() else {}
NMS_CASES = [pytest.param(case, id=case["name"]) for case in RECORDED.get("nms", {}).get("cases", [])]
SCALE_CASES = [pytest.param(case, id=str(case["i"])) for case in RECORDED.get("scale_coords", [])]
MISSING = [pytest.param(None, id="missing")]


def with_known_boxes(rows: torch.Tensor, known: np.ndarray) -> torch.Tensor:
    """Boxes known beforehand (class, cx, cy, w, h) as predictions of objectness and class probability 1."""
    extra = torch.zeros(len(known), rows.shape[1])
    extra[:, :4] = torch.from_numpy(known[:, 1:5])
    extra[:, 4] = 1
    extra[torch.arange(len(known)), 5 + torch.from_numpy(known[:, 0]).long()] = 1
    return torch.cat((rows, extra))


@pytest.mark.parametrize("case", NMS_CASES or MISSING)
def test_detections_and_their_order_are_the_recorded_ones(case):
    oracle("yolov7", "post", "meta.json")
    arrays = np.load(oracle("yolov7", "post", "nms.npz"))
    options, fixed = case["kwargs"], RECORDED["nms"]["fixed"]
    assert set(options) <= {"conf_thres", "iou_thres", "agnostic", "multi_label", "classes", "labels"}
    for j, predicted in enumerate(torch.from_numpy(arrays[case["src"]])):
        rows = with_known_boxes(predicted, arrays[f"apriori{j}"]) if options.get("labels") else predicted
        (found,) = postprocess(
            rows[None],
            score_threshold=options.get("conf_thres", 0.25),
            iou_threshold=options.get("iou_thres", 0.45),
            max_candidates=fixed["max_nms"],
            max_detections=fixed["max_det"],
            class_agnostic=options.get("agnostic", False),
            multi_label=options.get("multi_label", False),
            only_labels=options.get("classes"),
        )
        recorded = arrays[f"{case['name']}:out{j}"]
        assert len(found.scores) == len(recorded) == case["n_out"][j]
        np.testing.assert_array_equal(found.labels.numpy(), recorded[:, 5])
        np.testing.assert_allclose(found.scores.numpy(), recorded[:, 4], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.boxes_xyxy.numpy(), recorded[:, :4], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", SCALE_CASES or MISSING)
def test_boxes_go_back_to_the_recorded_pixels_of_the_image_file(case):
    oracle("yolov7", "post", "meta.json")
    arrays = np.load(oracle("yolov7", "post", "scale_coords.npz"))
    (input_h, input_w), (image_h, image_w) = case["img1_hw"], case["img0_hw"]
    if case["ratio_pad"] is None:
        scale = min(input_h / image_h, input_w / image_w)
        pad = ((input_w - image_w * scale) / 2, (input_h - image_h * scale) / 2)
    else:
        (scale, _), pad = case["ratio_pad"]
    geometry = ImageGeometry(image_hw=(image_h, image_w), scale_xy=(scale, scale), pad_xy=tuple(pad))
    boxes = geometry.to_image(torch.from_numpy(arrays[f"in{case['i']}"]))
    np.testing.assert_allclose(boxes.numpy(), arrays[f"out{case['i']}"], rtol=1e-6, atol=1e-4)
