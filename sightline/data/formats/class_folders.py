"""Class folders: one folder of images per class, in a folder per split or in one folder for all.

``train/cat/1.jpg``, ``val/cat/2.jpg``; or ``cat/1.jpg`` alone, which is a data set with the split ``train``. Folders
below a class folder belong to it. Classes are numbered in the order of their names (by code point, as Python and
torchvision sort), over the classes of all splits, unless the caller gives an order. Hidden files and folders are not
looked at.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from sightline.config.printable import counted, printable
from sightline.data.annotations import Fault, PackedStrings
from sightline.data.class_labels import ClassLabels
from sightline.data.faults import FormatError, make_fault
from sightline.data.formats.class_names import checked_names, listed
from sightline.data.formats.class_source import ClassSource, empty_classes, refuse_alike
from sightline.data.formats.image_files import entries_of, is_image_name, list_images, name_splits
from sightline.data.formats.source import SPLIT_ORDER, read_image_sizes, sorted_splits


class ClassFolderSource(ClassSource):
    """Folders named after classes.

    Args:
        path: The data set.
        folders: The folder of each split.
        class_names: Names in their order; by default all names of folders, sorted.
        read_headers: Look into the header of every image, which finds unreadable ones before the first batch. Costs
            about 25 microseconds an image on a local disk.

    Raises:
        FormatError: If a class has an impossible name, or two differ in case alone, or the names are others than asked.
    """

    format: ClassVar[str] = "class_folders"

    def __init__(
        self,
        path: Path,
        folders: dict[str, Path],
        class_names: Sequence[str] | None = None,
        *,
        read_headers: bool = True,
    ) -> None:
        super().__init__(path, sorted_splits(folders))
        self._folders = folders
        self._read_headers = read_headers
        found = sorted({entry.name for folder in folders.values() for entry in subfolders(folder)})
        refuse_alike(path, found)
        if class_names is not None and sorted(class_names) == found:
            found = list(class_names)
        if len(found) < 2:
            raise FormatError("bad_names", path, f"only one class folder is there: {listed(found)}; two are the fewest")
        self._class_names = checked_names(path, found, wanted=class_names)
        if tuple(found) != self._class_names:
            raise FormatError("bad_names", path, f"a class folder's name has spaces at its ends: {listed(found)}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the folders."""
        return self._class_names

    def _read(self, split: str) -> ClassLabels:
        label_of = {name: label for label, name in enumerate(self._class_names)}
        paths: list[str] = []
        counts = np.zeros(len(label_of), np.int64)
        faults: list[Fault] = []
        for name, label in label_of.items():
            images, others = images_of_class(self._folders[split] / name)
            paths += images
            counts[label] = len(images)
            if others:
                message = f"{counted(len(others), 'file')} of the class {printable(name)!r} with no image's name"
                faults.append(make_fault("other_file", others[0], message))
        labels = np.repeat(np.arange(len(counts)), counts)
        return labels_of_files(self, split, self._folders[split], paths, labels, faults, headers=self._read_headers)

    def unused(self) -> list[Fault]:
        """Images that stand in no class folder."""
        text = "stands beside the class folders, not in one"
        return [
            make_fault("unlabelled_image", entry.path, text)
            for folder in self._folders.values()
            for entry in entries_of(folder)
            if is_image_name(entry.name) and entry.is_file()
        ]


def labels_of_files(
    source: ClassSource,
    split: str,
    folder: Path,
    paths: Sequence[str],
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    faults: list[Fault],
    *,
    headers: bool,
) -> ClassLabels:
    """Labels of images that are files of their own, with the faults of their headers and of empty classes.

    Raises:
        FormatError: If there is no image.
    """
    if not paths:
        raise FormatError("no_images", folder, f"no images in the class folders of {split!r}")
    sizes_hw = np.zeros((len(paths), 2), np.int32)
    if headers:
        sizes_hw = read_image_sizes(paths, faults, lambda index: None)
    name = source._title(split)
    held = ClassLabels(source.class_names, labels, (), name, source.path, PackedStrings(paths), sizes_hw)
    faults += empty_classes(held, folder)
    return ClassLabels(held.class_names, held.labels, tuple(faults), name, held.source, held.paths, held.sizes_hw)


def images_of_class(folder: Path) -> tuple[list[str], list[str]]:
    """Images of a class folder and below, sorted, and the other files that stand in it; hidden ones left out."""
    images: list[str] = []
    others: list[str] = []
    for entry in entries_of(folder):
        if entry.name.startswith("."):
            continue
        if is_image_name(entry.name):
            images.append(entry.path)
        elif entry.is_dir():
            images += list_images(entry.path)
        else:
            others.append(entry.path)
    return sorted(images), others


def subfolders(folder: Path) -> list[os.DirEntry[str]]:
    """Visible folders in a folder, by name."""
    return [entry for entry in entries_of(folder) if entry.is_dir() and not entry.name.startswith(".")]


def find_splits(path: Path, *, is_named: bool = False) -> dict[str, Path]:
    """The folder of each split: those called ``train``, ``val`` or ``test`` that hold folders, else ``path`` itself.

    Args:
        path: The data set.
        is_named: The user says that these are class folders. Otherwise ``path`` itself is taken for them only if two
            folders or more, and at least half of those that are there, hold images directly, and not all are called
            as splits are.
    """
    inside = subfolders(path)
    named = name_splits(entry.name for entry in inside)
    splits = {split: path / name for split, name in named.items() if split in SPLIT_ORDER and subfolders(path / name)}
    if splits:
        return splits
    num_with_images = sum(any(is_image_name(one.name) for one in entries_of(entry.path)) for entry in inside)
    is_likely = num_with_images >= 2 and 2 * num_with_images >= len(inside) and not set(named) <= set(SPLIT_ORDER)
    return {"train": path} if is_likely or (is_named and inside) else {}
