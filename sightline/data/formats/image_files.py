"""Finding files: images in folders, lines of list files, names of splits, and what there is where a path is wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePath

from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, cure_of, read_regular_file
from sightline.data.faults import FormatError
from sightline.data.image_header import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES

MAX_LIST_BYTES = 1 << 28
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
}


@dataclass(frozen=True)
class SplitPart:
    """A folder of images, a list file, or one image that belongs to a split."""

    path: Path
    told_by: str
    """Where it was asked for, for messages."""
    hint: str = ""
    """What may be meant where the path does not exist."""


def suffix_of(name: str) -> str:
    """``.jpg`` of ``a/b.JPG``."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - ten times cheaper than a Path, and called once per image


def is_image_name(name: str) -> bool:
    """Whether a file of this name should be an image, readable or not; hidden files are not."""
    return not name.startswith(".") and suffix_of(name) in IMAGE_SUFFIXES | OTHER_IMAGE_SUFFIXES


def entries_of(folder: Path | str) -> list[os.DirEntry[str]]:
    """Entries of a folder by name; none if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (OSError, ValueError):
        return []


def list_images(folder: Path | str) -> list[str]:
    """All files in a folder and below whose name is that of an image, sorted; hidden ones left out."""
    return list_files(folder, is_image_name)


def list_files(folder: Path | str, is_wanted: Callable[[str], bool]) -> list[str]:
    """All files of wanted names in a folder and below, sorted; hidden ones left out.

    Links to folders are followed, but no folder is entered twice. A folder with a wanted name is listed, not entered,
    so that somebody will stumble over it.
    """
    found = []
    seen: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        current = waiting.pop()
        try:
            status = Path(current).stat()
        except (OSError, ValueError):
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries_of(current):
            if entry.name.startswith("."):
                continue
            if is_wanted(entry.name):
                found.append(entry.path)
            elif entry.is_dir():
                waiting.append(entry.path)
    return sorted(found)


def read_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """Lines of a list file with their numbers from 1; blank ones left out. File names need not be UTF-8.

    Raises:
        FormatError: If it cannot be read or is no text.
    """
    try:
        data = read_regular_file(path, limit=MAX_LIST_BYTES)
    except FileReadError as error:
        kind = "not_found" if error.kind == "missing_file" else "unreadable_file"
        raise FormatError(kind, path, f"{what}: {error.message}", cure=cure_of(error, path, pattern="*.txt")) from None
    if b"\0" in data:
        raise FormatError("not_text", path, f"{what}: holds null bytes, so it is no list of names")
    lines = enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1)
    return [(number, os.fsdecode(text)) for number, line in lines if (text := line.strip())]


def leaves_its_folder(name: str) -> bool:
    """Whether a file name from a stranger is absolute or climbs out by ``..``."""
    path = PurePath(name)
    return path.is_absolute() or ".." in path.parts


def split_name(name: str) -> str:
    """``train`` for ``train2017`` or ``Training``, ``val`` for ``valid``; any other name as it is."""
    word = re.sub(r"[\W_]*\d*$", "", name.lower())
    return SPLIT_WORDS.get(word, name)


def name_splits(names: Iterable[str]) -> dict[str, str]:
    """Short split names to folder or file names. Two that would share a short name keep their own."""
    names = list(names)
    short = [split_name(name) for name in names]
    return {
        word if short.count(word) == 1 else name: name  # train2014 and train2017 stay apart
        for word, name in zip(short, names, strict=True)
    }


def what_is_there(path: Path) -> str:
    """For a path that does not exist: what its nearest existing folder holds, and the nearest name."""
    parent, child = path.parent, path.name
    while not is_folder(parent) and parent != parent.parent:
        parent, child = parent.parent, parent.name
    names = [entry.name for entry in entries_of(parent) if not entry.name.startswith(".")]
    if not names:
        return f"{printable(parent)} is empty"
    held = ", ".join(printable(name, limit=40) for name in names[:6]) + (", ..." if len(names) > 6 else "")
    near = get_close_matches(child, names, n=1, cutoff=0.6)
    guess = f"; did you mean {printable(parent / near[0])}?" if near else ""
    return f"{printable(parent)} holds: {held}{guess}"


def is_folder(path: Path) -> bool:
    """``path.is_dir()`` that answers no to impossible names."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """``path.exists()`` that answers no to impossible names."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
