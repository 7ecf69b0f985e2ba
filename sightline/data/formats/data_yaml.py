"""The ``data.yaml`` of a YOLO data set: where its splits are and what its classes are called."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.config.errors import did_you_mean
from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, read_regular_file
from sightline.config.safe_yaml import MAX_BYTES, YamlDocument, YamlError, parse_yaml
from sightline.data.annotations import Fault
from sightline.data.faults import FormatError, make_fault
from sightline.data.formats.class_names import checked_names
from sightline.data.formats.image_files import SplitPart, exists, what_is_there

SPLIT_KEYS = ("train", "val", "test")


@dataclass(frozen=True)
class DataYaml:
    """What a ``data.yaml`` says."""

    names: tuple[str, ...]
    parts: dict[str, list[SplitPart]]
    faults: tuple[Fault, ...]


def read_data_yaml(path: Path) -> DataYaml:
    """Read and check a ``data.yaml``.

    Raises:
        FormatError: Names the file and the line of what is missing or contradictory.
    """
    try:
        document = parse_yaml(read_regular_file(path, limit=MAX_BYTES))
    except FileReadError as error:
        kind = "not_found" if error.kind == "missing_file" else "unreadable_file"
        raise FormatError(kind, path, error.message) from None
    except YamlError as error:
        raise FormatError("bad_yaml", path, error.message, line=error.line) from None
    value = document.value
    if not isinstance(value, dict):
        raise FormatError("wrong_type", path, "expected keys such as 'train', 'val' and 'names'")
    reader = _Reader(path, document)
    names = reader.names()
    reader.check_count(len(names))
    root = reader.root()
    parts = {key: reader.parts(key, root) for key in SPLIT_KEYS if value.get(key) is not None}
    if not parts:
        wrong = next((did_you_mean(key, map(str, value)) for key in SPLIT_KEYS), "")
        raise FormatError("missing_key", path, f"names no images: 'train', 'val' or 'test' is missing.{wrong}")
    faults = []
    if value.get("download") is not None:
        faults.append(
            make_fault("download_ignored", path, "'download' is never followed", line=reader.line("download"))
        )
    return DataYaml(names, parts, tuple(faults))


class _Reader:
    def __init__(self, path: Path, document: YamlDocument) -> None:
        self.path = path
        self.value: dict[Any, Any] = document.value
        self.lines = document.lines

    def line(self, *keys: Any) -> int | None:
        return self.lines.get(keys)

    def error(self, kind: str, message: str, *keys: Any, cure: str = "") -> FormatError:
        return FormatError(kind, self.path, message, line=self.line(*keys), cure=cure)

    def names(self) -> tuple[str, ...]:
        names = self.value.get("names")
        if names is None:
            hint = did_you_mean("names", map(str, self.value))
            cure = "" if hint else "Write, for example, names: [car, truck]."
            raise self.error("missing_key", f"'names' is missing{f'.{hint}' if hint else ''}", cure=cure)
        if isinstance(names, dict):
            numbers = list(range(len(names)))
            if sorted(names, key=str) != sorted(numbers, key=str) or any(type(key) is not int for key in names):
                message = f"the numbers of 'names' must be 0 to {len(names) - 1}, got {list(names)[:8]}"
                raise self.error("bad_names", message, "names")
            keyed = [(key, names[key]) for key in numbers]
        elif isinstance(names, list):
            keyed = list(enumerate(names))
        else:
            message = "'names' must be a list of names or a map from number to name"
            raise self.error("wrong_type", message, "names")
        lines = [self.line("names", key) for key, _ in keyed]
        return checked_names(self.path, [name for _, name in keyed], lines=lines)

    def check_count(self, count: int) -> None:
        told = self.value.get("nc")
        if told is not None and (type(told) is not int or told != count):
            raise self.error(
                "bad_names", f"'nc' is {told!r}, but 'names' holds {count} names", "nc", cure="Correct one."
            )

    def root(self) -> Path:
        told = self.value.get("path")
        if told is None:
            return self.path.parent
        if not isinstance(told, str):
            raise self.error("wrong_type", f"'path' must be text, got {told!r}", "path")
        root = self.path.parent / expanded(told)
        if not exists(root):
            message = f"'path: {told}' means {printable(root)}, which does not exist; {what_is_there(root)}"
            raise self.error("not_found", message, "path", cure="It is relative to the data file; omit it for '.'.")
        return root

    def parts(self, key: str, root: Path) -> list[SplitPart]:
        told = self.value[key]
        items = told if isinstance(told, list) else [told]
        for item in items:
            if not isinstance(item, str) or not item:
                message = f"{key!r} must be a folder, a list file, or a list of these, got {item!r}"
                raise self.error("wrong_type", message, key)
        if not items:
            raise self.error("bad_value", f"{key!r} is an empty list", key)
        place = printable(self.path) if self.line(key) is None else f"{printable(self.path)}:{self.line(key)}"
        return [
            SplitPart(root / expanded(item), f"'{key}: {item}' ({place})", hint_without_dots(root, item))
            for item in items
        ]


def hint_without_dots(root: Path, item: str) -> str:
    """Some exporters write ``../train/images`` for a folder beside the data file."""
    inner = Path(*(part for part in Path(item).parts if part != ".."))
    return f"did you mean '{inner}'?" if ".." in item and exists(root / inner) else ""


def expanded(text: str) -> str:
    """``~`` and environment variables filled in."""
    return os.path.expandvars(os.path.expanduser(text))  # noqa: PTH111 - "~nobody" must stay text, not raise
