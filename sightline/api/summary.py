"""What a run is about to do, in a few lines: model, data, device, length, parameter groups."""

from __future__ import annotations

import contextlib
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from sightline.api.own_runs import title_of
from sightline.api.table import Table
from sightline.config.explain import keys_of
from sightline.config.printable import counted, printable

if TYPE_CHECKING:
    import torch
    from torch import nn

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
    from sightline.recipes.detection2d import Detection2DRun

    count = sum(parameter.numel() for parameter in training.task.parameters())
    text = f"{printable(title_of(config))}, {count:,} parameters"
    if isinstance(config, Detection2DRun):
        size = config.image_size
        detector: Any = training.task.detector
        text += (
            f", {convolution_gflops(detector, size, is_compiled=bool(config.compile)):.3g} GFLOPs at {size} x {size}"
        )
    return text


def _frozen(config: RunConfig, training: Training) -> list[tuple[str, str]]:
    from sightline.engine.freeze import describe_frozen

    frozen = describe_frozen(training.task)
    as_it_was = " as initialised (weights=null)" if config.weights is None else ""
    return [("frozen", frozen + as_it_was)] if frozen else []


def convolution_gflops(detector: nn.Module, image_size: int, *, is_compiled: bool = False) -> float:
    """Operations of all convolutions for one square image, in 10^9; a multiplication and an addition are two.

    The detector looks at a small black image and the count is scaled up, which is exact for convolutions that see
    the whole image. A detector that is to be compiled is not compiled for this: the small image would cost as much
    time as the run's own size.
    """
    import torch
    from torch import nn

    small = 2 * int(detector.stride)  # type: ignore[arg-type]
    operations = 0

    def count(module: nn.Module, _inputs: object, out: torch.Tensor) -> None:
        nonlocal operations
        assert isinstance(module, nn.Conv2d)
        operations += 2 * out.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in detector.modules() if isinstance(m, nn.Conv2d)]
    training = [module for module in detector.modules() if module.training]
    as_written = torch.compiler.set_stance("force_eager") if is_compiled else contextlib.nullcontext()
    place = next(detector.parameters()).device
    try:
        with torch.no_grad(), as_written:
            detector.eval().detect(torch.zeros(1, 3, small, small, device=place))  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return operations * (image_size / small) ** 2 / 1e9


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
        f"{printable(name).rsplit('/', 1)[-1]}: {counted(split['num_images'], 'image')}, "
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
