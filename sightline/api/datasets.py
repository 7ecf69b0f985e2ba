"""Data sets: looking for faults, writing the built-in world, scoring result files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sightline.api.configuration import PathLike
from sightline.api.inference import Figures

if TYPE_CHECKING:
    from sightline.data.check import CheckReport


def check(
    data: PathLike,
    *,
    decode: bool = True,
    same_content: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """All faults of a data set, with counts.

    Args:
        data: The data set.
        decode: Decode every image, which finds damage behind the header.
        same_content: Look for images that are copies of each other.
        progress: Called now and then with the number of images looked at and their total.

    Raises:
        DataError: If it cannot be opened as a whole.
    """
    from sightline.data.check import check_dataset

    return check_dataset(Path(data).expanduser(), decode=decode, same_content=same_content, progress=progress)


def world(
    out: PathLike,
    *,
    format: str = "yolo",
    scenes: int = 200,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Write the built-in synthetic city as a data set; says what was written.

    Args:
        out: A new folder.
        format: ``yolo``, ``coco`` or ``voc``.
        scenes: Number of pictures in all.
        seed: Which city.
        progress: Called with the number of finished pictures.

    Raises:
        UserError: If the folder is in use or the format unknown.
    """
    from sightline.data.world.writers import WorldFormat, write_world

    folder = Path(out).expanduser()
    written = write_world(folder, format=cast(WorldFormat, format), scenes=scenes, seed=seed, progress=progress)
    images = ", ".join(f"{count} {split}" for split, count in written.images.items())
    boxes = ", ".join(f"{count} {name}" for name, count in written.boxes.items())
    return f"{folder}: {images} pictures; {boxes}\nTrain on it: sightline train yolov7-tiny-small --data {folder}"


def score_coco(truth: PathLike, detections: PathLike) -> Figures:
    """The 12 official COCO box figures of any tool's result file, with a table of classes.

    Args:
        truth: COCO annotations.
        detections: COCO results, a JSON list.

    Raises:
        DataError: If a file cannot be read or an entry is impossible; names it.
    """
    from sightline.tasks.coco_scoring import TITLES
    from sightline.tasks.coco_scoring import score_coco as score

    result = score(Path(truth).expanduser(), Path(detections).expanduser())
    details = {key: value for key, value in result.as_dict().items() if key not in ("figures", "notes")}
    title = (
        f"{result.num_images:,} images, {result.num_truths:,} truths ({result.num_crowds:,} of them crowds), "
        f"{result.num_detections:,} detections"
    )
    return Figures(result.figures, details, title, tuple(f"note: {note}" for note in result.notes), TITLES)
