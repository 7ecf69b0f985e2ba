"""The dotted names of a model's tensors and layers: what all begin with, and the parts that a person speaks of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from sightline.config.errors import ConfigError, did_you_mean


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


def matching_layers(module: nn.Module, patterns: Sequence[str], *, key: str) -> dict[str, nn.Module]:
    """Layers whose name, or the end of it from one of its dots on, fits one of the patterns, in the model's order.

    Args:
        module: Their root.
        patterns: With ``*`` and ``?``.
        key: What the patterns are called in the configuration.

    Raises:
        ConfigError: If a pattern fits none.
    """
    layers = {name: layer for name, layer in module.named_modules() if name}
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in layers):
            near = did_you_mean(pattern, layers) or f" The first layers are {', '.join(list(layers)[:6])}."
            raise ConfigError(f"{key}: no layer is called {pattern!r}.{near}")
    return {name: layer for name, layer in layers.items() if any(_fits(name, one) for one in patterns)}


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")
