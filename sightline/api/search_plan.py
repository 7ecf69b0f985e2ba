"""What decides a search: checked before its first trial, written into its folder, and the same when it goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Literal, NamedTuple

from pydantic import PositiveInt, ValidationError

from sightline.api.configuration import (
    PathLike,
    as_change_file,
    merged_changes,
    one_length,
    plain_values,
    resolve,
)
from sightline.config.base import Config
from sightline.config.errors import ConfigError, RunError
from sightline.config.override import Change, changes_of, parse_change
from sightline.config.printable import printable
from sightline.engine.checkpoint.retention import BestBy
from sightline.search.proposals import Method, Proposal, Proposals
from sightline.search.space import Dimension, is_range, parse_space, values_at

SEARCH_FILE = "search.json"
TRIALS, GENERATION = 24, 8
"""How many, where nobody says it."""
NOT_IN_A_TRIAL = {
    "max_time": "it stops a run unfinished; a trial ends with epochs or steps",
    "stop_at_epoch": "it stops a run unfinished; a trial ends with epochs or steps",
}
"""Keys that a trial cannot have, and why."""


class Range(Config):
    """A range as a file holds it."""

    kind: str
    values: tuple[Any, ...]


class Plan(Config):
    """Everything that decides what a search finds: the content of ``search.json``."""

    recipe: str
    changes: dict[str, Any]
    """Of all trials, by key; paths are absolute."""
    space: dict[str, Range]
    by: BestBy
    """Which figure decides, and whether more is better."""
    method: Literal["evolve", "random"]
    generation: PositiveInt
    seed: int
    trials: PositiveInt
    threads: PositiveInt | None
    """Of each trial, where the changes say nothing: they decide its last bits. None where the recipe says it."""

    def dimensions(self) -> list[Dimension]:
        """The ranges."""
        return [Dimension(key, one.kind, one.values, SEARCH_FILE) for key, one in self.space.items()]

    def proposals(self) -> Proposals:
        """What trials try, as long as nothing was told."""
        return Proposals(self.dimensions(), seed=self.seed, generation=self.generation, method=self.method)

    def values(self, proposal: Proposal) -> dict[str, Any]:
        """By key, what a trial tries."""
        return values_at(self.dimensions(), proposal.places)

    def change_file(self, proposal: Proposal) -> dict[str, Any]:
        """Content of the change file of a trial."""
        fixed = [Change(key, value, SEARCH_FILE) for key, value in self.changes.items()]
        if self.threads is not None:
            fixed.append(Change("threads", self.threads, SEARCH_FILE))
        if self.by.metric is not None:
            fixed.append(Change("evaluate.best.metric", self.by.metric, "--metric"))
        tried = [Change(key, value, SEARCH_FILE) for key, value in self.values(proposal).items()]
        return {"recipe": self.recipe, **merged_changes([*fixed, *one_length(tried)])}

    def refuse(self, proposal: Proposal) -> None:
        """See whether a trial could be a run.

        Raises:
            ConfigError: If not.
        """
        content = self.change_file(proposal)
        resolve(content.pop("recipe"), more=[Change(key, value, "its values") for key, value in content.items()])

    def refuse_wrong(self) -> None:
        """See whether all trials of the first generation could be runs.

        Raises:
            ConfigError: Names the first that could not.
        """
        proposals = self.proposals()
        for trial in range(min(self.generation, self.trials)):
            proposal = proposals.propose(trial)
            try:
                self.refuse(proposal)
            except ConfigError as error:
                tried = settings(self.values(proposal))
                raise ConfigError(f"trial {trial} ({tried}) could not run: {error}") from None

    def write(self, folder: Path) -> None:
        """Write it into the search's folder."""
        from sightline.files.atomic_file import replace_file

        replace_file(folder / SEARCH_FILE, self.model_dump_json(indent=1).encode() + b"\n")


class Decides(NamedTuple):
    """Arguments of ``search`` that decide what is found, None where nothing was given."""

    space: PathLike | Mapping[str, str] | None
    data: PathLike | None
    metric: str | None
    method: Method | None
    generation: int | None
    seed: int | None


