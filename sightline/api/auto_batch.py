"""``batch_size=auto``: the largest batch whose step fits into a share of the free memory, found before a run begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sightline.api.preflight_needs import amount
from sightline.config.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from sightline.engine.auto_batch import FoundBatch, Measured
    from sightline.engine.console import Console
    from sightline.engine.finding import DataReview
    from sightline.engine.loop import Training
    from sightline.engine.run_config import Problem, RunConfig

C = TypeVar("C", bound="RunConfig")

SECONDS = 30.0
"""No trial is begun that would end later than this."""


def settle_batch_size(
    config: C, begun: Callable[[], str | None], console: Console | None = None
) -> tuple[C, list[str]]:
    """The configuration with a number in place of ``auto``, and what is to be said of how it was found.

    The only process of a run, or its first one, finds it; the others are told when they join.

    Args:
        config: The run.
        begun: Gives the folder of a run that goes on: its batch size is known.
        console: Shows on a terminal what is being done.
    """
    from sightline.engine.distributed.launch import find_launch

    place = find_launch()
    if config.batch_size != "auto" or (place is not None and place.rank > 0):
        return config, []
    from sightline.config.safe_yaml import read_yaml_document
    from sightline.engine.console import Console
    from sightline.engine.device import pick_device
    from sightline.engine.run_folder.folder import CONFIG_FILE

    folder = begun()
    if folder is not None and (Path(folder) / CONFIG_FILE).exists():
        known: Any = read_yaml_document(Path(folder) / CONFIG_FILE, what="configuration").value
        return config.but(batch_size=known["batch_size"]), []
    with (console or Console()).working("finding the batch size"):
        config, how = find_batch_size(
            config,
            pick_device(config.device, place),
            processes=1 if place is None else place.count,
            on_this_machine=1 if place is None else place.local_count,
        )
    return config, [how]


def find_batch_size(
    config: C,
    device: torch.device,
    *,
    processes: int = 1,
    on_this_machine: int = 1,
    review: DataReview | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[C, str]:
    """The configuration with a number in place of ``auto``, and how it was found.

    Real steps are taken with the first samples of the run, by a model that is thrown away. What a step takes is
    measured: on a GPU the most memory that its tensors held, else the most that the process held.

    Args:
        config: The run.
        device: Where a process computes. All processes are taken to have one like it.
        processes: That share the batch.
        on_this_machine: Those of them that share this machine's memory.
        review: Of the data, if there was one.
        tell: Called with what is being done.

    Raises:
        ConfigError: If not even one sample fits.
        UserError: If the data cannot be used.
    """
    from sightline.engine.memory import free_device_bytes, free_host_bytes, resident_bytes
    from sightline.engine.parts import free_memory

    rules, is_gpu = config.auto_batch, device.type == "cuda"
    plain = config.but(batch_size=rules.most, compile=False, on_nonfinite="skip", weights=None, devices=1)
    review = review if review is not None else plain.review_data(decode=False, tell=tell)
    if review.open is None:
        raise ConfigError("batch_size=auto: " + " ".join(one.text for one in review.findings))
    free = free_device_bytes(device) if is_gpu else free_host_bytes() // on_this_machine
    before = 0 if is_gpu else resident_bytes()
    found, room = _search(plain, review.open(plain), device, budget=int(rules.share * free), before=before, tell=tell)
    free_memory(device)
    total = found.samples * processes
    how = "measured" if found.is_measured else f"estimated from {', '.join(map(str, found.tried))}"
    text = f"batch_size=auto: {total}"
    text += f", {found.samples} for each of {processes} processes" if processes > 1 else ""
    text += (
        f". A step takes {amount(found.bytes)} ({how}); {amount(free)} are free, of which it may take {rules.share:.0%}"
    )
    if found.samples == rules.most:
        text += f"; larger ones than auto_batch.most={rules.most} are not tried"
    elif found.samples == room:
        text += "; there are no more samples"
    return config.but(batch_size=total), text


def _search(
    config: RunConfig,
    problem: Problem,
    device: torch.device,
    *,
    budget: int,
    before: int,
    tell: Callable[[str], None],
) -> tuple[FoundBatch, int]:
    """Try steps with the first samples of a run, and say how many there are; the problem is of no use after."""
    from sightline.engine.auto_batch import find_batch
    from sightline.engine.building import build_training
    from sightline.engine.limited_loader import limited

    assert problem.train_loader is not None
    end = time.perf_counter() + SECONDS
    loader = limited(problem.train_loader, config.limit_batches)
    batches = loader.iterate(epochs=1)
    try:
        first = next(batches).batch
        trials = _Trials(build_training(config, problem, device=device), first, before)

        def measure(samples: int) -> Measured | None:
            tell(f"trying steps with {samples} {problem.unit}")
            return trials.measure(samples)

        found = find_batch(measure, budget=budget, room=len(first), seconds_left=lambda: end - time.perf_counter())
        return found, len(first)
    finally:
        loader.close()
        if problem.eval_loader is not None:
            problem.eval_loader.close()


class _Trials:
    """Steps with parts of one batch."""

    def __init__(self, training: Training, batch: Any, before: int) -> None:
        self.training, self.batch, self.before = training, batch, before

    def measure(self, samples: int) -> Measured | None:
        """What a step takes; None where memory runs out."""
        from sightline.engine.auto_batch import Measured
        from sightline.engine.memory import is_out_of_memory
        from sightline.engine.parts import free_memory
        from sightline.engine.trial import try_steps

        try:
            loader = _Again(self.batch.part(0, samples))
            trial = try_steps(self.training, loader, seconds=0.0, most=1, count_saved=True)
        except (RuntimeError, MemoryError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            trial = None
        if trial is None:
            self.training.optimizer.zero_grad()
            free_memory(self.training.device)
            return None
        peak = trial.peak
        took = peak.device_bytes if self.training.device.type == "cuda" else max(0, peak.host_bytes - self.before)
        return Measured(samples, took, trial.seconds, trial.saved_bytes)


@dataclass(frozen=True)
class _Place:
    epoch: int
    index: int
    batch: Any


class _Again:
    """A loader of one batch an epoch, always the same."""

    batches_per_epoch = 1

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def batch_length(self, index: int) -> int:
        return len(self.batch)

    def iterate(self, *, epoch: int = 0, index: int = 0, epochs: int) -> Iterator[_Place]:
        for number in range(epoch, epochs):
            yield _Place(number, 0, self.batch)

    def close(self) -> None:
        """Nothing was started."""
