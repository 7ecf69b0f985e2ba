"""The dotted names of a model's tensors: what all of them begin with, and the parts that a person speaks of."""

from __future__ import annotations

from collections.abc import Iterable


def shared_parts(names: Iterable[str]) -> tuple[str, ...]:
    """The leading parts that all names have in common; never the last part of one.

    Example:
        >>> shared_parts(["task.net.0.weight", "task.net.1.weight"])
        ('task', 'net')
    """
    shared: tuple[str, ...] | None = None
    for name in names:
        parts = tuple(name.split(".")[:-1])
        if shared is None:
            shared = parts
        while parts[: len(shared)] != shared:
            shared = shared[:-1]
    return shared or ()


def group_of_name(name: str, shared: tuple[str, ...]) -> str:
    """The top-level part of the model that a tensor belongs to.

    Args:
        name: Of the tensor.
        shared: What all names of the model begin with; that alone says nothing.

    Returns:
        The shared parts and the next one, unless that is the tensor itself.
    """
    parts = name.split(".")
    own = tuple(parts[: len(shared)]) == shared
    return ".".join(parts[: min(len(shared) + 1 if own else 1, max(1, len(parts) - 1))])
