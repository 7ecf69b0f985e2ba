"""One process at work on one run folder: builds the training, loads or saves its state, and runs the loop."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch

from sightline.config.errors import ConfigError, RunError
from sightline.config.override import leaves
from sightline.config.printable import counted
from sightline.engine.accumulation import plan_run
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
from sightline.engine.checkpoint.saving import Saver, follow, lead, live_tensors, load_training
from sightline.engine.checkpoint.start_weights import start_from_weights
from sightline.engine.checkpoint.writer import CheckpointWriter
from sightline.engine.console import Console
from sightline.engine.deciding_figures import refuse_unknown_figures, refuse_what_a_batch_does_not_give
from sightline.engine.distributed.launch import Launch, find_launch
from sightline.engine.distributed.processes import ALONE, JoinedProcesses, LostProcessError, Processes
from sightline.engine.distributed.sharding import Sharding
from sightline.engine.distributed.sync_batch_norm import has_batch_norm, synchronise_batch_norm
from sightline.engine.ema import Ema
from sightline.engine.evaluation import Evaluator
from sightline.engine.finite import FiniteGuard
from sightline.engine.freeze import freeze
from sightline.engine.going_on import class_name, how_to_resume
from sightline.engine.limited_loader import limited
from sightline.engine.log import Logger, LogRow, Sink
from sightline.engine.loop import Training, train
from sightline.engine.optim import build_optimizer
from sightline.engine.parts import SamplesAtOnce
from sightline.engine.precision import Precision, fastest_precision, to_channels_last
from sightline.engine.rollback import LastGood
from sightline.engine.run_config import Problem, RunConfig
from sightline.engine.run_folder.crash_report import crash_reported, forget_crash, is_lost, stacks_on_request
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
from sightline.engine.schedule import Schedule
from sightline.engine.stop import StopRequest
from sightline.engine.stopwatch import OFF, RunningStopwatch, Stopwatch
from sightline.engine.task import Loader, Task
from sightline.engine.tensor_names import matching_layers
from sightline.engine.trackers.following import open_trackers

_log = logging.getLogger(__name__)
C = TypeVar("C", bound=RunConfig)
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


def pick_device(name: str, launch: Launch | None = None) -> torch.device:
    """``auto`` is the first GPU, or the CPU where there is none.

    Args:
        name: As in the configuration.
        launch: In a run of several processes every one has a GPU of its own.

    Raises:
        ConfigError: If the device is not there.
    """
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and launch is not None:
        device = torch.device("cuda", launch.local_rank)
    if device.type == "cuda" and not has_cuda:
        raise ConfigError(
            f"device={name}: PyTorch {torch.__version__} finds no GPU on this machine. "
            "Use device=cpu, or install a driver and a PyTorch build for your GPU."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = counted(torch.cuda.device_count(), "GPU")
        raise ConfigError(f"device={name}: this machine has {there}, counted from 0. Use device=cuda:0 or device=cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device=mps: PyTorch finds no Apple GPU on this machine. Use device=cpu.")
    return device


@contextmanager
def joined(config: C | None, recipe: Callable[[str], C]) -> Iterator[tuple[Processes, torch.device, C]]:
    """Find the other processes of a run, for as long as the context lasts.

    Args:
        config: The run's; None in a process that cannot know it, because the run's folder is on another machine.
        recipe: Makes the recipe of a name.

    Yields:
        All of them, the device of this one, and the configuration as the first one has settled it.

    Raises:
        ConfigError: If a launcher's variables make no sense, the device is not there, or the processes were started
            with different configurations.
    """
    launch = find_launch()
    if launch is None or launch.count == 1:
        assert config is not None, "a process that is alone knows its configuration"
        yield ALONE, pick_device(config.device), config
        return
    processes = JoinedProcesses(launch)
    try:
        agreed = _agreed(config, processes, recipe)
        if agreed.devices not in (1, launch.local_count):
            raise ConfigError(
                f"devices={agreed.devices}, but the launcher has started {launch.local_count} processes on this "
                "machine. Leave devices out: their number counts."
            )
        yield processes, pick_device(agreed.device, launch), agreed
    except Exception as error:
        if isinstance(error, LostProcessError) or not is_lost(error):
            raise
        raise LostProcessError("lost process: another one ended before the run began") from error
    finally:
        processes.close()


def _agreed(config: C | None, processes: Processes, recipe: Callable[[str], C]) -> C:
    """The first process's configuration; what a machine chose by itself may differ, what the user chose may not."""
    told = processes.tell(None if config is None else config.model_dump(mode="json"))
    if config is None:
        return type(recipe(told["recipe"])).model_validate(told)
    first = type(config).model_validate(told)
    batch_size = first.batch_size if config.batch_size == "auto" else config.batch_size
    own = config.but(precision=first.precision, batch_size=batch_size)
    if own != first:
        mine, theirs, missing = dict(leaves(own)), dict(leaves(first)), object()
        different = [key for key in {**mine, **theirs} if mine.get(key, missing) != theirs.get(key, missing)]
        raise ConfigError(
            f"this process was started with another configuration than the first one: {', '.join(different[:5])} "
            "differ. Give all processes the same command."
        )
    return first


