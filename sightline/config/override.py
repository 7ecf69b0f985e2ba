"""Changes to a configuration: ``key=value`` texts and change files, applied to a tree and checked as a whole.

Every value of the result knows where it came from (``origins``), so ``--print-config`` can say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sightline.config.base import Config
from sightline.config.errors import ConfigError
from sightline.config.explain import explain, group_of, keys_of
from sightline.config.foreign_names import our_key
from sightline.config.printable import printable
from sightline.config.safe_yaml import YamlError, parse_yaml

C = TypeVar("C", bound=Config)

SIMILAR = 0.6
"""Likeness of two names, from 0 to 1, from which one may be a slip of the other."""

_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Change:
    """One new value. ``key`` is dotted; ``origin`` says where the user wrote it."""

    key: str
    value: Any
    origin: str


def parse_value(text: str) -> Any:
    """The plain value a text on the command line stands for.

    Numbers (``1e-3`` too), ``true``/``false``, ``null`` or ``none``, lists ``[1, 2]`` and mappings
    ``{a: 1}``; everything else is a text. ``yes``, ``no``, ``on`` and ``off`` stay texts.

    Raises:
        ConfigError: If a list or mapping is not closed, or holds more than plain values.
    """
    plain = text.strip()
    if plain[:1] in ("[", "{"):
        try:
            return parse_yaml(plain.encode("utf-8", "surrogateescape")).value
        except YamlError as error:
            raise ConfigError(
                f"cannot read the value {printable(text, limit=60)!r} ({error.message.split(': ')[0]}). Write lists as "
                "'[1, 2]' and mappings as '{a: 1}', in quotes so that your shell leaves them whole."
            ) from None
    match plain.lower():
        case "true":
            return True
        case "false":
            return False
        case "null" | "none":
            return None
    if _NUMBER.fullmatch(plain):
        number = plain.replace("_", "")
        return float(number) if set(number) & set(".eE") else int(number)
    return plain


def parse_change(text: str, *, origin: str = "command line") -> Change:
    """``"optimizer.momentum=0.9"`` to a change.

    Raises:
        ConfigError: If there is no ``=`` or no key before it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r} is not a change. Write key=value, for example epochs=3 (no spaces around '=').")
    return Change(key.strip(), parse_value(value), origin)


def changes_of(values: Mapping[str, Any], *, origin: str) -> list[Change]:
    """The leaves of a nested mapping, as changes. ``{"loss": {"box": 1}}`` and ``{"loss.box": 1}`` are equal."""
    changes: list[Change] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            inner = changes_of(value, origin=origin)
            changes += [Change(f"{key}.{change.key}", change.value, origin) for change in inner]
        else:
            changes.append(Change(str(key), value, origin))
    return changes


