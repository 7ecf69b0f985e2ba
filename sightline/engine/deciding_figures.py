"""Whether the figures exist that decide the best checkpoint, what is kept, or an early end: asked before the run.

Some tasks say what their metric gives; then nothing is tried. Names of losses, and of the figures of other tasks, are
learned from the first batch of the validation data, and only where the configuration names one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch

from sightline.config.errors import ConfigError, did_you_mean
from sightline.config.figures import is_loss
from sightline.config.printable import printable
from sightline.engine.checkpoint.retention import BestBy
from sightline.engine.evaluation import evaluate, measure_losses
from sightline.engine.limited_loader import limited
from sightline.engine.loop import Training
from sightline.engine.run_config import Problem, RunConfig
from sightline.engine.task import Loader

_log = logging.getLogger(__name__)
OF_ONE_BATCH = (
    " That is what the first batch gives; a run whose figures depend on the data tells all in Problem.figures."
)


def refuse_unknown_figures(deciding: Mapping[str, BestBy], figures: Iterable[str], *, about: str = "") -> None:
    """Check that every figure that decides something is one that the evaluation gives.

    Args:
        deciding: By key, what says which figure: ``RunConfig.deciding``.
        figures: Names of what the metric gives, of the losses, or of both; what is not told of is not judged.
        about: Said behind the names.

    Raises:
        ConfigError: Names the key, the figure and those that there are.
    """
    names = list(figures)
    for key, by in deciding.items():
        if by.metric is None or by.metric in names or is_loss(by.metric) not in map(is_loss, names):
            continue
        raise ConfigError(
            f"{key}.metric={printable(by.metric)}: the evaluation has no such figure."
            f"{did_you_mean(by.metric, names)} There are: {', '.join(names)}.{about}"
        )


def refuse_what_a_batch_does_not_give(
    config: RunConfig, problem: Problem, training: Training, loader: Loader | None
) -> None:
    """Look at a batch of the evaluation, if a figure decides something of which nobody has told whether it exists.

    All processes of a run call this. It leaves no trace in the task.

    Args:
        config: The run.
        problem: Says which figures its metric gives, or nothing.
        training: The task and where it is.
        loader: Of the evaluation; None where there is none.

    Raises:
        ConfigError: As ``refuse_unknown_figures``.
    """
    if loader is None:
        return
    deciding = config.deciding()
    try:
        refuse_unknown_losses(deciding, training, loader)
        if not problem.figures and any(by.metric is not None and not is_loss(by.metric) for by in deciding.values()):
            refuse_unknown_figures(deciding, _names_of_figures(training, loader), about=OF_ONE_BATCH)
    except BaseException:
        loader.close()
        raise


def refuse_unknown_losses(deciding: Mapping[str, BestBy], training: Training, loader: Loader) -> None:
    """Measure the losses of a batch, if one of them decides something; their sum is always there.

    Raises:
        ConfigError: As ``refuse_unknown_figures``.
    """
    if any(is_loss(by.metric or "") and by.metric != "loss" for by in deciding.values()):
        refuse_unknown_figures(deciding, _names_of_losses(training, loader))


def _place(training: Training) -> torch.device:
    """Where the task is: what will be cut is still in the host's memory."""
    return training.device if training.sharding is None else torch.device("cpu")


def _names_of_losses(training: Training, loader: Loader) -> list[str]:
    t = training
    losses = measure_losses(t.task, limited(loader, 1), device=_place(t), precision=t.precision, processes=t.processes)
    return list(losses.compute())


def _names_of_figures(training: Training, loader: Loader) -> list[str]:
    """None where a batch is too little for the metric."""
    t = training
    metric = evaluate(t.task, limited(loader, 1), device=_place(t), precision=t.precision, processes=t.processes)
    names: list[str] = []
    if t.processes.is_first:
        try:
            names = list(metric.compute())
        except Exception as error:  # a user's metric may need more than a batch; the first evaluation asks it again
            _log.debug("the metric cannot tell its figures from one batch: %s: %s", type(error).__name__, error)
    return list(t.processes.tell(names))
