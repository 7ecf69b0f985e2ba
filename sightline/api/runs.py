"""Looking at runs: report, comparison, status, and the schedule of a run to come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.api.configuration import PathLike
from sightline.api.output import check_output, finite, write_output
from sightline.api.table import Table
from sightline.config.errors import RunError
from sightline.config.printable import printable

if TYPE_CHECKING:
    from sightline.engine.run_config import RunConfig
    from sightline.report.compare import Comparison


def report(run: PathLike) -> Path:
    """Write the run's page and give its path.

    Raises:
        RunError: If it is no run.
    """
    from sightline.engine.run_folder.folder import existing_run
    from sightline.report.page import build_report

    return build_report(existing_run(Path(run).expanduser()))


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side. ``str`` gives the tables as text."""

    compared: Comparison

    @property
    def is_of_one_configuration(self) -> bool:
        """Whether no key differs."""
        return not self.compared.configuration

    def tables(self) -> list[Table]:
        """One of the figures, and one of the keys that differ, where any do."""
        names = self.compared.run_names
        figures = Table(("figure", *names), [(row.name, *row.values) for row in self.compared.figures])
        keys = Table(("key", *names), [(row.name, *row.values) for row in self.compared.configuration])
        return [figures, keys] if keys.rows else [figures]

    def __str__(self) -> str:
        """All of it as text."""
        return "\n\n".join(map(str, self.tables()))

    def as_dict(self) -> dict[str, Any]:
        """Plain values; figures that are not finite are None."""
        return {"runs": [finite(asdict(run)) for run in self.compared.runs]}

    def write_json(self, path: PathLike) -> None:
        """``as_dict`` to a file.

        Raises:
            RunError: If it cannot be written.
        """
        write_output(path, json.dumps(self.as_dict(), indent=1) + "\n")


def compare(runs: Sequence[PathLike], *, out: PathLike | None = None) -> RunComparison:
    """What differs between runs: figures and configuration keys. They may be unfinished, or of different tasks.

    Args:
        runs: Two or more run folders.
        out: Draw their curves into this PNG file.

    Raises:
        RunError: If fewer than two are given, one is no run, or the file cannot be written.
    """
    from sightline.engine.run_folder.folder import existing_run
    from sightline.engine.run_folder.status import read_status
    from sightline.report.compare import compare_runs

    check_output(out, suffix=".png")
    folders = [existing_run(Path(run).expanduser()) for run in runs]
    for place, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:place]]:
            raise RunError(f"{printable(folder)}: is given twice. Give two or more different runs.")
    said = [read_status(folder) for folder in folders]
    states = ["" if status is None else status.word() for status in said]
    compared = compare_runs(folders, states=states, draw=out is not None)
    if out is not None:
        write_output(out, compared.picture)
    return RunComparison(compared)


def status(run: PathLike) -> str | Table:
    """What a run is doing, in a few lines; of a folder that holds several runs, a row for each.

    Raises:
        RunError: If there is no run.
    """
    from sightline.engine.console import duration
    from sightline.engine.going_on import how_to_resume
    from sightline.engine.run_folder.fatal_stacks import FATAL, fatal_stacks, how_it_died
    from sightline.engine.run_folder.folder import existing_run, is_run
    from sightline.engine.run_folder.status import read_status

    folder = Path(run).expanduser()
    below = [] if is_run(folder) or not folder.is_dir() else [one for one in _runs_below(folder) if is_run(one)]
    if below:
        rows = [_status_row(one) for one in below]
        return Table(("run", "state", "step", "epoch", "per second", "ETA"), rows)
    run_dir = existing_run(folder)
    now = read_status(run_dir)
    if now is None:
        raise RunError(f"{printable(run_dir)}: holds no status.json yet; ask again in a moment.")
    died = how_it_died(run_dir) if now.word() == "dead" else ""
    message = f"a fatal signal: {died}" if died else now.message
    lines = [f"{printable(run_dir)}: {now.word()}" + (f" ({printable(message)})" if message else "")]
    lines.append(f"step {now.step}/{now.total_steps or '?'}, epoch {now.epoch}/{now.total_epochs or '?'}")
    if now.losses:
        lines.append("  ".join(f"{name} {value:.4f}" for name, value in now.losses.items()))
    if now.is_alive() and now.samples_per_s and now.eta_s is not None:
        lines.append(f"{now.samples_per_s:.1f} {now.unit}/s, ETA {duration(now.time_left())}")
    if died:
        lines.append(f"stacks: {', '.join(printable(run_dir / f'{FATAL}{rank}') for rank in fatal_stacks(run_dir))}")
    if now.word() in ("dead", "interrupted"):
        lines.append(f"Continue with: {how_to_resume(run_dir, _class_of(run_dir))}")
    return "\n".join(lines)


def _class_of(run_dir: Path) -> str:
    from sightline.engine.run_folder.run_record import read_record

    try:
        return read_record(run_dir).configuration
    except RunError:
        return ""


def _runs_below(folder: Path) -> list[Path]:
    """Folders that may be runs, one or two levels down; numbers in their order."""
    found = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted(
        found, key=lambda p: (str(p.parent), p.name.isdigit(), int(p.name) if p.name.isdigit() else 0, p.name)
    )


def _status_row(run_dir: Path) -> tuple[str, ...]:
    from sightline.engine.console import duration
    from sightline.engine.run_folder.status import read_status

    now = read_status(run_dir)
    if now is None:
        return (printable(run_dir), "-", "-", "-", "-", "-")
    alive = now.is_alive()
    return (
        printable(run_dir),
        now.word(),
        f"{now.step}/{now.total_steps or '?'}",
        f"{now.epoch}/{now.total_epochs or '?'}",
        f"{now.samples_per_s:.1f} {now.unit}" if alive and now.samples_per_s else "-",
        duration(now.time_left()) if alive and now.eta_s is not None else "-",
    )


def plot_lr(config: RunConfig, *, out: PathLike) -> str:
    """Draw learning rates and momentum of a run; a CSV file of the same name is written beside the picture."""
    from sightline.engine.building import build_training, settle
    from sightline.engine.schedule import curve, curve_points
    from sightline.report.plots import schedule_plot

    check_output(out, suffix=".png")
    config = settle(config)
    training = build_training(config, config.open())
    points = curve(training.schedule, training.plan.progress, iterations=curve_points(training.plan.length))
    path = Path(out).expanduser()
    names = points.group_names
    header = ["iteration", "step", "epoch", *(f"lr/{n}" for n in names), *(f"momentum/{n}" for n in names)]
    rows = zip(
        points.iterations.tolist(),
        points.steps.tolist(),
        points.epochs.tolist(),
        points.lr.tolist(),
        points.momentum.tolist(),
        strict=True,
    )
    lines = [",".join(map(repr, [i, s, e, *lr, *momentum])) for i, s, e, lr, momentum in rows]
    write_output(path.with_suffix(".csv"), "\n".join([",".join(header), *lines]) + "\n")
    series = {f"lr {n}": points.lr[:, k] for k, n in enumerate(names)}
    momentum = {name: points.momentum[:, k] for k, name in enumerate(names)}
    write_output(path, schedule_plot(points.iterations, series, momentum))
    return f"{path} and {path.with_suffix('.csv')}: {len(lines)} points, {training.plan.length.steps} steps"
