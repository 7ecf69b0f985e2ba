from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sightline.data.annotations import ImageAnnotations, PackedStrings
from sightline.data.sample import BoxPrediction, ImageBatch, ImageGeometry
from sightline.data.single_image import batch_of_one
from sightline.ops.boxes2d import BoxTargets, Detections
from sightline.tasks.detection2d import Detection2D
from sightline.tasks.drawing import draw_boxes, side_by_side


class Oracle(nn.Module):
    """Finds exactly the boxes it is told, in pixels of the input."""

    stride = 32

    def __init__(self, found: list[Detections]) -> None:
        super().__init__()
        self.found = found
        self.seen: torch.Tensor | None = None

    def losses(self, images: torch.Tensor, targets: BoxTargets) -> dict[str, torch.Tensor]:
        self.seen = images
        return {"box": targets.boxes_xyxy.sum()}

    def detect(self, images: torch.Tensor) -> list[Detections]:
        return self.found


def annotations(boxes, labels, *, difficult=None, sizes=((100, 200), (100, 200))) -> ImageAnnotations:
    counts = [len(b) for b in boxes]
    flat = np.array([box for image in boxes for box in image], dtype=np.float64).reshape(-1, 4)
    return ImageAnnotations(
        class_names=("cat", "dog"),
        paths=PackedStrings([f"{i}.jpg" for i in range(len(boxes))]),
        sizes_hw=np.array(sizes[: len(boxes)]),
        offsets=np.cumsum([0, *counts]),
        boxes_xyxy=flat,
        labels=np.array([label for image in labels for label in image]),
        is_crowd=np.zeros(len(flat), bool),
        areas=(flat[:, 2] - flat[:, 0]) * (flat[:, 3] - flat[:, 1]),
        image_ids=np.arange(len(boxes)) + 10,
        category_ids=np.array([1, 18]),
        faults=(),
        name="toy/val",
        source=Path("toy"),
        is_difficult=np.array(difficult if difficult is not None else np.zeros(len(flat)), dtype=bool),
    )


def prediction(sample_id, boxes, scores, labels) -> BoxPrediction:
    return BoxPrediction(
        sample_id,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )


def test_predictions_come_back_in_pixels_of_the_image_file():
    # A 200x100 image halved to 100x50 and padded by 7 above: input (10, 17) is image (20, 20).
    found = Detections(
        torch.tensor([[10.0, 17, 60, 47], [-5, 0, 999, 999]]), torch.tensor([0.9, 0.8]), torch.tensor([1, 0])
    )
    task = Detection2D(Oracle([found]), class_names=("cat", "dog"))
    batch = ImageBatch(
        torch.zeros(1, 3, 64, 100, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).long(),
        (3,), (ImageGeometry((100, 200), (0.5, 0.5), (0.0, 7.0)),),
    )  # fmt: skip
    (one,) = task.predict(batch)
    assert one.sample_id == 3
    assert one.boxes_xyxy.tolist() == [[20, 20, 120, 80], [0, 0, 200, 100]]  # the second is clipped to the image


def test_images_reach_the_detector_as_fractions_of_one():
    detector = Oracle([])
    batch = ImageBatch(
        torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), torch.ones(1, 4), torch.zeros(1).long(),
        torch.zeros(1).long(), (0,), (None,),
    )  # fmt: skip
    assert Detection2D(detector, class_names=("cat",))(batch)["box"] == 4
    assert detector.seen.dtype == torch.float32
    assert (detector.seen == 1).all()


def test_a_perfect_detector_has_ap_one_and_an_empty_image_counts():
    truth = annotations([[(10, 10, 60, 60)], []], [[1], []])
    metric = Detection2D(Oracle([]), class_names=truth.class_names, annotations=truth).new_metric()
    metric.update([prediction(0, [[10, 10, 60, 60]], [0.9], [1]), prediction(1, [], [], [])], None)
    figures = metric.compute()
    assert figures["AP"] == pytest.approx(1.0)
    metric.reset()
    metric.update([prediction(0, [[10, 10, 60, 60]], [0.5], [1]), prediction(1, [[0, 0, 9, 9]], [0.9], [1])], None)
    assert metric.compute()["AP"] == pytest.approx(0.5)  # the false one ranks first: precision 1/2 at every recall


