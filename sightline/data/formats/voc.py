"""Pascal VOC: one XML file per image in ``Annotations``, images in ``JPEGImages``, splits in ``ImageSets/Main``.

Corners count pixels from 1 and belong to the box (VOC devkit, section 4): a box around the top-left pixel is
``xmin = ymin = xmax = ymax = 1``. It becomes ``(xmin - 1, ymin - 1, xmax, ymax)``. Yet a box with ``xmin = xmax`` or
``ymin = ymax`` counts as one without width or height: tools that count from 0 and write such boxes are common,
objects of one pixel are not.

``difficult`` is kept beside the boxes; ``part``, ``pose``, ``truncated`` are not read. Class names are sorted, unless
``classes.txt`` or the caller gives an order. XML with a DOCTYPE is refused, so entities cannot unfold or fetch
anything.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import ClassVar
from xml.parsers import expat

import numpy as np

from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, read_regular_file
from sightline.data.annotations import Fault, ImageAnnotations
from sightline.data.faults import FormatError, make_fault, renumbered
from sightline.data.formats.class_names import checked_names, listed, read_classes_file
from sightline.data.formats.image_files import (
    entries_of,
    leaves_its_folder,
    list_files,
    list_images,
    name_splits,
    read_lines,
    suffix_of,
)
from sightline.data.formats.source import (
    DataSource,
    Place,
    RawBoxes,
    RawSplit,
    assemble,
    read_image_sizes,
    sorted_splits,
    turn_hint,
)

MAX_XML_BYTES = 1 << 24
MAX_DEPTH = 32
CORNERS = ("xmin", "ymin", "xmax", "ymax")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
ONE_CLASS_LIST = re.compile(r".+_(train|val|trainval|test)")
"""``aeroplane_train``: lists of VOC that say for one class which images show it."""


@dataclass
class VocFile:
    """What one XML file says. M objects."""

    size_hw: tuple[int, int] | None = None
    """None where it is missing or zero."""
    filename: str = ""
    names: list[str] = field(default_factory=list)
    boxes: array[float] = field(default_factory=lambda: array("d"))
    """4 per object, as written."""
    difficult: list[bool] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("q"))
    faults: list[Fault] = field(default_factory=list)


class VocSource(DataSource):
    """A folder with ``Annotations`` and ``JPEGImages``."""

    format: ClassVar[str] = "voc"

    def __init__(self, path: Path, class_names: Sequence[str] | None = None) -> None:
        self._lists = find_lists(path)
        super().__init__(path, sorted_splits(self._lists) or ("train",))
        self._asked_names = class_names
        self._files: dict[str, VocFile] = {}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names asked for, else those of ``classes.txt``, else all names in the XML files of all splits, sorted."""
        told = read_classes_file((self.path,)) if self._asked_names is None else self._asked_names
        if told is not None:
            return checked_names(self.path, told)
        names = {name for split in self.splits for stem, _ in self._stems(split) for name in self._file(stem).names}
        if not names:
            raise FormatError("bad_names", self.path / "Annotations", "no object in any XML file has a name")
        return checked_names(self.path / "Annotations", sorted(names))

    @cached_property
    def _xml_names(self) -> dict[str, str]:
        """XML files by stem (below ``Annotations``, without suffix)."""
        return relative_stems(self.path / "Annotations", list_xml(self.path / "Annotations"))[0]

    @cached_property
    def _images(self) -> tuple[dict[str, str], dict[str, list[str]]]:
        """Images by stem, and those stems that several images share."""
        return relative_stems(self.path / "JPEGImages", list_images(self.path / "JPEGImages"))

    def _stems(self, split: str) -> list[tuple[str, int]]:
        """Stems of a split with their lines in its list (0 without a list)."""
        path = self._lists.get(split)
        if path is None:
            return [(stem, 0) for stem in sorted(self._xml_names)]
        stems = []
        for line, text in read_lines(path, "list of images"):
            marked = re.fullmatch(r"(\S+)\s+-?[01]", text)
            stem = marked[1] if marked and text not in self._xml_names else text
            if leaves_its_folder(stem) or "\0" in stem:
                raise FormatError("unsafe_path", path, f"{stem!r} leads out of the data set", line=line)
            stems.append((stem, line))
        return stems

    def _file(self, stem: str) -> VocFile:
        if stem not in self._files:
            self._files[stem] = read_voc_file(self._xml_names.get(stem, str(self._xml_path(stem))))
        return self._files[stem]

    def _xml_path(self, stem: str) -> Path:
        return self.path / "Annotations" / f"{stem}.xml"

    def _read(self, split: str) -> ImageAnnotations:
        class_names = self.class_names
        numbers = {name: number for number, name in enumerate(class_names)}
        list_path = self._lists.get(split)
        faults: list[Fault] = []
        stems: dict[str, int] = {}
        for stem, line in self._stems(split):
            if stem in stems:
                message = f"{printable(stem)} is listed again"
                faults.append(make_fault("duplicate_image", list_path or self.path, message, line=line))
            else:
                stems[stem] = line
        if not stems:
            raise FormatError("no_images", list_path or self.path / "Annotations", f"split {split!r} has no images")
        lines = list(stems.values())
        paths = []
        boxes, labels, difficult = array("d"), array("q"), bytearray()
        images, box_lines = array("q"), array("q")
        xml_paths = []
        for image, stem in enumerate(stems):
            file = self._file(stem)
            paths.append(self._image_path(stem, file, image, faults))
            xml_paths.append(self._xml_names.get(stem) or str(self._xml_path(stem)))
            faults += renumbered(file.faults, image)
            for row, name in enumerate(file.names):
                if name not in numbers:
                    message = f"class {name!r} is none of: {listed(class_names)}"
                    fault = make_fault("unknown_class", xml_paths[-1], message, line=file.lines[row], image=image)
                    faults.append(fault)
                    continue
                boxes.extend(file.boxes[4 * row : 4 * row + 4])
                labels.append(numbers[name])
                difficult.append(file.difficult[row])
                images.append(image)
                box_lines.append(file.lines[row])

        def listed_at(image: int) -> tuple[Path, int] | None:
            return None if list_path is None else (list_path, lines[image])

        def place_of(row: int) -> Place:
            return Path(xml_paths[images[row]]), box_lines[row], ""

        sizes_hw = read_image_sizes(paths, faults, listed_at)
        for image, stem in enumerate(stems):
            told, true = self._file(stem).size_hw, (int(sizes_hw[image, 0]), int(sizes_hw[image, 1]))
            if told is not None and true not in ((0, 0), told):
                message = f"says {told[1]}x{told[0]}, but the image is {true[1]}x{true[0]}{turn_hint(told, true)}"
                faults.append(make_fault("size_mismatch", xml_paths[image], message, image=image))
        table = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        low, high = table[:, :2], table[:, 2:]
        table[:, :2] = np.where(high > low, low - 1, low)  # boxes of no size stay so, see the module's text
        return assemble(
            RawSplit(
                name=self._title(split),
                source=self.path,
                class_names=class_names,
                paths=paths,
                sizes_hw=sizes_hw,
                boxes=RawBoxes(
                    image_index=np.array(images, dtype=np.int64),
                    boxes_xyxy=table,
                    labels=np.array(labels, dtype=np.int64),
                    place_of=place_of,
                    is_difficult=np.frombuffer(bytes(difficult), dtype=np.bool_),
                ),
                faults=faults,
            )
        )

    def _image_path(self, stem: str, file: VocFile, image: int, faults: list[Fault]) -> str:
        """The image that belongs to a stem; a likely path if there is none."""
        single, shared = self._images
        if stem in shared:
            named = [path for path in shared[stem] if PurePath(path).name == file.filename]
            if len(named) != 1:
                found = ", ".join(printable(PurePath(path).name) for path in shared[stem])
                message = f"several images fit: {found}"
                faults.append(make_fault("ambiguous_image", self._xml_path(stem), message, image=image))
            return named[0] if named else shared[stem][0]
        return single.get(stem) or str(self.path / "JPEGImages" / f"{stem}.jpg")

    def unused(self) -> list[Fault]:
        """XML files without image, images without XML file, and images that no split lists."""
        listed = {stem for split in self.splits for stem, _ in self._stems(split)}
        single, shared = self._images
        images = {**single, **{stem: paths[0] for stem, paths in shared.items()}}
        found = []
        for stem in sorted((images.keys() | self._xml_names.keys()) - listed):
            if stem not in images:
                message = "no image of this name in JPEGImages"
                found.append(make_fault("label_without_image", self._xml_names[stem], message))
            elif stem not in self._xml_names:
                found.append(make_fault("unlabelled_image", images[stem], "no XML file in Annotations"))
            else:
                found.append(make_fault("image_not_listed", images[stem], "no list in ImageSets/Main names it"))
        return found


