"""Configurations whose class is a program's own, found again when one of its runs is opened.

A run folder never decides which code runs: a class is used only if the process has defined it already.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sightline.config.errors import ConfigError
from sightline.config.explain import explain
from sightline.config.override import Change

if TYPE_CHECKING:
    from sightline.engine.run_config import RunConfig


def title_of(config: RunConfig) -> str:
    """What the runs of a configuration are called: its recipe, or its class."""
    return config.recipe or type(config).__name__


def defined_class(name: str) -> type[RunConfig] | None:
    """The configuration class of a name that this process has defined; of several the last, as in a notebook."""
    from sightline import recipes  # so that ours are defined too
    from sightline.engine.run_config import RunConfig

    del recipes
    found: type[RunConfig] | None = None
    waiting: list[type[RunConfig]] = [RunConfig]
    while waiting:
        kind = waiting.pop(0)
        if kind.__name__ == name and not inspect.isabstract(kind):
            found = kind
        waiting += kind.__subclasses__()
    return found


def from_values(kind: type[RunConfig], values: Sequence[Change]) -> RunConfig:
    """A configuration of a class from all of its values.

    Raises:
        ConfigError: If they do not fit, as when the class was changed since the run began.
    """
    tree: dict[str, Any] = {}
    for change in values:
        *path, name = change.key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[name] = change.value
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, kind, {change.key: change.origin for change in values})) from None
