"""Changes to a configuration: ``key=value`` texts and change files, applied to a tree and checked as a whole.

Every value of the result knows where it came from (``origins``), so ``--print-config`` can say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from sightline.config.base import Config
from sightline.config.errors import ConfigError

C = TypeVar("C", bound=Config)

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
        ConfigError: If a list or mapping is not closed.
    """
    plain = text.strip()
    if plain[:1] in "[{" and plain:
        try:
            return yaml.safe_load(plain)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"cannot read the value {text!r}: write lists as [1, 2], mappings as {{a: 1}}."
            ) from error
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


def apply_changes(config: C, changes: Sequence[Change]) -> tuple[C, dict[str, str]]:
    """A changed copy of ``config``, checked again, and the origin of every value that was changed.

    Raises:
        ConfigError: Names the key, its origin and the nearest right key; or the value and what was expected.
    """
    tree = config.model_dump()
    origins: dict[str, str] = {}
    for change in changes:
        _set(config, tree, change)
        origins[change.key] = change.origin
    try:
        return type(config).model_validate(tree), origins
    except ValidationError as error:
        raise ConfigError(_explain(error, origins)) from None


def _set(config: Config, tree: dict[str, Any], change: Change) -> None:
    """Put one value in its place; the key must exist."""
    *path, name = change.key.split(".")
    node, model = tree, type(config)
    for part in path:
        inner = _model_of(model, part, node.get(part))
        if inner is None:
            raise ConfigError(_unknown(config, change))
        if not isinstance(node[part], dict):
            node[part] = {}
        node, model = node[part], inner
    if name not in model.model_fields:
        raise ConfigError(_unknown(config, change))
    inner = _model_of(model, name, node.get(name))
    if inner is not None and isinstance(change.value, str | int | float | list):
        keys = ", ".join(list(inner.model_fields)[:4])
        raise ConfigError(f"{change.origin}: {change.key!r} is a group, not a value. Its keys: {keys} ...")
    node[name] = change.value


def _model_of(model: type[Config], name: str, value: Any) -> type[Config] | None:
    """The config class below a field; of several (told apart by ``kind``) the one that the value says."""
    if name not in model.model_fields:
        return None
    found = [t for t in _types_in(model.model_fields[name].annotation) if isinstance(t, type) and issubclass(t, Config)]
    if len(found) > 1 and isinstance(value, Mapping):
        matching = [
            t for t in found if "kind" in t.model_fields and t.model_fields["kind"].default == value.get("kind")
        ]
        found = matching or found
    replaced_whole = _is_sequence(model.model_fields[name].annotation)
    return found[0] if found and not replaced_whole else None


def _is_sequence(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) in (list, tuple)


def _types_in(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _types_in(inner)


def known_keys(config: Config) -> list[str]:
    """All dotted keys: groups and leaves."""
    keys = [key for key, _ in leaves(config)]
    groups = {key.rsplit(".", n)[0] for key in keys for n in range(1, key.count(".") + 1)}
    return sorted({*keys, *groups})


def nearest_key(wrong: str, known: Iterable[str]) -> str | None:
    """The known dotted key that looks most like ``wrong``: whole key or last part, whichever is nearer."""

    def likeness(key: str) -> float:
        whole = SequenceMatcher(None, wrong, key).ratio()
        last = SequenceMatcher(None, wrong.rsplit(".", 1)[-1], key.rsplit(".", 1)[-1]).ratio()
        return max(whole, last - 0.02 * abs(wrong.count(".") - key.count(".")))

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.6 else None


def _unknown(config: Config, change: Change) -> str:
    near = nearest_key(change.key, known_keys(config))
    hint = f" Did you mean {near!r}?" if near else " See all keys with: sightline train RECIPE --print-config."
    return f"{change.origin}: unknown key {change.key!r}.{hint}"


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    """Pydantic's findings in one line each: where, which key, what was wrong with which value."""
    lines = []
    for finding in error.errors()[:4]:
        key = ".".join(str(part) for part in finding["loc"] if not str(part).startswith(("function-", "tagged-union")))
        near = [o for k, o in origins.items() if k == key or key.startswith(k + ".") or k.startswith(key + ".")]
        origin = near[0] if near else "recipe"
        message = finding["msg"].removeprefix("Value error, ")
        value = finding.get("input")
        shown = "" if isinstance(value, dict) or finding["type"] == "value_error" else f", got {value!r}"
        where = f"{origin}: {key}: " if key else f"{', '.join(sorted(set(origins.values()))) or 'recipe'}: "
        lines.append(f"{where}{message}{shown}.".replace("..", "."))
    return "\n".join(lines)


def expand_path(text: str | Path) -> Path:
    """A path with ``~`` and environment variables expanded; an unset variable is an error."""
    import os

    expanded = os.path.expandvars(str(text))
    if unset := re.search(r"\$\{?(\w+)\}?", expanded):
        raise ValueError(f"environment variable {unset.group(1)!r} of {str(text)!r} is not set")
    return Path(expanded).expanduser()
