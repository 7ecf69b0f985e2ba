"""One process's session of a run: opens the data, trains, writes the report, and notes how it ended."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from sightline.api.configuration import write_config
from sightline.api.runs import report
from sightline.api.user_code import as_change, load_callbacks
from sightline.config.errors import UserError
from sightline.config.exit_codes import STOPPED
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


class StoppedError(RuntimeError):
    """A stop was asked for before the first step: nothing was done, and nothing half-made is left."""


def open_and_train(
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
        problem = open_problem(config, run_dir, device, console, processes.share)
        return train_in_folder(
            config, problem, run_dir, processes, device, log, stop, resume=resume, console=console, callbacks=callbacks
        )


def open_problem(config: RunConfig, run_dir: Path, device: torch.device, console: Console, share: Share) -> Problem:
    """Set up the arithmetic, then open the data. The run's folder need not exist yet, and its last part may change."""
    import torch

    from sightline.engine.precision import choose_kernels
    from sightline.engine.trackers.following import check_trackers

    if device.type == "cuda":
        torch.cuda.set_device(device)
        choose_kernels(deterministic=config.deterministic, benchmark=config.cudnn_benchmark)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = getattr(getattr(config, "data", None), "path", None)
    check_trackers(config.log, run_dir, data=data)
    began = time.perf_counter()
    with console.working("reading the data" if data is not None else "rendering the built-in world at its first use"):
        problem = config.open(share=share)
    _log.debug("opened the data and built the task in %.2f s", time.perf_counter() - began)
    return problem


def train_in_folder(
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
    from sightline.engine.run_folder.crash_report import crash_reported
    from sightline.engine.run_folder.folder import CONFIG_FILE, DATA_FILE, remove_if_unused
    from sightline.engine.run_folder.run_record import end_session, start_session
    from sightline.engine.session import run_session
    from sightline.files.atomic_file import replace_file

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
            smaller_is_better=config.smaller_is_better,
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
            remove_if_unused(run_dir)
        raise
    is_done = result.outcome == "done"
    trained = TrainResult(run_dir, 0 if is_done else STOPPED, result.step, result.metrics)
    log.ends_with(trained.exit_code)
    if not processes.is_first:
        return trained
    end_session(run_dir, "done" if is_done else "interrupted", trained.exit_code)
    if not is_done:
        console.say(f"stopped at step {result.step}. Continue with: {again}")
    with crash_reported(config, run_dir, WHOLE):
        trained = with_report(trained, console, stop)
    log.ends_with(trained.exit_code)
    return trained


def with_report(result: TrainResult, console: Console, stop: StopRequest) -> TrainResult:
    """Write the page of a run that ended, and say where it is."""
    from sightline.engine.stop import StoppedAtOnce

    try:
        with console.working("writing the report"), stop.impatiently():
            page = report(result.run_dir)
    except StoppedAtOnce:
        console.say(f"{stop.reason}: the report is not written; for it: sightline report {quote(str(result.run_dir))}")
        return replace(result, exit_code=STOPPED)
    console.say(f"report: {page}")
    return replace(result, report=page)


def what_is_written(run_dir: Path, exit_code: int) -> TrainResult:
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


def console_of(console: Console | None, processes: Processes) -> Console:
    """Where a process says something: the first one to the user, the others nowhere."""
    from sightline.engine.console import Console

    if not processes.is_first:
        return Console(io.StringIO(), is_terminal=False)
    return console if console is not None else Console()