def leaves(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of the tree with its value; a list is one value."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def apply_changes(config: C, changes: Sequence[Change], *, base: Sequence[Change] = ()) -> tuple[C, dict[str, str]]:
    """A changed copy of ``config``, checked again, and the origin of every value that was changed.

    A mapping is the same as its leaves: ``loss={box: 1}`` changes ``loss.box`` alone. Where a change leaves values of
    ``config`` or ``base`` without a use, such as the end of a curve that has none now, they go back to their defaults.

    Args:
        config: What is changed.
        changes: The user's changes; later ones win.
        base: Changes that come before and count as a part of ``config``.

    Raises:
        ConfigError: Names the key, its origin and the nearest right key; or the value and what was expected.
    """
    tree = config.model_dump()
    origins: dict[str, str] = {}
    for change in leaf_changes(base):
        _set(config, tree, change)
        origins[change.key] = change.origin
    before, by_user = deepcopy(tree), leaf_changes(changes)
    for change in by_user:
        _set(config, tree, change)
        origins[change.key] = change.origin
    taken_back = _taken_back(type(config), tree, before, by_user)
    for change in taken_back:
        _set(config, tree, change)
    try:
        return type(config).model_validate(tree), origins | {change.key: change.origin for change in taken_back}
    except ValidationError as error:
        raise ConfigError(explain(error, type(config), origins)) from None


def leaf_changes(changes: Iterable[Change]) -> list[Change]:
    """The same changes with every mapping taken apart."""
    return [leaf for change in changes for leaf in changes_of({change.key: change.value}, origin=change.origin)]


def refuse_contradictions(changes: Sequence[Change]) -> None:
    """Check changes that stand side by side, all on the command line or all in one file.

    Raises:
        ConfigError: A key is given two values, or a group is switched off and one of its keys set.
    """
    leaves = leaf_changes(changes)
    for place, second in enumerate(leaves):
        for first in leaves[:place]:
            if first.key == second.key and first.value != second.value:
                where = first.origin if first.origin == second.origin else f"{first.origin} and {second.origin}"
                raise ConfigError(
                    f"{where}: {first.key} is given twice, {printable(first.value)} and {printable(second.value)}. "
                    "Leave one out."
                )
            group, key = sorted((first, second), key=lambda change: len(change.key))
            if group.value is None and key.value is not None and key.key.startswith(f"{group.key}."):
                raise ConfigError(
                    f"{key.origin}: {group.key}=null switches off what {key.key}={printable(key.value)} is for. "
                    "Leave one out."
                )


def refuse_without_effect(config: Config, changes: Iterable[Change]) -> None:
    """Check that every change which a user made by hand changes something.

    Raises:
        ConfigError: Names a key that the configuration does not use as it stands, and why.
    """
    reasons = dict(keys_without_effect(config))
    for change in leaf_changes(changes):
        for key, reason in reasons.items():
            if change.key == key or change.key.startswith(f"{key}."):
                raise ConfigError(
                    f"{change.origin}: {change.key}={printable(change.value)} has no effect: {reason}. "
                    "Leave it out, or change the other."
                )


def keys_without_effect(config: Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """All ``without_effect`` of a tree, with whole keys."""
    yield from ((prefix + key, reason) for key, reason in config.without_effect().items())
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from keys_without_effect(value, f"{prefix}{name}.")


def _set(config: Config, tree: dict[str, Any], change: Change) -> None:
    """Put one value in its place; the key must exist."""
    *path, name = change.key.split(".")
    node, model = tree, type(config)
    for part in path:
        inner = group_of(model, part, node.get(part))
        if inner is None:
            raise ConfigError(_unknown(config, change))
        if not isinstance(node.get(part), dict):
            node[part] = {}
        node, model = node[part], inner
    if name not in model.model_fields:
        raise ConfigError(_unknown(config, change))
    inner = group_of(model, name, node.get(name))
    if inner is not None and change.value is not None and not isinstance(change.value, Mapping):
        keys = ", ".join(f"{change.key}.{key}" for key in list(inner.model_fields)[:3])
        raise ConfigError(f"{change.origin}: {change.key!r} is a group, not a value. Its keys: {keys}, ...")
    node[name] = change.value


def _taken_back(
    config: type[Config], tree: Mapping[str, Any], before: Mapping[str, Any], by_user: Sequence[Change]
) -> list[Change]:
    """Values that nobody set by hand, and that the changes of their group have left without a use, to their defaults.

    Args:
        config: The class of the tree.
        tree: The changed values.
        before: The values without the user's changes.
        by_user: The user's changes.
    """
    groups: dict[str, list[Change]] = {}
    for change in by_user:
        groups.setdefault(change.key.rpartition(".")[0], []).append(change)
    by_hand = {change.key for change in by_user}
    taken = []
    for path, changes in groups.items():
        owner, values, old = _group_at(config, path, tree, before)
        if owner is None or old is None:
            continue
        prefix = f"{path}." if path else ""
        for name in owner.useless(values):
            default = owner.model_fields[name].get_default()
            if prefix + name in by_hand or values.get(name, default) == default:
                continue
            why = next(
                (one for one in changes if name in owner.useless({**old, _last(one.key): one.value})), changes[0]
            )
            origin = f"{why.origin}: no use with {why.key}={printable(why.value)}"
            taken.append(Change(prefix + name, default, origin))
    return taken


def _group_at(
    config: type[Config], path: str, tree: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[type[Config] | None, Mapping[str, Any], Mapping[str, Any] | None]:
    """Class, values and former values of the group at a dotted path; no former values where it was switched off."""
    owner: type[Config] | None = config
    values: Any = tree
    old: Any = before
    for part in path.split(".") if path else ():
        owner = None if owner is None else group_of(owner, part, values.get(part))
        values = values.get(part)
        old = old.get(part) if isinstance(old, Mapping) else None
    return owner, values, old if isinstance(old, Mapping) else None


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _unknown(config: Config, change: Change) -> str:
    near = nearest_key(change.key, keys_of(type(config)))
    hint = f" Did you mean {near!r}?" if near else " See all keys with: sightline list RECIPE"
    return f"{change.origin}: unknown key {printable(change.key, limit=80)!r}.{hint}"


def nearest_key(wrong: str, known: Iterable[str]) -> str | None:
    """The known dotted key that was meant: what another tool's name stands for, or else the most similar one.

    Similar is first the last part, then the group. A last part that is too different is no guess worth making.
    """
    keys = list(known)
    if (ours := our_key(wrong)) in keys:
        return ours
    wrong_group, _, wrong_last = wrong.rpartition(".")

    def likeness(key: str) -> float:
        group, _, last = key.rpartition(".")
        alike = SequenceMatcher(None, wrong_last, last).ratio()
        if last.startswith(wrong_last):  # cut short, as in evaluate.every for evaluate.every_epochs
            alike = max(alike, 0.9)
        return alike + 0.3 * SequenceMatcher(None, wrong_group, group).ratio() if alike >= SIMILAR else 0.0

    best = max(keys, key=likeness, default=None)
    return best if best is not None and likeness(best) > 0 else None


def expand_path(text: str | Path) -> Path:
    """A path with ``~`` and environment variables expanded; an unset variable is an error."""
    import os

    expanded = os.path.expandvars(str(text))
    if unset := re.search(r"\$\{?(\w+)\}?", expanded):
        raise ValueError(f"environment variable {unset.group(1)!r} of {str(text)!r} is not set")
    return Path(expanded).expanduser()
