"""Training in a run folder: new runs and resumed ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from sightline.api.auto_batch import settle_batch_size
from sightline.api.configuration import PathLike, read_config, resolve
from sightline.api.launching import begun_before_restart, launch, must_launch
from sightline.api.own_runs import title_of
from sightline.api.session import (
    StoppedError,
    TrainResult,
    console_of,
    open_and_train,
    open_problem,
    train_in_folder,
    what_is_written,
    with_report,
)
from sightline.api.user_code import load_callbacks
from sightline.config.errors import ConfigError
from sightline.config.override import parse_change

PARENT = "SIGHTLINE_PARENT"
"""Environment variable: the process at whose end this one saves and stops."""

if TYPE_CHECKING:
    import torch

    from sightline.engine.console import Console
    from sightline.engine.distributed.processes import Processes
    from sightline.engine.run_config import RunConfig
    from sightline.engine.stop import StopRequest


@contextlib.contextmanager
def stoppable(began: float | None, cure: str) -> Iterator[StopRequest]:
    """Take stops from here on. One that comes before the first step, or while the report is written, acts at once."""
    from sightline.engine.stop import StoppedAtOnce, StopRequest

    stop = StopRequest(began=began)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stop.watch_parent()
    elif parent := os.environ.pop(PARENT, ""):  # not for what this process may start
        stop.watch_parent(int(parent))
    try:
        with stop.listening(), stop.impatiently():
            yield stop
    except StoppedAtOnce:
        raise StoppedError(f"{stop.reason}: stopped before the first step. {cure}") from None


def train(
    recipe: str | Path | RunConfig,
    *,
    data: PathLike | None = None,
    changes: Sequence[str] = (),
    out: PathLike | None = None,
    name: str | None = None,
    console: Console | None = None,
    began: float | None = None,
) -> TrainResult:
    """Train a model in a new run folder.

    Args:
        recipe: Name of a recipe, a YAML file, or a whole configuration; yours may be of a class of your own.
        data: Data set; without it the built-in world, or what the configuration names.
        changes: ``key=value`` texts.
        out: The run's folder; default ``runs/RECIPE/NUMBER``, with the name of the class in place of a recipe's.
        name: In place of the number.
        console: Where progress is shown; standard output without it.
        began: From when ``max_time`` counts, as ``time.monotonic`` does; now by default.

    Raises:
        UserError: If the user must change something; nothing was trained.
        StoppedError: If a stop was asked for before the first step.
        ProcessesFailedError: If processes that were started for it failed; the first of them said why.
    """
    with stoppable(began, "Nothing was begun: start it again.") as stop:
        return _train(recipe, data, changes, out, name, console, stop)


def _train(
    recipe: str | Path | RunConfig,
    data: PathLike | None,
    changes: Sequence[str],
    out: PathLike | None,
    name: str | None,
    console: Console | None,
    stop: StopRequest,
) -> TrainResult:
    from sightline.engine.building import settle
    from sightline.engine.distributed.joining import joined
    from sightline.engine.run_folder.folder import check_new_run_folder, new_run_folder
    from sightline.recipes import recipe as recipe_named

    config, _ = resolve(recipe, changes, data=data)
    if out is not None and name is not None:
        raise ConfigError(f"give either a folder ({out}) or a name ({name}) for the run, not both.")
    config = settle(config)
    folder = None if out is None else Path(out).expanduser()
    if must_launch(config):
        check_new_run_folder(title_of(config), name=name, out=folder)
        return launch(config, new_run_folder(title_of(config), name=name, out=folder), stop, resume=False)
    config, found = settle_batch_size(config, lambda: begun_before_restart(config, name, folder), console)
    with joined(config, recipe_named) as (processes, device, config):
        console = console_of(console, processes)
        begun = processes.tell(begun_before_restart(config, name, folder) if processes.is_first else None)
        if begun is not None:
            return open_and_train(config, Path(begun), processes, device, stop, resume=True, console=console)
        return _train_anew(config, processes, device, stop, name=name, folder=folder, console=console, found=found)


def _train_anew(
    config: RunConfig,
    processes: Processes,
    device: torch.device,
    stop: StopRequest,
    *,
    name: str | None,
    folder: Path | None,
    console: Console,
    found: Sequence[str],
) -> TrainResult:
    """Open the data, make the run's folder, and train; ``found`` is to be said first."""
    from sightline.engine.run_folder.folder import RUNS, check_new_run_folder, new_run_folder
    from sightline.engine.run_folder.run_log import RunLog

    with RunLog(console, config.log.level, rank=processes.share.rank) as log:
        if processes.is_first:
            check_new_run_folder(title_of(config), name=name, out=folder)
        for line in found:
            console.say(line)
        noted, callbacks = load_callbacks(config, console, again="sightline train --from RUN")
        wanted = RUNS / title_of(noted) / (name or "new") if folder is None else folder
        problem = open_problem(noted, wanted, device, console, processes.share)
        with stop.patiently():  # the folder that is made now is used, or taken away
            made = new_run_folder(title_of(noted), name=name, out=folder) if processes.is_first else None
            run_dir = Path(processes.tell(None if made is None else str(made)))
            return train_in_folder(
                noted, problem, run_dir, processes, device, log, stop, console=console, callbacks=callbacks
            )


