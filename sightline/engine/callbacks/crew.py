"""All callbacks of a run as one: calls them in the order of their list, names the one that fails, and times them.

An error of a user's callback becomes a ``CallbackError``. One of ours keeps its kind, since the engine and the command
line know what to do about full disks and losses that are not finite, and carries the name as a note.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.config.printable import printable
from sightline.engine.callback import Callback, EvaluationReport, StepReport
from sightline.engine.stopwatch import OFF, Stopwatch

if TYPE_CHECKING:
    from sightline.engine.loop import Training

MOMENTS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class CallbackError(RuntimeError):
    """A user's callback failed: says which one, at which moment, where in its file, and why."""


class Crew(Callback):
    """The callbacks of a run, called as one.

    Args:
        members: In the order in which they are called. Only those that override a moment are called at it.
        stopwatch: Told who works.
    """

    def __init__(self, members: Sequence[Callback], *, stopwatch: Stopwatch = OFF) -> None:
        self.members = _named(members)
        self._stopwatch = stopwatch
        self._has_ended = False
        self._listeners = {
            moment: [(name, getattr(member, moment)) for name, member in self.members.items() if _has(member, moment)]
            for moment in MOMENTS
        }

    def on_run_start(self, training: Training) -> None:
        """Tell all of them."""
        self._tell("on_run_start", "at the start of the run", training)

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """Tell all of them."""
        self._tell("on_step_end", "at the end of step", training, report)

    def on_epoch_end(self, training: Training, epoch: int) -> None:
        """Tell all of them."""
        self._tell("on_epoch_end", "at the end of an epoch, at step", training, epoch)

    def on_evaluation_start(self, training: Training) -> None:
        """Tell all of them."""
        self._tell("on_evaluation_start", "at the start of an evaluation, at step", training)

    def on_evaluation_end(self, training: Training, report: EvaluationReport) -> None:
        """Tell all of them."""
        self._tell("on_evaluation_end", "at the end of an evaluation, at step", training, report)

    def on_run_end(self, training: Training, outcome: str) -> None:
        """Tell all of them, whichever fails, and only once; then raise the first error."""
        if self._has_ended:
            return
        self._has_ended = True
        first: Exception | None = None
        for listener in self._listeners["on_run_end"]:
            try:
                self._call([listener], "at the end of the run, at step", training, outcome)
            except Exception as error:
                first = error if first is None else first
        if first is not None:
            raise first

    def states(self) -> dict[str, dict[str, Any]]:
        """The state of every member, by its name."""
        found = {}
        for name, member in self.members.items():
            try:
                found[name] = member.state()
                if not _is_ours(member):
                    json.dumps(found[name])
            except Exception as error:
                self._raise_named(name, "when its state was saved", error)
        return found

    def load_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Give every member the state that it had, where it had one."""
        for name, member in self.members.items():
            try:
                if states.get(name):
                    member.load_state(states[name])
            except Exception as error:
                self._raise_named(name, "when it took its state back", error)

    def _tell(self, moment: str, when: str, training: Training, *arguments: Any) -> None:
        self._call(self._listeners[moment], when, training, *arguments)

    def _call(
        self, listeners: Sequence[tuple[str, Callable[..., None]]], when: str, training: Training, *arguments: Any
    ) -> None:
        name, lap = "", self._stopwatch.lap
        try:
            for name, method in listeners:
                before = lap(name)
                method(training, *arguments)
                lap(before)
        except (Exception, SystemExit) as error:  # sys.exit() in a callback is no way to end a run
            self._raise_named(name, f"{when} {training.step}" if when.endswith("step") else when, error)

    def _raise_named(self, name: str, when: str, error: Exception | SystemExit) -> None:
        if isinstance(error, CallbackError):  # of a member that tells others, as an evaluation does
            raise error
        if _is_ours(self.members[name]):
            error.add_note(f"in the callback {name}, {when}")
            raise error
        text = f"the callback {name} failed {when}: {_place(error, self.members[name])}{_words(error)}"
        trace = error.__traceback__
        raise CallbackError(text) from error.with_traceback(trace and trace.tb_next)  # without our own line


def _named(members: Sequence[Callback]) -> dict[str, Callback]:
    """Members by the name of their class; a second one of a class is ``Name 2``."""
    found: dict[str, Callback] = {}
    for member in members:
        kind = type(member).__name__
        number = sum(type(other).__name__ == kind for other in found.values()) + 1
        found[kind if number == 1 else f"{kind} {number}"] = member
    return found


def _has(member: Callback, moment: str) -> bool:
    return getattr(getattr(member, moment), "__func__", None) is not getattr(Callback, moment)


def _is_ours(member: Callback) -> bool:
    return type(member).__module__.partition(".")[0] == "sightline"


def message_of(error: BaseException) -> str:
    """The first line of an error, with the callback in which it came up."""
    text = str(error).partition("\n")[0] or type(error).__name__
    return "; ".join([text, *getattr(error, "__notes__", [])])


def _words(error: BaseException) -> str:
    text = printable(str(error).partition("\n")[0], limit=400)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException, member: Callback) -> str:
    """``my_callbacks.py:14: ``: the last line of the member's own file that was running."""
    file = getattr(sys.modules.get(type(member).__module__), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{printable(Path(file).name)}:{lines[-1]}: " if file and lines else ""
