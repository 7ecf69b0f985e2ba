"""YOLOv7's own evaluation: average precision, whole evaluations, confusion matrices.

Tolerance 1e-6, as the recordings state: they are float64 sums over float32 boxes.
"""

import json

import numpy as np
import pytest
import torch

from sightline.data.sample import ImageGeometry
from sightline.metrics.coco_ap import ScoredBoxes, TruthBoxes, xyxy_to_xywh
from sightline.metrics.confusion_matrix import ConfusionMatrix
from sightline.metrics.yolo_ap import YoloEvaluation, fitness, interpolated_area, yolo_ap
from sightline.models.yolov7.decode import postprocess
from sightline.ops.boxes2d import cxcywh_to_xyxy
from tests.conftest import oracle

BOTH_WAYS = pytest.mark.parametrize("to_full_recall", [False, True])


def meta():
    return json.loads(oracle("yolov7", "post", "meta.json").read_text())


def close(ours, recorded):
    np.testing.assert_allclose(ours, recorded, rtol=0, atol=1e-6)


@BOTH_WAYS
def test_average_precision_of_judged_detections_is_the_recorded_one(to_full_recall):
    arrays = np.load(oracle("yolov7", "post", "ap.npz"))
    cases = sorted(name.split(":")[0] for name in arrays.files if name.endswith(":tp"))
    assert cases
    for case in cases:
        result = yolo_ap(
            *(arrays[f"{case}:{name}"] for name in ("tp", "conf", "pred_cls", "target_cls")),
            to_full_recall=to_full_recall,
        )
        recorded = f"{case}:v5{int(to_full_recall)}"
        np.testing.assert_array_equal(result.classes, arrays[f"{recorded}:classes"])
        ours = {"p": result.precision, "r": result.recall, "ap": result.ap, "f1": result.f1}
        for name, values in ours.items():
            close(values, arrays[f"{recorded}:{name}"])


def test_means_and_fitness_are_the_recorded_ones():
    arrays = np.load(oracle("yolov7", "post", "ap.npz"))
    for case in meta()["ap"]:
        judged = [arrays[f"{case['i']}:{name}"] for name in ("tp", "conf", "pred_cls", "target_cls")]
        figures = yolo_ap(*judged).figures()
        recorded = [case[name] for name in ("mp", "mr", "map50", "map")]
        close([figures[name] for name in ("precision", "recall", "AP50", "AP")], recorded)
        close(fitness(figures), case["fitness"])
        figures = yolo_ap(*judged, to_full_recall=True).figures()
        close([figures["AP50"], figures["AP"]], [case["map50_v5"], case["map_v5"]])


@BOTH_WAYS
def test_the_area_below_a_curve_is_the_recorded_one(to_full_recall):
    arrays = np.load(oracle("yolov7", "post", "ap.npz"))
    cases = sorted(name.split(":")[0] for name in arrays.files if name.endswith(":recall"))
    assert cases
    for case in cases:
        area = interpolated_area(arrays[f"{case}:recall"], arrays[f"{case}:precision"], to_full_recall=to_full_recall)
        close(area, arrays[f"{case}:ap_v5{int(to_full_recall)}"])


@BOTH_WAYS
def test_a_whole_evaluation_gives_the_recorded_figures(to_full_recall):
    arrays = np.load(oracle("yolov7", "post", "evaluate.npz"))
    settings = meta()["evaluate"]
    evaluation = YoloEvaluation(to_full_recall=to_full_recall)
    batches = sorted(int(name.removeprefix("pred")) for name in arrays.files if name.startswith("pred"))
    assert batches
    for batch in batches:
        height, width = arrays[f"hw{batch}"].tolist()
        targets = torch.from_numpy(arrays[f"targets{batch}"])
        found = postprocess(
            torch.from_numpy(arrays[f"pred{batch}"]),
            score_threshold=settings["conf_thres"],
            iou_threshold=settings["iou_thres"],
            multi_label=settings["multi_label"],
        )
        for index, detections in enumerate(found):
            gain = float(arrays[f"gain_{batch}"][index])
            geometry = ImageGeometry(
                image_hw=tuple(arrays[f"shape0_{batch}"][index].tolist()),
                scale_xy=(gain, gain),
                pad_xy=tuple(arrays[f"pad_{batch}"][index].tolist()),
            )
            mine = targets[targets[:, 0] == index]
            truths = cxcywh_to_xyxy(mine[:, 2:] * mine.new_tensor([width, height, width, height]))
            evaluation.update(
                geometry.to_image(detections.boxes_xyxy).numpy(),
                detections.scores.numpy(),
                detections.labels.numpy(),
                geometry.to_image(truths).numpy(),
                mine[:, 1].long().numpy(),
            )
    result = evaluation.evaluate()
    figures = result.figures()
    recorded = [figures[name] for name in ("precision", "recall", "AP50", "AP")]
    close(recorded, arrays[f"result_v5{int(to_full_recall)}"])
    close(result.ap_of_classes(settings["nc"]), arrays[f"maps_v5{int(to_full_recall)}"])


def test_confusion_matrix_but_for_two_faults_of_the_original():
    """The original writes a confused pair to [true, predicted], and drops the false detections of an image
    in which nothing matched. Ours has rows predicted throughout and counts them; here both are undone.
    """
    arrays = np.load(oracle("yolov7", "post", "confusion.npz"))
    settings = meta()["confusion"]
    num_classes = settings["nc"]
    as_the_original = np.zeros((num_classes + 1, num_classes + 1))
    images = sorted(int(name.removeprefix("det")) for name in arrays.files if name.startswith("det"))
    assert images
    for image in images:
        detections, truths = arrays[f"det{image}"], arrays[f"lab{image}"]
        matrix = ConfusionMatrix(num_classes, score_threshold=settings["conf"], iou_threshold=settings["iou"])
        matrix.update(
            TruthBoxes(np.zeros(len(truths)), xyxy_to_xywh(truths[:, 1:]), truths[:, 0]),
            ScoredBoxes(np.zeros(len(detections)), xyxy_to_xywh(detections[:, :4]), detections[:, 4], detections[:, 5]),
        )
        counts = matrix.counts.copy()
        counts[:-1, :-1] = counts[:-1, :-1].T
        if counts[:-1, :-1].sum() == 0:
            counts[:, -1] = 0
        as_the_original += counts
        np.testing.assert_array_equal(as_the_original, arrays[f"matrix_after{image}"])
