"""Data sets: looking for faults, writing the built-in world, scoring result files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, cast, get_args

from sightline.api.configuration import PathLike
from sightline.api.inference import Figures
from sightline.config.errors import ConfigError, did_you_mean
from sightline.config.printable import counted, printable

if TYPE_CHECKING:
    from sightline.data.check import CheckReport
    from sightline.data.formats.find import FormatName
    from sightline.data.formats.find_classes import ClassFormatName
    from sightline.data.formats.find_lidar import LidarFormatName


def dataset_formats() -> tuple[str, ...]:
    """Names of all formats that ``check`` knows: those of boxes, then of image classes, then of point clouds."""
    from sightline.data.formats.find import FormatName
    from sightline.data.formats.find_classes import ClassFormatName
    from sightline.data.formats.find_lidar import LidarFormatName

    return (*get_args(FormatName), *get_args(ClassFormatName), *get_args(LidarFormatName))


def check(
    data: PathLike,
    *,
    format: str | None = None,
    decode: bool = True,
    same_content: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """All faults of a data set, with counts.

    Args:
        data: The data set.
        format: ``yolo``, ``coco``, ``voc``, ``kitti``, or one of image classes such as ``class_folders``, where a
            folder holds several; found by looking without it.
        decode: Decode every image, which finds damage behind the header; of point clouds read every point.
        same_content: Look for images or clouds that are copies of each other.
        progress: Called now and then with the number of images or clouds looked at and their total.

    Raises:
        ConfigError: If there is no such format.
        DataError: If it cannot be opened as a whole.
    """
    from sightline.data.check import check_dataset

    names = dataset_formats()
    if format is not None and format not in names:
        near = did_you_mean(format, names) or f" There are: {', '.join(names)}."
        raise ConfigError(f"check: no format {printable(format)!r}.{near}")
    return check_dataset(
        Path(data).expanduser(),
        format=cast("FormatName | ClassFormatName | LidarFormatName | None", format),
        decode=decode,
        same_content=same_content,
        progress=progress,
    )


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
        format: ``yolo``, ``coco``, ``voc``, or ``kitti`` with the points of a LiDAR.
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
    what, recipe = ("frames", "pointpillars-world") if written.format == "kitti" else ("pictures", "yolov7-tiny-small")
    command = f"sightline train {recipe} --data {quote(str(folder))}"
    return f"{folder}: {images} {what}; {boxes}\nTrain on it: {command}"


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
        f"{counted(result.num_images, 'image')}, {counted(result.num_truths, 'truth')} "
        f"({result.num_crowds:,} of them crowds), {counted(result.num_detections, 'detection')}"
    )
    return Figures(result.figures, details, title, tuple(f"note: {note}" for note in result.notes), TITLES)


def score_kitti(
    labels: PathLike,
    detections: PathLike,
    *,
    frames: PathLike | None = None,
    class_names: Sequence[str] | None = None,
) -> Figures:
    """KITTI's AP (R40 and R11) in the picture, from above, in space and of orientation, of any tool's text files.

    Args:
        labels: Folder of label files, one per frame.
        detections: Folder of result files of 16 columns, one per frame; empty where nothing was found.
        frames: List of the frames to score, such as ``ImageSets/val.txt``; without it all that have a result file.
        class_names: Types to score; without it Car, Pedestrian, Cyclist and what else the detections name.

    Raises:
        UserError: If a file is missing or broken, names file and line; or a class is in neither folder.
    """
    from sightline.tasks.kitti_scoring import score_kitti as score

    folders = Path(labels).expanduser(), Path(detections).expanduser()
    frame_list = None if frames is None else Path(frames).expanduser()
    result = score(*folders, frame_list=frame_list, class_names=class_names)
    counts = {name: getattr(result, name) for name in ("num_frames", "num_truths", "num_detections")}
    title = (
        f"{counted(result.num_frames, 'frame')}, {counted(result.num_truths, 'truth')}, "
        f"{counted(result.num_detections, 'detection')}"
    )
    notes = tuple(f"note: {note}" for note in result.notes)
    return Figures(result.figures, {**counts, **result.details}, title, notes)
