"""Every checkpoint of a run, evaluated one after the other: once over, or as they come while the run trains."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.api.configuration import PathLike
from sightline.api.inference import Judge, cell
from sightline.api.output import write_output
from sightline.api.table import Table
from sightline.config.errors import RunError
from sightline.config.printable import printable

if TYPE_CHECKING:
    from sightline.engine.checkpoint.reader import Checkpoint
    from sightline.engine.checkpoint.retention import BestBy

LOOK_SECONDS = 2.0
"""Between two looks for new checkpoints."""


@dataclass(frozen=True)
class CheckpointFigures:
    """What the evaluation of one checkpoint gave."""

    step: int
    epoch: int
    checkpoint: Path
    weights: str
    """``averaged weights`` or ``live weights``."""
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Series:
    """Evaluated checkpoints of a run, by step."""

    rows: Sequence[CheckpointFigures]
    best_step: int | None
    """Step of the best one, as the run itself understands best; None where no figure decides."""
    headline: Sequence[str] = ()
    """Figures that a person wants to see first; all when empty."""
    title: str = ""
    last: CheckpointFigures | None = None
    """The one that was evaluated last."""
    notes: Sequence[str] = ()
    """What could not be evaluated, and why."""

    def table(self) -> Table:
        """A row for each checkpoint, the best one marked."""
        shown = self._shown()
        rows = [
            (
                str(row.step),
                str(row.epoch),
                *(cell(row.figures.get(name)) for name in shown),
                "best" if row.step == self.best_step else "",
            )
            for row in self.rows
        ]
        return Table(("step", "epochs", *shown, ""), rows)

    def _shown(self) -> list[str]:
        names = list(dict.fromkeys(name for row in self.rows for name in row.figures))
        return [name for name in names if name in self.headline or name == "loss"] if self.headline else names

    def latest(self) -> str:
        """A line about the one that was evaluated last: ``step 900 (epoch 3): AP 0.4120  best so far``."""
        if self.last is None:
            return ""
        figures = [f"{name} {cell(self.last.figures.get(name))}" for name in self._shown()]
        best = ["best so far"] if self.last.step == self.best_step else []
        return f"step {self.last.step} (epoch {self.last.epoch}): {'  '.join([*figures, *best])}"

    def __str__(self) -> str:
        """Notes, title and table."""
        return "\n".join([*self.notes, *([self.title] if self.title else []), str(self.table())])

    def write_json(self, path: PathLike) -> None:
        """All figures to a file.

        Raises:
            RunError: If it cannot be written.
        """
        checkpoints = [
            {
                "step": row.step,
                "epoch": row.epoch,
                "checkpoint": str(row.checkpoint),
                "weights": row.weights,
                "figures": dict(row.figures),
            }
            for row in self.rows
        ]
        content = {"best_step": self.best_step, "checkpoints": checkpoints, "notes": list(self.notes)}
        write_output(path, json.dumps(content, indent=1) + "\n")


def evaluate_all(
    run: PathLike,
    *,
    data: PathLike | None = None,
    split: str | None = None,
    changes: Sequence[str] = (),
    watch: bool = False,
    on_row: Callable[[Series], None] = lambda series: None,
    say: Callable[[str], None] = lambda text: None,
    look_seconds: float = LOOK_SECONDS,
) -> Series:
    """Evaluate every checkpoint of a run, oldest first.

    Args:
        run: The run's folder.
        data: Another data set than the run's, with the same classes.
        split: Part of the data set; the run's own when left out.
        changes: ``key=value`` texts, e.g. ``image_size=640``.
        watch: Then wait for new checkpoints, and evaluate each as it comes, until the run is finished; Ctrl-C ends
            that too. A checkpoint that the run removes before its turn is left out.
        on_row: Called after each evaluation with all rows so far.
        say: Called with what is passed over, and what is waited for.
        look_seconds: Between two looks for new checkpoints.

    Raises:
        UserError: If something does not fit, or there is no checkpoint that can be evaluated.
    """
    from sightline.engine.run_folder.folder import existing_run

    run_dir = existing_run(Path(run).expanduser())
    rows: dict[int, CheckpointFigures] = {}
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        say(text)

    with Judge(run_dir, changes, data=data, split=split) as judge:

        def series(last: int = -1) -> Series:
            ordered = [rows[step] for step in sorted(rows)]
            source = f" on {judge.problem.source}" if judge.problem.source else ""
            title = f"{printable(run_dir)}{source}"
            best = _best(ordered, judge.config.best)
            return Series(ordered, best, judge.problem.headline, title, rows.get(last), tuple(notes))

        try:
            for checkpoint in _checkpoints(run_dir, watch=watch, note=note, say=say, look_seconds=look_seconds):
                try:
                    judged = judge.evaluate(checkpoint)
                except RunError:
                    if checkpoint.path.exists():
                        raise
                    continue  # removed while it was read
                rows[checkpoint.step] = CheckpointFigures(
                    checkpoint.step, checkpoint.manifest.epoch, checkpoint.path, judged.weights, judged.figures
                )
                on_row(series(checkpoint.step))
        except KeyboardInterrupt:
            if not watch:
                raise
        if not rows and not watch:
            raise RunError(f"{printable(run_dir)}: holds no checkpoint that can be evaluated.{_why(notes)}")
        return series()


def step_aside() -> None:
    """Let everything else on the machine go first, for the rest of this process; before it starts threads."""
    if hasattr(os, "nice"):
        os.nice(19)


def _best(rows: Sequence[CheckpointFigures], by: BestBy) -> int | None:
    from sightline.engine.checkpoint.retention import Saved, ranked

    found = ranked([Saved(row.step, row.epoch, metrics=row.figures) for row in rows], by)
    return found[0].step if found else None


def _checkpoints(
    run_dir: Path, *, watch: bool, note: Callable[[str], None], say: Callable[[str], None], look_seconds: float
) -> Iterator[Checkpoint]:
    """Whole checkpoints, oldest first, each once; with ``watch`` until the run is finished.

    A checkpoint has its name only once it is whole, and every byte of it is checked before it is given.
    """
    from sightline.engine.checkpoint.reader import find_checkpoints, read_checkpoint
    from sightline.engine.run_folder.status import read_status

    seen: set[tuple[str, int]] = set()
    told = ""
    while True:
        status = read_status(run_dir)  # before the look: whatever a run leaves is there when it says that it is done
        is_new = False
        for path in reversed(find_checkpoints(run_dir)):
            try:
                key = (path.name, path.stat().st_mtime_ns)
                if key in seen:
                    continue
                checkpoint = read_checkpoint(path)
            except (OSError, RunError) as error:
                if path.exists():
                    seen.add(key)
                    note(f"passed over: {error}")
                continue
            seen.add(key)
            is_new = True
            yield checkpoint
        word = "" if status is None else status.word()
        if not watch or (word == "done" and not is_new):
            return
        if is_new:
            continue
        if word in ("dead", "failed", "interrupted") and word != told:
            say(f"the run is {word}; waiting for it to be resumed, Ctrl-C ends this")
        told = word
        time.sleep(look_seconds)


def _why(notes: Sequence[str]) -> str:
    return f" {notes[0]}" if notes else ""
