"""What every format of image classes gives, and a validation part cut from the training images."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sightline.config.errors import ConfigError
from sightline.config.printable import counted, printable
from sightline.data.annotations import Fault, Ints
from sightline.data.class_labels import ClassLabels, PackedPixels, Pixels
from sightline.data.faults import FormatError, make_fault
from sightline.data.formats.source import SplitSource, sorted_splits


class ClassSource(SplitSource[ClassLabels]):
    """A data set of images with one class each."""

    def _way_out(self, split: str) -> str:
        if split == "val" and "train" in self.splits:
            others = " or ".join(f"data.val_split={name}" for name in self.splits if name != "train")
            return f"{f'Use {others}, or cut' if others else 'Cut'} it from the training images: data.val_fraction=0.1."
        return super()._way_out(split)


def packed_labels(
    source: ClassSource, split: str, *, parts: Sequence[tuple[Path, Pixels, Ints]], class_names: tuple[str, ...]
) -> ClassLabels:
    """Labels of images that stand in a few files.

    Args:
        source: The data set.
        split: Name of the split.
        parts: File, (n, H, W, C) pixels and (n,) labels, which may be anything, of each file.
        class_names: Of the data set.

    Raises:
        FormatError: If the files hold no image, or images of different sizes.
    """
    first = parts[0][1].shape[1:]
    for path, pixels, _ in parts:
        if pixels.shape[1:] != first:
            message = f"its images are {_size_text(pixels.shape)}, but those of {parts[0][0].name} {_size_text(first)}"
            raise FormatError("count_mismatch", path, message)
    given = np.concatenate([labels for _, _, labels in parts]).astype(np.int64)
    if len(given) == 0:
        raise FormatError("no_images", parts[0][0], "there is not a single image")
    ends = np.cumsum([len(labels) for _, _, labels in parts])
    pixels = np.concatenate([pixels for _, pixels, _ in parts]) if len(parts) > 1 else parts[0][1]
    pixels = np.ascontiguousarray(pixels).view()
    pixels.setflags(write=False)
    packed = PackedPixels(pixels, np.arange(len(given)), tuple(path for path, _, _ in parts), ends)
    K = len(class_names)
    outside = np.flatnonzero((given < 0) | (given >= K))
    faults = []
    for index in outside.tolist():
        path, number = packed.place_of(index)
        message = f"image {number}: class {given[index]}, but the classes are 0 to {K - 1}"
        faults.append(make_fault("class_out_of_range", path, message, image=index))
    labels = np.where((given >= 0) & (given < K), given, 0)
    result = ClassLabels(class_names, labels, (), source._title(split), source.path, packed=packed)
    return replace(result, faults=(*faults, *empty_classes(result, result.source)))


def _size_text(shape: Sequence[int]) -> str:
    height, width, channels = shape[-3:]
    return f"{width}x{height} of {counted(channels, 'channel')}"


def empty_classes(labels: ClassLabels, place: Path) -> list[Fault]:
    """A fault for each class that has no image in a split."""
    names = [labels.class_names[label] for label in np.flatnonzero(labels.images_per_class == 0)]
    text = "the class {} has no image in {}"
    return [make_fault("empty_class", place, text.format(repr(printable(name)), labels.name)) for name in names]


def refuse_alike(path: Path, names: Iterable[str]) -> None:
    """Stop at class names that differ in upper and lower case, or in how accents are coded, alone.

    Raises:
        FormatError: Such folders become one on another system, or are one class written in two ways.
    """
    seen: dict[str, str] = {}
    for name in names:
        same = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if same != name:
            both = f"the classes {printable(same)!r} and {printable(name)!r}"
            raise FormatError(
                "bad_names",
                path,
                f"{both} differ in upper and lower case, or in how accents are coded, alone",
                cure="Rename one of the folders, or put their images together.",
            )


def cut_validation(source: ClassSource, fraction: float, *, seed: int = 0) -> ClassSource:
    """The same data set with a split ``val`` cut from ``train``.

    Whether an image validates depends on the seed and its own name alone, so images that are added or taken away
    later move no other. The share is that of the draws: near ``fraction``, not exactly it.

    Raises:
        ConfigError: If the data set has a ``val`` already or no ``train``, or the fraction is impossible.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"data.val_fraction is {fraction}; it must be at least 0 and below 1.")
    if fraction == 0:
        return source
    if "val" in source.splits or "train" not in source.splits:
        why = "has a split 'val' already" if "val" in source.splits else "has no split 'train' to cut from"
        raise ConfigError(f"data.val_fraction={fraction}: {printable(source.path)} {why}. Use data.val_fraction=0.")
    return _CutSource(source, fraction, seed)


class _CutSource(ClassSource):
    """A data set whose training images are shared out between ``train`` and ``val``."""

    def __init__(self, whole: ClassSource, fraction: float, seed: int) -> None:
        super().__init__(whole.path, sorted_splits((*whole.splits, "val")), whole.faults)
        self.format = whole.format  # type: ignore[misc]  # that of the data set, not of the class
        self._whole, self._fraction, self._seed = whole, fraction, seed
        self._train: ClassLabels | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the whole data set."""
        return self._whole.class_names

    def unused(self) -> list[Fault]:
        """As of the whole data set."""
        return self._whole.unused()

    def _read(self, split: str) -> ClassLabels:
        if split not in ("train", "val"):
            return self._whole.read(split)
        if self._train is None:
            self._train = self._whole.read("train")
        images = np.flatnonzero(self._validates(self._train) == (split == "val"))
        if len(images) == 0:
            raise FormatError(
                "no_images",
                self.path,
                f"data.val_fraction={self._fraction} leaves no image for {split!r} of {len(self._train):,}",
                cure="Take another fraction, or give the data set a split of its own.",
            )
        part = replace(self._train.select(images.tolist()), name=self._title(split))
        faults = [
            fault
            for whole, fault in zip(self._train.faults, part.faults, strict=True)
            if fault.image is not None or (split == "train" and whole.image is None and fault.kind != "empty_class")
        ]
        return replace(part, faults=(*faults, *empty_classes(part, self.path)))

    def _validates(self, labels: ClassLabels) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """(N,) which images validate: a hash of seed and name, as a number in [0, 1), is below the fraction."""
        limit = int(self._fraction * 2**64)
        draws = (
            hashlib.blake2b(f"{self._seed}\0{labels.key_of(i)}".encode("utf-8", "surrogatepass"), digest_size=8)
            for i in range(len(labels))
        )
        return np.fromiter((int.from_bytes(draw.digest(), "big") < limit for draw in draws), np.bool_, len(labels))
