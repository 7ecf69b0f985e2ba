"""What a model consists of and what one run of it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class SummaryRow(NamedTuple):
    """One part of a model."""

    name: str
    kind: str
    """Name of its class."""
    parameters: int
    shapes: tuple[tuple[int, ...], ...]
    """Of the tensors that it gave; empty when it did not run."""


@dataclass(frozen=True)
class ModelSummary:
    """A model's parts and totals."""

    rows: tuple[SummaryRow, ...]
    parameters: int
    trainable: int
    """Parameters that are trained."""
    gflops: float
    """Of one run, in 10^9 operations; a multiplication and an addition count as two. Convolutions and matrix
    products only."""

    @property
    def num_layers(self) -> int:
        """Parts in the rows."""
        return len(self.rows)

    def __str__(self) -> str:
        """A table, and a line of totals under it."""
        width = max((len(row.name) for row in self.rows), default=0)
        kind = max((len(row.kind) for row in self.rows), default=0)
        lines = [
            f"{row.name:{width}}  {row.kind:{kind}}  {row.parameters:>12,}  "
            + ", ".join(" x ".join(map(str, shape)) for shape in row.shapes)
            for row in self.rows
        ]
        total = f"{self.num_layers} layers, {self.parameters:,} parameters, {self.gflops:.1f} GFLOPs"
        return "\n".join([*lines, total])


def summarize(model: nn.Module, *inputs: Tensor) -> ModelSummary:
    """Run a model once, without gradients and in evaluation mode, and write down its parts.

    Args:
        model: Its children are the rows; those of lists of modules stand alone.
        inputs: What its ``forward`` takes, e.g. ``torch.zeros(1, 3, 640, 640)``.
    """
    from torch.utils.flop_counter import FlopCounterMode

    parts = _parts(model)
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
    hooks = [
        part.register_forward_hook(lambda _part, _inputs, out, name=name: shapes.update({name: _shapes(out)}))
        for name, part in parts
    ]
    was_training = [module for module in model.modules() if module.training]
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module in was_training:
            module.training = True
    rows = [
        SummaryRow(name, type(part).__name__, sum(p.numel() for p in part.parameters()), shapes.get(name, ()))
        for name, part in parts
    ]
    return ModelSummary(
        rows=tuple(rows),
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        gflops=counter.get_total_flops() / 1e9,
    )


def _parts(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found += _parts(child, f"{prefix}{name}.")
        else:
            found.append((prefix + name, child))
    return found


def _shapes(out: Any) -> tuple[tuple[int, ...], ...]:
    if isinstance(out, Tensor):
        return (tuple(out.shape),)
    if isinstance(out, (list, tuple)):
        return tuple(shape for item in out for shape in _shapes(item))
    return ()
