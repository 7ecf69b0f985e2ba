"""``open_dataset``: which data format a path holds, told by what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from sightline.config.printable import printable
from sightline.data.faults import FormatError
from sightline.data.formats import coco, voc, yolo_txt
from sightline.data.formats.cifar import find_cifar
from sightline.data.formats.class_folders import find_splits
from sightline.data.formats.find_lidar import holds_point_clouds
from sightline.data.formats.idx import find_idx
from sightline.data.formats.image_files import entries_of, exists, is_folder, suffix_of, what_is_there
from sightline.data.formats.source import DataSource

FormatName = Literal["yolo", "coco", "voc"]
Opener = Callable[[], DataSource]

LOOKED_FOR = "data.yaml, images/ + labels/ (YOLO), annotations/*.json (COCO), Annotations/*.xml + JPEGImages/ (VOC)"


def open_dataset(
    path: Path | str, *, class_names: Sequence[str] | None = None, format: FormatName | None = None
) -> DataSource:
    """Open a data set by looking at what a path holds.

    A folder may hold a YOLO data set (``data.yaml``, or ``images`` and ``labels``), a COCO data set (``annotations``
    with JSON files, or folders with ``_annotations.coco.json``) or a Pascal VOC data set (``Annotations`` with XML
    files and ``JPEGImages``). A file may be a ``data.yaml`` of any name, one COCO JSON file, or a text file that lists
    images. Only names and lists are read here; ``read`` of the result reads labels and image headers.

    Args:
        path: Folder or file.
        class_names: Names of the classes in their order. VOC and YOLO folders without a list of names take them; for
            the others they must be the same as in the files.
        format: ``yolo``, ``coco`` or ``voc`` where a folder holds several.

    Raises:
        FormatError: A ``DataError``: says what was looked for and what is there, or what contradicts what.
    """
    path = Path(path).expanduser()
    if not exists(path):
        raise FormatError("not_found", path, f"no such file or folder; {what_is_there(path)}")
    found = folder_candidates(path, class_names) if is_folder(path) else file_candidates(path, class_names)
    candidates = {name: opener for name, opener in found.items() if format in (None, name)}
    if len(candidates) > 1:
        several = " and ".join(candidates)
        example = next(iter(candidates))
        raise FormatError(
            "ambiguous_dataset",
            path,
            f"holds data of several formats: {several}",
            cure=f"Choose one: data.format={example}, or sightline check --format {example}.",
        )
    if not candidates:
        cure = " or ".join(f"data.format={name} (--format {name} of sightline check)" for name in found)
        raise FormatError(
            "not_a_dataset", path, not_recognised(path, format), cure=f"It can be read with {cure}." if cure else ""
        )
    return next(iter(candidates.values()))()


def folder_candidates(path: Path, class_names: Sequence[str] | None) -> dict[str, Opener]:
    """The formats whose files stand in a folder. A ``data.yaml`` decides alone."""
    data_yaml = find_data_yaml(path)
    if data_yaml is not None:
        return {"yolo": lambda: yolo_txt.open_data_yaml(data_yaml, class_names)}
    return box_layouts(path, class_names)


def box_layouts(path: Path, class_names: Sequence[str] | None) -> dict[str, Opener]:
    """The formats of images with boxes, told by folders and files other than a ``data.yaml``."""
    found: dict[str, Opener] = {}
    if yolo_txt.split_folders(path) and (has_labels(path) or is_folder(path / "labels")):
        found["yolo"] = lambda: yolo_txt.open_folder(path, class_names)
    if coco.find_files(path):
        found["coco"] = lambda: coco.open_coco(path, class_names)
    if is_folder(path / "JPEGImages") and is_folder(path / "Annotations"):
        found["voc"] = lambda: voc.VocSource(path, class_names)
    return found


def file_candidates(path: Path, class_names: Sequence[str] | None) -> dict[str, Opener]:
    """The format of a single file, by its suffix."""
    suffix = suffix_of(path.name)
    if suffix in (".yaml", ".yml"):
        return {"yolo": lambda: yolo_txt.open_data_yaml(path, class_names)}
    if suffix == ".json":
        return {"coco": lambda: coco.open_coco(path, class_names)}
    if suffix == ".txt":
        return {"yolo": lambda: yolo_txt.open_list_file(path, class_names)}
    return {}


def has_labels(path: Path) -> bool:
    """Whether folders such as ``train`` hold ``labels``."""
    return any(is_folder(Path(entry.path) / "labels") for entry in entries_of(path))


def find_data_yaml(path: Path) -> Path | None:
    """``data.yaml`` or ``dataset.yaml`` of a folder, or the only YAML file in it."""
    yamls = [Path(entry.path) for entry in entries_of(path) if suffix_of(entry.name) in (".yaml", ".yml")]
    for stem in ("data", "dataset"):
        for file in yamls:
            if file.stem == stem:
                return file
    return yamls[0] if len(yamls) == 1 else None


def kinds_of_classes(path: Path) -> list[str]:
    """The kinds of image classes whose files stand at a path; none in an archive that cannot be read."""
    try:
        return [name for name, found in (("CIFAR", find_cifar(path)), ("MNIST's kind", find_idx(path))) if found]
    except FormatError:
        return []


def not_recognised(path: Path, format: FormatName | None) -> str:
    """What was looked for, what is there, and a folder nearby that would do."""
    wanted = "no known data set" if format is None else f"no data set of the format {format!r}"
    classes = kinds_of_classes(path)
    if classes:
        return f"{wanted}; it holds image classes ({', '.join(classes)}), which the recipes of classifiers read"
    if holds_point_clouds(path):
        return f"{wanted}; it holds point clouds (KITTI), which the recipes of LiDAR detectors read"
    if not is_folder(path):
        return f"{wanted}: expected a data.yaml, a COCO .json or a .txt list of images"
    near = [Path(entry.path) for entry in entries_of(path) if entry.is_dir() and not entry.name.startswith(".")]
    near.append(path.parent)
    guess = next((f"; did you mean {printable(folder)}?" for folder in near if folder_candidates(folder, None)), "")
    if not guess and find_splits(path):
        return f"{wanted}; it holds folders of image classes, which the recipes of classifiers read"
    names = [printable(entry.name, limit=40) for entry in entries_of(path)]
    held = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"
    return f"{wanted}; looked for {LOOKED_FOR}; it holds {held}{guess}"
