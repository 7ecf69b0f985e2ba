"""ImageNet (ILSVRC 2012) as it is unpacked: ``train/n01440764/*.JPEG``, and all validation images flat in ``val``.

The classes are the WordNet ids of the training folders, sorted; so class 0 is n01440764. Of the flat validation
images, sorted by name, the class stands in the first of these that is there (in the data set's folder, its ``val``, or
the devkit's ``ILSVRC2012_devkit_t12/data``):

``val.txt``
    ``ILSVRC2012_val_00000001.JPEG 65``: name and class number from 0 in the sorted order, or name and WordNet id
``LOC_val_solution.csv``
    ``ILSVRC2012_val_00000001,n01751748 111 108 ...``: Kaggle's, with a head line
``imagenet_2012_validation_synset_labels.txt``
    one WordNet id a line
``ILSVRC2012_validation_ground_truth.txt``
    one ILSVRC number a line, 1 to 1000; needs ``map_clsloc.txt`` (``n02119789 1 kit_fox``) beside it, because the
    devkit's own table is a MATLAB file, and its order is not that of the sorted ids

Where ``val`` holds folders of WordNet ids too, the layout is that of class folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from sightline.config.printable import counted, printable
from sightline.data.annotations import Fault
from sightline.data.class_labels import ClassLabels
from sightline.data.faults import FormatError, make_fault
from sightline.data.formats.class_folders import ClassFolderSource, labels_of_files, subfolders
from sightline.data.formats.image_files import entries_of, exists, is_image_name, read_lines

WORDNET_ID = re.compile(r"n\d{8}", re.ASCII)
NESTED = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
TRUTH_NAMES = (
    "val.txt",
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "ILSVRC2012_validation_ground_truth.txt",
)
MAP_NAME = "map_clsloc.txt"
TRUTH_FOLDERS = ("", "val", "ILSVRC2012_devkit_t12/data", "data")
"""Below the data set's folder, and below that of ``train`` and ``val``. Kaggle's ``ImageSets`` is not among them: its
``val.txt`` numbers the images, not the classes."""


def find_imagenet(path: Path) -> Path | None:
    """The folder with ``train`` and a flat ``val``, at ``path`` or where Kaggle's archive puts it."""
    for folder in (path, *(path / nested for nested in NESTED)):
        train, val = subfolders(folder / "train"), folder / "val"
        if not any(WORDNET_ID.fullmatch(entry.name) for entry in train) or subfolders(val):
            continue
        if any(is_image_name(entry.name) for entry in entries_of(val)):
            return folder
    return None


class ImageNetSource(ClassFolderSource):
    """Class folders to train on, a flat folder with a list of truths to validate.

    Args:
        path: What the user named.
        folder: The folder of ``train`` and ``val``.
        class_names: WordNet ids in the wanted order; sorted without it.
        read_headers: As for class folders.
    """

    format: ClassVar[str] = "imagenet"

    def __init__(
        self, path: Path, folder: Path, class_names: Sequence[str] | None = None, *, read_headers: bool = True
    ) -> None:
        super().__init__(path, {"train": folder / "train"}, class_names, read_headers=read_headers)
        self.splits = ("train", "val")
        self._val = folder / "val"

    def _read(self, split: str) -> ClassLabels:
        if split != "val":
            return super()._read(split)
        paths = [e.path for e in entries_of(self._val) if is_image_name(e.name) and not e.is_dir()]
        truth = self._truth_file()
        faults: list[Fault] = []
        found = _READERS[truth.name](truth, paths, {name: i for i, name in enumerate(self.class_names)}, faults)
        labels = np.maximum(found, 0)
        told = {fault.image for fault in faults}
        for index in np.flatnonzero(found < 0).tolist():
            if index not in told:
                message = f"no class of this image stands in {printable(truth.name)}"
                faults.append(make_fault("missing_label", paths[index], message, image=index))
        return labels_of_files(self, split, self._val, paths, labels, faults, headers=self._read_headers)

    def _truth_file(self) -> Path:
        for name in TRUTH_NAMES:
            for base in (self.path, self._val.parent):
                for folder in TRUTH_FOLDERS:
                    if exists(base / folder / name):
                        return base / folder / name
        raise FormatError(
            "missing_label",
            self._val,
            "the validation images are in no class folders, and no list of their classes is there",
            cure=f"Put one of {', '.join(TRUTH_NAMES)} into {printable(self._val.parent)}.",
        )


LabelOf = dict[str, int]
Labels = np.ndarray[tuple[int], np.dtype[np.int64]]


