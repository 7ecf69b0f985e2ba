"""Configurations from recipes, change files, finished runs and ``key=value`` texts."""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from sightline.api.own_runs import defined_class, from_values
from sightline.api.table import Table
from sightline.api.user_code import pinned
from sightline.config.errors import ConfigError, RunError, UserError, did_you_mean
from sightline.config.explain import keys_of
from sightline.config.override import (
    Change,
    apply_changes,
    changes_of,
    leaf_changes,
    leaves,
    parse_change,
    refuse_contradictions,
    refuse_without_effect,
)
from sightline.config.printable import printable

if TYPE_CHECKING:
    from sightline.engine.checkpoint.release import Release
    from sightline.engine.run_config import RunConfig

PathLike = str | os.PathLike[str]


def resolve(
    recipe: str | Path | RunConfig | None,
    changes: Sequence[str] = (),
    *,
    data: PathLike | None = None,
    from_run: PathLike | None = None,
    more: Sequence[Change] = (),
) -> tuple[RunConfig, dict[str, str]]:
    """The configuration of a run and where each of its values came from.

    Args:
        recipe: Name of a recipe, a YAML file with ``recipe: NAME`` and changes, or a whole configuration; with
            ``from_run`` None.
        changes: ``key=value`` texts; they win over the file or configuration.
        data: Data set; the same as the change ``data.path=...``.
        from_run: Repeat the configuration of this run's folder.
        more: Further changes by hand, each of which knows where it was written.

    Raises:
        ConfigError: If a key or value is wrong, contradicts another or has no effect; names it, its place and the
            nearest right key.
        RunError: If ``from_run`` is no run.
    """
    by_hand = [*_by_hand(changes, data), *more]
    if recipe is None or isinstance(recipe, str | Path):
        return _resolve(recipe, by_hand, from_run=from_run)
    if from_run is not None:
        raise ConfigError("give either a configuration or from_run, not both.")
    if data is not None and "data.path" not in keys_of(type(recipe)):
        raise ConfigError(f"data: a {type(recipe).__name__} has no key data.path. Give its own keys as changes.")
    refuse_contradictions(by_hand)
    _refuse_missing_data(by_hand)
    return _changed(recipe, [], by_hand) if by_hand else (recipe, {})


def resolve_file(recipe: str, changes: Sequence[Change]) -> RunConfig:
    """The configuration of a change file that is not written yet.

    Args:
        recipe: Name of a recipe.
        changes: Of the file; each knows where its value comes from.

    Raises:
        ConfigError: As ``resolve``.
    """
    return _changed(_base(recipe, ""), changes, [])[0]


def _by_hand(changes: Sequence[str], data: PathLike | None) -> list[Change]:
    """What a user changes on the command line."""
    named = [] if data is None else [Change("data.path", os.fspath(data), "--data")]
    return [*map(parse_change, changes), *named]


def as_change_file(
    recipe: str | Path, changes: Sequence[str] = (), *, data: PathLike | None = None
) -> tuple[str, dict[str, Any]]:
    """The name of a recipe and all changes of a file and by hand, as one change file would have them.

    Args:
        recipe: Name of a recipe or a YAML file.
        changes: ``key=value`` texts; they win over the file.
        data: Data set.

    Raises:
        ConfigError: If there is no such file, or a text is no change.
    """
    by_hand = _by_hand(changes, data)
    name, _, in_file = _origin_of(recipe, None)
    return name, merged_changes([*one_length(in_file), *_other_data(in_file, by_hand), *one_length(by_hand)])


def merged_changes(changes: Sequence[Change]) -> dict[str, Any]:
    """One value for each key that is changed; a later change takes the place of earlier ones of its key or group."""
    merged: dict[str, Any] = {}
    for change in leaf_changes(changes):
        for key in [
            key for key in merged if f"{key}.".startswith(f"{change.key}.") or change.key.startswith(f"{key}.")
        ]:
            del merged[key]
        merged[change.key] = change.value
    return merged


