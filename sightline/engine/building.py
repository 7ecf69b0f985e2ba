"""From a configuration and its problem to a training that can take its first step."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import torch

from sightline.config.errors import ConfigError
from sightline.engine.accumulation import plan_run
from sightline.engine.checkpoint.saving import live_tensors
from sightline.engine.compiling import compile_modules
from sightline.engine.device import pick_device
from sightline.engine.distributed.processes import ALONE, JoinedProcesses, Processes
from sightline.engine.distributed.sharding import Sharding
from sightline.engine.distributed.sync_batch_norm import has_batch_norm, synchronise_batch_norm
from sightline.engine.ema import Ema
from sightline.engine.finite import FiniteGuard
from sightline.engine.freeze import freeze
from sightline.engine.limited_loader import limited
from sightline.engine.loop import Training
from sightline.engine.optim import build_optimizer
from sightline.engine.parts import SamplesAtOnce
from sightline.engine.precision import Precision, fastest_precision, to_channels_last
from sightline.engine.rollback import LastGood
from sightline.engine.run_config import Problem, RunConfig
from sightline.engine.schedule import Schedule
from sightline.engine.task import Task
from sightline.engine.tensor_names import matching_layers

C = TypeVar("C", bound=RunConfig)


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
        config.accumulation,
        config.schedule,
        batch_lengths=lengths,
        epochs=config.epochs,
        steps=config.steps,
        samples=config.samples,
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
        compile_modules(task.modules_to_compile(), config.compile)
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
    same = config.sync_batch_norm or not has_batch_norm(task)
    sharding = Sharding(config.fsdp, device=device, processes=processes, same_statistics=same)
    sharding.check(task)
    return sharding