def resume(
    run: PathLike, changes: Sequence[str] = (), *, console: Console | None = None, began: float | None = None
) -> TrainResult:
    """Continue a run exactly where its newest whole checkpoint stands.

    Args:
        run: The run's folder.
        changes: ``key=value`` texts, such as ``epochs=100``; the run's configuration becomes the changed one.
        console: Where progress is shown; standard output without it.
        began: From when ``max_time`` counts, as ``time.monotonic`` does; now by default.

    Raises:
        UserError: If there is no such run, it is finished, or a change does not fit.
        StoppedError: If a stop was asked for before the first step.
        ProcessesFailedError: If processes that were started for it failed; the first of them said why.
    """
    with stoppable(began, f"Continue with: sightline resume {quote(str(run))}") as stop:
        return _resume(run, changes, console, stop)


def _resume(run: PathLike, changes: Sequence[str], console: Console | None, stop: StopRequest) -> TrainResult:
    from sightline.engine.building import settle
    from sightline.engine.distributed.joining import joined
    from sightline.engine.distributed.launch import find_launch
    from sightline.engine.distributed.processes import ALONE
    from sightline.engine.run_folder.folder import existing_run
    from sightline.recipes import recipe as recipe_named

    place = find_launch()
    if place is not None and place.rank > 0:  # the folder may be on another machine
        with joined(None, recipe_named) as (processes, device, config):
            console = console_of(None, processes)
            return open_and_train(config, Path(run), processes, device, stop, resume=True, console=console)
    run_dir = existing_run(Path(run).expanduser())
    for text in changes:
        change = parse_change(text)
        if change.key == "batch_size" and change.value == "auto":
            raise ConfigError(f"{change.origin}: a run that goes on has a batch size; leave it out, or give a number.")
        if change.key in ("weights", "partial_weights", "freeze"):
            raise ConfigError(
                f"{change.origin}: {change.key} has no effect on a run that goes on: its weights, and which of them it "
                "trains, are its own. Leave it out, or start a new run:\n"
                f"  sightline train --from {quote(str(run_dir))} {quote(text)}"
            )
    config = settle(read_config(run_dir, changes))
    if not changes and lacks_its_report(run_dir):
        return with_report(what_is_written(run_dir, 0), console_of(console, ALONE), stop)
    if must_launch(config):
        return launch(config, run_dir, stop, resume=True)
    with joined(config, recipe_named) as (processes, device, config):
        console = console_of(console, processes)
        return open_and_train(config, run_dir, processes, device, stop, resume=True, console=console)


def lacks_its_report(run_dir: Path) -> bool:
    """Whether a run is done, but was killed before its page told so."""
    from sightline.engine.run_folder.run_record import read_record
    from sightline.report.page import end_told

    record = read_record(run_dir)
    return record.is_done and end_told(run_dir) != record.sessions[-1].ended
