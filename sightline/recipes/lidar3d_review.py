"""A look at the frames of a LiDAR detector's run before it begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sightline.config.printable import counted
from sightline.data.annotations import Fault, Ints
from sightline.data.faults import make_fault
from sightline.data.lidar_annotations import LidarAnnotations
from sightline.data.point_files import PointFileError, read_points
from sightline.engine.finding import Finding
from sightline.recipes.data_review import SplitReview

if TYPE_CHECKING:
    from sightline.recipes.lidar3d import LidarRun

FEW = 0.5
"""A range that holds less than this share of the boxes is told."""


class LidarReview(SplitReview):
    """Clouds are read, and boxes are compared with the space that the detector sees."""

    noun = "box"
    looked = "read"

    def count(self, truth: LidarAnnotations) -> str:
        """Frames, boxes of the classes that are trained, and frames without one."""
        trained = truth.labels >= 0
        text = f"{counted(len(truth), 'frame')}, {counted(int(trained.sum()), 'box')}"
        frames = np.repeat(np.arange(len(truth)), truth.objects_per_frame)
        empty = len(truth) - len(np.unique(frames[trained]))
        return text + (f", {empty:,} without a box" if empty else "")

    def per_class(self, truth: LidarAnnotations) -> Ints:
        """(K,) boxes."""
        return truth.boxes_per_class

    def fitting(self, class_names: Sequence[str]) -> tuple[Mapping[str, Any], list[Finding]]:
        """Nothing: whether the model fits its range shows when it is built."""
        return {}, []

    def of_batches(self, train: LidarAnnotations) -> list[Finding]:
        """How many of the boxes lie in the space that the detector sees."""
        run = cast("LidarRun", self.config)
        centres = train.boxes3d[train.labels >= 0, :3]
        if not len(centres):
            return []
        low, high = np.array(run.point_range[:3]), np.array(run.point_range[3:])
        inside = np.all(((centres >= low) & (centres <= high))[:, :2], axis=1)
        text = f"{int(inside.sum()):,} of {counted(len(inside), 'box')} of {train.name} lie in model.point_range"
        if inside.mean() >= FEW:
            return [Finding("range", "ok", text)]
        return [Finding("range", "note", text, "make model.point_range larger, or look at the frame of the data")]

    def whole_files(self, truth: LidarAnnotations) -> Iterable[int]:
        """All frames whose cloud is there and has points."""
        spoilt = {fault.image for fault in truth.faults if fault.fatal}
        return (index for index in range(len(truth)) if index not in spoilt)

    def look(self, path: str) -> Fault | None:
        """Read its points."""
        try:
            read_points(path)
        except PointFileError as error:
            return make_fault(error.kind, path, error.message)
        return None
