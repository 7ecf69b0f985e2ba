"""All processes of a run, seen from one of them: who it is, and how it agrees with the others.

Only small things travel here, as bytes and numbers; gradients travel in ``DistributedDataParallel``. Nothing is
pickled.
"""

from __future__ import annotations

import gc
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from sightline.engine.distributed.launch import Launch
from sightline.engine.distributed.unused_parameters import all_take_part

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every batch is this process's."""

    rank: int = 0
    count: int = 1


WHOLE = Share()
"""All of it: the only process's."""


class LostProcessError(RuntimeError):
    """Another process of the run is gone; what ended it was said there."""


class Processes:
    """A run of one process: all of the methods return at once what this process has.

    ``JoinedProcesses`` is the same for several. Every method is called by all processes, in the same order.
    """

    share = WHOLE
    find_unused_parameters = False
    """Whether a step may leave parameters out; what ``join`` makes is told so."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, logs and talks."""
        return self.share.rank == 0

    def join(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module to call in a step, so that gradients become means over all processes."""
        return module

    def gradients_meet(self, module: nn.Module, *, now: bool) -> AbstractContextManager[object]:
        """Around forward and backward of a micro-batch; gradients are exchanged only where ``now``."""
        return nullcontext()

    def whole_batch(
        self, losses: Mapping[str, Tensor], samples: int, *, of: int, is_whole: bool
    ) -> Mapping[str, Tensor]:
        """Losses of this share, weighted so that their mean over all processes is the loss of the whole batch.

        Args:
            losses: Scalars.
            samples: How many samples they are means of; of one of k parts that are run one after the other, k times as
                many, since their mean over the parts shall be the loss of the whole batch too.
            of: Samples of the whole batch.
            is_whole: They are weighted so already.
        """
        weight = samples / of
        return losses if is_whole or weight == 1 else {name: value * weight for name, value in losses.items()}

    def mean(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Detached means over all processes of scalars that all of them have."""
        return values

    def tell(self, value: Any) -> Any:
        """The first process's plain JSON-able value, in all processes; the others' is not looked at."""
        return value

    def gather(self, data: bytes) -> list[bytes]:
        """What all processes hand in, in the order of their ranks, at the first one; nothing at the others."""
        return [data]

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""

    def any_asks(self, asks: bool) -> bool:
        """Whether any process asked in the round before this one: all get the same answer, and none waits."""
        return asks

    def any_asks_now(self, asks: bool) -> bool:
        """Whether any process asks now; waits for all of them."""
        return asks

    def wait(self) -> None:
        """Return when all processes have come here."""

    def norm_of_parts(self, norm: Tensor) -> Tensor:
        """The Euclidean norm of what all processes hold, from that of what this one does; () each."""
        return norm

    def largest(self, value: Tensor) -> Tensor:
        """The largest of the processes' scalars."""
        return value


ALONE = Processes()


class JoinedProcesses(Processes):
    """Several processes.

    Args:
        launch: Who this one is and where they meet.
        patience_s: How long any of them may be late.
        may_shard: Whether they may train in shards.
    """

    def __init__(self, launch: Launch, *, patience_s: float = 600.0, may_shard: bool = False) -> None:
        # Their functions have the group that exists at import as default argument. Imported afterwards, as DDP does,
        # they keep the group and its threads beyond close(), and the end of the interpreter can abort or hang on these.
        import torch.distributed.nn.functional

        if may_shard:
            import torch.distributed.fsdp

        os.environ.update(
            RANK=str(launch.rank),
            WORLD_SIZE=str(launch.count),
            MASTER_ADDR=launch.address,
            MASTER_PORT=str(launch.port),
        )
        patience = timedelta(seconds=patience_s)
        # An elastic agent keeps its store when it starts processes anew: without a name for each start, they may find
        # the addresses of those that died.
        store, rank, count = next(dist.rendezvous("env://", timeout=patience))  # type: ignore[attr-defined]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=dist.PrefixStore(f"start-{launch.restarts}-of-{count}", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=count,
            timeout=patience,
        )
        self.share = Share(launch.rank, launch.count)
        self._asked = torch.zeros(1)
        self._asking: dist.Work | None = None
        self._mesh: DeviceMesh | None = None

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All processes in a row, as ``fully_shard`` wants them."""
        from torch.distributed.device_mesh import init_device_mesh

        if self._mesh is None:
            self._mesh = init_device_mesh(device.type, (self.share.count,))
        return self._mesh

    def join(self, module: nn.Module, device: torch.device) -> nn.Module:
        """``DistributedDataParallel`` round the module; all start with the first process's weights."""
        from torch.nn.parallel import DistributedDataParallel

        ids = (
            [device.index if device.index is not None else torch.cuda.current_device()]
            if device.type == "cuda"
            else None
        )
        # In channels-last, gradients of 1x1 convolutions have other strides than their weights, for the same memory.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        may_be_unused = self.find_unused_parameters
        return DistributedDataParallel(
            module, device_ids=ids, gradient_as_bucket_view=True, find_unused_parameters=may_be_unused
        )

    def gradients_meet(self, module: nn.Module, *, now: bool) -> AbstractContextManager[object]:
        """No exchange inside where it is not due."""
        in_shards: Callable[[bool], None] | None = getattr(module, "set_requires_gradient_sync", None)
        if in_shards is not None:
            in_shards(now)
            return nullcontext()
        if now:
            return all_take_part(cast("DistributedDataParallel", module))
        context: AbstractContextManager[object] = module.no_sync()  # type: ignore[operator]
        return context

    def whole_batch(
        self, losses: Mapping[str, Tensor], samples: int, *, of: int, is_whole: bool
    ) -> Mapping[str, Tensor]:
        """By the number of samples; nothing for a process that has none, whose means are NaN."""
        if samples == 0:
            return {name: value.nan_to_num(0.0) * 0.0 for name, value in losses.items()}
        weight = samples * self.share.count / of
        return losses if is_whole or weight == 1 else {name: value * weight for name, value in losses.items()}

    def mean(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One exchange for all of them."""
        table = torch.stack([value.detach().float() for value in values.values()])
        dist.all_reduce(table)
        return dict(zip(values, (table / self.share.count).unbind(), strict=True))

    def tell(self, value: Any) -> Any:
        """As JSON."""
        return json.loads(self._broadcast(json.dumps(value).encode() if self.is_first else b""))

    def _broadcast(self, data: bytes) -> bytes:
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0)
        table = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.is_first and data else None
        if table is None:
            table = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(table, 0)
        return bytes(table.numpy())

    def gather(self, data: bytes) -> list[bytes]:
        """Sizes first, then bytes filled up to the largest."""
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.share.count)]
        dist.all_gather(sizes, torch.tensor([len(data)]))
        longest = max(int(size) for size in sizes)
        own = torch.zeros(longest, dtype=torch.uint8)
        if data:
            own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        parts = [torch.empty_like(own) for _ in sizes] if self.is_first else None
        dist.gather(own, parts)
        return [bytes(part[: int(size)].numpy()) for part, size in zip(parts or [], sizes, strict=False)]

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """One after the other, on the devices they are on."""
        for tensor in tensors:
            flat = tensor.detach()
            dense = flat if flat.is_contiguous() else flat.contiguous()
            dist.broadcast(dense, 0)
            if dense is not flat:
                with torch.no_grad():
                    flat.copy_(dense)

    def any_asks(self, asks: bool) -> bool:
        """The exchange begun in the round before has had a step's time to arrive."""
        answer = False
        if self._asking is not None:
            self._asking.wait()
            answer = bool(self._asked)
        self._asked = torch.tensor([float(asks)])
        self._asking = dist.all_reduce(self._asked, async_op=True)
        return answer

    def any_asks_now(self, asks: bool) -> bool:
        """An exchange that all wait for."""
        flag = torch.tensor([float(asks)])
        dist.all_reduce(flag)
        return bool(flag)

    def wait(self) -> None:
        """By the slowest. What was asked last is heard too: an exchange left open can abort the end of a process."""
        dist.barrier()
        if self._asking is not None:
            self._asking.wait()
            self._asking = None

    def norm_of_parts(self, norm: Tensor) -> Tensor:
        """From the sum of squares."""
        squared = norm.square()
        dist.all_reduce(squared)
        return squared.sqrt()

    def largest(self, value: Tensor) -> Tensor:
        """One exchange."""
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value

    def close(self) -> None:
        """Leave the others. What was trained in shards is not to be used any more."""
        if self._mesh is not None:  # kept by torch's caches, and keeps the group
            getattr(self._mesh, "_pg_registry", {}).clear()
            self._mesh = None
        gc.collect()  # a wrapped module keeps it too
        if dist.is_initialized():
            dist.destroy_process_group()


_EXCHANGE = re.compile(r"gloo|NCCL|ProcessGroup|TCPStore|Connection (closed|reset) by peer|Broken pipe")


def is_lost(error: BaseException) -> bool:
    """Whether an error only says that another process does not answer."""
    kind = getattr(dist, "DistError", None)  # there is none without distributed torch
    return (
        isinstance(error, LostProcessError)
        or (kind is not None and isinstance(error, kind))
        or (isinstance(error, RuntimeError) and _EXCHANGE.search(str(error)) is not None)
    )
