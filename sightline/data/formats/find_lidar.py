"""``open_lidar_dataset``: which format of point clouds a path holds, told by what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from sightline.config.printable import printable
from sightline.data.faults import FormatError
from sightline.data.formats.image_files import entries_of, exists, is_folder, what_is_there
from sightline.data.formats.kitti import KittiSource, find_kitti

LidarFormatName = Literal["kitti"]

LOOKED_FOR = "training/velodyne/*.bin with training/calib and training/label_2 (KITTI)"


def open_lidar_dataset(
    path: Path | str,
    *,
    class_names: Sequence[str] | None = None,
    other_types: Sequence[str] = (),
    format: LidarFormatName | None = None,
) -> KittiSource:
    """Open a data set of point clouds with boxes in space. Only names and lists are read here.

    Args:
        path: The folder that holds ``training``, its parent, or ``training`` itself.
        class_names: Types that are trained, in the order of their labels; by default Car, Pedestrian, Cyclist.
        other_types: Types that are not KITTI's and not trained, but may stand in the labels.
        format: ``kitti``.

    Raises:
        FormatError: A ``DataError``: says what was looked for and what is there.
    """
    path = Path(path).expanduser()
    if not exists(path):
        raise FormatError("not_found", path, f"no such file or folder; {what_is_there(path)}")
    if format is not None and format not in get_args(LidarFormatName):
        known = ", ".join(get_args(LidarFormatName))
        raise FormatError("not_a_dataset", path, f"no format is called {printable(format)!r}; there are {known}")
    root = find_kitti(path)
    if root is None:
        raise FormatError("not_a_dataset", path, _not_recognised(path))
    return KittiSource(path, root, class_names, other_types)


def holds_point_clouds(path: Path) -> bool:
    """Whether ``open_lidar_dataset`` knows what a path holds."""
    return is_folder(path) and find_kitti(path) is not None


def _not_recognised(path: Path) -> str:
    if not is_folder(path):
        return f"no data set of point clouds: expected a folder with {LOOKED_FOR}"
    near = [Path(entry.path) for entry in entries_of(path) if entry.is_dir() and not entry.name.startswith(".")]
    guess = next((f"; did you mean {printable(folder)}?" for folder in near if find_kitti(folder) is not None), "")
    names = [printable(entry.name, limit=40) for entry in entries_of(path)]
    held = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"
    other = "" if guess else _other_data(path)
    return f"no known data set of point clouds; looked for {LOOKED_FOR}; it holds {other or held}{guess}"


def _other_data(path: Path) -> str:
    """What a folder holds that other recipes read; empty where they do not either."""
    from sightline.data.formats.find import box_layouts  # these two ask this module in their turn
    from sightline.data.formats.find_classes import class_candidates

    boxes = box_layouts(path, None)
    if boxes:
        return f"images with boxes ({', '.join(boxes)}), which the recipes of image detectors read"
    classes = class_candidates(path)
    return f"image classes ({', '.join(classes)}), which the recipes of classifiers read" if classes else ""
