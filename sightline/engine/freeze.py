"""Frozen parts of a model: parameters that are not trained, and running statistics that stand still.

Nothing that is frozen changes a bit during a run, in the live weights or in their average: the parameters belong to
no optimizer group, so nothing steps or decays them; layers with running statistics stay in evaluation mode through
every ``Task.train()``; and the average leaves them out. Autograd builds no graph in front of the first trained
parameter, so frozen early layers cost no backward pass and keep no activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sightline.config.errors import ConfigError
from sightline.engine.task import Task
from sightline.engine.tensor_names import group_of_name, shared_parts


def freeze(task: Task, patterns: Sequence[str]) -> frozenset[str]:
    """Freeze what the patterns fit. To be called once, before optimizer and average are built.

    A pattern is matched with ``fnmatchcase`` against the full names of parameters and buffers, as in the rules of the
    parameter groups. A part of the model of which every tensor is frozen stays in evaluation mode as a whole: its
    batch norms use their running statistics and leave them alone, its dropout is off. So does a normalisation layer
    of which a pattern fits the statistics alone (``*.running_*``), or all parameters.

    Args:
        task: Is changed: ``requires_grad`` of its parameters, and ``kept_in_eval``.
        patterns: Without any, nothing is frozen.

    Returns:
        Names of the parameters and buffers that keep their bits from now on.

    Raises:
        ConfigError: If a pattern fits nothing, or nothing that training would change; or if nothing is left to train.
    """
    if not patterns:
        return frozenset()
    model = _Model(task)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in model.tensors):
            raise ConfigError(f"freeze: {pattern!r} fits no parameter of the model.{_nearest(pattern, model.tensors)}")
    fitting = {name for name in model.tensors if any(fnmatchcase(name, pattern) for pattern in patterns)}
    fixed = {id(model.tensors[name]) for name in fitting}
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in trained if id(parameter) in fixed]
    if len(frozen) == len(trained):
        raise ConfigError(
            f"freeze: {', '.join(map(repr, patterns))} fits all {len(trained)} parameters: nothing is left to train. "
            "Leave the part out that shall learn, usually the head."
        )
    fixed |= model.statistics_of_fixed_layers(fixed)
    kept = list(model.kept_in_eval(fixed))
    still = {id(tensor) for part in kept for tensor in part.buffers()} | {id(parameter) for parameter in frozen}
    for pattern in patterns:
        if not any(id(tensor) in still for name, tensor in model.tensors.items() if fnmatchcase(name, pattern)):
            raise ConfigError(f"freeze: {pattern!r} fits nothing that training would change. Leave it out.")
    for parameter in frozen:
        parameter.requires_grad_(False)
    task.kept_in_eval = tuple(kept)
    task.train(task.training)
    return frozenset(name for name, tensor in model.tensors.items() if id(tensor) in still)


def describe_frozen(module: nn.Module) -> str:
    """What of a module is not trained, for the summary of a run; an empty text where all of it is."""
    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    kept = [part for owner in module.modules() if isinstance(owner, Task) for part in owner.kept_in_eval]
    layers = len({id(layer) for part in kept for layer in part.modules() if _has_statistics(layer)})
    words = []
    if frozen:
        words.append(f"{sum(parameter.numel() for parameter in frozen):,} parameters ({len(frozen):,} tensors)")
    if layers:
        words.append(f"statistics of {layers:,} normalisation {'layer' if layers == 1 else 'layers'}")
    return ", ".join(words)


class _Model:
    """Tensors and modules of a task by name."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.tensors: dict[str, Tensor] = {
            **dict(task.named_parameters(remove_duplicate=False)),
            **dict(task.named_buffers(remove_duplicate=False)),
        }

    def statistics_of_fixed_layers(self, fixed: set[int]) -> set[int]:
        """Buffers of the layers whose own parameters are all frozen: they are as good as named."""
        found: set[int] = set()
        for module in self.task.modules():
            own = list(module.parameters(recurse=False))
            if own and all(id(parameter) in fixed for parameter in own):
                found |= {id(buffer) for buffer in module.buffers(recurse=False)}
        return found

    def kept_in_eval(self, fixed: set[int]) -> Iterator[nn.Module]:
        """The outermost modules of which every tensor is fixed, and normalisation layers with fixed statistics."""
        below: set[int] = set()
        for module in self.task.modules():  # parents come first
            if id(module) in below:
                continue
            tensors = [*module.parameters(), *module.buffers()]
            is_whole = bool(tensors) and all(id(tensor) in fixed for tensor in tensors)
            is_norm = _has_statistics(module) and any(id(buffer) in fixed for buffer in module.buffers())
            if is_whole or is_norm:
                below |= {id(one) for one in module.modules()}
                yield module


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and module.running_mean is not None


def _nearest(pattern: str, names: dict[str, Tensor]) -> str:
    """What the user may have meant."""
    trained = [name for name, tensor in names.items() if isinstance(tensor, nn.Parameter)]
    shared = shared_parts(trained)
    tries = [f"{pattern}.*", *(f"{'.'.join(shared)}.{pattern}{end}" for end in ("", ".*")), f"*.{pattern}.*"]
    for better in tries:
        if any(fnmatchcase(name, better) for name in names):
            return f" Did you mean {better!r}?"
    parts = {".".join(name.split(".")[:count]) for name in names for count in range(1, name.count(".") + 1)}
    near = get_close_matches(pattern, [*(f"{part}.*" for part in sorted(parts)), *names], n=3)
    if near:
        return f" The nearest are {', '.join(map(repr, near))}."
    groups = sorted({f"{group_of_name(name, shared)}.*" for name in trained})
    return f" The parts of the model are {', '.join(map(repr, groups))}."