def resolve_leniently(
    recipe: str | Path | RunConfig, changes: Sequence[str] = (), *, data: PathLike | None = None
) -> tuple[RunConfig | None, list[str]]:
    """As ``resolve``, but a change that is wrong is left out, so that all of them can be told at once.

    Returns:
        The configuration of the changes that are right, or None where the recipe or the data is not known; and what
        is wrong with each of the others. Whether the data exists is not asked.
    """
    wrong, by_hand = [], []
    for text in changes:
        try:
            by_hand.append(parse_change(text))
        except ConfigError as error:
            wrong.append(str(error))
    if data is not None:
        by_hand.append(Change("data.path", os.fspath(data), "--data"))
    in_file: list[Change] = []
    if isinstance(recipe, str | Path):
        try:
            name, place, in_file = _origin_of(recipe, None)
            base = _base(name, place)
        except UserError as error:
            return None, [*wrong, str(error)]
    else:
        base = recipe

    def attempt(given: Sequence[Change]) -> RunConfig | ConfigError:
        mine = [change for change in in_file if change in given], [change for change in by_hand if change in given]
        try:
            return _changed(base, *mine)[0]
        except ConfigError as error:
            return error

    given = leaf_changes([*in_file, *by_hand])
    in_file, by_hand = leaf_changes(in_file), leaf_changes(by_hand)
    while isinstance(found := attempt(given), ConfigError):
        wrong.append(str(found))
        culprit = _culprit(found, given, attempt)
        if culprit.key == "data.path":  # the run would be another one without
            return None, wrong
        given.remove(culprit)
    return found, wrong


def _culprit(
    error: ConfigError, given: Sequence[Change], attempt: Callable[[Sequence[Change]], RunConfig | ConfigError]
) -> Change:
    """The change without which the error is another one or none; one that the error names, where several are."""
    involved = []
    for change in given:
        rest = attempt([other for other in given if other is not change])
        if not isinstance(rest, ConfigError) or str(rest) != str(error):
            involved.append(change)
    named = [change for change in involved if change.key in str(error)]
    return [*named, *involved, *given][0]


def read_config(
    run: Path | Release, changes: Sequence[str] = (), *, data: PathLike | None = None, split: str | None = None
) -> RunConfig:
    """The configuration of a run, changed.

    Args:
        run: The run's folder, or a released file of it.
        changes: ``key=value`` texts.
        data: Another data set than the run's.
        split: Another part of the data set to evaluate on.

    Raises:
        UserError: If it is no run, or a change does not fit.
    """
    by_hand = _by_hand(changes, data)
    if split is not None:
        by_hand.append(Change("data.val_split", split, "--split"))
    return _resolve(None, by_hand, from_run=run)[0] if isinstance(run, Path) else _released(run, by_hand)