def settle(config: C) -> C:
    """The configuration with ``auto`` replaced by what this machine does: what a run records and a resume repeats.

    Raises:
        ConfigError: If the device is not there.
    """
    if config.precision != "auto":
        return config
    return config.but(precision=fastest_precision(pick_device(config.device)))


def build_training(
    config: RunConfig, problem: Problem, processes: Processes = ALONE, device: torch.device | None = None
) -> Training:
    """Optimizer, schedule, averages and precision for a problem, at step 0.

    Args:
        config: The run.
        problem: Its data and task.
        processes: Those that train together.
        device: Where this one computes; the configuration's by default.

    Raises:
        ConfigError: If the configuration contradicts itself or the problem.
    """
    device = device or pick_device(config.device)
    assert problem.train_loader is not None
    loader = limited(problem.train_loader, config.limit_batches)
    lengths = [loader.batch_length(index) for index in range(loader.batches_per_epoch)]
    plan = plan_run(
        config.accumulation, config.schedule, batch_lengths=lengths, epochs=config.epochs, steps=config.steps
    )
    assert config.precision != "auto", "settle() comes first"
    precision = Precision(config.precision, device=device)
    sharding = _sharding(config, processes, device, problem.task)
    task = problem.task if sharding is not None else problem.task.to(device)
    if config.accumulation.exact and not task.losses_are_whole:
        raise ConfigError(
            "accumulation.exact=true: the losses of this task are means over samples, and those are weighed exactly as "
            "it is. Leave it out."
        )
    if processes.share.count > 1:
        processes.find_unused_parameters = config.find_unused_parameters
        if config.sync_batch_norm:
            synchronise_batch_norm(task, device)
        elif min(lengths) < processes.share.count and has_batch_norm(task):
            raise ConfigError(
                f"sync_batch_norm=false: the last batch of an epoch has {min(lengths)} samples for "
                f"{processes.share.count} processes, and batch norm cannot work on none. Choose a batch_size that "
                "leaves more, fewer processes, or sync_batch_norm=true."
            )
    if config.channels_last and sharding is None:  # shards are rows of weights that lie in the usual order
        to_channels_last(task)
    frozen = freeze(task, config.freeze)
    optimizer = build_optimizer(
        config.optimizer, task, decay_scale=config.accumulation.decay_scale(config.samples_per_batch)
    )
    if config.watch is not None:
        matching_layers(task, config.watch.layers, key="watch.layers")
    if config.compile:
        for module in task.modules_to_compile():
            module.compile()
    schedule = Schedule(
        config.schedule,
        lr=config.lr,
        momentum=config.optimizer.momentum,
        rules=config.optimizer.groups,
        length=plan.length,
    )
    training = Training(
        task=task,
        module=task,
        processes=processes,
        sharding=sharding,
        optimizer=optimizer,
        schedule=schedule,
        plan=plan,
        precision=precision,
        guard=FiniteGuard(config.on_nonfinite, device=device, buffers=list(task.buffers()), processes=processes),
        device=device,
        seed=config.seed,
        ema=Ema(config.ema, task, constant=frozen) if config.ema is not None else None,
        max_grad_norm=config.max_grad_norm,
        measure_grad_norm=config.log.grad_norm or config.on_nonfinite != "stop",
        at_once=SamplesAtOnce(config.samples_at_once),
    )
    if config.on_nonfinite == "rollback":
        training.guard.last_good = LastGood(config.rollback, partial(live_tensors, training), training.ema)
    return training


def _sharding(config: RunConfig, processes: Processes, device: torch.device, task: Task) -> Sharding | None:
    """How the processes cut the training, if they do. Until then its weights are in the host's memory."""
    if config.strategy == "ddp" or not isinstance(processes, JoinedProcesses):
        return None
    matching_layers(task, config.fsdp.layers, key="fsdp.layers")
    same = config.sync_batch_norm or not has_batch_norm(task)
    return Sharding(config.fsdp, device=device, processes=processes, same_statistics=same)


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
        early_stop = EarlyStop(config.early_stopping, config.evaluate.best, console.say)

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
            took_all = training.step >= training.plan.length.steps
            if (took_all or gave_up()) and _nothing_is_left(checkpoint, run_dir):
                why = "" if took_all or early_stop is None else f"; {early_stop.reason}"
                longer = f"epochs={training.epoch * 2 or 2}" if took_all else "early_stopping=null"
                raise RunError(
                    f"{run_dir}: this run is finished ({counted(training.step, 'step')}, "
                    f"{counted(training.epoch, 'epoch')}{why}). "
                    f"To train longer: {how_to_resume(run_dir, class_name(type(config)), longer)}"
                )
            for folder in set_aside(run_dir, after_step=checkpoint.step):
                console.say(f"set aside {folder}: its steps are taken anew")
            for name, length in checkpoint.state["logs"].items():
                cut_back_to_length(run_dir / name, length)
            cut_back_to_step(run_dir / TIMING_FILE, checkpoint.step)
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
                run_dir, config.checkpoint, best=config.evaluate.best, total_epochs=training.plan.length.epochs
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
