"""Training in a run folder: new runs and resumed ones."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from sightline.api.auto_batch import settle_batch_size
from sightline.api.configuration import PathLike, read_config, resolve, write_config
from sightline.api.own_runs import title_of
from sightline.api.runs import report
from sightline.api.user_code import as_change, load_callbacks
from sightline.config.errors import ConfigError, UserError
from sightline.config.override import parse_change
from sightline.config.printable import printable

if TYPE_CHECKING:
    import torch

    from sightline.engine.callback import Callback
    from sightline.engine.console import Console
    from sightline.engine.distributed.processes import Processes, Share
    from sightline.engine.run_config import Problem, RunConfig
    from sightline.engine.run_folder.run_log import RunLog
    from sightline.engine.stop import StopRequest

_log = logging.getLogger(__name__)


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


class ProcessesFailedError(RuntimeError):
    """The processes of a run on this machine failed; the first of them said why, and with which exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the run's processes ended with exit code {exit_code}; what they said stands above.")
        self.exit_code = exit_code


class StoppedError(RuntimeError):
    """A stop was asked for before the first step: nothing was done, and nothing half-made is left."""


@contextlib.contextmanager
def _stoppable(began: float | None, cure: str) -> Iterator[StopRequest]:
    """Take stops from here on. One that comes before the first step, or while the report is written, acts at once."""
    from sightline.engine.stop import StoppedAtOnce, StopRequest

    stop = StopRequest(began=began)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stop.watch_parent()
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
    """
    with _stoppable(began, "Nothing was begun: start it again.") as stop:
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
    from sightline.engine.run_folder.folder import check_new_run_folder, new_run_folder
    from sightline.engine.run_folder.run_log import RunLog
    from sightline.engine.session import joined, settle
    from sightline.recipes import recipe as recipe_named

    config, _ = resolve(recipe, changes, data=data)
    if out is not None and name is not None:
        raise ConfigError(f"give either a folder ({out}) or a name ({name}) for the run, not both.")
    config = settle(config)
    folder = None if out is None else Path(out).expanduser()
    if must_launch(config):
        check_new_run_folder(title_of(config), name=name, out=folder)
        return launch(config, new_run_folder(title_of(config), name=name, out=folder), stop, resume=False)
    config, found = settle_batch_size(config, lambda: _begun_before_restart(config, name, folder), console)
    with joined(config, recipe_named) as (processes, device, config):
        console = _console(console, processes)
        begun = processes.tell(_begun_before_restart(config, name, folder) if processes.is_first else None)
        if begun is not None:
            return _in_processes(config, Path(begun), processes, device, stop, resume=True, console=console)
        with RunLog(console, config.log.level, rank=processes.share.rank) as log:
            if processes.is_first:
                check_new_run_folder(title_of(config), name=name, out=folder)
            for line in found:
                console.say(line)
            noted, callbacks = load_callbacks(config, console, again="sightline train --from RUN")
            problem = open_problem(noted, device, console, processes.share)
            with stop.patiently():  # the folder that is made now is used, or taken away
                made = new_run_folder(title_of(noted), name=name, out=folder) if processes.is_first else None
                run_dir = Path(processes.tell(None if made is None else str(made)))
                return _run(noted, problem, run_dir, processes, device, log, stop, console=console, callbacks=callbacks)


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
    """
    with _stoppable(began, f"Continue with: sightline resume {quote(str(run))}") as stop:
        return _resume(run, changes, console, stop)


def _resume(run: PathLike, changes: Sequence[str], console: Console | None, stop: StopRequest) -> TrainResult:
    from sightline.engine.distributed.launch import find_launch
    from sightline.engine.distributed.processes import ALONE
    from sightline.engine.run_folder.folder import existing_run
    from sightline.engine.session import joined, settle
    from sightline.recipes import recipe as recipe_named

    place = find_launch()
    if place is not None and place.rank > 0:  # the folder may be on another machine
        with joined(None, recipe_named) as (processes, device, config):
            console = _console(None, processes)
            return _in_processes(config, Path(run), processes, device, stop, resume=True, console=console)
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
    if not changes and _lacks_its_report(run_dir):
        return _with_report(_what_is_written(run_dir, 0), _console(console, ALONE), stop)
    if must_launch(config):
        return launch(config, run_dir, stop, resume=True)
    with joined(config, recipe_named) as (processes, device, config):
        console = _console(console, processes)
        return _in_processes(config, run_dir, processes, device, stop, resume=True, console=console)


