"""Configurations from recipes, change files, finished runs and ``key=value`` texts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.config.errors import ConfigError
from sightline.config.override import Change, apply_changes, changes_of, leaves, parse_change

if TYPE_CHECKING:
    from sightline.engine.run_config import RunConfig

CONFIG_FILE = "config.yaml"

PathLike = str | os.PathLike[str]


def resolve(
    recipe: str | Path | None,
    changes: Sequence[str] = (),
    *,
    data: PathLike | None = None,
    from_run: PathLike | None = None,
) -> tuple[RunConfig, dict[str, str]]:
    """The configuration of a run and where each of its values came from.

    Args:
        recipe: Name of a recipe, or a YAML file with ``recipe: NAME`` and changes; with ``from_run`` None.
        changes: ``key=value`` texts; they win over the file.
        data: Data set; the same as the change ``data.path=...``.
        from_run: Repeat the configuration of this run's folder.

    Raises:
        ConfigError: If a key or value is wrong; names it, its place and the nearest right key.
        RunError: If ``from_run`` is no run.
    """
    from sightline.recipes import recipe as recipe_named

    given: list[Change] = []
    if from_run is not None:
        if recipe is not None:
            raise ConfigError(f"give either a recipe ({recipe!r}) or --from {from_run}, not both.")
        from sightline.engine.run_folder import existing_run

        name, given = _read_change_file(existing_run(Path(from_run)) / CONFIG_FILE)
    elif recipe is None:
        raise ConfigError("which recipe? For example: sightline train yolov7-tiny. List them with: sightline list")
    elif str(recipe).endswith((".yaml", ".yml")):
        name, given = _read_change_file(Path(recipe))
    else:
        name = str(recipe)
    given += [parse_change(text) for text in changes]
    if data is not None:
        given.append(Change("data.path", str(data), "--data"))
    base = recipe_named(name)
    return apply_changes(base, _one_length(given))


def _read_change_file(path: Path) -> tuple[str, list[Change]]:
    """The recipe's name and the changes of a YAML file, each with its line."""
    from sightline.config.safe_yaml import read_yaml_document

    document = read_yaml_document(path, what="change file")
    if not isinstance(document.value, dict) or not isinstance(document.value.get("recipe"), str):
        raise ConfigError(f"{path}: expected 'recipe: NAME' and changes below it. List recipes with: sightline list")
    values = {str(key): value for key, value in document.value.items()}
    name = values.pop("recipe")
    changes = []
    for change in changes_of(values, origin=str(path)):
        line = next((n for keys, n in document.lines.items() if ".".join(map(str, keys)) == change.key), None)
        changes.append(Change(change.key, change.value, f"{path}:{line}" if line else str(path)))
    return name, changes


def _one_length(changes: Sequence[Change]) -> list[Change]:
    """A run is given in epochs or in steps: a change of one takes the recipe's other one back."""
    keys = {change.key for change in changes if change.value is not None}
    out = list(changes)
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        if given in keys and other not in keys:
            origin = next(change.origin for change in changes if change.key == given)
            out.append(Change(other, None, origin))
    return out


def describe_config(config: RunConfig, origins: Mapping[str, str]) -> str:
    """Every value as ``key: value  # origin``, one a line."""
    rows = [(key, _yaml_value(value), _origin(key, origins)) for key, value in leaves(config)]
    width = min(60, max(len(f"{key}: {value}") for key, value, _ in rows))
    return "\n".join(f"{f'{key}: {value}':<{width}}  # {origin}" for key, value, origin in rows)


def _origin(key: str, origins: Mapping[str, str]) -> str:
    found = [origin for given, origin in origins.items() if key == given or key.startswith(given + ".")]
    return found[-1] if found else "recipe"


def _yaml_value(value: Any) -> str:
    plain = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    if isinstance(plain, tuple | list):
        plain = [item.model_dump(mode="json") if hasattr(item, "model_dump") else item for item in plain]
    return json.dumps(plain if isinstance(plain, str | int | float | bool | list | dict | None) else str(plain))


def write_config(config: RunConfig, path: Path) -> None:
    """The resolved configuration as YAML that ``--from`` and ``resume`` read."""
    import yaml

    from sightline.engine.atomic_file import replace_file

    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    replace_file(path, f"# Repeat this run with: sightline train --from {path.parent}\n{text}".encode())


def read_config(run_dir: Path, changes: Sequence[str] = ()) -> RunConfig:
    """The configuration of a run, changed.

    Raises:
        UserError: If it is no run, or a change does not fit.
    """
    return resolve(None, changes, from_run=run_dir)[0]


def list_recipes() -> str:
    """A line for each recipe."""
    from sightline.recipes import RECIPES

    width = max(map(len, RECIPES))
    return "\n".join(
        f"{name:<{width}}  {(make.__doc__ or '').strip().splitlines()[0]}" for name, make in RECIPES.items()
    )


def describe_keys(recipe: str) -> str:
    """All keys of a recipe with their values and help."""
    from sightline.recipes import recipe as recipe_named

    return "\n".join(_describe(recipe_named(recipe), ""))


def _describe(config: Any, prefix: str) -> Iterator[str]:
    from sightline.config.base import Config

    for name, about in type(config).model_fields.items():
        value = getattr(config, name)
        text = " ".join((about.description or "").split())
        if isinstance(value, Config):
            yield f"\n{prefix}{name}.  {text or (type(value).__doc__ or '').splitlines()[0]}"
            yield from _describe(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}: {_yaml_value(value)}" + (f"\n    {text}" if text else "")
