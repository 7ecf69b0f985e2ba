"""Number formats of a step: autocast, the loss scaler of fp16, memory format, and deterministic kernels."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from operator import add
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from sightline.config.base import Config
from sightline.config.errors import ConfigError, RunError

PrecisionName = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ScalerConfig(Config):
    """Dynamic scaling of the loss, so that small fp16 gradients do not become 0."""

    initial: PositiveFloat = 65536.0
    """First scale."""
    growth: PositiveFloat = 2.0
    """Factor after ``growth_interval`` updates without an infinite gradient."""
    backoff: PositiveFloat = 0.5
    """Factor after an infinite gradient."""
    growth_interval: PositiveInt = 2000
    """Updates without an infinite gradient before the scale grows."""


class LossScaler:
    """Scales losses up and gradients down, and skips updates whose gradients overflowed.

    All of its state are tensors on the device, so no step waits for the device.

    Args:
        config: The numbers of the rule.
        device: Where the gradients are.

    Reference:
        Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2; the rule is that of
        ``torch.amp.GradScaler``.
    """

    def __init__(self, config: ScalerConfig, device: torch.device) -> None:
        self.config = config
        self._scale = torch.full((), config.initial, dtype=torch.float32, device=device)
        self._growth_tracker = torch.zeros((), dtype=torch.int32, device=device)
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def scale_factor(self) -> float:
        """The present scale. Reading it waits for the device."""
        return float(self._scale.item())

    @property
    def skipped(self) -> int:
        """Updates skipped so far. Reading it waits for the device."""
        return int(self._skipped.item())

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward`` on."""
        return loss * self._scale

    def unscale(self, gradients: list[Tensor]) -> Tensor:
        """Divide the gradients, in place, by the scale.

        Returns:
            () float32: 1 where one of them is NaN or infinite, else 0. It goes to ``Optimizer.step`` and ``update``.
        """
        inverse = self._scale.double().reciprocal().float()
        found_inf = torch.zeros_like(self._scale)
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for gradient in gradients:
            by_dtype.setdefault(gradient.dtype, []).append(gradient)
        with torch.no_grad():
            for members in by_dtype.values():
                torch._amp_foreach_non_finite_check_and_unscale_(members, found_inf, inverse)
        return found_inf

    def update(self, found_inf: Tensor) -> None:
        """Lower the scale after an overflow; raise it after a long time without."""
        torch._amp_update_scale_(
            self._scale,
            self._growth_tracker,
            found_inf,
            self.config.growth,
            self.config.backoff,
            self.config.growth_interval,
        )
        self._skipped += found_inf.to(torch.int64)

    def state_tensors(self) -> dict[str, Tensor]:
        """The live state by name. Copy before the next update."""
        return {"scale": self._scale, "growth_tracker": self._growth_tracker, "skipped": self._skipped}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that ``state_tensors`` gave, bit for bit.

        Raises:
            RunError: If an entry is missing or unknown.
        """
        own = self.state_tensors()
        if own.keys() != tensors.keys():
            raise RunError(
                f"loss scaler state: expected {', '.join(own)}, got {', '.join(tensors) or 'nothing'}. "
                "Resume with the precision of the run."
            )
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


class Precision:
    """In which number format a step computes. Weights, optimizer and average stay in float32.

    Args:
        name: fp32; bf16 or fp16 for the operations that torch's autocast lists.
        device: Where the step runs.
        scaler: The loss scaler's numbers; used in fp16 alone.

    Raises:
        ConfigError: If the device cannot compute in this format.
    """

    def __init__(self, name: PrecisionName, device: torch.device, *, scaler: ScalerConfig | None = None) -> None:
        if name != "fp32":
            if not torch.amp.is_autocast_available(device.type):
                raise ConfigError(f"precision: {name!r} is not possible on device {device.type!r}. Use precision=fp32.")
            if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
                raise ConfigError(f"precision: {torch.cuda.get_device_name(device)} has no bf16. Use precision=fp16.")
        self.name = name
        self.device = device
        self.dtype = _DTYPES[name]
        self.scaler = LossScaler(scaler or ScalerConfig(), device) if name == "fp16" else None
        self._nothing: AbstractContextManager[None] = nullcontext()

    def autocast(self) -> AbstractContextManager[object]:
        """The context of one forward pass. May be nested. Leave it before ``backward``."""
        if self.name == "fp32":
            return self._nothing
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, losses: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Add the gradient of the sum of the losses, times ``weight``, to the parameters' gradients.

        In fp16 the gradients are scaled up until ``unscale``.
        """
        total = reduce(add, losses.values())
        if weight != 1.0:
            total = total * weight
        if self.scaler is not None:
            total = self.scaler.scale(total)
        total.backward()  # type: ignore[no-untyped-call]

    def unscale(self, gradients: list[Tensor]) -> Tensor | None:
        """Bring the gradients of a full window to their true size, in place, before the norm is taken.

        Returns:
            In fp16, () float32: 1 where a gradient overflowed, for ``Optimizer.step`` and ``update``. Overflows are
            part of fp16 and no reason to stop. Else None.
        """
        return None if self.scaler is None else self.scaler.unscale(gradients)

    def update(self, found_inf: Tensor | None) -> None:
        """After the step: let the loss scale follow what ``unscale`` found."""
        if self.scaler is not None and found_inf is not None:
            self.scaler.update(found_inf)


def fastest_precision(device: torch.device) -> PrecisionName:
    """bf16 where the device computes in it natively, else fp32.

    It looks at what the processor can do and measures nothing, so one machine always gets one answer.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16" if device.type == "cpu" and has_bf16 is not None and has_bf16() else "fp32"


def to_channels_last(module: nn.Module) -> None:
    """Store 4-dimensional weights with channels innermost, in place; convolutions then compute in that layout.

    Call it before the optimizer and the average are built: both copy the layout.
    """
    module.to(memory_format=torch.channels_last)


def choose_kernels(*, deterministic: bool, benchmark: bool | None = None) -> None:
    """Choose kernels that give the same bits every time, or the fastest ones.

    Args:
        deterministic: Whether bits count.
        benchmark: Whether cuDNN tries its kernels on every new shape and keeps the fastest; by default where bits do
            not count, since the kernel that wins may be another one every time.

    With ``deterministic`` an operation that has no such kernel raises RuntimeError. On NVIDIA GPUs the environment
    variable CUBLAS_WORKSPACE_CONFIG=:4096:8 must be set before the process first uses the device. On a CPU equal bits
    also need an equal number of threads.
    """
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic if benchmark is None else benchmark
    direct = getattr(torch._C, "_set_deterministic_algorithms", None)
    if direct is None or "torch._inductor" in sys.modules:
        torch.use_deterministic_algorithms(deterministic)
    else:
        direct(deterministic, warn_only=False)  # the public function does this and loads torch's compiler
