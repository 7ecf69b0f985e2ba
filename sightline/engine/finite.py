"""Non-finite losses and gradients: noticed without making the device wait, named with step and samples.

The optimizer step is skipped on the device itself, so weights stay clean even where the host looks only now and
then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


class NonFiniteError(FloatingPointError):
    """A loss or gradient became NaN or infinite, and the policy is to stop."""


class _Look(NamedTuple):
    """One step as it was seen; ``is_bad`` has an entry per name and is still on the device."""

    step: int
    sample_ids: tuple[int, ...]
    names: list[str]
    is_bad: Tensor


class FiniteGuard:
    """Looks at every step: at once on a CPU, every ``period`` steps on a GPU, where each look waits for the device.

    Args:
        policy: ``stop`` ends the run, naming the step and its samples; ``skip`` leaves the step out, puts running
            statistics back as they were before it, and goes on.
        device: Where losses are.
        buffers: Running statistics that a bad batch would spoil. They are kept aside under ``skip`` alone.
        period: Steps between two looks on a GPU under ``stop``.
        limit: Under ``skip``, so many bad steps in a row end the run all the same.
    """

    def __init__(
        self,
        policy: Literal["stop", "skip"],
        *,
        device: torch.device,
        buffers: Sequence[Tensor] = (),
        period: int = 50,
        limit: int = 20,
    ) -> None:
        self.policy = policy
        self.limit = limit
        self.skipped = 0
        """Steps left out so far."""
        self._in_a_row = 0
        self._is_cpu = device.type == "cpu"
        self._period = 1 if policy == "skip" else period
        self._buffers = list(buffers) if policy == "skip" else []
        self._clean = [buffer.clone() for buffer in self._buffers]
        self._looks: list[_Look] = []

    def look(
        self,
        window: Sequence[tuple[Mapping[str, Tensor], float]],
        grad_norm: Tensor | None,
        *,
        step: int,
        sample_ids: tuple[int, ...],
    ) -> Tensor | None:
        """Judge a step before the optimizer takes it.

        Args:
            window: The losses of its micro-batches.
            grad_norm: () before clipping, or None.
            step: Steps taken before it.
            sample_ids: Its samples.

        Returns:
            () float32 on the device, 1 to leave the step out; None where it is known to be good.

        Raises:
            NonFiniteError: Under ``stop``, or after too many bad steps in a row.
        """
        if self._is_cpu:
            good = all(math.isfinite(value.item()) for losses, _ in window for value in losses.values())
            if good and (grad_norm is None or math.isfinite(grad_norm.item())):
                self._keep()
                return None
        names = [name for losses, _ in window for name in losses]
        values = [value.detach().float() for losses, _ in window for value in losses.values()]
        if grad_norm is not None:
            names.append("gradient norm")
            values.append(grad_norm.float())
        is_bad = ~torch.isfinite(torch.stack(values))  # (names,)
        self._looks.append(_Look(step, sample_ids, names, is_bad))
        found_inf = is_bad.any().float()
        if self._is_cpu or len(self._looks) >= self._period:
            self.check()
        return found_inf

    def check(self) -> None:
        """Ask the device about all steps since the last look. To be called before every checkpoint too.

        Raises:
            NonFiniteError: As ``look``.
        """
        looks, self._looks = self._looks, []
        for look in looks:
            if not bool(look.is_bad.any()):
                self._keep()
                continue
            self.skipped += 1
            self._in_a_row += 1
            for buffer, clean in zip(self._buffers, self._clean, strict=True):
                buffer.copy_(clean)
            if self.policy == "stop" or self._in_a_row >= self.limit:
                raise NonFiniteError(self._message(look))

    def _keep(self) -> None:
        """The step was good: remember its running statistics."""
        self._in_a_row = 0
        for buffer, clean in zip(self._buffers, self._clean, strict=True):
            clean.copy_(buffer)

    def _message(self, look: _Look) -> str:
        guilty = [name for name, is_bad in zip(look.names, look.is_bad.tolist(), strict=True) if is_bad]
        shown = ", ".join(str(i) for i in look.sample_ids[:16]) + (" ..." if len(look.sample_ids) > 16 else "")
        in_a_row = f" ({self._in_a_row} bad steps in a row)" if self._in_a_row > 1 else ""
        names = ", ".join(dict.fromkeys(guilty))
        return (
            f"{names} became NaN or infinite at step {look.step}{in_a_row}; samples {shown}.\n"
            "  Try a lower lr, a longer warm-up, look at these samples, or leave such steps out: on_nonfinite=skip."
        )

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` gave, and the buffers as they are now."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
        for buffer, clean in zip(self._buffers, self._clean, strict=True):
            clean.copy_(buffer)
