"""The world as a data set on disk, in the usual layouts of YOLO, COCO, Pascal VOC and KITTI.

The first three say the same boxes: tight, whole pixels, around what can be seen of each object (see
``render.ImageTruth``).

=====  ==========================================================================================================
yolo   ``data.yaml``, ``images/{train,val}/000000.jpg``, ``labels/{train,val}/000000.txt``
coco   ``annotations/instances_{train,val}.json``, ``{train,val}/000000.jpg``; ``area`` counts visible pixels
voc    ``JPEGImages``, ``Annotations``, ``ImageSets/Main/{train,val,trainval}.txt``; corners 1-based and inclusive
kitti  points of the LiDAR, pictures, boxes in space: see ``kitti_writer``
=====  ==========================================================================================================

A folder appears only when it is complete: it is written beside its place and then renamed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from xml.etree import ElementTree

import cv2
import numpy as np
import yaml

from sightline.config.errors import ConfigError, DataError, did_you_mean
from sightline.data.world.camera import Array
from sightline.data.world.config import CLASS_NAMES, WORLD_VERSION, EmbeddedLidarConfig, LidarConfig, WorldConfig
from sightline.data.world.kitti_writer import JPEG_QUALITY, PictureSuffix, write_kitti
from sightline.data.world.render import render_sample
from sightline.data.world.truth import ImageTruth

WorldFormat = Literal["yolo", "coco", "voc", "kitti"]


@dataclass(frozen=True)
class WorldSummary:
    """What has been written."""

    path: Path
    format: WorldFormat
    images: dict[str, int]
    """Pictures of every split."""
    boxes: dict[str, int]
    """Boxes of every class."""


@dataclass(frozen=True)
class _Record:
    """The labelled truth of one picture. N boxes."""

    stem: str
    boxes_xyxy: Array
    labels: Array
    visible_pixels: Array
    visible_fraction: Array
    truncation: Array


def write_world(
    out: Path,
    *,
    format: WorldFormat,
    scenes: int,
    seed: int = 0,
    val_fraction: float = 0.2,
    config: WorldConfig | None = None,
    lidar: LidarConfig | None = None,
    pictures: PictureSuffix = ".png",
    progress: Callable[[int], None] | None = None,
) -> WorldSummary:
    """Renders scenes 0 to ``scenes - 1`` and writes them as a data set.

    Args:
        out: Folder to make; it must not exist, or be empty.
        format: Layout of the files.
        scenes: Number of pictures, >= 1.
        seed: Which world.
        val_fraction: Share of the pictures in the split ``val``, the last ones. At least one picture trains.
        config: How the world looks. Without it the defaults; for ``kitti`` with pictures large enough for its rules.
        lidar: The LiDAR of ``kitti``; the defaults without it.
        pictures: Of ``kitti``; the others have JPEG.
        progress: Called with the number of finished pictures after each.

    Raises:
        UserError: If the folder has something in it or cannot be written, or an argument is impossible.
    """
    _check(format, scenes, seed, val_fraction)
    if lidar is not None and format != "kitti":
        raise ConfigError(f"a lidar was given, but {format} has no points; only kitti has.")
    out = out.expanduser().absolute()
    with whole_folder(out) as unfinished:
        if format == "kitti":
            splits = split_scenes(scenes, val_fraction)
            counts = write_kitti(
                unfinished,
                splits,
                seed=seed,
                config=config or EmbeddedLidarConfig().world,
                lidar=lidar or LidarConfig(),
                pictures=pictures,
                progress=progress,
            )
            summary = _summary(unfinished, format, splits, counts)
        else:
            summary = _write(unfinished, format, scenes, seed, val_fraction, config or WorldConfig(), progress)
    return WorldSummary(out, format, summary.images, summary.boxes)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write to, which takes the name ``out`` only when all went well.

    Raises:
        DataError: If ``out`` has something in it or cannot be written.
    """
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} exists and is not an empty folder. Name another one, or remove it.")
        out.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}). Name a folder that you may write to.") from error
    try:
        unfinished = workshop / out.name
        yield unfinished
        if out.exists():
            out.rmdir()
        unfinished.replace(out)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def split_scenes(scenes: int, val_fraction: float) -> dict[str, range]:
    """Which scenes train and which validate: the last ones, at least one where a share is asked for."""
    num_val = min(round(scenes * val_fraction), scenes - 1)
    if val_fraction > 0 and scenes > 1:
        num_val = max(num_val, 1)
    splits = {"train": range(scenes - num_val), "val": range(scenes - num_val, scenes)}
    return {split: indices for split, indices in splits.items() if len(indices)}


def write_jpeg(path: Path, image: Array) -> None:
    """Write an (H, W, 3) RGB picture."""
    _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(encoded.tobytes())


def _check(format: str, scenes: int, seed: int, val_fraction: float) -> None:
    known = get_args(WorldFormat)
    if format not in known:
        raise ConfigError(f"no world format {format!r}; there are {', '.join(known)}.{did_you_mean(format, known)}")
    if scenes < 1:
        raise ConfigError(f"scenes is {scenes}; it must be 1 or more.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be 0 or more.")
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction is {val_fraction}; it must be at least 0 and below 1.")


