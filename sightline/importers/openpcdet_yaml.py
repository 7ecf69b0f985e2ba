"""OpenPCDet's configurations: a YAML file, the files that it is based on, and values given beside it.

A mapping may name another file by ``_BASE_CONFIG_``: its values come first, and those beside the key go over them.
Mappings are joined, lists and single values replaced. The base of a base is not followed.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.config.errors import ConfigError, did_you_mean
from sightline.config.printable import printable
from sightline.config.safe_yaml import read_yaml

BASE = "_BASE_CONFIG_"
WHAT = "OpenPCDet configuration"
MOST_BASES = 64
"""Base files of one configuration."""
MOST_LETTERS = 10_000
"""Of a value that is given beside the file."""


@dataclass(frozen=True)
class PcdetConfig:
    """A whole configuration."""

    path: Path
    values: dict[str, Any]
    """Joined with its bases; without the keys that name them."""
    bases: tuple[Path, ...]
    """Files that were read beside it, in their order."""
    not_followed: tuple[str, ...]
    """Bases of bases: file and value of each."""


def read_pcdet_config(path: Path, changes: Sequence[str] = ()) -> PcdetConfig:
    """A configuration with its base files.

    Bases are looked for in the working directory, as OpenPCDet does, then beside the file and in each folder above it,
    and in the folder ``tools`` of each.

    Args:
        path: The file, such as ``tools/cfgs/kitti_models/pointpillar.yaml``.
        changes: ``KEY=VALUE`` texts with the meaning that ``--set KEY VALUE`` has there: the key exists, the value is
            a Python literal of the same type or a text; ``a,b`` is a list of texts and ``k:v,k:v`` a mapping.

    Raises:
        ConfigError: A file is missing or no such YAML, or a change does not fit; names file, line or key.
    """
    reader = _Reader(path)
    values: dict[str, Any] = {}
    reader.join(values, _mapping(path), place="")
    for change in changes:
        _set(values, change)
    return PcdetConfig(path, values, tuple(reader.bases), tuple(reader.not_followed))


def _mapping(path: Path) -> dict[str, Any]:
    value = read_yaml(path, what=WHAT)
    if not isinstance(value, dict):
        raise ConfigError(f"{WHAT} {printable(path)}: expected keys with values, got a {type(value).__name__}.")
    return value


class _Reader:
    """Joins mappings and remembers which files they came from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bases: list[Path] = []
        self.not_followed: list[str] = []

    def join(self, into: dict[str, Any], given: Mapping[str, Any], *, place: str) -> None:
        """Put the values of a mapping over those that are there."""
        if BASE in given:
            into.update(self.base(given[BASE], place))
        for key, value in given.items():
            if key == BASE:
                continue
            here = f"{place}{key}"
            if not isinstance(value, dict):
                into[key] = deepcopy(value)
                continue
            there = into.setdefault(key, {})
            if not isinstance(there, dict):
                raise ConfigError(
                    f"{printable(self.path)}: {printable(here)} is a mapping, and {printable(there, limit=60)!r} in "
                    "the file that it is based on. Make both the same."
                )
            self.join(there, value, place=f"{here}.")

    def base(self, name: object, place: str) -> dict[str, Any]:
        """The values of a base file, without what it is based on itself."""
        if not isinstance(name, str) or not name:
            raise ConfigError(
                f"{printable(self.path)}: {printable(place)}{BASE} must name one file, got {printable(name, limit=60)}."
            )
        if len(self.bases) >= MOST_BASES:
            raise ConfigError(f"{printable(self.path)}: names more than {MOST_BASES} base files.")
        found = self.find(name, place)
        self.bases.append(found)
        values = _mapping(found)
        self._drop_bases(values, found)
        return values

    def find(self, name: str, place: str) -> Path:
        """Where a base file is."""
        above = self.path.expanduser().absolute().parent
        folders = [Path(), *(folder / part for folder in (above, *above.parents) for part in ("", "tools"))]
        for folder in folders:
            try:
                if (folder / name).is_file():
                    return folder / name
            except (OSError, ValueError):  # a name that no file can have
                break
        raise ConfigError(
            f"{printable(self.path)}: {printable(place)}{BASE}: {printable(name)} is neither in the working directory, "
            "nor beside this file or in a folder above it. Run the command in OpenPCDet's folder tools, or put the "
            "file there."
        )

    def _drop_bases(self, values: dict[str, Any], path: Path) -> None:
        for value in values.values():
            if isinstance(value, dict):
                self._drop_bases(value, path)
        if BASE in values:
            self.not_followed.append(f"{path}: {values.pop(BASE)}")


def _set(values: dict[str, Any], change: str) -> None:
    """One value that is given beside the file."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {printable(change)!r} is not KEY=VALUE, for example --set OPTIMIZATION.LR=0.01")
    *groups, name = key.split(".")
    node: Any = values
    for group in (*groups, name):
        if not isinstance(node, dict) or group not in node:
            near = did_you_mean(group, [str(one) for one in node]) if isinstance(node, dict) else ""
            raise ConfigError(f"--set {printable(key)}: the configuration has no key {printable(group)!r}.{near}")
        parent, node = node, node[group]
    parent[name] = _converted(key, text, node)


def _converted(key: str, text: str, old: Any) -> Any:
    """A text as a value of the type of the one that it replaces."""
    value = _literal(text)
    if type(value) is type(old) and not isinstance(value, dict):
        return value
    shown = f"--set {printable(key)}: {printable(text, limit=60)!r}"
    if isinstance(value, str) and isinstance(old, list) and old:
        kind = type(old[0])
        items = [_as_type(item, kind) for item in value.split(",")]
        if None not in items:
            return items
    if isinstance(value, str) and isinstance(old, dict):
        pairs = [pair.partition(":") for pair in value.split(",")]
        found = {name: _as_type(item, type(old.get(name))) for name, colon, item in pairs if colon and name in old}
        if len(found) == len(pairs) and None not in found.values():
            return {**old, **found}
    wanted = {list: "a list such as [1, 2]", dict: "known keys as k:v,k:v", bool: "True or False"}
    raise ConfigError(
        f"{shown} does not fit {printable(old, limit=60)!r}; expected "
        f"{wanted.get(type(old), f'a value of the same type, {type(old).__name__}')}."
    )


def _literal(text: str) -> Any:
    """A Python literal, or the text itself."""
    if len(text) > MOST_LETTERS:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _as_type(text: str, kind: type) -> Any:
    """A text as a value of a type; None where it is none."""
    if kind is str:
        return text
    value = _literal(text)
    return value if type(value) is kind else None
