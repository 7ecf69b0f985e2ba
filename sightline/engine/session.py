"""One process at work on one run folder: loads or saves its state, and runs the loop among all callbacks."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from sightline.config.errors import RunError
from sightline.config.printable import counted
from sightline.engine.building import build_training
from sightline.engine.callback import Callback, EvaluationReport
from sightline.engine.callbacks.beat import Beat
from sightline.engine.callbacks.crew import Crew, message_of
from sightline.engine.callbacks.early_stop import EarlyStop
from sightline.engine.callbacks.epoch_clock import EpochClock
from sightline.engine.callbacks.gallery import Gallery
from sightline.engine.callbacks.histograms import Histograms
from sightline.engine.callbacks.profiler import Profiler
from sightline.engine.callbacks.watch import Watch
from sightline.engine.checkpoint.reader import Checkpoint, find_checkpoints, newest_whole, set_aside
from sightline.engine.checkpoint.saving import Saver, follow, lead, load_training
from sightline.engine.checkpoint.start_weights import start_from_weights
from sightline.engine.checkpoint.writer import CheckpointWriter
from sightline.engine.console import Console
from sightline.engine.deciding_figures import refuse_unknown_figures, refuse_what_a_batch_does_not_give
from sightline.engine.distributed.processes import ALONE, Processes, is_lost
from sightline.engine.evaluation import Evaluator
from sightline.engine.going_on import class_name, how_to_resume
from sightline.engine.limited_loader import limited
from sightline.engine.log import Logger, LogRow, Sink
from sightline.engine.loop import Training, train
from sightline.engine.run_config import Problem, RunConfig
from sightline.engine.run_folder.crash_report import crash_reported, forget_crash, stacks_on_request
from sightline.engine.run_folder.fatal_stacks import fatal_stacks, how_it_died, stacks_if_it_dies
from sightline.engine.run_folder.folder import is_run
from sightline.engine.run_folder.lock import RunLock
from sightline.engine.run_folder.metrics_log import (
    METRICS_FILE,
    TIMING_FILE,
    MetricsLog,
    cut_back_to_length,
    cut_back_to_step,
)
from sightline.engine.run_folder.nonfinite_log import NONFINITE_FILE, NonFiniteLog
from sightline.engine.run_folder.run_record import read_record
from sightline.engine.run_folder.status import Heartbeat
from sightline.engine.stop import StopRequest
from sightline.engine.stopwatch import OFF, RunningStopwatch, Stopwatch
from sightline.engine.task import Loader
from sightline.engine.trackers.following import open_trackers

_log = logging.getLogger(__name__)
Outcome = Literal["done", "stopped"]
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class SessionResult:
    """How a session ended."""

    outcome: Outcome
    step: int
    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Figures of the last evaluation."""


class _LogSink:
    """Rows to metrics.jsonl and, what depends on the machine, to timing.jsonl."""

    def __init__(self, metrics: MetricsLog, timing: MetricsLog) -> None:
        self.metrics = metrics
        self.timing = timing

    def write(self, row: LogRow) -> None:
        self.metrics.append(step=row.step, epoch=row.epoch, kind=row.kind, values=row.values)
        if row.timing:
            self.timing.append(step=row.step, epoch=row.epoch, kind=row.kind, values=row.timing)


