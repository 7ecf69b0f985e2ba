"""Reads a run folder as far as it can be read; see ``sightline.report.layout`` for its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from sightline.config.errors import RunError
from sightline.config.figures import better_direction, is_loss
from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, read_regular_file
from sightline.config.safe_yaml import YamlError, parse_yaml
from sightline.report.layout import DataFacts, Evaluation, Record, Row, RunRecord, Status
from sightline.report.pictures import PictureFile, find_pictures

MAX_JSON_BYTES = 256 << 20
MAX_LOG_BYTES = 2 << 30
MAX_CONFIG_BYTES = 1 << 20

AnyRecord = TypeVar("AnyRecord", bound=Record)
Series = dict[str, tuple[np.ndarray, np.ndarray]]
"""Steps and values by name."""


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds. ``notes`` say what could not be read."""

    folder: Path
    config_text: str = ""
    record: RunRecord = field(default_factory=RunRecord)
    status: Status | None = None
    rows: Sequence[Row] = ()
    timing: Sequence[Row] = ()
    evaluation: Evaluation | None = None
    data: DataFacts | None = None
    pictures: Sequence[PictureFile] = ()
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The last two parts of the folder, such as ``yolov7-tiny/1``."""
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def best_row(self) -> Row | None:
        """The evaluation that the run itself (``evaluate.best`` of its configuration) calls best."""
        by = self._best_by()
        best, found = -np.inf, None
        for row in self._evaluations():
            name = str(by.get("metric") or next(iter(row.values)))
            direction = by.get("direction") or better_direction(name, self.record.smaller_is_better)
            value, sign = row.values.get(name), -1 if direction == "min" else 1
            if value is None or not np.isfinite(value):
                continue
            if sign * value > best or (sign * value == best and by.get("ties") == "latest"):
                best, found = sign * value, row
        return found

    @property
    def main_figure(self) -> str:
        """The figure by which the run calls an evaluation best: that of its configuration, or the first."""
        named = self._best_by().get("metric")
        first = (name for row in self._evaluations() for name in row.values)
        return str(named) if named else next(first, "")

    def _evaluations(self) -> list[Row]:
        """Rows of evaluations that predicted something: a pass of ``evaluate.cycle`` measures losses alone."""
        return [row for row in self.rows if row.kind == "eval" and not all(map(is_loss, row.values))]

    def _best_by(self) -> dict[str, Any]:
        """``metric``, ``direction`` and ``ties``, as far as the configuration can be read."""
        try:
            tree = parse_yaml(self.config_text.encode()).value
        except YamlError:
            return {}
        evaluate = tree.get("evaluate") if isinstance(tree, dict) else None
        best = evaluate.get("best") if isinstance(evaluate, dict) else None
        return best if isinstance(best, dict) else {}

    @property
    def last_figures(self) -> dict[str, float]:
        """The figures of the last evaluation that said anything."""
        rows = self._evaluations()
        return {name: value for name, value in rows[-1].values.items() if value is not None} if rows else {}


def read_run(run_dir: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        RunError: If there is no such folder, or nothing in it is of a run.
    """
    if not run_dir.is_dir():
        raise RunError(f"{printable(run_dir)}: no such folder. Give the folder that the training printed.")
    notes: list[str] = []
    record = _record(run_dir / "run.json", RunRecord, notes)
    config_text = _text(run_dir / "config.yaml", notes)
    rows = read_rows(run_dir / "metrics.jsonl", notes)
    if record is None and not config_text and not rows:
        raise RunError(
            f"{printable(run_dir)}: holds no run: neither run.json nor config.yaml nor metrics.jsonl can be read. "
            "Give a run's folder, such as runs/RECIPE/1."
        )
    pictures = find_pictures(run_dir / "pictures", notes)
    return RunFiles(
        folder=run_dir,
        config_text=config_text,
        record=record or RunRecord(),
        status=_record(run_dir / "status.json", Status, notes),
        rows=rows,
        timing=read_rows(run_dir / "timing.jsonl", notes),
        evaluation=_record(run_dir / "evaluation.json", Evaluation, notes),
        data=_record(run_dir / "data.json", DataFacts, notes),
        pictures=pictures,
        notes=notes,
    )


def read_rows(path: Path, notes: list[str]) -> list[Row]:
    """The rows of a log. A half line at the end, as a kill leaves it, is no row; other bad lines are noted."""
    content = _bytes(path, MAX_LOG_BYTES, notes)
    rows, bad = [], []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            rows.append(Row.model_validate(json.loads(line)))
        except (ValueError, RecursionError):  # pydantic's error is a ValueError
            bad.append(number)
    if bad:
        notes.append(f"{path.name}: {len(bad)} lines are no rows and were passed over, line {bad[0]} first.")
    return rows


def series(rows: Sequence[Row], kind: str) -> Series:
    """Steps and values of every name in the rows of one kind; undefined values are NaN."""
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        if row.kind != kind:
            continue
        for name, value in row.values.items():
            steps, values = columns.setdefault(name, ([], []))
            steps.append(row.step)
            values.append(float("nan") if value is None else value)
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in columns.items()}


def _bytes(path: Path, limit: int, notes: list[str]) -> bytes:
    """The file's content; nothing where it is missing, and a note where it cannot be read."""
    try:
        return read_regular_file(path, limit=limit)
    except FileReadError as error:
        if error.kind != "missing_file":
            notes.append(f"{path.name}: {error.message}.")
        return b""


def _text(path: Path, notes: list[str]) -> str:
    return _bytes(path, MAX_CONFIG_BYTES, notes).decode("utf-8", "replace")


def _record(path: Path, form: type[AnyRecord], notes: list[str]) -> AnyRecord | None:
    """A JSON file of a known form; None with a note where it is of another."""
    content = _bytes(path, MAX_JSON_BYTES, notes)
    if not content:
        return None
    try:
        return form.model_validate(json.loads(content))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        notes.append(f"{path.name}: left out, {printable(place, limit=80)}: {fault['msg']}.")
    except (ValueError, RecursionError) as error:
        notes.append(f"{path.name}: left out, it is no JSON ({printable(error, limit=80)}).")
    return None
