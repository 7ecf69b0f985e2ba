"""What a run is about to do, in a few lines: model, data, device, length, parameter groups."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from sightline.api.own_runs import title_of
from sightline.api.table import Table
from sightline.config.explain import keys_of
from sightline.config.printable import counted, printable

if TYPE_CHECKING:
    import torch

    from sightline.engine.loop import Training
    from sightline.engine.run_config import Problem, RunConfig
    from sightline.engine.run_folder.run_record import RunRecord
    from sightline.engine.task import Loader


def start_summary(config: RunConfig, problem: Problem, training: Training, run_dir: Path) -> str:
    """The lines that stand above the progress of a new run."""
    data, *splits = _data(config, problem)
    rows = [
        ("model", _model(config, training)),
        *_frozen(config, training),
        ("data", data),
        *(("", split) for split in splits),
        ("device", _device(config, training)),
        ("length", _length(config, training)),
        ("disk", _disk(config, training)),
        ("run", printable(run_dir)),
    ]
    return f"{Table(('', ''), rows)}\n\n{_groups(config, training)}\n"


def about_session(record: RunRecord) -> list[str]:
    """What a run's log says about a session that begins."""
    session = record.sessions[-1]
    versions = ", ".join(f"{name} {version}" for name, version in session.versions.items())
    many = f", first of {session.processes} processes" if session.processes > 1 else ""
    return [
        f"command: {' '.join(map(quote, session.command))}",
        f"process {session.process.pid} on {session.process.host}{many}, {', '.join(session.devices)}",
        versions,
        *([f"commit {session.code_commit}"] if session.code_commit else []),
        *([f"from step {session.from_step:,}"] if session.from_step else []),
    ]


def _model(config: RunConfig, training: Training) -> str:
    from sightline.recipes.data_run import DataRun

    count = sum(parameter.numel() for parameter in training.task.parameters())
    text = f"{printable(title_of(config))}, {count:,} parameters"
    if isinstance(config, DataRun):
        text += f", {config.describe_model(training.task)}"
    return text


def _frozen(config: RunConfig, training: Training) -> list[tuple[str, str]]:
    from sightline.engine.freeze import describe_frozen

    frozen = describe_frozen(training.task)
    as_it_was = " as initialised (weights=null)" if config.weights is None else ""
    return [("frozen", frozen + as_it_was)] if frozen else []


def _data(config: RunConfig, problem: Problem) -> list[str]:
    if "data.path" not in keys_of(type(config)):
        source = problem.source
    else:
        path = getattr(getattr(config, "data", None), "path", None)
        source = "the built-in world" if path is None else printable(path)
    names = problem.facts.get("class_names", [])
    if names:
        shown = ", ".join(map(printable, names[:5])) + (", ..." if len(names) > 5 else "")
        source += f", {counted(len(names), 'class')}: {shown}"
    splits = [
        f"{printable(name).rsplit('/', 1)[-1]}: {counted(split['num_images'], split.get('unit', 'image'))}, "
        f"{counted(split['num_boxes'], 'box')}"
        for name, split in problem.facts.get("splits", {}).items()
        if {"num_images", "num_boxes"} <= split.keys()
    ]
    loaders = (("to train on", problem.train_loader), ("to evaluate", problem.eval_loader))
    counts = [f"{samples_of(loader):,} {problem.unit} {what}" for what, loader in loaders if loader is not None]
    return [line for line in (source, *(splits or [", ".join(counts)])) if line]


def samples_of(loader: Loader) -> int:
    """Samples of an epoch, over all processes."""
    return sum(loader.batch_length(index) for index in range(loader.batches_per_epoch))


def device_and_threads(device: torch.device) -> str:
    """``cuda:0 (NVIDIA H200)``, ``cpu with 2 threads``."""
    import torch

    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    threads = f" with {counted(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    return f"{device}{name}{threads}"


def _device(config: RunConfig, training: Training) -> str:
    parts = [device_and_threads(training.device), config.precision]
    parts += ["channels last"] if config.channels_last and training.sharding is None else []
    parts += ["in shards"] if training.sharding is not None else []
    parts += ["compiled if possible" if config.compile == "try" else "compiled"] if config.compile else []
    kind = getattr(getattr(config, "data", None), "loader", None)
    if kind is not None:  # who brings a loader of their own knows what it is made of
        parts += [f"{config.workers} loader {kind}" if config.workers else "no loader workers"]
    return ", ".join(parts)


def _length(config: RunConfig, training: Training) -> str:
    length = training.plan.length
    window = config.accumulation.full_window(config.samples_per_batch)
    many = f", up to {window} of them a step" if window > 1 else ""
    return f"{counted(length.epochs, 'epoch')}, {length.steps:,} steps, batches of {config.batch_size}{many}"


def _disk(config: RunConfig, training: Training) -> str:
    from sightline.engine.checkpoint.saving import disk_of_checkpoints

    return f"at most {disk_of_checkpoints(config.checkpoint, training)} at a time"


def _groups(config: RunConfig, training: Training) -> Table:
    """The parameter groups with what each is trained with."""
    from sightline.engine.parameter_groups import group_table

    rows = [
        (row.group, f"{row.tensors:,}", f"{row.numel:,}", f"{row.weight_decay:g}", f"{config.lr * row.lr_scale:g}")
        for row in group_table(training.optimizer.groups, examples=0)
    ]
    return Table(("group", "tensors", "parameters", "weight decay", "lr"), rows)