def run_session(
    config: RunConfig,
    problem: Problem,
    run_dir: Path,
    *,
    resume: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    on_start: Callable[[Training], None] = lambda training: None,
    processes: Processes = ALONE,
    device: torch.device | None = None,
    stop: StopRequest | None = None,
) -> SessionResult:
    """Train in a run folder from its start, or from its newest whole checkpoint, to the end or a stop.

    Args:
        config: The run.
        problem: Its data and task, from ``config.open()``.
        run_dir: The run's folder. It is locked while this works. Of several processes only the first needs it.
        resume: Whether to continue.
        console: Where to show progress.
        callbacks: The user's; called before the evaluation and the checkpoint of their moment.
        on_start: Called once the folder is locked and everything is built and loaded, before other processes are told
            and the first step is taken.
        processes: Those that train together; each calls this with its own share of the data.
        device: Where this one computes; the configuration's by default.
        stop: Says when to stop; by default it takes the process's signals while this works.

    Raises:
        UserError: If the folder, checkpoint or configuration cannot be used.
        NonFiniteError: If a loss became NaN or infinite.
        OSError: If the disk refuses; older checkpoints are whole.
    """
    console = console if console is not None else Console()
    console.speak_of(unit=problem.unit, headline=problem.headline)
    assert problem.train_loader is not None, "a problem opened for training has a training loader"
    refuse_unknown_figures(config.deciding(), problem.figures)
    loader = limited(problem.train_loader, config.limit_batches)
    eval_loader = None if problem.eval_loader is None else limited(problem.eval_loader, config.limit_batches)
    takes_signals, stop = stop is None, stop if stop is not None else StopRequest()
    stop.say = console.say
    early_stop = None
    if config.early_stopping is not None:
        by = config.meaning_of(config.early_stopping.by or config.evaluate.best)
        early_stop = EarlyStop(config.early_stopping.but(by=by), config.best, console.say)

    def gave_up() -> bool:
        return early_stop is not None and early_stop.is_over

    def should_stop() -> bool:
        return is_far_enough() or gave_up() or processes.any_asks(stop())

    def is_far_enough() -> bool:
        goal = config.stop_at_epoch
        if goal is None or not first_epoch < goal <= training.epoch or training.step >= training.plan.length.steps:
            return False
        stop.ask(f"stop_at_epoch={goal}")
        return stop()

    if not processes.is_first:
        with stop.listening() if takes_signals else stop.patiently(), crash_reported(config, run_dir, processes.share):
            training = build_training(config, problem, processes, device)
            refuse_what_a_batch_does_not_give(config, problem, training, eval_loader)
            training.at_once.note_dir = run_dir
            follow(training, processes)
            first_epoch = training.epoch
            own = [callback for callback in callbacks if callback.in_every_process]
            own += [early_stop] if early_stop is not None else []
            return _follow(training, config, loader, eval_loader, own, stop, should_stop, gave_up, run_dir)
    with stop.listening() if takes_signals else stop.patiently(), RunLock(run_dir), ExitStack() as stack:
        _tell_how_the_last_one_died(run_dir, console)
        forget_crash(run_dir)
        stack.enter_context(crash_reported(config, run_dir, processes.share))
        stop.watch_file(run_dir)
        stop.limit(config.max_time, rounds=min(processes.share.count, 2))
        checkpoint = newest_whole(run_dir, console.say) if resume and find_checkpoints(run_dir) else None
        training, started = build_training(config, problem, processes, device), None
        refuse_what_a_batch_does_not_give(config, problem, training, eval_loader)
        training.run_dir = training.at_once.note_dir = run_dir
        if checkpoint is not None:
            load_training(training, checkpoint)
            if early_stop is not None:
                early_stop.load_state(checkpoint.state["callbacks"].get(EarlyStop.__name__, {}))
            _refuse_finished(config, training, checkpoint, early_stop, run_dir)
            _return_to(checkpoint, run_dir, console)
            console.say(f"resuming {run_dir} at step {training.step} (epoch {training.epoch + 1})")
        else:
            if resume:
                console.say(f"{run_dir}: was ended before its first checkpoint; it starts again at step 0")
            for name in (METRICS_FILE, TIMING_FILE, NONFINITE_FILE):
                cut_back_to_length(run_dir / name, 0)
        if checkpoint is None and config.weights is not None:
            started = start_from_weights(training, config.weights, partly=config.partial_weights)
            console.say(str(started))
        on_start(training)
        lead(training, checkpoint, processes)
        first_epoch = training.epoch

        if started is not None:
            started.write(run_dir)
        metrics_log = stack.enter_context(MetricsLog(run_dir / METRICS_FILE))
        timing_log = stack.enter_context(MetricsLog(run_dir / TIMING_FILE))
        writer = stack.enter_context(
            CheckpointWriter(
                run_dir, config.kept_checkpoints, best=config.best, total_epochs=training.plan.length.epochs
            )
        )
        heartbeat = Heartbeat(
            run_dir,
            total_steps=training.plan.length.steps,
            total_epochs=training.plan.length.epochs,
            period_s=config.log.heartbeat_seconds,
            unit=problem.unit,
        )
        beat, result = Beat(heartbeat), _LastFigures()
        sinks: list[Sink] = [_LogSink(metrics_log, timing_log), console, beat]
        trackers = open_trackers(config, run_dir, log=metrics_log, from_step=training.step if resume else None)
        trackers.tell = console.say
        sinks.append(trackers)
        logger = Logger(config.log, sinks)
        beat.time_left = logger.time_left
        shards = ALONE if training.sharding is None else processes
        saver = Saver(writer, config.checkpoint, run_dir, shards=shards)
        stop.save_seconds = saver.seconds
        gallery = Gallery(
            run_dir,
            training.task,
            loader,
            train_batches=config.log.train_pictures,
            eval_samples=config.log.eval_pictures,
            sink=trackers,
        )
        every: list[Callback] = [logger, beat, console, result, gallery, trackers]
        stopwatch = OFF if config.profile is None else RunningStopwatch()
        if config.profile is not None:
            every.append(Profiler(config.profile, stopwatch, run_dir, say=console.say, unit=problem.unit))
        if config.watch is not None:
            every.append(Watch(config.watch, training.task, sinks))
        if config.histograms is not None:
            every.append(Histograms(config.histograms, trackers))
        every += callbacks
        every += [early_stop] if early_stop is not None else []
        evaluator = None
        if eval_loader is not None:
            evaluator = Evaluator(
                config.evaluate,
                eval_loader,
                [Crew([*every, saver], stopwatch=stopwatch)],
                on_batch=gallery.on_batch,
                should_stop=stop,
                meanwhile=saver.save_on_request,
                agree=processes.tell,
            )
            every.append(evaluator)
        every += [saver, EpochClock(timing_log, say=console.say)]
        crew = Crew(every, stopwatch=stopwatch)
        nonfinite_log = NonFiniteLog(run_dir, console.say)
        training.guard.tell, training.at_once.tell = nonfinite_log.add, console.say
        saver.watch(crew, logs={METRICS_FILE: metrics_log, NONFINITE_FILE: nonfinite_log})
        states = processes.tell(None if checkpoint is None else checkpoint.state["callbacks"])
        if checkpoint is not None:
            crew.load_states(states)
            result.metrics, saver.saved_step = dict(checkpoint.manifest.metrics), checkpoint.step

        stack.enter_context(stacks_on_request(run_dir, 0))
        stack.enter_context(stacks_if_it_dies(run_dir, 0))
        heartbeat.beat("starting", step=training.step, epoch=training.epoch)
        try:
            outcome = _take_steps(training, loader, crew, evaluator, stop, should_stop, gave_up, stopwatch)
            saver.save(training, reason=outcome)
            writer.flush()
            processes.wait()
            crew.on_run_end(training, outcome)
        except BaseException as error:
            has_lost = processes.share.count > 1 and is_lost(error)
            heartbeat.beat("failed", message="lost another process" if has_lost else message_of(error))
            with suppress(Exception):  # what ended the run is to be told, not what it led to
                crew.on_run_end(training, "failed")
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                why = f"{error.strerror}. The checkpoints are whole: make room, then resume the run"
                raise OSError(error.errno, why, error.filename) from error
            raise
        finally:
            loader.close()
            if eval_loader is not None:
                eval_loader.close()
        why = early_stop.reason if early_stop is not None and early_stop.is_over else ""
        heartbeat.beat(
            "done" if outcome == "done" else "interrupted",
            step=training.step,
            epoch=training.epoch,
            message=why or (stop.reason if outcome != "done" else ""),
        )
        return SessionResult(outcome, training.step, training.epoch, result.metrics)


