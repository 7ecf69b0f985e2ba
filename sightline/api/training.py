"""Training in a run folder: new runs and resumed ones."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.api.configuration import CONFIG_FILE, PathLike, read_config, resolve, write_config
from sightline.api.runs import report
from sightline.config.errors import UserError

if TYPE_CHECKING:
    from sightline.engine.console import Console
    from sightline.engine.run_config import Problem, RunConfig

DATA_FILE = "data.json"


@dataclass(frozen=True)
class TrainResult:
    """A training that ended: done (exit code 0) or stopped on request with a resumable checkpoint (3)."""

    run_dir: Path
    exit_code: int
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Figures of the last evaluation."""
    report: Path | None = None
    """The run's page."""


def train(
    recipe: str | Path | RunConfig,
    *,
    data: PathLike | None = None,
    changes: Sequence[str] = (),
    out: PathLike | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train a model in a new run folder.

    Args:
        recipe: Name of a recipe, a YAML file, or a whole configuration.
        data: Data set; without it the built-in world.
        changes: ``key=value`` texts.
        out: The run's folder; default ``runs/RECIPE/NUMBER``.
        console: Where progress is shown.

    Raises:
        UserError: If the user must change something; nothing was trained.
    """
    from sightline.engine.run_folder import new_run_folder
    from sightline.engine.session import settle

    if isinstance(recipe, str | Path):
        config, _ = resolve(recipe, changes, data=data)
    else:
        config = recipe
    config = settle(config)
    problem = open_problem(config)
    run_dir = new_run_folder(config.recipe or "run", out=None if out is None else Path(out))
    return _run(config, problem, run_dir, resume=False, console=console)


def resume(run: PathLike, changes: Sequence[str] = (), *, console: Console | None = None) -> TrainResult:
    """Continue a run exactly where its newest whole checkpoint stands.

    Raises:
        UserError: If there is no such run, it is finished, or a change does not fit.
    """
    from sightline.engine.run_folder import existing_run
    from sightline.engine.session import settle

    run_dir = existing_run(Path(run))
    config = settle(read_config(run_dir, changes))
    return _run(config, open_problem(config), run_dir, resume=True, console=console)


def open_problem(config: RunConfig) -> Problem:
    """Check the device first, since that is quick; then open the data."""
    import torch

    from sightline.engine.precision import set_deterministic
    from sightline.engine.session import pick_device

    if pick_device(config.device).type == "cuda":
        set_deterministic(config.deterministic)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return config.open()


def _run(config: RunConfig, problem: Problem, run_dir: Path, *, resume: bool, console: Console | None) -> TrainResult:
    """Train in a run folder, write its report, and note in run.json how it ended."""
    from sightline.engine.atomic_file import replace_file
    from sightline.engine.console import Console
    from sightline.engine.loop import Training
    from sightline.engine.run_record import end_session, start_session
    from sightline.engine.session import run_session

    console = console if console is not None else Console()
    started = False

    def note_start(training: Training) -> None:
        nonlocal started
        write_config(config, run_dir / CONFIG_FILE)
        replace_file(run_dir / DATA_FILE, json.dumps(dict(problem.facts)).encode() + b"\n")
        start_session(run_dir, recipe=config.recipe, devices=[str(training.device)], from_step=training.step)
        started = True
        for message in problem.messages:
            console.say(message)
        console.say(f"run folder: {run_dir}")

    try:
        result = run_session(config, problem, run_dir, resume=resume, console=console, on_start=note_start)
    except BaseException as error:
        if started:
            end_session(run_dir, "failed", 2 if isinstance(error, UserError) else 1)
        elif not resume:
            _remove_if_unused(run_dir)
        raise
    exit_code = 0 if result.outcome == "done" else 3
    end_session(run_dir, "done" if exit_code == 0 else "interrupted", exit_code)
    page = report(run_dir)
    if exit_code == 3:
        console.say(f"stopped at step {result.step}. Continue with: sightline resume {run_dir}")
    console.say(f"report: {page}")
    return TrainResult(run_dir, exit_code, result.step, result.metrics, page)


def _remove_if_unused(run_dir: Path) -> None:
    """Take back the folder of a run that never started: it holds nothing but the lock's files."""
    if all(path.name.startswith(".lock") for path in run_dir.iterdir()):
        for path in run_dir.iterdir():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            run_dir.rmdir()