def _in_processes(
    config: RunConfig,
    run_dir: Path,
    processes: Processes,
    device: torch.device,
    stop: StopRequest,
    *,
    resume: bool,
    console: Console,
    found: Sequence[str] = (),
) -> TrainResult:
    """Open the data and train in a folder that is known; ``found`` is to be said first."""
    from sightline.engine.parts import take_note
    from sightline.engine.run_folder.run_log import RunLog

    again = f"sightline resume {quote(str(run_dir))}" if resume else "sightline train --from RUN"
    with RunLog(console, config.log.level, rank=processes.share.rank) as log:
        for line in found:
            console.say(line)
        noted = processes.tell(take_note(run_dir) if processes.is_first else None)
        if noted is not None and (config.samples_at_once is None or noted < config.samples_at_once):
            console.say(f"memory ran out before: the run goes on with samples_at_once={noted}")
            config = config.but(samples_at_once=noted)
        config, callbacks = load_callbacks(config, console, again=again)
        problem = open_problem(config, device, console, processes.share)
        return _run(
            config, problem, run_dir, processes, device, log, stop, resume=resume, console=console, callbacks=callbacks
        )


def must_launch(config: RunConfig) -> bool:
    """Whether the run has several processes and nobody has started them."""
    from sightline.engine.distributed.launch import find_launch

    return config.devices > 1 and find_launch() is None