def _refuse_finished(
    config: RunConfig, training: Training, checkpoint: Checkpoint, early_stop: EarlyStop | None, run_dir: Path
) -> None:
    """A run goes on only if something is left to do.

    Raises:
        RunError: Says how to train longer.
    """
    took_all = training.step >= training.plan.length.steps
    gave_up = early_stop is not None and early_stop.is_over
    if not (took_all or gave_up) or not _nothing_is_left(checkpoint, run_dir):
        return
    why = "" if took_all or early_stop is None else f"; {early_stop.reason}"
    longer = f"epochs={training.epoch * 2 or 2}" if took_all else "early_stopping=null"
    raise RunError(
        f"{run_dir}: this run is finished ({counted(training.step, 'step')}, {counted(training.epoch, 'epoch')}{why}). "
        f"To train longer: {how_to_resume(run_dir, class_name(type(config)), longer)}"
    )


def _return_to(checkpoint: Checkpoint, run_dir: Path, console: Console) -> None:
    """Make the run's folder what it was when a checkpoint was taken."""
    for folder in set_aside(run_dir, after_step=checkpoint.step):
        console.say(f"set aside {folder}: its steps are taken anew")
    for name, length in checkpoint.state["logs"].items():
        cut_back_to_length(run_dir / name, length)
    cut_back_to_step(run_dir / TIMING_FILE, checkpoint.step)


