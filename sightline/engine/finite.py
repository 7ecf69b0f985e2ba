"""Non-finite losses, gradients and weights: noticed without making the device wait, named, and dealt with.

The optimizer step is skipped on the device itself, so weights stay clean even where the host looks only now and
then. Losses and gradients are those of all processes, so all of them come to the same answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sightline.engine.culprit import LOSSES_ALONE
from sightline.engine.distributed.processes import ALONE, Processes
from sightline.engine.rollback import LastGood

Policy = Literal["stop", "skip", "rollback"]
Losses = Mapping[str, Tensor]
AskCulprit = Callable[[bool], str]
"""Finds the first tensor that is not finite; told whether a loss is at fault."""
GRADIENT_NORM = "gradient norm"
SHOWN = 16
"""Samples that a message names."""


class NonFiniteError(FloatingPointError):
    """A loss, gradient or weight became NaN or infinite, and the policy is to stop, or its patience is at an end."""


@dataclass(frozen=True)
class BadStep:
    """A step that was not finite, and what became of it."""

    step: int
    """Steps taken before it."""
    found: tuple[str, ...]
    """Losses, ``gradient norm``, or weights."""
    first: str
    """The first tensor that is not finite, such as ``output of net.0 (Linear)``; empty where it is not known."""
    samples: tuple[int, ...]
    """Of all processes, where it was found at once."""
    action: str
    """``stop``, ``skip`` or ``rollback to step 40``."""

    def __str__(self) -> str:
        shown = ", ".join(str(i) for i in self.samples[:SHOWN]) + (" ..." if len(self.samples) > SHOWN else "")
        first = f"; first in {self.first}" if self.first else ""
        return f"{', '.join(self.found)} became NaN or infinite at step {self.step}; samples {shown}{first}"


class _Look(NamedTuple):
    """One step as it was seen; ``is_bad`` has an entry per name and is still on the device."""

    step: int
    sample_ids: tuple[int, ...]
    names: list[str]
    is_bad: Tensor


class FiniteGuard:
    """Looks at every step: at once on a CPU, every ``period`` steps on a GPU, where each look waits for the device.

    Under ``skip`` and ``rollback`` the host looks at every step, so that what it does depends on nothing else.

    Args:
        policy: ``stop`` ends the run; ``skip`` leaves the step out and puts running statistics back as they were before
            it; ``rollback`` returns to the last good state. The last two go on with the next samples.
        device: Where losses are.
        buffers: Running statistics that a bad batch would spoil. They are kept aside under ``skip`` alone.
        last_good: Under ``rollback``, the state to return to.
        processes: Those that train together.
        period: Steps between two looks on a GPU under ``stop``.
        limit: Under ``skip``, so many bad steps in a row end the run all the same.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        device: torch.device,
        buffers: Sequence[Tensor] = (),
        last_good: LastGood | None = None,
        processes: Processes = ALONE,
        period: int = 50,
        limit: int = 20,
    ) -> None:
        self.policy = policy
        self.limit = limit
        self.last_good = last_good
        self.skipped = 0
        """Steps left out so far."""
        self.rollbacks = 0
        """Returns to a good state so far."""
        self.left_out = False
        """Whether the last step was left out. On a GPU under ``stop`` that is not known."""
        self.tell: Callable[[BadStep], None] = lambda bad: None
        """Called with every bad step, before an error is raised."""
        self._in_a_row = 0
        self._is_cpu = device.type == "cpu"
        self._processes = processes
        self._period = 1 if policy != "stop" else period
        self._buffers = list(buffers) if policy == "skip" else []
        self._clean: list[Tensor] = []
        self.follow_buffers()
        self._window: list[tuple[Losses, AskCulprit | None]] = []
        self._is_good = True
        self._first = ""
        self._looks: list[_Look] = []

    def meet(self, losses: Losses, ask: AskCulprit | None = None) -> None:
        """Take the losses of a micro-batch. On a CPU they are judged at once, while their batch is there.

        Args:
            losses: Scalars, the same in all processes.
            ask: Called if it was a bad step; all processes call theirs together.
        """
        self._window.append((losses, ask if self._period == 1 else None))
        if self._is_cpu and not all(math.isfinite(value.item()) for value in losses.values()):
            if self._is_good and ask is not None:
                self._first = ask(True)
            self._is_good = False

    def look(self, grad_norm: Tensor | None, *, step: int, sample_ids: tuple[int, ...]) -> Tensor | None:
        """Judge a step, of which all micro-batches were met, before the optimizer takes it.

        Args:
            grad_norm: () before clipping, or None.
            step: Steps taken before it.
            sample_ids: Its samples.

        Returns:
            () float32 on the device, 1 to leave the step out; None where it is known to be good.

        Raises:
            NonFiniteError: Under ``stop``, or after too many bad steps in a row.
        """
        window, self._window = self._window, []
        is_good, self._is_good = self._is_good, True
        self.left_out = False
        if self._is_cpu and is_good and (grad_norm is None or math.isfinite(grad_norm.item())):
            self._keep()
            return None
        names = [name for losses, _ in window for name in losses]
        values = [value.detach().float() for losses, _ in window for value in losses.values()]
        if grad_norm is not None:
            names.append(GRADIENT_NORM)
            values.append(grad_norm.float())
        is_bad = ~torch.isfinite(torch.stack(values))  # (names,)
        self._looks.append(_Look(step, sample_ids, names, is_bad))
        found_inf = is_bad.any().float()
        if self._is_cpu or self._period == 1:
            self.left_out = bool(found_inf)
            if self.left_out and not self._first:
                self._first = _first_of(window)
            self.check(together=True)
        elif len(self._looks) >= self._period:
            self.check()
        return found_inf

    def forget_step(self) -> None:
        """The step whose micro-batches were met is begun anew."""
        self._window, self._is_good, self._first = [], True, ""

    def check(self, *, together: bool = False) -> None:
        """Ask the device about all steps since the last look. To be called before every checkpoint too.

        Args:
            together: All processes do it now, and tell each other about their samples.

        Raises:
            NonFiniteError: As ``look``.
        """
        looks, self._looks = self._looks, []
        for look in looks:
            if not bool(look.is_bad.any()):
                self._keep()
                continue
            guilty = [name for name, is_bad in zip(look.names, look.is_bad.tolist(), strict=True) if is_bad]
            guilty = [name for name in guilty if name != GRADIENT_NORM] or guilty  # it follows from a loss
            first, self._first = self._first, ""
            self._judge(look.step, tuple(dict.fromkeys(guilty)), first, look.sample_ids, together=together)
            for buffer, clean in zip(self._buffers, self._clean, strict=True):
                buffer.copy_(clean)

    def keep_or_return(self, step: int, sample_ids: tuple[int, ...]) -> None:
        """Under ``rollback``, after a step: return to the last good state, or remember this one if it is time.

        Args:
            step: Steps taken, this one included.
            sample_ids: Its samples.

        Raises:
            NonFiniteError: If weights are not finite and the limits of rollbacks are reached.
        """
        kept = self.last_good
        if kept is None:
            return
        if self.left_out:
            if kept.step is not None:
                kept.put_back()
            return
        kept.good_steps += 1
        if kept.step is not None and kept.good_steps < kept.config.every_steps:
            return
        bad = kept.bad_tensors() if kept.step is not None else []
        if self._processes.any_asks_now(bool(bad)):
            self.left_out = True
            self._judge(step - 1, ("weights",), bad[0] if bad else "", sample_ids, together=True)
            kept.put_back()
        else:
            kept.keep(step)

    def _judge(
        self, step: int, found: tuple[str, ...], first: str, sample_ids: tuple[int, ...], *, together: bool
    ) -> None:
        """Count a bad step, tell of it, and raise where nothing else is left to do."""
        self.skipped += 1
        self._in_a_row += 1
        action, patience = self._action()
        if together:
            first, sample_ids = self._of_all(first, sample_ids)
        bad = BadStep(step, found, first, sample_ids, action)
        self.tell(bad)
        if action == "stop":
            in_a_row = f" ({self._in_a_row} bad steps in a row)" if self._in_a_row > 1 and not patience else ""
            raise NonFiniteError(f"{bad}.{patience}{in_a_row}\n{self._cure()}")

    def _action(self) -> tuple[str, str]:
        """What to do about a bad step that was just counted, and why it is to stop where the policy is another."""
        kept = self.last_good
        if self.policy == "skip":
            return ("stop" if self._in_a_row >= self.limit else "skip"), ""
        if self.policy == "stop" or kept is None or kept.step is None:
            return "stop", ""
        if kept.returned >= kept.config.most_in_a_row:
            return "stop", f" The run has returned {kept.returned} times to the state of step {kept.step} already."
        if self.rollbacks >= kept.config.most:
            return "stop", f" The run has returned to a good state {self.rollbacks} times already."
        self.rollbacks += 1
        return f"rollback to step {kept.step}", ""

    def _of_all(self, first: str, sample_ids: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """What the processes found, together; known to the first of them."""
        parts = [json.loads(part) for part in self._processes.gather(json.dumps([first, sample_ids]).encode())]
        if not parts:
            return first, sample_ids
        found = list(dict.fromkeys(name for name, _ in parts if name))
        # Where processes differ, the one that saw a module fail knows more than those that saw its consequences.
        named = [name for name in found if name != LOSSES_ALONE] or found
        return "; ".join(named), tuple(int(i) for _, ids in parts for i in ids)

    def _cure(self) -> str:
        others = {
            "stop": "leave such steps out: on_nonfinite=skip, or return to a good state: on_nonfinite=rollback",
            "skip": "return to a good state: on_nonfinite=rollback",
            "rollback": "allow more: rollback.most_in_a_row, rollback.most",
        }
        return f"  Try a lower lr, a longer warm-up, look at these samples, or {others[self.policy]}."

    def _keep(self) -> None:
        """The step was good: remember its running statistics."""
        self._in_a_row = 0
        for buffer, clean in zip(self._buffers, self._clean, strict=True):
            clean.copy_(buffer)

    def follow_buffers(self) -> None:
        """The running statistics are good, and where they shall be."""
        self._clean = [buffer.clone() for buffer in self._buffers]

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        state: dict[str, Any] = {"skipped": self.skipped, "in_a_row": self._in_a_row}
        if self.last_good is not None:
            state |= {"rollbacks": self.rollbacks, "last_good": self.last_good.state()}
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` gave, and the buffers as they are now."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
        self.rollbacks = state.get("rollbacks", 0)
        if self.last_good is not None and "last_good" in state:
            self.last_good.load_state(state["last_good"])
        self.follow_buffers()


def _first_of(window: Sequence[tuple[Losses, AskCulprit | None]]) -> str:
    """What the first bad micro-batch of a step says; the last one where it was the gradient."""
    for losses, ask in window:
        if not all(math.isfinite(value.item()) for value in losses.values()):
            return ask(True) if ask is not None else ""
    ask = window[-1][1] if window else None
    return ask(False) if ask is not None else ""
