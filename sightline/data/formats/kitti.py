"""KITTI's object benchmark: point clouds, labels and calibration, a file of each per frame, as they are unpacked.

::

    ImageSets/train.txt ...           frames of each split, one id such as 000123 per line
    training/velodyne/000123.bin      points: float32 x, y, z, reflectance, LiDAR frame
    training/calib/000123.txt
    training/label_2/000123.txt
    training/image_2/000123.png       optional
    training/planes/000123.txt        optional: the road as a plane
    testing/...                       the same without labels

Format: Geiger et al., "Are we ready for autonomous driving? The KITTI vision benchmark suite", CVPR 2012, and the
readme of its object development kit. There is no step of conversion: the 7,481 frames are read in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from sightline.config.errors import did_you_mean
from sightline.config.printable import counted, printable
from sightline.data.annotations import Fault
from sightline.data.faults import FormatError, make_fault
from sightline.data.formats.class_names import checked_names
from sightline.data.formats.image_files import entries_of, is_folder, read_lines
from sightline.data.formats.kitti_files import KITTI_TYPES, read_label_file
from sightline.data.formats.kitti_split import SplitReader
from sightline.data.formats.source import SplitSource, sorted_splits
from sightline.data.lidar_annotations import DONT_CARE, LidarAnnotations

DEFAULT_CLASSES = ("Car", "Pedestrian", "Cyclist")
"""The classes of KITTI's benchmark."""


def find_kitti(path: Path) -> Path | None:
    """The folder above ``training`` and ``testing``: ``path``, its parent where ``path`` is one of them, or a child.

    None where there is none, or where several children would do.
    """
    for root in (path, path.parent):
        if _parts(root) and (root == path or path.name in ("training", "testing")):
            return root
    inside = [Path(entry.path) for entry in entries_of(path) if entry.is_dir() and not entry.name.startswith(".")]
    found = [folder for folder in inside if _parts(folder)]
    return found[0] if len(found) == 1 else None


def _parts(root: Path) -> list[str]:
    """Which of ``training`` and ``testing`` are there."""
    return [part for part in ("training", "testing") if is_folder(root / part / "velodyne")]


