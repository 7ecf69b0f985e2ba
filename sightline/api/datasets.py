"""Data sets: looking for faults, writing the built-in world, scoring result files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from sightline.api.configuration import PathLike

if TYPE_CHECKING:
    from sightline.data.check import CheckReport
    from sightline.tasks.coco_scoring import ScoreResult


def check(data: PathLike, *, decode: bool = True) -> CheckReport:
    """All faults of a data set, with counts.

    Args:
        data: The data set.
        decode: Decode every image, which finds truncated ones.

    Raises:
        DataError: If it cannot be opened as a whole.
    """
    from sightline.data.check import check_dataset

    return check_dataset(Path(data), decode=decode)


def world(out: PathLike, *, format: str = "yolo", scenes: int = 200, seed: int = 0) -> str:
    """Write the built-in synthetic city as a data set; says what was written.

    Raises:
        UserError: If the folder is in use or the format unknown.
    """
    from sightline.data.world.writers import WorldFormat, write_world

    written = write_world(Path(out), format=cast(WorldFormat, format), scenes=scenes, seed=seed)
    images = ", ".join(f"{count} {split}" for split, count in written.images.items())
    boxes = ", ".join(f"{count} {name}" for name, count in written.boxes.items())
    return f"{written.path}: {images} pictures; {boxes}\nTrain on it: sightline train yolov7-tiny --data {written.path}"


def score_coco(truth: PathLike, detections: PathLike) -> ScoreResult:
    """The 12 official COCO box figures of any tool's result file, with a table of classes.

    Raises:
        DataError: If a file cannot be read or an entry is impossible; names it.
    """
    from sightline.tasks.coco_scoring import score_coco as score

    return score(Path(truth), Path(detections))