def _read_pairs(
    truth: Path, paths: Sequence[str], label_of: LabelOf, faults: list[Fault], *, separator: str | None
) -> Labels:
    """(N,) class of each image by its name, -1 where it is not known."""
    index_of = {Path(path).stem: index for index, path in enumerate(paths)}
    labels = np.full(len(paths), -1, np.int64)
    line_of: dict[int, int] = {}
    for line, text in read_lines(truth, "list of classes"):
        fields = text.split(separator, 1)
        if separator and line == 1 and fields[0] == "ImageId":
            continue
        name = Path(fields[0].strip()).stem
        if len(fields) < 2 or not fields[1].split():
            _tell(faults, "wrong_columns", truth, line, f"expected a name and a class, got {printable(text, limit=60)}")
            continue
        index = index_of.get(name)
        if index is None:
            _tell(faults, "label_without_image", truth, line, f"there is no image {printable(name, limit=60)}")
            continue
        label = _class_of(fields[1].split()[0], label_of, faults, truth, line, index)
        if line_of.setdefault(index, line) == line:
            labels[index] = label
        elif label not in (labels[index], -1):
            message = f"{printable(name, limit=60)} has another class here than in line {line_of[index]}"
            _tell(faults, "two_classes", truth, line, message, index)
    return labels


def _read_csv(truth: Path, paths: Sequence[str], label_of: LabelOf, faults: list[Fault]) -> Labels:
    return _read_pairs(truth, paths, label_of, faults, separator=",")


def _read_val_txt(truth: Path, paths: Sequence[str], label_of: LabelOf, faults: list[Fault]) -> Labels:
    return _read_pairs(truth, paths, label_of, faults, separator=None)


def _read_ids(truth: Path, paths: Sequence[str], label_of: LabelOf, faults: list[Fault]) -> Labels:
    lines = _line_per_image(truth, paths)
    labels = [_class_of(text, label_of, faults, truth, line, index) for index, (line, text) in enumerate(lines)]
    return np.array(labels, np.int64)


def _read_numbers(truth: Path, paths: Sequence[str], label_of: LabelOf, faults: list[Fault]) -> Labels:
    table = truth.parent / MAP_NAME
    if not exists(table):
        raise FormatError(
            "missing_label",
            truth,
            f"its numbers mean nothing without {MAP_NAME}, which says the WordNet id of each",
            cure=f"Put {MAP_NAME} beside it, or one of {', '.join(TRUTH_NAMES[:3])}.",
        )
    id_of: dict[str, str] = {}
    for line, text in read_lines(table, "table of classes"):
        fields = text.split()
        if len(fields) < 2 or not WORDNET_ID.fullmatch(fields[0]) or not fields[1].isdecimal():
            message = f"expected a WordNet id and a number, got {printable(text, limit=60)}"
            raise FormatError("wrong_columns", table, message, line=line)
        id_of[str(int(fields[1]))] = fields[0]
    labels = []
    for index, (line, text) in enumerate(_line_per_image(truth, paths)):
        if text in id_of:
            labels.append(_class_of(id_of[text], label_of, faults, truth, line, index))
        else:
            message = f"{printable(text, limit=40)} is no number of {MAP_NAME}"
            _tell(faults, "class_out_of_range", truth, line, message, index)
            labels.append(-1)
    return np.array(labels, np.int64)


def _line_per_image(truth: Path, paths: Sequence[str]) -> list[tuple[int, str]]:
    lines = read_lines(truth, "list of classes")
    if len(lines) != len(paths):
        message = f"has {counted(len(lines), 'line')}, but there are {counted(len(paths), 'validation image')}"
        raise FormatError("count_mismatch", truth, message, cure="Its lines belong to all images sorted by name.")
    return lines


def _class_of(word: str, label_of: LabelOf, faults: list[Fault], truth: Path, line: int, index: int) -> int:
    """The class that a word names, or -1 and a fault."""
    if word in label_of:
        return label_of[word]
    if WORDNET_ID.fullmatch(word):
        _tell(faults, "unknown_class", truth, line, f"the class {word} has no training folder", index)
    elif not word.isdecimal() or len(word) > 9:
        _tell(faults, "bad_class", truth, line, f"{printable(word, limit=40)!r} is no class", index)
    elif int(word) < len(label_of):
        return int(word)
    else:
        message = f"class {int(word)}, but the classes are 0 to {len(label_of) - 1}"
        _tell(faults, "class_out_of_range", truth, line, message, index)
    return -1


def _tell(faults: list[Fault], kind: str, path: Path, line: int, message: str, image: int | None = None) -> None:
    faults.append(make_fault(kind, path, message, line=line, image=image))


_READERS: dict[str, Callable[[Path, Sequence[str], LabelOf, list[Fault]], Labels]] = {
    "val.txt": _read_val_txt,
    "LOC_val_solution.csv": _read_csv,
    "imagenet_2012_validation_synset_labels.txt": _read_ids,
    "ILSVRC2012_validation_ground_truth.txt": _read_numbers,
}