class KittiSource(SplitSource[LidarAnnotations]):
    """A folder with ``training`` or ``testing``.

    Splits are the lists in ``ImageSets``; those whose name begins with ``test`` take the frames of ``testing``. Without
    lists all frames of ``training`` are the split ``train``, and those of ``testing`` the split ``test``.

    Args:
        path: What the user named, for messages.
        root: The folder above ``training``.
        class_names: Types that are trained, in the order of their labels.
        other_types: Types that are not KITTI's and not trained, but may stand in the labels.

    Raises:
        FormatError: If a name cannot be used.
    """

    format: ClassVar[str] = "kitti"

    def __init__(
        self, path: Path, root: Path, class_names: Sequence[str] | None = None, other_types: Sequence[str] = ()
    ) -> None:
        self.root = root
        self._lists = {file.stem: file for file in map(Path, _entries_with(root / "ImageSets", ".txt"))}
        faults = []
        parts = _parts(root)
        for name in list(self._lists):
            if _part_of(name) not in parts:
                message = f"its frames should be in {_part_of(name)}/velodyne, which is not there"
                faults.append(make_fault("split_without_frames", self._lists.pop(name), message))
        self._has_lists = bool(self._lists)
        splits = sorted_splits(self._lists) or ["train" if part == "training" else "test" for part in parts]
        super().__init__(path, splits, faults)
        self._asked_names = None if class_names is None else checked_names(path, class_names)
        self._other_types = tuple(other_types)
        if self._asked_names is not None and DONT_CARE in self._asked_names:
            raise FormatError("bad_names", path, f"{DONT_CARE} marks regions without labels and cannot be trained")

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The types asked for, else Car, Pedestrian, Cyclist.

        Raises:
            FormatError: If a type was asked for that is neither KITTI's nor in any label file.
        """
        if self._asked_names is None:
            return DEFAULT_CLASSES
        strange = [name for name in self._asked_names if name not in KITTI_TYPES]
        if strange:
            self._refuse_absent(strange)
        return self._asked_names

    @property
    def type_names(self) -> tuple[str, ...]:
        """All types that labels may have: those of KITTI, the trained ones, and those named beside them."""
        return tuple(dict.fromkeys((*KITTI_TYPES, *self.class_names, *self._other_types)))

    def unused(self) -> list[Fault]:
        """Frames of ``training`` that no list names."""
        if not self._has_lists or not any(_part_of(split) == "training" for split in self.splits):
            return []
        used = {name for split in self.splits if _part_of(split) == "training" for name, _ in self._frames(split)}
        folder = self.root / "training" / "velodyne"
        return [
            make_fault("frame_not_listed", path, "no list in ImageSets names it")
            for path in _entries_with(folder, ".bin")
            if Path(path).stem not in used
        ]

    def _refuse_absent(self, strange: Sequence[str]) -> None:
        """Stop if a type is in no label file at all."""
        there: dict[str, int] = {}
        folder = self.root / "training" / "label_2"
        for path in _entries_with(folder, ".txt"):
            for name in read_label_file(path).types:
                text = name.decode("utf-8", "backslashreplace")
                there[text] = there.get(text, 0) + 1
        absent = next((name for name in strange if name not in there), None)
        if absent is not None:
            ordered = sorted((name for name in there if name != DONT_CARE), key=lambda name: -there[name])
            types = ", ".join(f"{printable(name, limit=30)} ({there[name]:,})" for name in ordered[:20]) or "none"
            cure = f"Correct data.class_names.{did_you_mean(absent, [*there, *KITTI_TYPES])}"
            message = f"the class {printable(absent)!r} is in no label file; the types there are: {types}"
            raise FormatError("bad_names", folder, message, cure=cure)

    def _frames(self, split: str) -> list[tuple[str, int]]:
        """Frames of a split with their lines in its list (0 without a list), each once or more."""
        path = self._lists.get(split)
        if path is None:
            folder = self.root / _part_of(split) / "velodyne"
            return [(Path(file).stem, 0) for file in _entries_with(folder, ".bin")]
        frames = []
        for line, text in read_lines(path, "list of frames"):
            if not text.isprintable() or "/" in text or "\\" in text or text in (".", ".."):
                message = f"{printable(text, limit=80)!r} is no frame: a name such as 000123 was expected, no path"
                raise FormatError("unsafe_path", path, message, line=line)
            frames.append((text, line))
        return frames

    def _read(self, split: str) -> LidarAnnotations:
        faults: list[Fault] = []
        frames: dict[str, int] = {}
        list_path = self._lists.get(split)
        for name, line in self._frames(split):
            if name in frames:
                message = f"the frame {name} is listed again"
                faults.append(make_fault("duplicate_frame", list_path or self.root, message, line=line))
            else:
                frames[name] = line
        folder = self.root / _part_of(split)
        if not frames:
            raise FormatError("no_frames", list_path or folder / "velodyne", f"split {split!r} has no frames")
        if list_path is None:
            message = (
                f"no ImageSets/*.txt, so all {counted(len(frames), 'frame')} of {folder.name} are the split {split}"
            )
            faults.append(make_fault("no_split_lists", self.root, message))
        reader = SplitReader(folder, list(frames), list(frames.values()), list_path, faults)
        return reader.annotations(self.class_names, self.type_names, self._title(split), self.path)


def _part_of(split: str) -> str:
    return "testing" if split.startswith("test") else "training"


def _entries_with(folder: Path, suffix: str) -> list[str]:
    """Files of a folder by their suffix, sorted; hidden ones left out."""
    return [
        entry.path for entry in entries_of(folder) if entry.name.endswith(suffix) and not entry.name.startswith(".")
    ]
