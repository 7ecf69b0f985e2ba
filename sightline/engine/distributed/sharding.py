"""Training in shards: every process keeps its part of the weights, gradients, optimizer state and averages (FSDP2).

A training begins whole, in the host's memory, and is cut once it is loaded. Weights are gathered while a step computes
with them, and for an evaluation; a checkpoint gathers one tensor at a time, and is that of any other run.

Reference:
    Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023; the cutting is that of
    ``torch.distributed.fsdp.fully_shard``: along the first dimension.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from sightline.config.base import Config, Patterns
from sightline.config.errors import ConfigError
from sightline.engine.distributed.processes import JoinedProcesses
from sightline.engine.tensor_names import matching_layers

M = TypeVar("M", bound=nn.Module)


class FsdpConfig(Config):
    """How ``strategy=fsdp`` gathers weights."""

    layers: Patterns = ()
    """Patterns on names of layers, such as ``layers.*``: their weights are gathered only while the layer computes. All
    others are gathered together, and held for the whole of a step. A layer inside of one that fits goes with it."""


def is_sharded(tensor: Tensor) -> bool:
    """Whether a process holds only a part of it."""
    return hasattr(tensor, "to_local")


def own_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process holds of tensors, in the same memory: all of a tensor that is not in shards."""
    with torch.no_grad():
        return [cast(Any, tensor).to_local() if is_sharded(tensor) else tensor for tensor in tensors]


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, which call this together."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        gathered: Tensor = cast(Any, tensor).full_tensor()
    return gathered


class Sharding:
    """How a training is cut, and the task made whole again.

    Args:
        config: Which layers are gathered on their own.
        device: Where the shards are.
        processes: Those that train together.
        same_statistics: Running statistics are the same in all processes anyway; else those of the first one count.
    """

    def __init__(
        self, config: FsdpConfig, *, device: torch.device, processes: JoinedProcesses, same_statistics: bool
    ) -> None:
        self.config = config
        self.device = device
        self.processes = processes
        self.same_statistics = same_statistics
        self._skeleton: Any = None

    def check(self, task: nn.Module) -> None:
        """Refuse early what ``cut_task`` cannot do.

        Raises:
            ConfigError: If a pattern fits no layer, or a weight cannot be cut.
        """
        for name, parameter in task.named_parameters():
            if parameter.dim() == 0:
                raise ConfigError(
                    f"strategy=fsdp: the parameter {name} is a single number without a dimension, which cannot be cut. "
                    "Give it the shape (1,), or use strategy=ddp."
                )
        for name, layer in self._layers(task).items():
            inside = {id(parameter) for parameter in layer.parameters()}
            for other, parameter in task.named_parameters(remove_duplicate=False):
                if id(parameter) in inside and not other.startswith(f"{name}."):
                    raise ConfigError(
                        f"fsdp.layers: {name} shares a weight with {other}, so it cannot be gathered on its own. Name "
                        "a layer that holds both."
                    )

    def _layers(self, task: nn.Module) -> dict[str, nn.Module]:
        """Those to gather on their own: the outermost that fit and that are called; lists of layers are not."""
        fitting = matching_layers(task, self.config.layers, key="fsdp.layers")
        called = {name: layer for name, layer in fitting.items() if type(layer).forward is not nn.Module.forward}
        return {
            name: layer for name, layer in called.items() if not any(name.startswith(f"{outer}.") for outer in called)
        }

    def cut_task(self, task: nn.Module) -> None:
        """Leave this process its part of every weight, in place; the weights must be the same in all processes."""
        from torch.distributed.fsdp import fully_shard

        layers = [*self._layers(task).values(), task]
        shapes: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in task.parameters()}
        shapes |= {id(buffer): buffer.to("meta") for buffer in task.buffers()}
        self._skeleton = copy.deepcopy(task, shapes)
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        mesh = self.processes.mesh(self.device)
        for layer in layers:  # the task last: it takes what is left
            fully_shard(layer, mesh=mesh)
        for layer in cast(Any, layers):  # PyTorch 2.8 lays out unequal parts anew at their first use
            layer.unshard()
            layer.reshard()
        if hasattr(task, "set_reduce_scatter_unused_params"):  # gradients meet also where a process has none
            cast(Any, task).set_reduce_scatter_unused_params(True)
        if not self.same_statistics:
            task.register_forward_pre_hook(lambda task, _: self.processes.spread(list(task.buffers())))

    def cut(self, tensor: Tensor, like: Tensor) -> Tensor:
        """A whole tensor as one in shards, cut as another one is; this process's part is a copy.

        Args:
            tensor: The same in all processes.
            like: Of the same shape. Where it is whole, so is what comes back.
        """
        if not is_sharded(like):
            return tensor.to(like.device)
        from torch.distributed.tensor import DTensor

        cut: Any = like
        share = self.processes.share
        parts = tensor.contiguous().chunk(share.count)
        own = parts[share.rank] if share.rank < len(parts) else tensor[:0]
        return DTensor.from_local(
            own.to(self.device, copy=True),
            cut.device_mesh,
            cut.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )

    @contextmanager
    def gathered(self, task: M, tensors: Mapping[str, Tensor]) -> Iterator[M]:
        """A second task with whole weights, for as long as the context lasts. All processes enter it together.

        Args:
            task: The one in shards.
            tensors: The weights and statistics, named as in ``task.state_dict()``.
        """
        replica = self._skeleton.to_empty(device=self.device)
        with torch.no_grad():
            buffers = dict(task.named_buffers(remove_duplicate=False))
            for name, own in replica.named_buffers(remove_duplicate=False):
                own.copy_(buffers[name])
            own_state = replica.state_dict()
            for name, tensor in tensors.items():
                own_state[name].copy_(whole(tensor))
        try:
            yield replica
        finally:
            self._skeleton = replica.to("meta")