def find_lists(path: Path) -> dict[str, Path]:
    """Lists of images by split; VOC's lists of single classes are left out."""
    folder = path / "ImageSets" / "Main"
    files = {PurePath(e.name).stem: Path(e.path) for e in entries_of(folder) if suffix_of(e.name) == ".txt"}
    files = {stem: file for stem, file in files.items() if not ONE_CLASS_LIST.fullmatch(stem)}
    return {split: files[stem] for split, stem in name_splits(files).items()}


def list_xml(folder: Path) -> list[str]:
    """XML files of a folder and of its folders."""
    return list_files(folder, lambda name: suffix_of(name) == ".xml")


def relative_stems(folder: Path, paths: Sequence[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Paths by their name below ``folder`` without suffix: those that have it alone, and those that share it."""
    start = len(str(folder)) + 1
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(os.path.splitext(path[start:])[0], []).append(path)  # noqa: PTH122 - once per image
    single = {stem: group[0] for stem, group in groups.items() if len(group) == 1}
    return single, {stem: group for stem, group in groups.items() if len(group) > 1}


class _XmlRefusalError(Exception):
    """Raised inside the parser's callbacks."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def read_voc_file(path: str) -> VocFile:
    """Read one XML file. Everything wrong with it becomes a fault; objects that are whole are kept."""
    try:
        data = read_regular_file(path, limit=MAX_XML_BYTES)
    except FileReadError as error:
        kind = "missing_label" if error.kind == "missing_file" else "unreadable_label"
        return VocFile(faults=[make_fault(kind, path, error.message)])
    if not data:
        return VocFile(faults=[make_fault("bad_xml", path, "the file is empty (0 bytes)")])
    return _VocParser(path).parse(data)


class _VocParser:
    """Collects objects from the parser's events, with the lines they begin in."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = VocFile()
        self.tags: list[str] = []
        self.text = ""
        self.object: dict[str, str] = {}
        self.object_line = 0
        self.size: dict[str, str] = {}
        self.expat = expat.ParserCreate()
        self.expat.buffer_text = True
        self.expat.StartElementHandler = self.start
        self.expat.EndElementHandler = self.end
        self.expat.CharacterDataHandler = self.characters
        self.expat.StartDoctypeDeclHandler = self.doctype

    def parse(self, data: bytes) -> VocFile:
        try:
            self.expat.Parse(data, True)
        except expat.ExpatError as error:
            message = f"{expat.ErrorString(error.code)} (column {error.offset + 1})"
            self.tell("bad_xml", message, error.lineno)
        except _XmlRefusalError as error:
            self.tell(error.kind, error.message, self.expat.CurrentLineNumber)
        except (ValueError, LookupError) as error:  # an encoding that does not exist or has several bytes per letter
            self.tell("bad_xml", f"its encoding cannot be read: {error}")
        self.take_size()
        return self.file

    def tell(self, kind: str, message: str, line: int | None = None) -> None:
        self.file.faults.append(make_fault(kind, self.path, message, line=line))

    def doctype(self, *_: object) -> None:
        raise _XmlRefusalError("bad_xml", "a DOCTYPE is refused; it could define entities")

    def start(self, tag: str, _: Mapping[str, str]) -> None:
        self.tags.append(tag)
        self.text = ""
        depth = len(self.tags)
        if depth > MAX_DEPTH:
            raise _XmlRefusalError("bad_xml", f"nested more than {MAX_DEPTH} deep")
        if depth == 1 and tag != "annotation":
            raise _XmlRefusalError("bad_xml", f"the outermost element is {tag!r}, not 'annotation'")
        if depth == 2 and tag == "object":
            self.object, self.object_line = {}, self.expat.CurrentLineNumber

    def characters(self, text: str) -> None:
        self.text += text

    def end(self, tag: str) -> None:
        place = self.tags
        depth = len(place)
        if depth >= 3 and place[1] == "object":
            if (depth == 3 and tag in ("name", "difficult", "bndbox")) or (depth == 4 and place[2] == "bndbox"):
                if tag in self.object:
                    self.tell("bad_value", f"{tag!r} is given twice in one object", self.expat.CurrentLineNumber)
                self.object[tag] = self.text.strip()
        elif depth == 3 and place[1] == "size":
            self.size[tag] = self.text.strip()
        elif depth == 2 and tag == "object":
            self.take_object()
        elif depth == 2 and tag == "filename":
            self.file.filename = self.text.strip()
        self.tags.pop()
        self.text = ""

    def take_object(self) -> None:
        """Check the parts of a finished object and keep it."""
        line, parts = self.object_line, self.object
        missing = [key for key in ("name", "bndbox") if key not in parts] or [
            key for key in CORNERS if not parts.get(key)
        ]
        if missing or not parts["name"]:
            self.tell("missing_key", f"the object has no {(missing or ['name'])[0]!r}", line)
            return
        wrong = next((key for key in CORNERS if not NUMBER.fullmatch(parts[key])), None)
        if wrong is not None:
            self.tell("bad_number", f"{wrong!r} is {printable(parts[wrong], limit=40)!r}, not a number", line)
            return
        difficult = parts.get("difficult", "0") or "0"
        if difficult not in ("0", "1"):
            self.tell("bad_value", f"'difficult' is {printable(difficult, limit=40)!r}, not 0 or 1", line)
            return
        self.file.names.append(parts["name"])
        self.file.boxes.extend(float(parts[key]) for key in CORNERS)
        self.file.difficult.append(difficult == "1")
        self.file.lines.append(line)

    def take_size(self) -> None:
        """The image's size, if the file gives one that can be true."""
        sides = [self.size.get(key, "") for key in ("height", "width")]
        for key, text in zip(("height", "width"), sides, strict=True):
            if text and not re.fullmatch(r"\d{1,9}", text, re.ASCII):
                self.tell("bad_value", f"the image's {key} is {printable(text, limit=40)!r}, not a whole number")
                return
        if all(text and int(text) > 0 for text in sides):
            self.file.size_hw = (int(sides[0]), int(sides[1]))
