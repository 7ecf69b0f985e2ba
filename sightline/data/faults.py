"""The kinds of faults in data files, errors that carry one, and what to do when a data set has some."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Literal, Protocol, Self, TypeVar

from sightline.config.errors import DataError
from sightline.config.printable import counted, printable
from sightline.data.annotations import Fault

FATAL_KINDS = {
    # of images
    "missing_image": "image file does not exist",
    "unreadable_image": "image file cannot be opened",
    "empty_image": "image file has no bytes",
    "not_an_image": "file holds no image",
    "unsupported_image": "image format that is not read",
    "broken_image": "image cannot be decoded",
    "truncated_image": "image file is cut off",
    "too_large_image": "image above the limit of pixels",
    "ambiguous_image": "several images fit one label",
    "size_mismatch": "label was made for another image size",
    "unsafe_path": "path leads out of the data set",
    # of label files and their entries
    "missing_label": "label file does not exist",
    "unreadable_label": "label file cannot be read",
    "no_labels": "no image of the split has a label",
    "not_text": "file is not text",
    "bad_xml": "XML is broken or refused",
    "wrong_columns": "wrong number of columns",
    "bad_number": "not a number",
    "non_finite": "number is NaN or infinite",
    "bad_class": "class is not a whole number",
    "two_classes": "image with one class is given two",
    "class_out_of_range": "class number that the data set does not have",
    "unknown_class": "class name that the data set does not have",
    "missing_key": "a part is missing",
    "wrong_type": "a part has the wrong type",
    "bad_value": "a part has an impossible value",
    "negative_size": "box with its right before its left or its bottom above its top",
    "outside_box": "box outside the image",
    "duplicate_id": "id given twice",
    "unknown_image_id": "box of an image that is not listed",
    "unknown_category_id": "box of a category that is not listed",
    # of point clouds and what belongs to them
    "missing_points": "point file does not exist",
    "unreadable_points": "point file cannot be opened",
    "unsupported_points": "format of points that is not read",
    "broken_points": "point file contradicts its format",
    "truncated_points": "point file is cut off",
    "empty_points": "point file without points",
    "non_finite_points": "points that are NaN or infinite",
    "too_large_points": "point file above the limit of points",
    "missing_calibration": "calibration file does not exist",
    "unreadable_calibration": "calibration file cannot be read",
    "bad_calibration": "calibration is not whole or impossible",
    "cloud_out_of_view": "cloud of which the camera sees nothing",
    "bad_plane": "road plane is broken",
    "bad_size": "box in space whose size is not positive",
    # of the data set as a whole; raised as FormatError
    "not_found": "path does not exist",
    "truncated_file": "data file is cut off",
    "broken_file": "data file contradicts its format",
    "bad_pickle": "pickle is broken, or asks for more than plain data",
    "bad_archive": "archive is broken or refused",
    "count_mismatch": "files that belong together have different lengths",
    "not_a_dataset": "no known data format",
    "ambiguous_dataset": "several data formats in one folder",
    "unreadable_file": "file cannot be read",
    "bad_yaml": "YAML is broken or refused",
    "bad_json": "JSON is broken or refused",
    "bad_names": "class names are missing or contradict each other",
    "no_images": "no images found",
    "no_frames": "no frames found",
    "unknown_split": "the data set has no such split",
}
"""What each fault means after which an image's truth, or the whole data set, cannot be trusted."""

MILD_KINDS = {
    "degenerate_box": "box without width or height; dropped",
    "duplicate_box": "box given twice; one kept",
    "clipped_box": "box a little over the image's edge; clipped",
    "duplicate_image": "image listed twice; one kept",
    "image_without_label": "image without label file; taken as background",
    "label_without_image": "label without image; not used",
    "unlabelled_image": "image without label; not used",
    "image_not_listed": "image that no split lists; not used",
    "empty_class": "class without a sample in this split",
    "other_file": "file that is no image; not used",
    "same_content": "file with the same content as another",
    "duplicate_frame": "frame listed twice; one kept",
    "frame_not_listed": "frame that no split lists; not used",
    "frame_without_image": "frame without a picture; its points are not cut to the camera's view",
    "frame_without_plane": "frame without a road plane",
    "frame_without_label": "frame without a label file; its objects are not known",
    "box_without_points": "box in space without a point inside",
    "no_split_lists": "no lists of splits; all frames are one split",
    "split_without_frames": "list of frames whose folder is not there; not used",
    "download_ignored": "download instructions; ignored",
}
"""What each fault means that is repaired or set aside, and counted."""

