"""Runs side by side: what differs in their configuration, their figures, and their curves in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.config.errors import RunError
from sightline.config.printable import printable
from sightline.config.safe_yaml import YamlError, parse_yaml
from sightline.report import plots
from sightline.report.history import RunFiles, Series, read_run, series

ABSENT = "-"
MOST_PANELS = 4
"""Figures of the evaluations that are drawn, where runs of different tasks are compared."""


@dataclass(frozen=True)
class ComparedRow:
    """One line of the comparison: a key or figure and its value in every run."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class ComparedRun:
    """What one run came to, as numbers."""

    name: str
    folder: str
    state: str
    """``done``, ``running``, ``failed``, ...; empty where nobody said."""
    step: int
    """The last that was logged."""
    total_steps: int | None
    last_loss: float | None
    best_step: int | None
    figures: dict[str, float]
    """Those of the best evaluation that are defined."""
    configuration: dict[str, str]
    """The keys whose values differ between the runs; those that this run has."""


@dataclass(frozen=True)
class Comparison:
    """What ``compare_runs`` gives."""

    runs: tuple[ComparedRun, ...]
    configuration: tuple[ComparedRow, ...]
    """Keys whose values differ between the runs."""
    figures: tuple[ComparedRow, ...]
    """State, steps, last loss, and every figure of the evaluation that the run calls best."""
    picture: bytes
    """PNG: the main figure and the loss of all runs. Empty where it was not asked for."""

    @property
    def run_names(self) -> tuple[str, ...]:
        """Short names, or whole paths where two are the same."""
        return tuple(run.name for run in self.runs)


def compare_runs(run_dirs: Sequence[Path], *, states: Sequence[str] = (), draw: bool = True) -> Comparison:
    """Compare two or more run folders: of different tasks, or unfinished ones, as far as they go.

    Args:
        run_dirs: Their folders.
        states: In a word each, what they do; what they last said of themselves when left out.
        draw: Whether to make the picture.

    Raises:
        RunError: If fewer than two are given or one holds no run.
    """
    if len(run_dirs) < 2:
        raise RunError(f"compare: {len(run_dirs)} run given. Give two or more run folders.")
    files = [read_run(folder) for folder in run_dirs]
    names = _distinct_names(files)
    configuration = _configuration_rows(files)
    runs = []
    for place, (run, name) in enumerate(zip(files, names, strict=True)):
        losses = series(run.rows, "train").get("loss")
        best = run.best_row
        said = run.status.state if run.status is not None else ""
        runs.append(
            ComparedRun(
                name=name,
                folder=str(run.folder),
                state=printable(states[place] if states else said),
                step=max((row.step for row in run.rows), default=0),
                total_steps=run.status.total_steps if run.status is not None else None,
                last_loss=None if losses is None else float(losses[1][-1]),
                best_step=None if best is None else best.step,
                figures={} if best is None else {k: v for k, v in best.values.items() if v is not None and v != -1},
                configuration={row.name: row.values[place] for row in configuration if row.values[place] is not ABSENT},
            )
        )
    return Comparison(
        runs=tuple(runs),
        configuration=configuration,
        figures=_figure_rows(runs),
        picture=_picture(files, names) if draw else b"",
    )


def _distinct_names(runs: Sequence[RunFiles]) -> tuple[str, ...]:
    """The short names of the runs, or their whole paths where two are the same."""
    short = [printable(run.name) for run in runs]
    return tuple(
        name if short.count(name) == 1 else printable(run.folder) for name, run in zip(short, runs, strict=True)
    )


def _configuration_rows(runs: Sequence[RunFiles]) -> tuple[ComparedRow, ...]:
    flat = [_flat_configuration(run) for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    rows = (ComparedRow(printable(key), tuple(values.get(key, ABSENT) for values in flat)) for key in keys)
    return tuple(row for row in rows if len(set(row.values)) > 1)


def _flat_configuration(run: RunFiles) -> dict[str, str]:
    """``optimizer.lr`` to value."""
    try:
        tree = parse_yaml(run.config_text.encode()).value
    except YamlError as error:
        raise RunError(f"{printable(run.folder / 'config.yaml')}: cannot be read: {error.message}.") from error
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif prefix:
            flat[prefix] = printable(value, limit=40)

    walk("", tree)
    return flat


def _figure_rows(runs: Sequence[ComparedRun]) -> tuple[ComparedRow, ...]:
    names = [name for name in dict.fromkeys(name for run in runs for name in run.figures) if "/" not in name]
    rows = (
        ComparedRow("state", tuple(run.state or ABSENT for run in runs)),
        ComparedRow("steps", tuple(_steps(run) for run in runs)),
        ComparedRow("last loss", tuple(_figure(run.last_loss) for run in runs)),
        ComparedRow("best step", tuple(ABSENT if run.best_step is None else f"{run.best_step:,}" for run in runs)),
        *(
            ComparedRow(f"best {printable(name)}", tuple(_figure(run.figures.get(name)) for run in runs))
            for name in names
        ),
    )
    return tuple(row for row in rows if set(row.values) != {ABSENT})


def _steps(run: ComparedRun) -> str:
    is_short = run.total_steps is not None and run.step < run.total_steps
    return f"{run.step:,} of {run.total_steps:,}" if is_short else f"{run.step:,}"


def _figure(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4f}"


def _picture(runs: Sequence[RunFiles], names: Sequence[str]) -> bytes:
    """The main figure of each run's evaluations and the loss, one line a run, stacked."""
    evals = [series(run.rows, "eval") for run in runs]
    mains = dict.fromkeys(run.main_figure for run, lines in zip(runs, evals, strict=True) if lines)
    panels = [(name, _overlaid(name, evals, names)) for name in list(mains)[:MOST_PANELS]]
    panels.append(("training loss", _overlaid("loss", [series(run.rows, "train") for run in runs], names)))
    return plots.stacked_plot([(name, lines) for name, lines in panels if lines or name == "training loss"])


def _overlaid(name: str, lines: Sequence[Series], run_names: Sequence[str]) -> Series:
    return {
        run: found[name]
        for run, found in zip(run_names, lines, strict=True)
        if name in found and any(map(math.isfinite, found[name][1]))
    }