def test_objects_that_voc_calls_difficult_are_neither_right_nor_wrong():
    truth = annotations([[(10, 10, 60, 60), (100, 10, 150, 60)]], [[0, 0]], difficult=[False, True])
    metric = Detection2D(Oracle([]), class_names=truth.class_names, annotations=truth).new_metric()
    metric.update([prediction(0, [[100, 10, 150, 60], [10, 10, 60, 60]], [0.9, 0.8], [0, 0])], None)
    assert metric.compute()["AP"] == pytest.approx(1.0)


def test_processes_that_saw_half_the_images_each_merge_to_the_same_figures():
    truth = annotations([[(10, 10, 60, 60)], [(5, 5, 40, 40)]], [[1], [0]])
    task = Detection2D(Oracle([]), class_names=truth.class_names, annotations=truth)
    both = [prediction(0, [[11, 10, 60, 60]], [0.9], [1]), prediction(1, [[5, 9, 40, 40]], [0.4], [0])]
    whole, first, second = task.new_metric(), task.new_metric(), task.new_metric()
    whole.update(both, None)
    first.update(both[1:], None)
    second.update(both[:1], None)
    first.merge([second])
    assert first.compute() == whole.compute()
    assert first.details() == whole.details()


def test_results_for_coco_carry_the_ids_of_the_files():
    truth = annotations([[(10, 10, 60, 60)], []], [[1], []])
    metric = Detection2D(Oracle([]), class_names=truth.class_names, annotations=truth).new_metric()
    metric.update([prediction(0, [[10, 20, 40, 60]], [0.75], [1])], None)
    image_ids, category_ids, boxes_xywh, scores = metric.coco_results()
    assert (image_ids, category_ids, boxes_xywh.tolist(), scores.tolist()) == ([10], [18], [[10, 20, 30, 40]], [0.75])


def test_truth_and_predictions_are_drawn_side_by_side():
    truth = annotations([[(10, 10, 60, 60)]], [[1]])
    task = Detection2D(Oracle([]), class_names=truth.class_names, annotations=truth)
    batch = ImageBatch(
        torch.zeros(1, 3, 64, 96, dtype=torch.uint8), torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([1]),
        torch.tensor([0]), (0,), (ImageGeometry((64, 96), (1.0, 1.0), (0.0, 0.0)),),
    )  # fmt: skip
    (picture,) = task.draw(batch, [prediction(0, [[20, 20, 50, 50], [0, 0, 9, 9]], [0.9, 0.1], [0, 1])])
    left, right = picture.pixels[:, :96], picture.pixels[:, -96:]
    assert picture.name == "0.jpg"
    assert left[40, 10].any() and not left[40, 20].any()  # the truth's left edge stands only on the left
    assert right[40, 20].any() and not right[40, 10].any()
    assert not right[5, 0:9].any()  # what scores below 0.25 is not drawn


def test_drawing_leaves_the_picture_alone_and_survives_odd_boxes():
    pixels = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[-1e6, -5, 1e6, 30], [10, 10, 10, 10]])
    drawn = draw_boxes(pixels, boxes, np.array([0, 25]), [f"läbel{i}" for i in range(26)])
    assert drawn.any() and not pixels.any()
    assert side_by_side(pixels, drawn).shape == (40, 124, 3)


def test_a_single_picture_becomes_a_padded_batch_that_leads_back():
    batch = batch_of_one(np.full((100, 200, 3), 50, np.uint8), 128, stride=32)
    assert batch.images.shape == (1, 3, 64, 128)
    assert (batch.images == 50).all()
    tall = batch_of_one(np.full((200, 90, 3), 50, np.uint8), 128, stride=32)
    assert tall.images.shape == (1, 3, 128, 64)
    (geometry,) = tall.geometries
    corners = geometry.to_input(torch.tensor([[0.0, 0, 90, 200]]))
    torch.testing.assert_close(geometry.to_image(corners), torch.tensor([[0.0, 0, 90, 200]]))


def test_figures_have_the_same_names_before_the_first_image_as_after_it():
    box = [10.0, 10, 60, 60]
    task = Detection2D(Oracle([]), class_names=("cat", "dog"), annotations=annotations([[box]], [[0]]))
    metric = task.new_metric()
    names = list(metric.compute())
    assert {"AP", "AP50", "precision", "recall"} <= set(names)
    metric.update([prediction(0, [box], [0.9], [0])], batch_of_one(np.zeros((8, 8, 3), np.uint8), 32, stride=32))
    assert list(metric.compute()) == names
