"""What was wrong with a configuration, in the user's words: which key, where it was set, what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sightline.config.base import Config
from sightline.config.errors import did_you_mean
from sightline.config.printable import printable

MOST_FINDINGS = 4

WANTED = {
    "int_from_float": "must be a valid integer, without a fraction",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list such as [1, 2]",
    "string_type": "must be a text",
    "missing": "is missing",
}
"""Where pydantic's words are not the user's."""


def explain(error: ValidationError, config: type[Config], origins: Mapping[str, str]) -> str:
    """Pydantic's findings, one line each: where, which key, what was wrong with which value.

    Args:
        error: What checking ``config`` found.
        config: The class at the root.
        origins: Where the values of keys were set.
    """
    findings = error.errors()
    lines = [_line(finding, config, origins) for finding in findings[:MOST_FINDINGS]]
    if len(findings) > MOST_FINDINGS:
        lines[-1] += f" And {len(findings) - MOST_FINDINGS} more."
    return "\n".join(lines)


def _line(finding: ErrorDetails, config: type[Config], origins: Mapping[str, str]) -> str:
    key, holder = _place(config, finding["loc"])
    message = _message(finding, key, holder)
    origin = _origin(key, message, origins)
    if finding["type"] == "value_error" and (whole := _named_key(config, key, message)):
        return f"{origin}: {whole}{message[len(_first_word(message)) :]}"
    return f"{origin}: {key}: {message}" if key and finding["type"] != "extra_forbidden" else f"{origin}: {message}"


def _first_word(message: str) -> str:
    return re.match(r"\w*", message)[0]  # type: ignore[index]


def _named_key(config: type[Config], group: str, message: str) -> str | None:
    """The whole key that a message about a group begins with: ``schedule.final`` of "final does nothing in ..."."""
    key = f"{group}.{_first_word(message)}" if group else _first_word(message)
    return key if group and re.sub(r"\[\d+\]", "", key) in keys_of(config) else None


def _message(finding: ErrorDetails, key: str, holder: type[Config] | None) -> str:
    """What was wrong, as a sentence."""
    kind, context, value = finding["type"], finding.get("ctx", {}), finding.get("input")
    shown = printable(repr(value), limit=80)
    match kind:
        case "value_error":
            return _sentence(finding["msg"].removeprefix("Value error, "))
        case "extra_forbidden":
            return _unknown_key(key, holder)
        case "union_tag_not_found":
            tag = str(context["discriminator"]).strip("'")
            given = list(value) if isinstance(value, Mapping) else []
            typo = next((f" Did you mean {tag!r} by {name!r}?" for name in given if did_you_mean(str(name), [tag])), "")
            return f"{tag!r} is missing, which says what kind it is; got {shown}.{typo}"
        case "union_tag_invalid":
            tag, tags = str(context["tag"]), _quoted(str(context["expected_tags"]))
            name = str(context["discriminator"]).strip("'")
            return f"{name} {tag!r} is none of {', '.join(tags)}.{did_you_mean(tag, tags)}"
        case "literal_error":
            near = did_you_mean(value, _quoted(str(context["expected"]))) if isinstance(value, str) else ""
            return f"must be {context['expected']}, got {shown}.{near}"
    text = WANTED.get(kind) or finding["msg"].split(", unable to")[0].replace("Input should be", "must be")
    return _sentence(text) if isinstance(value, Mapping) else f"{text}, got {shown}."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _unknown_key(key: str, holder: type[Config] | None) -> str:
    wrong = key.rsplit(".", 1)[-1]
    known = list(holder.model_fields) if holder is not None else []
    hint = did_you_mean(wrong, known) or (f" There are: {', '.join(known[:8])}." if known else "")
    return f"unknown key {printable(key, limit=80)!r}.{hint}"


def _join(loc: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _origin(key: str, message: str, origins: Mapping[str, str]) -> str:
    """Where the values that a finding is about were set; for one about a group, the keys that the message names."""
    dotted = re.sub(r"\[\d+\]", "", key)
    about = [k for k in origins if k == dotted or dotted.startswith(f"{k}.")]
    if not about:
        below = [k for k in origins if not dotted or k.startswith(f"{dotted}.")]
        words = set(re.findall(r"\w+", message))
        about = [k for k in below if k.rsplit(".", 1)[-1] in words] or below
    return ", ".join(dict.fromkeys(origins[k] for k in about)) or "recipe"


def _place(config: type[Config], loc: Sequence[int | str]) -> tuple[str, type[Config] | None]:
    """The key of a finding, without the kinds of alternatives that pydantic adds, and the class that holds it."""
    annotation: Any = config
    holder: type[Config] | None = None
    parts: list[int | str] = []
    for part in loc:
        if isinstance(part, int):
            annotation = _item_of(annotation, part)
            parts.append(part)
            continue
        known = configs_in(annotation)
        named = next((one for one in known if part in one.model_fields), None)
        tagged = next((one for one in known if part in _kinds_of(one)), None)
        if named is not None:
            holder, annotation = named, named.model_fields[part].annotation
            parts.append(part)
        elif tagged is not None:
            annotation = tagged
        else:
            holder = known[0] if len(known) == 1 else None
            parts.append(part)
    return _join(parts), holder


def configs_in(annotation: Any) -> list[type[Config]]:
    """The config classes that a field may hold itself: of a union all, of a list none."""
    return [one for one in _alternatives(annotation) if isinstance(one, type) and issubclass(one, Config)]


def _alternatives(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for inner in get_args(annotation):
            yield from _alternatives(inner)
    else:
        yield annotation


def _item_of(annotation: Any, index: int) -> Any:
    """What stands at a place of a list or tuple."""
    for one in _alternatives(annotation):
        inner = get_args(one)
        if get_origin(one) in (list, tuple) and inner:
            return inner[index] if index < len(inner) and inner[-1] is not Ellipsis else inner[0]
    return None


def _kinds_of(config: type[Config]) -> list[str]:
    """Values of the fields by which alternatives are told apart: ``last`` of ``rule: Literal["last"]``."""
    return [
        field.default
        for field in config.model_fields.values()
        if len(get_args(field.annotation)) == 1 and isinstance(field.default, str)
    ]


def group_of(config: type[Config], name: str, value: Any) -> type[Config] | None:
    """The config class below a field; of several (told apart by ``kind``) the one that the value says."""
    if name not in config.model_fields:
        return None
    found = configs_in(config.model_fields[name].annotation)
    if len(found) > 1 and isinstance(value, Mapping):
        found = [one for one in found if value.get("kind") in _kinds_of(one)] or found
    return found[0] if found else None


def keys_of(config: type[Config], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a class, groups and leaves, those of groups that may be left out too."""
    for name, field in config.model_fields.items():
        yield prefix + name
        for inner in configs_in(field.annotation):
            yield from keys_of(inner, f"{prefix}{name}.")