def portable(config: RunConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A configuration as it can be given away: without paths, callbacks and logging, which belong to one machine.

    Returns:
        Its values as JSON has them, and the keys that had a value and are left out.
    """
    values = config.model_dump(mode="json")
    del values["recipe"]
    left_out = []
    for name in OF_THE_MACHINE:
        del values[name]
    for key, value in leaves(config):
        *groups, name = key.split(".")
        if _names_a_place(value) and [*groups, name][0] not in OF_THE_MACHINE:
            node = values
            for group in groups:
                node = node[group]
            del node[name]
            left_out.append(key)
    return values, tuple(left_out)


def _names_a_place(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_names_a_place, value.values()))
    return isinstance(value, Path) or (isinstance(value, tuple | list) and any(map(_names_a_place, value)))


OF_THE_MACHINE = ("callbacks", "log", "weights")
"""Keys and groups that say nothing about a model."""


def _released(release: Release, by_hand: Sequence[Change]) -> RunConfig:
    """The configuration of a released file, which a stranger may have made, changed."""
    refuse_contradictions(by_hand)
    _refuse_other_recipe(by_hand)
    _refuse_missing_data(by_hand)
    header, place = release.header, f"{printable(release.path)}: "
    in_file = changes_of(header.config, origin=printable(release.path))
    calls = f"sightline.evaluate({str(release.path)!r})"
    base = _base_of_class(header.configuration, header.recipe, place, in_file, calls=calls)
    plain = _changed(base, in_file, [], is_repeated=True)[0]
    values = dict(leaves(plain))
    for change in leaf_changes(in_file):
        if change.key.split(".", 1)[0] in OF_THE_MACHINE or _names_a_place(values.get(change.key)):
            raise RunError(f"{place}its header sets {change.key}, which no released file does. Get it anew.")
    return _changed(base, in_file, by_hand, is_repeated=True)[0] if by_hand else plain


def _resolve(
    recipe: str | Path | None, by_hand: Sequence[Change], *, from_run: PathLike | None
) -> tuple[RunConfig, dict[str, str]]:
    refuse_contradictions(by_hand)
    _refuse_other_recipe(by_hand)
    _refuse_missing_data(by_hand)
    name, place, in_file = _origin_of(recipe, from_run)
    base = _base(name, place) if from_run is None else _base_of_run(Path(from_run), name, place, in_file)
    config, origins = _changed(base, in_file, by_hand, is_repeated=from_run is not None)
    if _is_of_a_run(recipe, from_run) and not any(change.key == "callbacks" for change in by_hand):
        config = pinned(config)
    return config, origins


def _base(name: str, place: str) -> RunConfig:
    """The recipe of a name that stands at a place."""
    from sightline.recipes import recipe as recipe_named

    try:
        return recipe_named(name)
    except ConfigError as error:
        raise ConfigError(f"{place}{error}") from None


def _base_of_run(run_dir: Path, name: str, place: str, in_file: Sequence[Change]) -> RunConfig:
    """What a run's configuration is a changed copy of: a recipe, or a class of the program that reads it."""
    from sightline.engine.run_folder.run_record import read_record

    try:
        written = read_record(run_dir).configuration
    except RunError:  # the configuration may be whole all the same
        written = ""
    run = repr(str(run_dir))
    return _base_of_class(written, name, place, in_file, calls=f"sightline.resume({run}), sightline.evaluate({run})")


def _base_of_class(written: str, name: str, place: str, in_file: Sequence[Change], *, calls: str) -> RunConfig:
    """As ``_base_of_run``, of the class that was written down; empty where none was."""
    from sightline.engine.going_on import class_name
    from sightline.recipes import RECIPES, recipe_function

    if not written or (name in RECIPES and written == class_name(type(recipe_function(name)()))):
        return _base(name, place)
    short = written.rpartition(".")[2]
    kind = defined_class(short)
    if kind is not None:
        return from_values(kind, [Change("recipe", name, place), *in_file])
    raise ConfigError(
        f"{place}a {printable(short)} is what the program that began this run calls its configuration, and is not "
        f"defined here.\n  Go on in that program, below the class: {calls}, ..."
    )


def _changed(
    base: RunConfig, in_file: Sequence[Change], by_hand: Sequence[Change], *, is_repeated: bool = False
) -> tuple[RunConfig, dict[str, str]]:
    """A recipe with the changes of a file and those made by hand, all of which must have an effect.

    Args:
        base: The recipe.
        in_file: Changes of a file.
        by_hand: Changes that win over them.
        is_repeated: The file is that of a run, and taken as it is.
    """
    refuse_contradictions(in_file)
    refuse_contradictions(by_hand)
    _refuse_other_recipe(by_hand)
    given, chosen = one_length(in_file), [*_other_data(in_file, by_hand), *one_length(by_hand)]
    if is_repeated:
        config, origins = apply_changes(base, chosen, base=given)
    else:
        config, origins = apply_changes(base, [*given, *chosen])
    refuse_without_effect(config, [*_differing(base, [] if is_repeated else in_file, by_hand), *by_hand])
    return config, origins


def _is_of_a_run(recipe: str | Path | None, from_run: PathLike | None) -> bool:
    """Whether the configuration comes out of a run's folder, which a stranger may have made."""
    from sightline.engine.run_folder.folder import is_run

    return from_run is not None or (recipe is not None and is_run(Path(recipe).expanduser().parent))


def _differing(base: RunConfig, in_file: Sequence[Change], by_hand: Sequence[Change]) -> list[Change]:
    """The changes of a file that say something else than the recipe and are not changed again."""
    values = {key: _plain(value) for key, value in leaves(base)}
    again = {change.key for change in leaf_changes(by_hand)}
    return [
        change
        for change in leaf_changes(in_file)
        if change.key not in again and (change.key not in values or values[change.key] != change.value)
    ]


def _other_data(in_file: Sequence[Change], by_hand: Sequence[Change]) -> list[Change]:
    """Another data set than a file's may have another format."""
    has_format = any(change.key == "data.format" and change.value is not None for change in in_file)
    named = next((change for change in by_hand if change.key == "data.path"), None)
    return [Change("data.format", None, named.origin)] if has_format and named is not None else []


def _refuse_missing_data(changes: Sequence[Change]) -> None:
    """Look for the data before PyTorch is loaded, so that a wrong path is told at once."""
    for change in changes:
        if change.key == "data.path" and isinstance(change.value, str) and "$" not in change.value:
            path = Path(change.value).expanduser()
            if not path.exists():
                from sightline.data.formats.find import open_dataset

                open_dataset(path)


def _origin_of(recipe: str | Path | None, from_run: PathLike | None) -> tuple[str, str, list[Change]]:
    """Name of the recipe, where it stands if in a file, and the changes of that file."""
    if from_run is not None:
        if recipe is not None:
            raise ConfigError(f"give either a recipe ({recipe}) or --from {from_run}, not both.")
        from sightline.engine.run_folder.folder import CONFIG_FILE, existing_run

        return _read_change_file(existing_run(Path(from_run)) / CONFIG_FILE)
    if recipe is None:
        raise ConfigError("which recipe? For example: sightline train yolov7-tiny. List them with: sightline list")
    if str(recipe).endswith((".yaml", ".yml")):
        return _read_change_file(Path(recipe).expanduser())
    return str(recipe), "", []


def _read_change_file(path: Path) -> tuple[str, str, list[Change]]:
    """The recipe's name, where it stands, and the changes of a YAML file, each with its line."""
    from sightline.config.safe_yaml import read_yaml_document

    if not path.exists() and path.parent.is_dir():
        near = did_you_mean(path.name, [one.name for one in path.parent.glob("*.y*ml")])
        raise ConfigError(f"change file {printable(path)}: the file does not exist.{near}")
    document = read_yaml_document(path, what="change file")
    shown = printable(path)
    if not isinstance(document.value, dict) or not isinstance(document.value.get("recipe"), str):
        raise ConfigError(f"{shown}: expected 'recipe: NAME' and changes below it. List recipes with: sightline list")
    values = {str(key): value for key, value in document.value.items()}
    name = values.pop("recipe")
    lines = {".".join(map(str, keys)): line for keys, line in document.lines.items()}
    changes = [
        Change(change.key, change.value, f"{shown}:{lines[change.key]}" if change.key in lines else shown)
        for change in changes_of(values, origin=shown)
    ]
    return name, f"{shown}:{lines['recipe']}: ", changes


def _refuse_other_recipe(changes: Sequence[Change]) -> None:
    """A recipe is not one of the values that can be changed."""
    for change in changes:
        if change.key == "recipe":
            raise ConfigError(
                f"{change.origin}: the recipe is no key. Name it first: sightline train {printable(change.value)}"
            )


def one_length(changes: Sequence[Change]) -> list[Change]:
    """A run is given in epochs, in steps or in samples: a change of one takes the recipe's other one back."""
    lengths = ("epochs", "steps", "samples")
    given = {change.key: change.origin for change in changes if change.key in lengths and change.value is not None}
    if not given:
        return list(changes)
    origin = next(iter(given.values()))
    return [*changes, *(Change(other, None, origin) for other in lengths if other not in given)]


def describe_config(config: RunConfig, origins: Mapping[str, str]) -> str:
    """Every value as ``key: value  # origin``, one a line. The text is a change file that repeats the configuration."""
    rows = [(key, _yaml_value(value), _origin(key, origins)) for key, value in leaves(config)]
    width = min(60, max(len(f"{key}: {value}") for key, value, _ in rows))
    return "\n".join(f"{f'{key}: {value}':<{width}}  # {origin}" for key, value, origin in rows)


def _origin(key: str, origins: Mapping[str, str]) -> str:
    found = [origin for given, origin in origins.items() if key == given or key.startswith(given + ".")]
    return found[-1] if found else "recipe"


def _plain(value: Any) -> Any:
    """A value as a file holds it: models as mappings, tuples as lists, paths as text."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | dict | None) else str(value)


def _yaml_value(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    return json.dumps(_plain(value), ensure_ascii=False)


def write_config(config: RunConfig, path: Path) -> None:
    """The resolved configuration as YAML that ``--from`` and ``resume`` read; paths are absolute, to be found again."""
    import yaml

    from sightline.files.atomic_file import replace_file

    text = yaml.safe_dump(plain_values(config.model_dump()), sort_keys=False, allow_unicode=True)
    replace_file(path, f"# Repeat this run with: sightline train --from {quote(str(path.parent))}\n{text}".encode())


def plain_values(value: Any) -> Any:
    """Configuration values as YAML has them."""
    if isinstance(value, Mapping):
        return {key: plain_values(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [plain_values(inner) for inner in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def list_recipes() -> Table:
    """A row for each recipe."""
    from sightline.recipes import RECIPES, recipe_function

    rows = [(name, _prose(recipe_function(name).__doc__ or "").splitlines()[0]) for name in RECIPES]
    return Table(("recipe", "what it is"), rows)


def describe_keys(recipe: str, group: str | None = None) -> str:
    """What a recipe is, and its keys with their values and help.

    Args:
        recipe: Its name.
        group: Only the keys of this group, such as ``optimizer`` or ``data.world``.

    Raises:
        ConfigError: If there is no such recipe or group.
    """
    from sightline.config.base import Config
    from sightline.recipes import recipe as recipe_named
    from sightline.recipes import recipe_function

    config: Any = recipe_named(recipe)
    prefix = ""
    for part in group.split(".") if group else ():
        groups = [name for name in type(config).model_fields if isinstance(getattr(config, name), Config)]
        if part not in groups:
            near = did_you_mean(part, groups) or f" There are: {', '.join(groups)}."
            raise ConfigError(f"{recipe} has no group {prefix + part!r}.{near}")
        config, prefix = getattr(config, part), f"{prefix}{part}."
    head = [] if group else [_prose(recipe_function(recipe).__doc__ or ""), ""]
    return "\n".join([*head, *_describe(config, prefix)])


def _prose(docstring: str) -> str:
    """A docstring as a person reads it."""
    return inspect.cleandoc(docstring).replace("``", "`")


def _describe(config: Any, prefix: str) -> Iterator[str]:
    from sightline.config.base import Config, field_help

    texts = field_help(type(config))
    for name in type(config).model_fields:
        value = getattr(config, name)
        text = " ".join(_prose(texts.get(name, "")).split())
        if isinstance(value, Config):
            yield f"\n{prefix}{name}.  {text or _prose(type(value).__doc__ or '').splitlines()[0]}"
            yield from _describe(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}: {_yaml_value(value)}" + (f"\n    {text}" if text else "")
