"""The whole truth about a data set's files: what ``sightline check`` prints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from sightline.config.printable import counted, printable
from sightline.data.annotations import Fault, ImageAnnotations
from sightline.data.check_lidar import LidarSplitReport, look_into_clouds, report_lidar_split
from sightline.data.class_labels import ClassLabels
from sightline.data.decode import decode_bytes, read_image_bytes
from sightline.data.faults import KINDS, FormatError, by_kind, make_fault
from sightline.data.formats.class_source import ClassSource
from sightline.data.formats.find import FormatName, open_dataset
from sightline.data.formats.find_classes import ClassFormatName, class_candidates, open_class_dataset
from sightline.data.formats.find_lidar import LidarFormatName, holds_point_clouds, open_lidar_dataset
from sightline.data.formats.kitti import KittiSource
from sightline.data.formats.source import DataSource
from sightline.data.image_header import ImageError
from sightline.data.lidar_annotations import LidarAnnotations

Progress = Callable[[int, int], None]
"""Called with the number of images or point clouds looked at and their total."""
AnySource = DataSource | ClassSource | KittiSource
AnyFormatName = FormatName | ClassFormatName | LidarFormatName


@dataclass(frozen=True)
class SplitReport:
    """What a split holds."""

    name: str
    num_images: int
    """Images listed, unusable ones included."""
    num_unusable: int
    """Images that a fatal fault spoils."""
    num_background: int
    """Images without a box."""
    num_boxes: int
    boxes_per_class: tuple[int, ...]

    def rows(self, class_names: Sequence[str]) -> list[tuple[str, int]]:
        """Counts in the order of the table."""
        return [
            ("images", self.num_images),
            ("  unusable", self.num_unusable),
            ("  background", self.num_background),
            ("boxes", self.num_boxes),
            *((f"  {name}", count) for name, count in zip(class_names, self.boxes_per_class, strict=True)),
        ]


@dataclass(frozen=True)
class ClassSplitReport:
    """What a split of images with one class each holds."""

    name: str
    num_images: int
    """Images listed, unusable ones included."""
    num_unusable: int
    """Images that a fatal fault spoils."""
    images_per_class: tuple[int, ...]
    """Usable images: the class of others may not be known."""

    def rows(self, class_names: Sequence[str]) -> list[tuple[str, int]]:
        """Counts in the order of the table."""
        return [
            ("images", self.num_images),
            ("  unusable", self.num_unusable),
            *((f"  {name}", count) for name, count in zip(class_names, self.images_per_class, strict=True)),
        ]


@dataclass(frozen=True)
class CheckReport:
    """What a data set holds and everything that is wrong with it."""

    path: Path
    format: str
    class_names: tuple[str, ...]
    splits: tuple[SplitReport | ClassSplitReport | LidarSplitReport, ...]
    faults: tuple[Fault, ...]
    """Each once, though several splits may share files."""
    num_decoded: int
    """Images that were decoded, or point clouds that were read, as a whole; 0 if only headers were read."""
    unit: str = "image"
    """What one sample is called."""

    @property
    def is_usable(self) -> bool:
        """Whether training would start without leaving anything out."""
        return not any(fault.fatal for fault in self.faults)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": printable(self.path),
            "format": self.format,
            "class_names": list(self.class_names),
            "num_decoded": self.num_decoded,
            "splits": [
                {key: list(value) if isinstance(value, tuple) else value for key, value in vars(split).items()}
                for split in self.splits
            ],
            "faults": [
                {
                    "kind": fault.kind,
                    "path": printable(fault.path),
                    "line": fault.line,
                    "message": printable(fault.message),
                    "fatal": fault.fatal,
                }
                for fault in self.faults
            ],
        }

    def lines(self, *, places: int | None = 5) -> list[str]:
        """The report as text.

        Args:
            places: How many places of each kind of fault to show; None shows all.
        """
        lines = [f"{printable(self.path)}: {self.format}, {counted(len(self.class_names), 'class')}", ""]
        lines += [*self._table(), ""]
        if not self.faults:
            lines.append("no faults")
        for group in by_kind(self.faults).values():
            first = group[0]
            weight = "error" if first.fatal else "note"
            lines.append(f"{weight}: {counted(len(group), 'place')} with {first.kind}: {KINDS[first.kind]}")
            shown = group if places is None else group[:places]
            lines += [f"  {fault}" for fault in shown]
            if len(shown) < len(group):
                lines.append(f"  ... and {len(group) - len(shown):,} more")
        if not self.is_usable:
            lines += ["", f"Training refuses this data until the errors are gone, or leaves the {self.unit}s out with"]
            lines.append("data.on_fault=skip.")
        return lines

    def _table(self) -> list[str]:
        """Counts by split, one column each."""
        columns = [split.rows(self.class_names) for split in self.splits]
        rows: list[tuple[str, ...]] = [("", *(split.name for split in self.splits))]
        for cells in zip(*columns, strict=True):
            rows.append((cells[0][0], *(f"{count:,}" for _, count in cells)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            ).rstrip()
            for row in rows
        ]


def check_dataset(
    path: Path | str,
    *,
    class_names: Sequence[str] | None = None,
    format: AnyFormatName | None = None,
    decode: bool = False,
    same_content: bool = False,
    num_threads: int = 4,
    progress: Progress | None = None,
) -> CheckReport:
    """Read every split of a data set and report what is there and what is wrong. Writes nothing.

    Args:
        path: Folder or file, as for ``open_dataset``, ``open_class_dataset`` or ``open_lidar_dataset``.
        class_names: As there.
        format: As there.
        decode: Decode every image as a whole, which finds those that are cut off or damaged behind their header. Of
            data with point clouds read every cloud, which finds bad points and boxes without points, and no picture.
        same_content: Look for images or clouds that are copies of each other, byte for byte.
        num_threads: Threads for these two.
        progress: Called now and then while images are decoded or clouds read.

    Raises:
        FormatError: If the data set cannot be opened, or none of its splits can be read.
    """
    source = open_any(path, class_names, format)
    faults = list(source.faults)
    read: dict[str, ImageAnnotations | ClassLabels | LidarAnnotations] = {}
    names = source.class_names
    for split in source.splits:
        try:
            read[split] = source.read(split)
        except FormatError as error:
            if len(source.splits) == 1:
                raise
            faults.append(error.fault)
    faults += [fault for held in read.values() for fault in held.faults]
    faults += unused_files(source)
    clouds = [held for held in read.values() if isinstance(held, LidarAnnotations)]
    images = [held for held in read.values() if not isinstance(held, LidarAnnotations)]
    readable = list(dict.fromkeys(held.paths[i] for held in images for i in readable_images(held)))
    found: list[Fault] = []
    num_read = len(readable)
    if decode or same_content:
        found = look_into_images(readable, decode=decode, same_content=same_content, threads=num_threads, tell=progress)
        if clouds:
            more, num_read = look_into_clouds(
                clouds, read=decode, same_content=same_content, threads=num_threads, tell=progress
            )
            found += more
    broken = {str(fault.path) for fault in found if fault.fatal}
    return CheckReport(
        path=Path(path),
        format=source.format,
        class_names=names,
        splits=tuple(
            report_lidar_split(split, held, broken, clouds)
            if isinstance(held, LidarAnnotations)
            else report_split(split, held, broken)
            for split, held in read.items()
        ),
        faults=tuple(unique([*faults, *found])),
        num_decoded=num_read if decode else 0,
        unit="frame" if clouds else "image",
    )


def open_any(path: Path | str, class_names: Sequence[str] | None, format: AnyFormatName | None) -> AnySource:
    """A data set of images with boxes, of image classes, or of point clouds.

    Raises:
        FormatError: As ``open_dataset``, or as that of the others where the path holds such data.
    """
    if format in get_args(ClassFormatName):
        return open_class_dataset(path, class_names=class_names, format=cast(ClassFormatName, format))
    if format in get_args(LidarFormatName):
        return open_lidar_dataset(path, class_names=class_names, format=cast(LidarFormatName, format))
    try:
        return open_dataset(path, class_names=class_names, format=cast("FormatName | None", format))
    except FormatError as error:
        place = Path(path).expanduser()
        if format is None and error.fault.kind == "not_a_dataset":
            if holds_point_clouds(place):
                return open_lidar_dataset(path, class_names=class_names)
            if class_candidates(place):
                return open_class_dataset(path, class_names=class_names)
        raise


def unused_files(source: AnySource) -> list[Fault]:
    """Files that no split uses; none if a split is too broken to say."""
    try:
        return source.unused()
    except FormatError:
        return []


def readable_images(annotations: ImageAnnotations | ClassLabels) -> Iterator[int]:
    """Images that are files of their own and whose header is sound."""
    return (i for i in range(len(annotations.paths)) if annotations.sizes_hw[i, 0] > 0)


def report_split(
    name: str, annotations: ImageAnnotations | ClassLabels, broken: set[str]
) -> SplitReport | ClassSplitReport:
    """Counts of one split; ``broken`` are images that could not be decoded."""
    spoilt = {fault.image for fault in annotations.faults if fault.fatal and fault.image is not None}
    spoilt |= {i for i, path in enumerate(annotations.paths) if path in broken}
    if isinstance(annotations, ClassLabels):
        usable = annotations.select(i for i in range(len(annotations)) if i not in spoilt)
        return ClassSplitReport(name, len(annotations), len(spoilt), tuple(usable.images_per_class.tolist()))
    return SplitReport(
        name=name,
        num_images=len(annotations),
        num_unusable=len(spoilt),
        num_background=int((annotations.boxes_per_image == 0).sum()),
        num_boxes=len(annotations.labels),
        boxes_per_class=tuple(map(int, annotations.boxes_per_class)),
    )


def unique(faults: Iterable[Fault]) -> list[Fault]:
    """Faults without those that say the same of the same place, tied to no image."""
    return list(dict.fromkeys(replace(fault, image=None) for fault in faults))


def look_into_images(
    paths: Sequence[str], *, decode: bool, same_content: bool, threads: int, tell: Progress | None
) -> list[Fault]:
    """Faults that only the whole file shows. Decoding runs in threads; OpenCV does not hold Python's lock."""
    digests: dict[bytes, str] = {}
    faults = []

    def look(path: str) -> Fault | bytes:
        try:
            data = read_image_bytes(path)
            if decode:
                decode_bytes(data, path)
        except ImageError as error:
            return make_fault(error.kind, path, error.message)
        return hashlib.blake2b(data, digest_size=16).digest() if same_content else b""

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for number, (path, result) in enumerate(zip(paths, pool.map(look, paths), strict=True), start=1):
            if isinstance(result, Fault):
                faults.append(result)
            elif same_content:
                first = digests.setdefault(result, path)
                if first != path:
                    faults.append(make_fault("same_content", path, f"the same bytes as {printable(first)}"))
            if tell is not None:
                tell(number, len(paths))
    return faults