def _take_steps(
    training: Training,
    loader: Loader,
    crew: Crew,
    evaluator: Evaluator | None,
    stop: StopRequest,
    should_stop: Callable[[], bool],
    gave_up: Callable[[], bool],
    stopwatch: Stopwatch,
) -> Outcome:
    """Begin, and take steps to the end or a stop. An evaluation that was cut short stops at once, in all processes."""

    def is_cut_short() -> bool:
        return evaluator is not None and evaluator.cut_short is not None

    def must_stop() -> bool:
        return is_cut_short() or should_stop()

    crew.on_run_start(training)
    ended = "stopped"
    if not (is_cut_short() or gave_up() or training.processes.any_asks_now(stop())):
        ended = train(training, loader, callbacks=[crew], should_stop=must_stop, stopwatch=stopwatch)
    return "done" if (ended == "done" or gave_up()) and not is_cut_short() else "stopped"


def _tell_how_the_last_one_died(run_dir: Path, console: Console) -> None:
    """Say what a fatal signal did to the session before, and keep its stacks in log.txt: its own report goes."""
    died = how_it_died(run_dir)
    if not died:
        return
    console.say(f"the session before was ended by a fatal signal: {died}; its stacks are in log.txt")
    for rank, stacks in fatal_stacks(run_dir).items():
        _log.info("stacks of process %d at its end:\n%s", rank, stacks, extra={"only_in_file": True})


def _follow(
    training: Training,
    config: RunConfig,
    loader: Loader,
    eval_loader: Loader | None,
    callbacks: Sequence[Callback],
    stop: StopRequest,
    should_stop: Callable[[], bool],
    gave_up: Callable[[], bool],
    run_dir: Path,
) -> SessionResult:
    """What a process does that is not the first: its share of every step and evaluation, and nothing else."""
    processes, result = training.processes, _LastFigures()
    every: list[Callback] = [result, *callbacks]
    evaluator = saver = None
    if training.sharding is not None:
        saver = Saver(None, config.checkpoint, run_dir, shards=processes)
    if eval_loader is not None:
        evaluator = Evaluator(
            config.evaluate,
            eval_loader,
            every if saver is None else [*every, saver],
            should_stop=stop,
            meanwhile=None if saver is None else saver.save_on_request,
            agree=processes.tell,
        )
        every = [*every, evaluator]
    if saver is not None:
        every = [*every, saver]
    crew = Crew(every)
    states = processes.tell(None)
    crew.load_states(states or {})
    if saver is not None and states is not None:
        saver.saved_step = training.step
    try:
        with stacks_on_request(run_dir, processes.share.rank), stacks_if_it_dies(run_dir, processes.share.rank):
            outcome = _take_steps(training, loader, crew, evaluator, stop, should_stop, gave_up, OFF)
            if saver is not None:
                saver.save(training, reason=outcome)
            processes.wait()
            crew.on_run_end(training, outcome)
    except BaseException:
        with suppress(Exception):  # what ended the run is to be told, not what it led to
            crew.on_run_end(training, "failed")
        raise
    finally:
        loader.close()
        if eval_loader is not None:
            eval_loader.close()
    return SessionResult(outcome, training.step, training.epoch, result.metrics)


def _nothing_is_left(checkpoint: Checkpoint, run_dir: Path) -> bool:
    """Whether a run whose last step is taken is finished: no evaluation is to be made up for, and its end is noted.

    A process that is killed after the last checkpoint leaves a run whose end nobody noted.
    """
    if checkpoint.state["callbacks"].get(Evaluator.__name__, {}).get("cut_short") is not None:
        return False
    return not is_run(run_dir) or read_record(run_dir).is_done


class _LastFigures(Callback):
    """Remembers the figures of the last evaluation."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def on_evaluation_end(self, training: Training, report: EvaluationReport) -> None:
        if not report.losses_only:
            self.metrics = dict(report.metrics)
