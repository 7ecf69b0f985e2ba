"""KITTI's figures: of the predictions of a task, and of any tool's text files.

Shapes: N detections, M objects of all frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sightline.config.errors import ConfigError, DataError, did_you_mean
from sightline.config.printable import counted, printable
from sightline.data.formats.kitti_files import KITTI_TYPES
from sightline.data.formats.kitti_results import (
    KittiObjects,
    detection_text,
    listed_frames,
    read_kitti_objects,
    refuse_strange_types,
    text_frames,
    write_kitti_detections,
)
from sightline.data.lidar_annotations import LidarAnnotations
from sightline.data.sample import Box3DPrediction, PointBatch
from sightline.metrics.kitti_ap import KittiAP, KittiResult
from sightline.metrics.kitti_boxes import KittiDetections, KittiTruths
from sightline.metrics.kitti_rules import DONT_CARE
from sightline.ops.frames import Calibration, boxes_lidar_to_camera, image_boxes, observation_angles, wrapped

Array = np.ndarray[Any, Any]

DIGITS = 4
"""After the point, in files and in what is scored: 0.1 mm, and a ten thousandth of a pixel."""
BENCHMARK_CLASSES = ("Car", "Pedestrian", "Cyclist")


def camera_detections(
    prediction: Box3DPrediction, calibration: Calibration, size_hw: tuple[int, int] | None
) -> tuple[KittiDetections, int]:
    """Detections of one frame as its camera sees them, rounded to ``DIGITS``; and how many were left out.

    Left out is what is not finite, and a box so near to the camera's plane that its place in the picture is not.

    Args:
        prediction: LiDAR frame; its sample is the number of the frame.
        calibration: Of the frame.
        size_hw: Height and width of its picture. Without a picture boxes are not cut to it.
    """
    index = prediction.sample_id
    boxes3d = prediction.boxes3d[:, :7].numpy().astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        boxes_camera = boxes_lidar_to_camera(boxes3d, calibration)
        boxes_xyxy = image_boxes(boxes_camera, calibration, size_hw)
        alphas = wrapped(observation_angles(boxes3d, boxes_camera))
    boxes_camera[:, 6] = wrapped(boxes_camera[:, 6])
    scores = prediction.scores.numpy().astype(np.float64)
    table = np.concatenate((boxes_xyxy, boxes_camera, alphas[:, None], scores[:, None]), axis=1)
    good = np.isfinite(table).all(axis=1) & (boxes_camera[:, 3:6] >= 0).all(axis=1)
    return (
        KittiDetections(
            frames=np.full(int(good.sum()), index),
            labels=prediction.labels.numpy()[good],
            boxes_xyxy=np.round(boxes_xyxy[good], DIGITS),
            boxes_camera=np.round(boxes_camera[good], DIGITS),
            scores=scores[good],
            alphas=np.round(alphas[good], DIGITS),
        ),
        int((~good).sum()),
    )


class Lidar3DMetric:
    """KITTI's AP in the picture, from above and in space, orientation, and recall, against the truth of the files.

    The truth is that of the annotations with all objects and regions without labels, not that of the batch. Detections
    are scored as ``save`` writes them, with four digits after the point.
    """

    def __init__(self, annotations: LidarAnnotations) -> None:
        self.annotations = annotations
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self.predictions: dict[int, Box3DPrediction] = {}
        self._found: list[tuple[int, KittiDetections]] | None = None
        self._num_left_out = 0
        self._result: KittiResult | None = None

    def update(self, predictions: Sequence[Box3DPrediction], batch: PointBatch) -> None:
        """Add the predictions of one batch; frames without any detection count too."""
        self.predictions.update({prediction.sample_id: prediction for prediction in predictions})
        self._found = self._result = None

    def state(self) -> dict[str, Tensor]:
        """All predictions, flat: sample ids, number of detections of each, and their boxes, scores and labels."""
        found = list(self.predictions.values())
        none = torch.zeros(0)
        return {
            "sample_ids": torch.tensor([one.sample_id for one in found], dtype=torch.int64),
            "counts": torch.tensor([len(one.scores) for one in found], dtype=torch.int64),
            "boxes3d": torch.cat([none.reshape(0, 7), *(one.boxes3d[:, :7] for one in found)]),
            "scores": torch.cat([none, *(one.scores for one in found)]),
            "labels": torch.cat([none.long(), *(one.labels for one in found)]),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become the metric whose ``state`` this is."""
        self.reset()
        sizes = state["counts"].tolist()
        columns = (torch.split(state[name], sizes) for name in ("boxes3d", "scores", "labels"))
        for sample_id, boxes3d, scores, labels in zip(state["sample_ids"].tolist(), *columns, strict=True):
            self.predictions[sample_id] = Box3DPrediction(sample_id, boxes3d, scores, labels)

    def merge(self, others: Sequence[Self]) -> None:
        """Take in the frames that other processes saw."""
        for other in others:
            self.predictions.update(other.predictions)
        self._found = self._result = None

    def compute(self) -> dict[str, float]:
        """``KittiResult.figures``, percent: ``3d_moderate_R40``, ``Car/3d/easy_R40``, ``recall/0.5`` and so on."""
        return self.kitti().figures

    def details(self) -> dict[str, Any]:
        """``KittiResult.details``: table of classes, all AP, curves, and notes."""
        details = self.kitti().details()
        if self._num_left_out:
            what = counted(self._num_left_out, "detection")
            details["kitti"]["notes"].append(
                f"{what} left out: not finite, of negative size, or at the plane of the camera."
            )
        return details

    def save(self, path: Path) -> None:
        """Write a folder of KITTI's text files, one per frame, that ``score kitti`` scores to the same figures.

        Raises:
            OSError: If the disk refuses, or the folder holds files of other frames.
        """
        names = self.annotations.class_names
        texts = {}
        for frame, one in self._detections():
            labels = [names[label] for label in one.labels.tolist()]
            texts[self.annotations.frame_ids[frame]] = detection_text(
                labels, one.boxes_xyxy, one.boxes_camera, one.scores, one.alphas
            )
        write_kitti_detections(path, texts)

    def kitti(self) -> KittiResult:
        """The whole evaluation of the frames since ``reset``; made once, whatever is asked of it."""
        if self._result is None:
            a = self.annotations
            # An object of a trained class is of that class whatever its type is called.
            metric = KittiAP(a.class_names, (*a.class_names, *a.type_names))
            types = np.where(a.labels >= 0, a.labels, a.types + len(a.class_names))
            for frame, found in self._detections():
                rows = a.rows_of(frame)
                truths = KittiTruths(
                    frames=np.full(rows.stop - rows.start, frame),
                    types=types[rows],
                    boxes_xyxy=a.boxes_xyxy[rows],
                    boxes_camera=a.boxes_camera[rows],
                    alphas=a.alphas[rows],
                    truncations=a.truncations[rows],
                    occlusions=a.occlusions[rows],
                )
                metric.update([frame], truths, found)
            self._result = metric.evaluate()
        return self._result

    def _detections(self) -> list[tuple[int, KittiDetections]]:
        """Of each frame seen, as its camera sees them; made once."""
        if self._found is None:
            found = {frame: self._camera_detections(frame) for frame in self.predictions}
            self._found = [(frame, found[frame][0]) for frame in sorted(found)]
            self._num_left_out = sum(num_left_out for _, num_left_out in found.values())
        return self._found

    def _camera_detections(self, frame: int) -> tuple[KittiDetections, int]:
        height, width = self.annotations.sizes_hw[frame].tolist()
        size_hw = (height, width) if height else None
        return camera_detections(self.predictions[frame], self.annotations.calibration(frame), size_hw)


