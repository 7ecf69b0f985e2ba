"""Tensors by name in what ``read_torch_file`` gives: a state dict in its usual places, or a whole pickled module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sightline.files.tolerant_pickle import Foreign

AVERAGED = ("ema", "state_dict_ema", "model_ema", "ema_state_dict", "params_ema")
"""Keys under which files keep averaged weights."""
LIVE = ("state_dict", "model", "model_state", "model_state_dict", "weights", "params", "net", "network")
"""Keys under which files keep weights, the likeliest first."""
MOST_PARTS = 200_000
"""Modules and tensors of a pickled model that are visited: one may stand in many places of a file of a few bytes."""
MOST_DEPTH = 100
"""Modules within modules."""
MOST_LETTERS = 1000
"""Of the name of a module or tensor."""
MOST_NAMES = 8
"""Names of foreign classes that are told."""


class WeightsError(ValueError):
    """There are no tensors by name where they may be."""


@dataclass(frozen=True)
class FoundWeights:
    """Tensors by name, and where they stood."""

    place: str
    """Key of the file, such as ``state_dict`` or ``model.state_dict``; an empty text for the whole of it."""
    is_averaged: bool
    """Whether the key says so."""
    is_module: bool
    """Whether they are those of a pickled module."""
    tensors: dict[str, Tensor]
    others: tuple[str, ...]
    """Other keys of the file with tensors by name."""
    foreign: tuple[str, ...]
    """Classes of objects that the file holds beside them, without a model's own parts; at most a few."""


def find_weights(tree: Any) -> FoundWeights:
    """The weights in a file: averaged ones where they are as many as the others, else the live ones, else the top.

    Args:
        tree: From ``read_torch_file``.

    Raises:
        WeightsError: There are none; tells what there is.
    """
    found = _candidates(tree)
    live = [place for place, (_, _, is_averaged) in found.items() if place and not is_averaged]
    averaged = [place for place, (_, _, is_averaged) in found.items() if is_averaged]
    at_hand = [*live, *([""] if "" in found else [])]
    if averaged and (not at_hand or len(found[averaged[0]][0]) >= len(found[at_hand[0]][0])):
        at_hand = averaged
    if not at_hand:
        raise WeightsError(_nothing(tree))
    place = at_hand[0]
    tensors, is_module, is_averaged = found[place]
    others = tuple(key for key in found if key and key != place)
    return FoundWeights(place, is_averaged, is_module, tensors, others, _foreign_names(tree))


def _candidates(tree: Any) -> dict[str, tuple[dict[str, Tensor], bool, bool]]:
    """Place -> tensors, whether they are of a module, and whether they are averaged."""
    found = {}
    top = _table_of(tree) or {}
    for key in (one for one in (*AVERAGED, *LIVE) if one in top):
        inner = _table_of(top[key]) or {}
        places = {key: top[key], **{f"{key}.{one}": inner[one] for one in LIVE if one in inner}}
        for place, value in places.items():
            tensors, is_module = _named_tensors(value)
            if tensors:
                found[place] = (tensors, is_module, key in AVERAGED)
                break
    tensors, is_module = _named_tensors(tree)
    if tensors:
        found[""] = (tensors, is_module, False)
    return found


def _table_of(value: Any) -> dict[Any, Any] | None:
    """A dictionary, or what stands for one of another kind."""
    if isinstance(value, Foreign):
        return value.entries or None
    return value if isinstance(value, dict) else None


def _named_tensors(value: Any) -> tuple[dict[str, Tensor], bool]:
    """Tensors by name of a table or a module, and whether it is a module."""
    table = _table_of(value)
    if table is not None:
        return {key: one for key, one in table.items() if isinstance(key, str) and isinstance(one, Tensor)}, False
    if isinstance(value, Foreign) and _is_module(value):
        return dict(_tensors_of_module(value)), True
    return {}, False


def _tensors_of_module(root: Foreign) -> Iterator[tuple[str, Tensor]]:
    """Parameters and kept buffers of a pickled module, as its ``state_dict`` would name them."""
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    visited = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        state = module.state if isinstance(module, Foreign) else None
        if not isinstance(state, dict):
            continue
        tables = [_table_of(state.get(key)) or {} for key in ("_parameters", "_buffers", "_modules")]
        visited += sum(map(len, tables))
        longest = max((len(name) for table in tables for name in table if isinstance(name, str)), default=0)
        if visited > MOST_PARTS or depth > MOST_DEPTH or len(prefix) + longest > MOST_LETTERS:
            raise WeightsError(
                "the model in it has more parts or longer names than a model has, or is a part of itself"
            )
        passing = state.get("_non_persistent_buffers_set")
        passing = passing if isinstance(passing, set) else set()
        for part in ("_parameters", "_buffers"):
            for name, value in (_table_of(state.get(part)) or {}).items():
                if isinstance(value, Tensor) and not (part == "_buffers" and name in passing):
                    yield f"{prefix}{name}", value
        inner = [(f"{prefix}{name}.", one, depth + 1) for name, one in (_table_of(state.get("_modules")) or {}).items()]
        waiting.extend(reversed(inner))


def _is_module(value: Foreign) -> bool:
    return isinstance(value.state, dict) and "_parameters" in value.state


def _foreign_names(tree: Any) -> tuple[str, ...]:
    """Names of objects outside of modules, in the order of the file."""
    names: dict[str, None] = {}
    waiting, seen = [tree], set()
    while waiting and len(names) < MOST_NAMES:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Foreign):
            if not _is_module(value):
                names.setdefault(value.name)
        elif isinstance(value, dict):
            waiting.extend(reversed(value.values()))
        elif isinstance(value, list | tuple):
            waiting.extend(reversed(value))
    return tuple(names)


def _nothing(tree: Any) -> str:
    table = _table_of(tree)
    if table:
        keys = ", ".join(repr(key[:40]) if isinstance(key, str) else type(key).__name__ for key in list(table)[:6])
        there = f"its keys are {keys}{', ...' if len(table) > 6 else ''}"
    else:
        there = f"it is {tree.name if isinstance(tree, Foreign) else f'a {type(tree).__name__}'}"
    names = _foreign_names(tree)
    told = f"; it names {', '.join(names)}, and nothing of that was run" if names else ""
    return f"holds no tensors by name, at the top or under {', '.join(LIVE)}: {there}{told}"