def make_plan(recipe: str | Path, changes: Sequence[str], decides: Decides, *, jobs: int) -> Plan:
    """What the arguments of ``search`` mean, but for the number of trials.

    Raises:
        ConfigError: If a key, value or range is wrong. Both ends and the middle of every range are tried.
    """
    space, data, metric, method, generation, seed = decides
    generation = GENERATION if generation is None else generation
    method = "evolve" if method is None else method
    if method not in ("evolve", "random"):
        raise ConfigError(f"search: method {printable(method)!r}: give evolve or random.")
    _refuse_below_one(jobs=jobs, generation=generation)
    ranges = [Change(*_split(text), "command line") for text in changes if _is_range(text)]
    fixed = [text for text in changes if not _is_range(text)]
    dimensions = parse_space([*ranges, *_ranges_of(space)])
    _refuse_both(dimensions, fixed)
    named = [] if metric is None else [Change("evaluate.best.metric", metric, "--metric")]
    config, _ = resolve(recipe, fixed, data=data, more=named)
    for key, why in NOT_IN_A_TRIAL.items():
        if getattr(config, key) is not None or any(one.key == key for one in dimensions):
            raise ConfigError(f"search: {key} has no place in a trial: {why}. Leave it out.")
    if config.batch_size == "auto":
        raise ConfigError("search: batch_size=auto depends on what memory is free; give a number, or a range of some.")
    for one in dimensions:
        for place in (0.0, 0.47, 1.0):
            resolve(recipe, fixed, data=data, more=[*named, one.change(place)])
    name, merged = as_change_file(recipe, fixed, data=data)
    values = config.model_dump()
    return Plan(
        recipe=name,
        changes={key: plain_values(_value_of(values, key)) for key in merged},
        space={one.key: Range(kind=one.kind, values=one.values) for one in dimensions},
        by=config.best.but(direction=config.best.direction_of(config.best.metric or "")),
        method=method,
        generation=generation,
        seed=0 if seed is None else seed,
        trials=TRIALS,
        threads=max(1, (os.cpu_count() or 1) // jobs) if config.threads is None else None,
    )


def _value_of(values: Any, key: str) -> Any:
    """What a tree holds at a dotted key: unlike what the user wrote, it has whole paths and the hashes of user code."""
    for part in key.split("."):
        values = values[part]
    return values


def _refuse_below_one(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"search: {name}={value}: give 1 or more.")


def _split(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key.strip(), value


def _is_range(text: str) -> bool:
    return is_range(_split(text)[1])


def _ranges_of(space: PathLike | Mapping[str, Any] | None) -> list[Change]:
    """Ranges of a file or a mapping; groups may be nested."""
    from sightline.config.safe_yaml import read_yaml_document

    if space is None:
        return []
    if isinstance(space, Mapping):
        return changes_of(space, origin="space")
    path = Path(space).expanduser()
    document, shown = read_yaml_document(path, what="space file"), printable(path)
    if not isinstance(document.value, dict):
        raise ConfigError(f"{shown}: expected keys and their ranges, one a line, such as 'lr: log(1e-4, 1e-1)'.")
    lines = {".".join(map(str, keys)): line for keys, line in document.lines.items()}
    return [
        Change(one.key, one.value, f"{shown}:{lines[one.key]}" if one.key in lines else shown)
        for one in changes_of(document.value, origin=shown)
    ]


def _refuse_both(dimensions: Sequence[Dimension], fixed: Sequence[str]) -> None:
    """Check that no key has a range and a value."""
    for one in dimensions:
        for change in map(parse_change, fixed):
            if one.key == change.key:
                both = f"a range, {one}, and a value, {printable(change.value)}"
                raise ConfigError(f"{one.origin}: {one.key} has {both}. Leave one out.")


def agreed_plan(given: Plan | None, folder: Path, *, trials: int | None, jobs: int) -> Plan:
    """The plan of a search that begins, or goes on: what is given must be what the folder holds.

    Args:
        given: What the user asks for; None to go on with what is there.
        folder: Of the search, which need not exist.
        trials: How many; as before, or the default, without it.
        jobs: So many at once.

    Raises:
        ConfigError: If they differ; names where.
        RunError: If the folder holds something else, or nothing to go on with.
    """
    written = _read_plan(folder)
    plan = given or written
    if plan is None:
        raise RunError(f"{printable(folder)}: holds no search. To begin one, name a recipe and ranges.")
    if written is None and folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise RunError(f"{printable(folder)}: is not empty and holds no search. Give another folder: --out DIR")
    if written is not None:
        if plan.threads is not None and written.threads is not None:
            plan = plan.but(threads=written.threads)
        for key, mine, theirs in _differences(plan, written):
            raise ConfigError(
                f"{printable(folder)}: the search there has {key}={printable(theirs)}, not {printable(mine)}. Go on "
                f"with it as it is: sightline search --out {quote(str(folder))}; or begin another: --out DIR"
            )
        plan = written
    _refuse_below_one(jobs=jobs, trials=plan.trials if trials is None else trials)
    if plan.method == "evolve" and jobs > plan.generation:
        raise ConfigError(
            f"search: of jobs={jobs} only {plan.generation} would work, since a generation of {plan.generation} trials "
            f"waits for the one before. Give fewer jobs, or begin with generation={jobs}."
        )
    return plan if trials is None else plan.but(trials=trials)


def _differences(given: Plan, written: Plan) -> list[tuple[str, Any, Any]]:
    """Keys with both values; the number of trials may differ."""
    mine, theirs = (json.loads(plan.model_dump_json(exclude={"trials"})) for plan in (given, written))
    found = []
    for part in mine:
        both = mine[part], theirs[part]
        if part in ("changes", "space"):
            found += [(key, both[0].get(key), both[1].get(key)) for key in dict.fromkeys([*both[0], *both[1]])]
        else:
            found.append((part, *both))
    return [(key, mine, theirs) for key, mine, theirs in found if mine != theirs]


def _read_plan(folder: Path) -> Plan | None:
    path = folder / SEARCH_FILE
    try:
        return Plan.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise RunError(f"{printable(folder)}: is no folder. Give another: --out DIR") from None
    except (OSError, ValidationError) as error:
        raise RunError(
            f"{printable(path)}: cannot be read. Put the right file back, or give another folder."
        ) from error


def settings(values: Mapping[str, Any]) -> str:
    """``lr=0.01 optimizer.momentum=0.9``."""
    return " ".join(f"{key}={printable(value)}" for key, value in values.items())


def write_trial_file(path: Path, content: Mapping[str, Any], *, head: str = "") -> None:
    """Write a change file.

    Args:
        path: The file.
        content: The recipe, and values by key.
        head: A line above it, for people.
    """
    import yaml

    from sightline.files.atomic_file import replace_file

    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    replace_file(path, f"{f'# {head}' + chr(10) if head else ''}{text}".encode())
