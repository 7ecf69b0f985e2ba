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
COMPARED = ("AP", "AP50", "AP75", "AR_100")


@dataclass(frozen=True)
class ComparedRow:
    """One line of the comparison: a key or figure and its value in every run."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What ``compare_runs`` gives."""

    run_names: tuple[str, ...]
    configuration: tuple[ComparedRow, ...]
    """Keys whose values differ between the runs."""
    figures: tuple[ComparedRow, ...]
    """Steps, last loss, and every figure of the evaluation that the run calls best."""
    picture: bytes
    """PNG: the main figure and the loss of all runs."""


def compare_runs(run_dirs: Sequence[Path]) -> Comparison:
    """Compare two or more run folders.

    Raises:
        RunError: If fewer than two are given or one holds no run.
    """
    if len(run_dirs) < 2:
        raise RunError(f"compare: {len(run_dirs)} run given. Give two or more run folders.")
    runs = [read_run(folder) for folder in run_dirs]
    names = _distinct_names(runs)
    return Comparison(
        run_names=names,
        configuration=_configuration_rows(runs),
        figures=_figure_rows(runs),
        picture=_picture(runs, names),
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


def _figure_rows(runs: Sequence[RunFiles]) -> tuple[ComparedRow, ...]:
    steps = [max((row.step for row in run.rows), default=0) for run in runs]
    losses = [series(run.rows, "train").get("loss") for run in runs]
    rows = [run.best_row for run in runs]
    best = [row.values if row else {} for row in rows]
    names = [name for name in dict.fromkeys(name for found in best for name in found) if "/" not in name]
    return (
        ComparedRow("steps", tuple(f"{step:,}" for step in steps)),
        ComparedRow("last loss", tuple(ABSENT if loss is None else f"{loss[1][-1]:.4f}" for loss in losses)),
        ComparedRow("best step", tuple(f"{row.step:,}" if row else ABSENT for row in rows)),
        *(
            ComparedRow(f"best {name}", tuple(_figure(found.get(name)) for found in best))
            for name in names
            if any(_figure(found.get(name)) != ABSENT for found in best)
        ),
    )


def _figure(value: float | None) -> str:
    return ABSENT if value is None or value == -1 else f"{value:.4f}"


def _picture(runs: Sequence[RunFiles], names: Sequence[str]) -> bytes:
    """The main figure of the evaluations and the loss, one line a run, stacked."""
    panels: list[tuple[str, Series]] = []
    evals = [series(run.rows, "eval") for run in runs]
    shared = next((name for name in COMPARED if any(name in lines for lines in evals)), None)
    if shared is None:
        shared = next((name for lines in evals for name in lines), None)
    if shared is not None:
        panels.append((shared, _overlaid(shared, evals, names)))
    panels.append(("training loss", _overlaid("loss", [series(run.rows, "train") for run in runs], names)))
    return plots.stacked_plot(panels)


def _overlaid(name: str, lines: Sequence[Series], run_names: Sequence[str]) -> Series:
    return {
        run: found[name]
        for run, found in zip(run_names, lines, strict=True)
        if name in found and any(map(math.isfinite, found[name][1]))
    }