@dataclass(frozen=True)
class KittiScore:
    """What ``sightline score kitti`` reports."""

    figures: dict[str, float]
    """Percent, by name."""
    details: dict[str, Any]
    num_frames: int
    num_truths: int
    """Regions without labels left out."""
    num_detections: int
    notes: tuple[str, ...]
    """What a reader must know to trust the figures."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def score_kitti(
    labels: Path, detections: Path, *, frame_list: Path | None = None, class_names: Sequence[str] | None = None
) -> KittiScore:
    """Score a folder of KITTI's result files against one of its labels.

    Args:
        labels: Text files of 15 columns, one per frame.
        detections: Text files of 16 columns, one per frame; an empty file where nothing was found.
        frame_list: Names of the frames to score, one a line; without it all that have a file of detections.
        class_names: Types to score. Without it Car, Pedestrian and Cyclist, as far as labels or detections name them,
            and what else the detections name.

    Raises:
        DataError: If a file is missing, broken or says something impossible; names file and line.
        ConfigError: If a class is in neither labels nor detections.
    """
    labelled, found_frames = text_frames(labels, "LABEL_DIR"), text_frames(detections, "DETECTION_DIR")
    frames = found_frames if frame_list is None else listed_frames(frame_list)
    _refuse_missing(frames, labelled, labels, "no labels of this frame, which is to be scored")
    _refuse_missing(
        frames, found_frames, detections, "no detections of this frame; where nothing is found, write an empty file"
    )
    truth = read_kitti_objects(labels, frames, has_scores=False)
    found = read_kitti_objects(detections, frames, has_scores=True)
    known = [name for name in dict.fromkeys((*truth.type_names, *KITTI_TYPES)) if name.casefold() != DONT_CARE]
    refuse_strange_types(found, known, frames)
    names = _classes(truth, found, class_names)
    metric = KittiAP(names, truth.type_names)
    metric.update(range(len(frames)), _as_truths(truth), _as_detections(found, names))
    result = metric.evaluate()
    notes = [
        *_frame_notes(labelled, found_frames, frames, is_listed=frame_list is not None),
        *_detection_notes(found, names),
        *result.notes(),
    ]
    is_object = np.array([name.casefold() != DONT_CARE for name in truth.type_names], dtype=bool)
    return KittiScore(
        figures=result.figures,
        details=result.details(),
        num_frames=len(frames),
        num_truths=int(is_object[truth.types].sum()) if len(is_object) else 0,
        num_detections=len(found.scores),
        notes=tuple(notes),
    )


def _refuse_missing(frames: Sequence[str], there: Sequence[str], folder: Path, message: str) -> None:
    """Stop if a frame has no file.

    Raises:
        DataError: Names the first, and says how many.
    """
    known = set(there)
    missing = [frame for frame in frames if frame not in known]
    if missing:
        more = f" (and of {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise DataError(f"{printable(folder / f'{missing[0]}.txt')}: {message}{more}.")


def _classes(truth: KittiObjects, found: KittiObjects, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the classes to score."""
    spelled = {name.casefold(): name for name in (*found.type_names, *truth.type_names)}
    spelled.pop(DONT_CARE, None)
    if asked is None:
        usual = [name for name in BENCHMARK_CLASSES if name.casefold() in spelled]
        plain = [name.casefold() for name in BENCHMARK_CLASSES]
        others = sorted({spelled[name.casefold()] for name in found.type_names if name.casefold() not in plain})
        return (*usual, *others)
    if not asked:
        raise ConfigError("score kitti: --classes names none.")
    for name in asked:
        if name.casefold() not in spelled:
            there = ", ".join(printable(one, limit=40) for one in spelled.values())
            raise ConfigError(
                f"score kitti: neither labels nor detections have the class '{printable(name, limit=60)}'; "
                f"there are: {there}.{did_you_mean(name, spelled.values())}"
            )
    return tuple(dict.fromkeys(asked))


