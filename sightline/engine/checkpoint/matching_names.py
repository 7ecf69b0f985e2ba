"""Which tensor of a file is which of a model, where all names of one of them begin with parts that the other lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

from sightline.engine.tensor_names import shared_parts

MOST_PREFIXES = 64
"""Of each side that are tried: those of the most names."""
MOST_PARTS = 5
"""Of a prefix that not all names share."""
MOST_SHARED = 32
"""Parts of a prefix that all names share."""

Shapes = set[tuple[str, tuple[int, ...]]]
"""Names without a prefix, with their shapes."""


def match_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[dict[str, str], str]:
    """The file's name of each of the model's tensors that has one, and what was done to the names.

    One prefix is taken away from the names of the file, and one put before what is left: the pair with which most
    names and shapes fit, the shorter of equals. A prefix that all names have may be any. Another one must make half of
    the file's tensors fit, or half of the model's, and no other pair as many: a few fit by chance, and a file of one
    block fits each block that is like it.

    Args:
        own: The model's tensors.
        given: The file's tensors.

    Returns:
        The model's names -> the file's, also where shapes differ; and a sentence, empty where the names fit as they
        are.
    """
    their_shapes = {off: _without(given, off) for off in _prefixes(given)}
    our_shapes = {on: _without(own, on) for on in _prefixes(own)}
    counts = {(off, on): len(o & t) for off, t in their_shapes.items() for on, o in our_shapes.items()}
    sure = [(off, on) for off in _shared_prefixes(given) for on in _shared_prefixes(own)]
    off, on = max(sure, key=lambda pair: counts[pair])
    most = max(counts.values())
    if most > counts[off, on] and most >= max(2, (min(len(own), len(given)) + 1) // 2):
        pairs = [pair for pair, count in counts.items() if count == most]
        first, *others = (_matched(own, given, *pair) for pair in pairs)
        if all(other == first for other in others):
            off, on = pairs[0]
            there = f"what begins with {off!r} in the file" if off else "the file"
            return first, f"{there} is matched with {f'what begins with {on!r} here' if on else 'the model'}"
    return _matched(own, given, off, on), _told(off, on)


def _matched(own: Mapping[str, Tensor], given: Mapping[str, Tensor], off: str, on: str) -> dict[str, str]:
    found = {on + name.removeprefix(off): name for name in given if name.startswith(off)}
    return {name: there for name, there in found.items() if name in own}


def _prefixes(names: Iterable[str]) -> list[str]:
    """Leading parts of the names, each with its last dot: nothing, what all share, and the most frequent ones."""
    names = list(names)
    shared = _shared_prefixes(names)
    counts = Counter(one for name in names for one in _leading(tuple(name.split(".")[:-1][:MOST_PARTS])))
    often = sorted(counts, key=lambda one: (-counts[one], one.count("."), one))[:MOST_PREFIXES]
    return list(dict.fromkeys([*shared, *often]))


def _shared_prefixes(names: Iterable[str]) -> list[str]:
    return _leading(shared_parts(names)[:MOST_SHARED])


def _leading(parts: tuple[str, ...]) -> list[str]:
    """``["", "a.", "a.b."]`` of ``("a", "b")``."""
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts) + 1)]


def _without(tensors: Mapping[str, Tensor], prefix: str) -> Shapes:
    cut = len(prefix)
    return {(name[cut:], tuple(one.shape)) for name, one in tensors.items() if name.startswith(prefix)}


def _told(off: str, on: str) -> str:
    if off and on:
        return f"all names begin with {off!r} in the file and with {on!r} here"
    if off or on:
        return f"all names begin with {(off or on)!r} {'in the file' if off else 'here'} alone; that is passed over"
    return ""