def _write(
    out: Path,
    format: WorldFormat,
    scenes: int,
    seed: int,
    val_fraction: float,
    config: WorldConfig,
    progress: Callable[[int], None] | None,
) -> WorldSummary:
    splits = split_scenes(scenes, val_fraction)
    image_folders = {
        split: out / {"yolo": f"images/{split}", "coco": split, "voc": "JPEGImages"}[format] for split in splits
    }
    for folder in image_folders.values():
        folder.mkdir(parents=True, exist_ok=True)

    records: list[_Record] = []
    for split, indices in splits.items():
        for index in indices:
            image, _, _, rendering = render_sample(seed, index, config)
            records.append(_record(f"{index:06d}", rendering.truth))
            write_jpeg(image_folders[split] / f"{records[-1].stem}.jpg", image)
            if progress is not None:
                progress(len(records))
    by_split = {split: [records[index] for index in indices] for split, indices in splits.items()}
    origin = f"sightline world {WORLD_VERSION}, seed {seed}, {config.model_dump_json()}"
    {"yolo": _write_yolo, "coco": _write_coco, "voc": _write_voc}[format](out, by_split, config.image_hw, origin)
    counts = np.bincount(np.concatenate([record.labels for record in records]), minlength=len(CLASS_NAMES))
    return _summary(out, format, splits, counts)


def _summary(out: Path, format: WorldFormat, splits: Mapping[str, range], counts: Array) -> WorldSummary:
    return WorldSummary(
        out,
        format,
        {split: len(indices) for split, indices in splits.items()},
        dict(zip(CLASS_NAMES, counts.tolist(), strict=True)),
    )


def _record(stem: str, truth: ImageTruth) -> _Record:
    keep = truth.is_labelled
    return _Record(
        stem,
        truth.boxes_xyxy[keep],
        truth.labels[keep],
        truth.visible_pixels[keep],
        truth.visible_fraction[keep],
        truth.truncation[keep],
    )


def _write_yolo(out: Path, splits: dict[str, list[_Record]], image_hw: tuple[int, int], origin: str) -> None:
    height, width = image_hw
    for split, records in splits.items():
        folder = out / "labels" / split
        folder.mkdir(parents=True)
        for record in records:
            lines = []
            for (x0, y0, x1, y1), label in zip(record.boxes_xyxy.tolist(), record.labels.tolist(), strict=True):
                numbers = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
                lines.append(" ".join([str(label), *(f"{number:.12g}" for number in numbers)]) + "\n")
            (folder / f"{record.stem}.txt").write_text("".join(lines))
    head = {split: f"images/{split}" for split in splits}
    names = {"names": dict(enumerate(CLASS_NAMES))}
    (out / "data.yaml").write_text(f"# {origin}\n" + yaml.safe_dump({**head, **names}, sort_keys=False))


def _write_coco(out: Path, splits: dict[str, list[_Record]], image_hw: tuple[int, int], origin: str) -> None:
    height, width = image_hw
    (out / "annotations").mkdir()
    for split, records in splits.items():
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for record in records:
            image_id = int(record.stem) + 1
            images.append({"id": image_id, "file_name": f"{record.stem}.jpg", "height": height, "width": width})
            rows = zip(record.boxes_xyxy.tolist(), record.labels.tolist(), record.visible_pixels.tolist(), strict=True)
            for (x0, y0, x1, y1), label, area in rows:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": label + 1,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": area,
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES, start=1)]
        content = {
            "info": {"description": origin},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _write_voc(out: Path, splits: dict[str, list[_Record]], image_hw: tuple[int, int], origin: str) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (out / folder).mkdir(parents=True)
    everything = [record for records in splits.values() for record in records]
    for split, records in {**splits, "trainval": everything}.items():
        (out / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{record.stem}\n" for record in records))
    for record in everything:
        tree = _voc_tree(record, image_hw, origin)
        ElementTree.indent(tree)
        ElementTree.ElementTree(tree).write(out / "Annotations" / f"{record.stem}.xml", encoding="utf-8")


def _voc_tree(record: _Record, image_hw: tuple[int, int], origin: str) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _fill(root, [("folder", "JPEGImages"), ("filename", f"{record.stem}.jpg")])
    _fill(ElementTree.SubElement(root, "source"), [("database", origin)])
    _fill(ElementTree.SubElement(root, "size"), [("width", image_hw[1]), ("height", image_hw[0]), ("depth", 3)])
    _fill(root, [("segmented", 0)])
    for row, (x0, y0, x1, y1) in enumerate(record.boxes_xyxy.astype(int).tolist()):
        item = ElementTree.SubElement(root, "object")
        is_cut, is_covered = record.truncation[row] > 0.15, record.visible_fraction[row] < 0.95
        _fill(item, [("name", CLASS_NAMES[record.labels[row]]), ("pose", "Unspecified")])
        _fill(item, [("truncated", int(is_cut)), ("occluded", int(is_covered)), ("difficult", 0)])
        corners = [("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)]
        _fill(ElementTree.SubElement(item, "bndbox"), corners)
    return root


def _fill(parent: ElementTree.Element, items: Sequence[tuple[str, str | int]]) -> None:
    for tag, value in items:
        ElementTree.SubElement(parent, tag).text = str(value)
