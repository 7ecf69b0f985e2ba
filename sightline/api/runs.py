"""Looking at runs: report, comparison, status, and the schedule of a run to come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.api.configuration import PathLike
from sightline.config.errors import RunError

if TYPE_CHECKING:
    from sightline.engine.run_config import RunConfig


def report(run: PathLike) -> Path:
    """Write the run's page and give its path.

    Raises:
        RunError: If it is no run.
    """
    from sightline.engine.run_folder import existing_run
    from sightline.report.page import build_report

    return build_report(existing_run(Path(run)))


def compare(runs: Sequence[PathLike], *, out: PathLike | None = None) -> str:
    """What differs between runs, as a table; with ``out`` their curves as a PNG file too."""
    from sightline.engine.run_folder import existing_run
    from sightline.report.compare import compare_runs

    compared = compare_runs([existing_run(Path(run)) for run in runs])
    if out is not None:
        Path(out).write_bytes(compared.picture)
    return compared.text()


def status(run: PathLike) -> str:
    """What a run is doing, in a few lines."""
    from sightline.engine.console import duration
    from sightline.engine.run_folder import existing_run
    from sightline.engine.status import read_status

    run_dir = existing_run(Path(run))
    now = read_status(run_dir)
    if now is None:
        raise RunError(f"{run_dir}: holds no status.json yet; the run has not begun its first step.")
    lines = [f"{run_dir}: {now.word()}" + (f" ({now.message})" if now.message else "")]
    lines.append(f"step {now.step}/{now.total_steps or '?'}, epoch {now.epoch}/{now.total_epochs or '?'}")
    if now.losses:
        lines.append("  ".join(f"{name} {value:.4f}" for name, value in now.losses.items()))
    if now.is_alive() and now.samples_per_s and now.eta_s is not None:
        lines.append(f"{now.samples_per_s:.1f} samples/s, ETA {duration(now.eta_s)}")
    if now.word() in ("dead", "interrupted"):
        lines.append(f"Continue with: sightline resume {run_dir}")
    return "\n".join(lines)


def plot_lr(config: RunConfig, *, out: PathLike) -> str:
    """Draw learning rates and momentum of a run; a CSV file of the same name is written beside the picture."""
    from sightline.engine.schedule import curve, curve_points
    from sightline.engine.session import build_training, settle
    from sightline.report.plots import schedule_plot

    config = settle(config)
    training = build_training(config, config.open())
    points = curve(training.schedule, training.plan.progress, iterations=curve_points(training.plan.length))
    path = Path(out)
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
    path.with_suffix(".csv").write_text("\n".join([",".join(header), *lines]) + "\n")
    series = {f"lr {n}": points.lr[:, k] for k, n in enumerate(names)}
    path.write_bytes(schedule_plot(points.iterations, series, {n: points.momentum[:, k] for k, n in enumerate(names)}))
    return f"{path} and {path.with_suffix('.csv')}: {len(lines)} points, {training.plan.length.steps} steps"
