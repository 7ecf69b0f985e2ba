"""Processes of a run meet, and agree on its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from sightline.config.errors import ConfigError
from sightline.config.override import leaves
from sightline.config.printable import counted
from sightline.engine.device import gpus_of, pick_device
from sightline.engine.distributed.launch import Launch, find_launch
from sightline.engine.distributed.processes import ALONE, JoinedProcesses, LostProcessError, Processes, is_lost
from sightline.engine.run_config import RunConfig

C = TypeVar("C", bound=RunConfig)


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
        if launch is not None:
            _refuse_another_count(config, launch)
        yield ALONE, pick_device(config.device), config
        return
    may_shard = config is None or config.strategy == "fsdp"
    processes = JoinedProcesses(launch, may_shard=may_shard)
    try:
        agreed = _agreed(config, processes, recipe)
        _refuse_another_count(agreed, launch)
        yield processes, pick_device(agreed.device, launch), agreed
    except Exception as error:
        if isinstance(error, LostProcessError) or not is_lost(error):
            raise
        raise LostProcessError("lost process: another one ended before the run began") from error
    finally:
        processes.close()


def _refuse_another_count(config: RunConfig, launch: Launch) -> None:
    """The launcher's number of processes counts; another one is a contradiction."""
    if config.processes_here in (1, launch.local_count):
        return
    named = len(gpus_of(config.device)) > 1
    given = f"device={config.device}" if named else f"devices={config.devices}"
    cure = "Start as many as you name GPUs, or use device=cuda." if named else "Leave devices out: their number counts."
    raise ConfigError(
        f"{given}, but the launcher has started {counted(launch.local_count, 'process')} on this machine. {cure}"
    )


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
