"""Which tensor was the first that is NaN or infinite: found when it has happened, so that a good step pays nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sightline.engine.distributed.sharding import own_parts
from sightline.engine.seed import reseed

if TYPE_CHECKING:
    from sightline.engine.loop import Training

LOSSES_ALONE = "the losses alone, no module's output"


def first_culprit(training: Training, batch: Any, iteration: int, losses_are_bad: bool) -> str:
    """The first tensor of a step that is not finite: of its input, the weights, the forward pass, or the gradients.

    The forward pass is repeated with the same random numbers, with an eye on the output of every module. All processes
    call it together. What the pass does to running statistics stays done.

    Args:
        training: As it was when the step went wrong: before the optimizer, gradients still there.
        batch: The step's, on its device.
        iteration: The micro-batch's number.
        losses_are_bad: Whether it was a loss; else the forward pass is known to be good.

    Returns:
        ``weight NAME``, ``output of NAME (KIND)`` and so on; an empty text where nothing was found.
    """
    task = training.task
    names = [f"input {name}" for name, tensor in _tensors_of_batch(batch) if not is_finite(tensor)]
    names += [f"weight {name}" for name, parameter in task.named_parameters() if not is_finite(parameter)]
    if losses_are_bad:  # also where a name is known: the other processes may need this one's part of the pass
        reseed(training.device, training.seed, iteration, training.processes.share.rank)
        names.append(_first_output(training, batch) or LOSSES_ALONE)
    else:
        gradients = ((name, parameter.grad) for name, parameter in task.named_parameters())
        names += [f"gradient of {name}" for name, grad in gradients if grad is not None and not is_finite(grad)]
    return names[0] if names else ""


def _first_output(training: Training, batch: Any) -> str:
    found: list[str] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        if not found and any(not is_finite(tensor) for tensor in _tensors_in(output)):
            kind = type(module).__name__.removeprefix("FSDP")  # which a layer in shards is called
            found.append(f"output of {name} ({kind})")

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in training.task.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), training.precision.autocast():
            training.task(batch)
    except RuntimeError:  # indices made of NaN, say; what was seen before is still true
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return "".join(found)


def is_finite(tensor: Tensor) -> bool:
    """Whether no element that this process holds is NaN or infinite; waits for the device."""
    return not tensor.is_floating_point() or bool(torch.isfinite(own_parts([tensor])[0]).all())


def non_finite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity, in their order. Without any, a device is waited for once.

    Of a tensor in shards, it is this process's part that counts.
    """
    owned = dict(zip(tensors, own_parts(tensors.values()), strict=True))
    floating = {name: t.detach() for name, t in owned.items() if t.is_floating_point()}
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in floating.items():
        by_device.setdefault(tensor.device, []).append(name)
    suspects = []
    for names in by_device.values():
        # A sum is quick, and not finite if a term is not. That of large numbers may overflow, so it only raises doubt.
        are_good = torch.isfinite(torch.stack([floating[name].sum(dtype=torch.float32) for name in names]))
        if not bool(are_good.all()):
            suspects += [name for name, is_good in zip(names, are_good.tolist(), strict=True) if not is_good]
    bad = {name for name in suspects if not is_finite(floating[name])}
    return [name for name in floating if name in bad]


def _tensors_of_batch(batch: Any) -> Iterator[tuple[str, Tensor]]:
    if is_dataclass(batch):
        for field in fields(batch):
            value = getattr(batch, field.name)
            named = value.items() if isinstance(value, Mapping) else [(field.name, value)]
            yield from ((str(name), tensor) for name, tensor in named if isinstance(tensor, Tensor))


def _tensors_in(output: Any) -> Iterator[Tensor]:
    """All tensors of what a module gave, however they are packed."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors_in(value)
    elif isinstance(output, Iterable) and not isinstance(output, str | bytes):
        for value in output:
            yield from _tensors_in(value)