def launch(config: RunConfig, run_dir: Path, stop: StopRequest, *, resume: bool) -> TrainResult:
    """Start the processes of a run on this machine and wait for them.

    Raises:
        ConfigError: If the configuration is no recipe's, so that another process cannot make it.
        ProcessesFailedError: If they failed; the first of them said why.
        StoppedError: If they were stopped before the first step.
    """
    from sightline.config.exit_codes import STOPPED, say
    from sightline.engine.distributed.launch import launch_here
    from sightline.engine.parts import NOTE_FILE
    from sightline.engine.run_folder.crash_report import close_report
    from sightline.engine.run_folder.folder import is_run
    from sightline.engine.run_folder.run_record import read_record
    from sightline.recipes import RECIPES

    try:
        if config.recipe not in RECIPES or type(RECIPES[config.recipe]()) is not type(config):
            raise ConfigError(
                f"devices={config.devices}: only recipes of the table can be started in several processes. Start your "
                "own program with torchrun; it then trains with all of them."
            )
        threads = config.threads or max(1, (os.cpu_count() or 1) // config.devices)
        values, code = json.dumps(config.model_dump(mode="json")), None
        before = len(read_record(run_dir).sessions) if is_run(run_dir) else 0
        while code is None or (code == 1 and (run_dir / NOTE_FILE).exists()):  # memory ran out: again, in smaller parts
            arguments = (config.recipe, values, str(run_dir), resume or code is not None, stop.began)
            code = launch_here(work, arguments, processes=config.devices, threads=threads)
    finally:
        if not resume:
            _remove_if_unused(run_dir)
    sessions = read_record(run_dir).sessions if is_run(run_dir) else ()
    if code == STOPPED and len(sessions) == before:
        cure = (
            f"Continue with: sightline resume {quote(str(run_dir))}" if before else "Nothing was begun: start it again."
        )
        raise StoppedError(f"stopped before the first step. {cure}")
    if code == STOPPED and sessions[-1].outcome is None:
        say(f"the processes ended before they had saved. Go on from the last checkpoint: sightline resume {run_dir}")
        code = 1
    if code not in (0, STOPPED):
        with contextlib.suppress(OSError):
            close_report(run_dir)
        raise ProcessesFailedError(code)
    return _what_is_written(run_dir, code)


def work(recipe: str, config_json: str, run_dir: str, resume: bool, began: float) -> int:
    """What each process of ``launch`` does; returns the exit code, or leaves with it where the others must end too."""
    import sys
    import traceback

    from sightline.config import exit_codes
    from sightline.engine.stop import StoppedAtOnce, StopRequest

    stop = StopRequest(began=began)
    stop.watch_parent()
    with stop.listening(), stop.impatiently():
        try:
            from sightline.engine.session import joined
            from sightline.recipes import recipe as recipe_named

            config, run = type(recipe_named(recipe)).model_validate(json.loads(config_json)), Path(run_dir)
            config, found = settle_batch_size(config, lambda: run_dir if resume else None)
            with joined(config, recipe_named) as (processes, device, config):
                console = _console(None, processes)
                result = _in_processes(
                    config, run, processes, device, stop, resume=resume, console=console, found=found
                )
                with stop.patiently():
                    processes.wait()  # for the report, since the end of one process ends all
                    if result.exit_code == exit_codes.STOPPED:  # a launcher that was told to stop asks for no answer
                        sys.exit(exit_codes.STOPPED)
                return result.exit_code
        except StoppedAtOnce:
            sys.exit(exit_codes.STOPPED)
        except BaseException as error:
            with stop.patiently():  # the launcher ends all processes as soon as one of them has failed
                if exit_codes.told(error) is None and not isinstance(error, SystemExit):
                    traceback.print_exception(error)  # the launcher would keep it to itself
                    sys.exit(1)
                exit_codes.leave(error)


def _what_is_written(run_dir: Path, exit_code: int) -> TrainResult:
    """The result of a run as its folder tells it."""
    from sightline.engine.run_folder.metrics_log import METRICS_FILE, read_rows
    from sightline.engine.run_folder.status import read_status
    from sightline.report.layout import REPORT_PAGE

    status = read_status(run_dir)
    figures = [row.values for row in read_rows(run_dir / METRICS_FILE) if row.kind == "eval"]
    page = run_dir / REPORT_PAGE
    return TrainResult(
        run_dir,
        exit_code,
        0 if status is None else status.step,
        figures[-1] if figures else {},
        page if page.exists() else None,
    )


def _begun_before_restart(config: RunConfig, name: str | None, out: Path | None) -> str | None:
    """The run that these processes began before their launcher started them anew; None in a first start."""
    from sightline.engine.distributed.launch import find_launch
    from sightline.engine.run_folder.folder import RUNS, is_run
    from sightline.engine.run_folder.run_record import read_record

    place = find_launch()
    if place is None or not place.restarts:
        return None
    if out is not None or name is not None:
        folder = out if out is not None else RUNS / title_of(config) / str(name)
        return str(folder) if is_run(folder) else None
    runs = [folder for folder in (RUNS / title_of(config)).glob("*") if is_run(folder)]
    mine = [folder for folder in runs if read_record(folder).sessions[-1].launch == place.identity]
    return str(max(mine, key=lambda folder: read_record(folder).sessions[-1].started)) if mine else None


def _console(console: Console | None, processes: Processes) -> Console:
    import io

    from sightline.engine.console import Console

    if not processes.is_first:
        return Console(io.StringIO(), is_terminal=False)
    return console if console is not None else Console()


def open_problem(config: RunConfig, device: torch.device, console: Console, share: Share) -> Problem:
    """Set up the arithmetic, then open the data."""
    import torch

    from sightline.engine.precision import set_deterministic
    from sightline.engine.trackers.following import check_trackers

    if device.type == "cuda":
        torch.cuda.set_device(device)
        set_deterministic(config.deterministic)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = getattr(getattr(config, "data", None), "path", None)
    check_trackers(config.log, data=data)
    began = time.perf_counter()
    with console.working("reading the data" if data is not None else "rendering the built-in world at its first use"):
        problem = config.open(share=share)
    _log.debug("opened the data and built the task in %.2f s", time.perf_counter() - began)
    return problem


def _run(
    config: RunConfig,
    problem: Problem,
    run_dir: Path,
    processes: Processes,
    device: torch.device,
    log: RunLog,
    stop: StopRequest,
    *,
    resume: bool = False,
    console: Console,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train in a run folder, write its report, and note in run.json and in the log how it ended."""
    from sightline.api.summary import about_session, start_summary
    from sightline.engine.callbacks.crew import CallbackError
    from sightline.engine.distributed.launch import find_launch
    from sightline.engine.distributed.processes import WHOLE
    from sightline.engine.going_on import class_name, how_to_resume
    from sightline.engine.loop import Training
    from sightline.engine.run_folder.atomic_file import replace_file
    from sightline.engine.run_folder.crash_report import crash_reported
    from sightline.engine.run_folder.folder import CONFIG_FILE, DATA_FILE
    from sightline.engine.run_folder.run_record import end_session, start_session
    from sightline.engine.session import run_session

    started = False
    kind = class_name(type(config))
    again = how_to_resume(run_dir, kind)
    if not processes.is_first:
        log.open(run_dir)

    def note_start(training: Training) -> None:
        nonlocal started
        write_config(config, run_dir / CONFIG_FILE)
        replace_file(run_dir / DATA_FILE, json.dumps(dict(problem.facts)).encode() + b"\n")
        place = find_launch()
        record = start_session(
            run_dir,
            recipe=config.recipe,
            configuration=kind,
            devices=[str(training.device)],
            from_step=training.step,
            processes=processes.share.count,
            launch="" if place is None else place.identity,
        )
        started = True
        log.open(run_dir, title=f"session {len(record.sessions)} of {printable(run_dir)}", about=about_session(record))
        for message in problem.messages:
            console.say(message)
        console.say(f"run folder: {run_dir}" if resume else start_summary(config, problem, training, run_dir))

    try:
        result = run_session(
            config,
            problem,
            run_dir,
            resume=resume,
            console=console,
            callbacks=callbacks,
            on_start=note_start,
            processes=processes,
            device=device,
            stop=stop,
        )
    except BaseException as error:
        if started:
            aborted = isinstance(error, KeyboardInterrupt)
            with contextlib.suppress(OSError):  # a full disk refuses this too: what ended the run is to be told
                end_session(run_dir, "interrupted" if aborted else "failed", 2 if isinstance(error, UserError) else 1)
            if aborted:
                console.say(f"aborted; steps since the last checkpoint are lost. Continue from it with: {again}")
            if isinstance(error, CallbackError) and config.callbacks:
                mended = how_to_resume(run_dir, kind, as_change(config.callbacks))
                console.say(f"When the file is mended, continue from the newest checkpoint with: {mended}")
        elif not resume and processes.is_first:
            _remove_if_unused(run_dir)
        raise
    exit_code = 0 if result.outcome == "done" else 3
    log.ends_with(exit_code)
    if not processes.is_first:
        return TrainResult(run_dir, exit_code, result.step, result.metrics)
    end_session(run_dir, "done" if exit_code == 0 else "interrupted", exit_code)
    if exit_code == 3:
        console.say(f"stopped at step {result.step}. Continue with: {again}")
    with crash_reported(config, run_dir, WHOLE):
        trained = _with_report(TrainResult(run_dir, exit_code, result.step, result.metrics), console, stop)
    log.ends_with(trained.exit_code)
    return trained


def _with_report(result: TrainResult, console: Console, stop: StopRequest) -> TrainResult:
    """Write the page of a run that ended, and say where it is."""
    from sightline.engine.stop import StoppedAtOnce

    try:
        with console.working("writing the report"), stop.impatiently():
            page = report(result.run_dir)
    except StoppedAtOnce:
        console.say(f"{stop.reason}: the report is not written; for it: sightline report {quote(str(result.run_dir))}")
        return replace(result, exit_code=3)
    console.say(f"report: {page}")
    return replace(result, report=page)


def _lacks_its_report(run_dir: Path) -> bool:
    """Whether a run is done, but was killed before its page told so."""
    from sightline.engine.run_folder.run_record import read_record
    from sightline.report.page import end_told

    record = read_record(run_dir)
    return record.is_done and end_told(run_dir) != record.sessions[-1].ended


def _remove_if_unused(run_dir: Path) -> None:
    """Take back the folder of a run that never started, which holds nothing but the lock's files, and its parents."""
    from sightline.engine.run_folder.folder import RUNS

    if not all(path.name.startswith(".lock") for path in run_dir.iterdir()):
        return
    for path in run_dir.iterdir():
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a folder with something in it stays
        run_dir.rmdir()
        if RUNS in run_dir.parents:
            run_dir.parent.rmdir()
            RUNS.rmdir()