KINDS = FATAL_KINDS | MILD_KINDS


def make_fault(
    kind: str, path: Path | str, message: str, *, line: int | None = None, image: int | None = None
) -> Fault:
    """A fault of a known kind."""
    assert kind in KINDS, kind
    return Fault(kind, Path(path), line, message, kind in FATAL_KINDS, image)


class FormatError(DataError):
    """A data set cannot be read at all: the fault lies in its structure, not in one image."""

    def __init__(self, kind: str, path: Path | str, message: str, *, line: int | None = None, cure: str = "") -> None:
        self.fault = make_fault(kind, path, message, line=line)
        super().__init__(f"{self.fault}{'.' if message[-1:] not in '.?' else ''}{f' {cure}' if cure else ''}")


def by_kind(faults: Iterable[Fault]) -> dict[str, list[Fault]]:
    """Faults grouped by kind, fatal kinds first, the largest group first."""
    groups: dict[str, list[Fault]] = {}
    for fault in faults:
        groups.setdefault(fault.kind, []).append(fault)
    return dict(sorted(groups.items(), key=lambda item: (not item[1][0].fatal, -len(item[1]), item[0])))


class SplitTruth(Protocol):
    """The truth of one split, whatever it is about."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def source(self) -> Path:
        """The folder or file that was asked for."""

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Everything found while reading."""

    @property
    def unit(self) -> str:
        """What one sample is called: ``image``."""

    def __len__(self) -> int:
        """Number of samples."""

    def select(self, samples: Iterable[int], /) -> Self:
        """The same data with only these samples, in this order."""


Truth = TypeVar("Truth", bound=SplitTruth)


def enforce(annotations: Truth, on_fault: Literal["refuse", "skip"]) -> tuple[Truth, list[str]]:
    """Stop at fatal faults, or leave the spoilt images out; in both cases say so.

    Args:
        annotations: What was read, with its faults.
        on_fault: ``refuse`` raises on any fatal fault. ``skip`` leaves out the images that fatal faults spoil; a fatal
            fault that spoils no listed image (such as a box of an unknown image) leaves out only what it names.

    Returns:
        The annotations to use, in which every image can be trusted, and one message per kind of fault with its count.

    Raises:
        DataError: At fatal faults with ``refuse``; or if ``skip`` would leave no image.
    """
    fatal = [fault for fault in annotations.faults if fault.fatal]
    spoilt = {fault.image for fault in fatal if fault.image is not None}
    if fatal and on_fault == "refuse":
        raise DataError(refusal(annotations, fatal, len(spoilt)))
    if spoilt and len(spoilt) == len(annotations):
        raise DataError(f"{refusal(annotations, fatal, len(spoilt))}\nNo {annotations.unit} would be left.")
    messages = []
    for group in by_kind(annotations.faults).values():
        example, count = group[0], len(group)
        messages.append(
            f"{annotations.name}: {count:,} x {KINDS[example.kind]}, {'first' if count > 1 else 'in'} {example.place}"
        )
    if not spoilt:
        return annotations, messages
    share = f"{len(spoilt):,} of {counted(len(annotations), annotations.unit)}"
    messages.insert(0, f"{annotations.name}: left out {share} (data.on_fault=skip); figures are those of the others")
    return annotations.select(i for i in range(len(annotations)) if i not in spoilt), messages


def refusal(annotations: SplitTruth, fatal: Sequence[Fault], num_spoilt: int) -> str:
    """At most four lines: how much is wrong, the first places, what to do."""
    shown = fatal[:2]
    rest = f" (the first {len(shown)} are shown)" if len(fatal) > len(shown) else ""
    where = f" in {num_spoilt:,} of {counted(len(annotations), annotations.unit)}" if num_spoilt else ""
    those = f"that {annotations.unit}" if num_spoilt == 1 else f"those {annotations.unit}s"
    way_out = f"leave {those} out" if num_spoilt else f"go on in spite of {'it' if len(fatal) == 1 else 'them'}"
    repair = "Repair it (look again with" if len(fatal) == 1 else "Repair them (all are listed by"
    return "\n".join(
        (
            f"{annotations.name}: {counted(len(fatal), 'fault')}{where}{rest}:",
            *(f"  {printable(fault, limit=300)}" for fault in shown),
            f"{repair}: sightline check {quote(printable(annotations.source))}) or {way_out} with data.on_fault=skip.",
        )
    )


def renumbered(faults: Iterable[Fault], image: int | None) -> list[Fault]:
    """The same faults, tied to another image."""
    return [replace(fault, image=image) for fault in faults]
