"""``open_class_dataset``: which format of image classes a path holds, told by what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from sightline.config.printable import printable
from sightline.data.faults import FormatError
from sightline.data.formats.cifar import find_cifar, open_cifar
from sightline.data.formats.class_folders import ClassFolderSource, find_splits
from sightline.data.formats.class_source import ClassSource, cut_validation
from sightline.data.formats.find import box_layouts, file_candidates
from sightline.data.formats.find_lidar import holds_point_clouds
from sightline.data.formats.idx import IdxSource, find_idx
from sightline.data.formats.image_files import entries_of, exists, is_folder, what_is_there
from sightline.data.formats.imagenet import ImageNetSource, find_imagenet

ClassFormatName = Literal["class_folders", "imagenet", "cifar_python", "cifar_binary", "idx"]
Opener = Callable[[], ClassSource]

LOOKED_FOR = (
    "train/CLASS/*.jpg or CLASS/*.jpg (class folders), train/n01440764 + val/*.JPEG (ImageNet), data_batch_1 or "
    "data_batch_1.bin (CIFAR), train-images-idx3-ubyte (MNIST)"
)


def open_class_dataset(
    path: Path | str,
    *,
    class_names: Sequence[str] | None = None,
    format: ClassFormatName | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
    read_headers: bool = True,
) -> ClassSource:
    """Open a data set of image classes by looking at what a path holds.

    A folder may hold class folders (with or without ``train``, ``val``, ``test`` above them), ImageNet with flat
    validation images, the files of CIFAR-10 or CIFAR-100, or IDX files as of MNIST. A file may be a CIFAR archive
    (``.tar.gz``) or one IDX file. Only names and lists are read here; ``read`` of the result reads the rest.

    Args:
        path: Folder or file.
        class_names: Names of the classes in their order. Class folders take any order of the names that are there;
            IDX files have no names and take these; for the others they must be the same as in the files.
        format: Where a folder holds several.
        val_fraction: Share of the training images that become the split ``val``, where there is none.
        seed: Which images these are.
        read_headers: Look into the header of every image file while reading; see ``ClassFolderSource``.

    Raises:
        FormatError: Says what was looked for and what is there, or what contradicts what.
        ConfigError: If ``val_fraction`` cannot be cut.
    """
    path = Path(path).expanduser()
    if not exists(path):
        raise FormatError("not_found", path, f"no such file or folder; {what_is_there(path)}")
    found = class_candidates(path, class_names, format=format, read_headers=read_headers)
    candidates = {name: opener for name, opener in found.items() if format in (None, name)}
    if len(candidates) > 1:
        several = " and ".join(candidates)
        cure = f"Choose one: data.format={next(iter(candidates))}."
        raise FormatError("ambiguous_dataset", path, f"holds data of several formats: {several}", cure=cure)
    if not candidates:
        cure = f"It can be read with data.format={' or '.join(found)}." if found else ""
        raise FormatError("not_a_dataset", path, _not_recognised(path, format), cure=cure)
    return cut_validation(next(iter(candidates.values()))(), val_fraction, seed=seed)


def class_candidates(
    path: Path,
    class_names: Sequence[str] | None = None,
    *,
    format: ClassFormatName | None = None,
    read_headers: bool = True,
) -> dict[str, Opener]:
    """The formats whose files stand at a path. Folders of images with boxes are none, unless ``format`` says so."""
    found: dict[str, Opener] = {}
    for name, place in find_cifar(path).items():
        found[name] = lambda place=place: open_cifar(place, path, class_names)  # type: ignore[misc]
    idx = find_idx(path)
    if idx:
        found["idx"] = lambda: IdxSource(path, idx, class_names)
    if not is_folder(path):
        return found
    imagenet = find_imagenet(path)
    if imagenet is not None:
        found["imagenet"] = lambda: ImageNetSource(path, imagenet, class_names, read_headers=read_headers)
    is_named = format == "class_folders"
    if is_named or not (found or box_layouts(path, None) or holds_point_clouds(path)):
        splits = find_splits(path, is_named=is_named)
        if splits:
            found["class_folders"] = lambda: ClassFolderSource(path, splits, class_names, read_headers=read_headers)
    return found


def _not_recognised(path: Path, format: str | None) -> str:
    """What was looked for, what is there, and a folder nearby that would do."""
    wanted = "no known data set of image classes" if format is None else f"no data set of the format {format!r}"
    if format is not None and format not in get_args(ClassFormatName):
        wanted = f"no format is called {printable(format)!r}; there are {', '.join(get_args(ClassFormatName))}"
    if not is_folder(path):
        boxes = file_candidates(path, None)
        other = f"; recipes of detectors read such a file ({', '.join(boxes)})" if boxes else ""
        return f"{wanted}: expected a CIFAR archive (.tar.gz) or an IDX file{other}"
    if holds_point_clouds(path):
        return f"{wanted}; it holds point clouds (KITTI), which the recipes of LiDAR detectors read"
    boxes = box_layouts(path, None)
    if boxes:
        return f"{wanted}; it holds images with boxes ({', '.join(boxes)}), which the recipes of detectors read"
    near = [Path(entry.path) for entry in entries_of(path) if entry.is_dir() and not entry.name.startswith(".")]
    guess = next((f"; did you mean {printable(folder)}?" for folder in near if class_candidates(folder)), "")
    names = [printable(entry.name, limit=40) for entry in entries_of(path)]
    held = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"
    return f"{wanted}; looked for {LOOKED_FOR}; it holds {held}{guess}"