def _as_truths(truth: KittiObjects) -> KittiTruths:
    return KittiTruths(
        truth.frames,
        truth.types,
        truth.boxes_xyxy,
        truth.boxes_camera,
        truth.alphas,
        truth.truncations,
        truth.occlusions,
    )


def _as_detections(found: KittiObjects, class_names: Sequence[str]) -> KittiDetections:
    """The detections with their place among the classes that are scored."""
    plain = [name.casefold() for name in class_names]
    label_of = [plain.index(name.casefold()) if name.casefold() in plain else -1 for name in found.type_names]
    labels = np.array(label_of, dtype=np.int64)[found.types]
    return KittiDetections(found.frames, labels, found.boxes_xyxy, found.boxes_camera, found.scores, found.alphas)


def _frame_notes(labelled: Sequence[str], found: Sequence[str], frames: Sequence[str], *, is_listed: bool) -> list[str]:
    """Which files were not used."""
    notes = []
    others = len(set(labelled) - set(frames))
    if others and not is_listed:
        notes.append(
            f"{counted(others, 'frame')} of {len(labelled):,} with labels have no file of detections and are not "
            "scored; an empty file stands for nothing found."
        )
    unused = len(set(found) - set(frames))
    if unused:
        notes.append(f"{counted(unused, 'file')} of detections of frames that the list does not name are not scored.")
    return notes


def _detection_notes(found: KittiObjects, class_names: Sequence[str]) -> list[str]:
    """What the detections lack."""
    notes = []
    if len(found.scores) and (found.boxes_camera[:, 3:6] == -1).all():
        notes.append("The detections have no boxes in space (all sizes are -1): figures in space and from above are 0.")
    is_without = found.alphas == -10
    if is_without.any() and not is_without.all():
        notes.append(
            f"{counted(int(is_without.sum()), 'detection')} of {len(is_without):,} have no angle (alpha is -10); the "
            "first one decides whether orientation is scored."
        )
    there = {name.casefold() for name in found.type_names}
    missing = [name for name in class_names if name.casefold() not in there]
    if missing:
        names = ", ".join(printable(name, limit=40) for name in missing)
        notes.append(f"No detection is of: {names}. Such classes count as 0 in the means; --classes leaves them out.")
    return notes
