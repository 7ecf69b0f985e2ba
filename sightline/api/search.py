"""Search for better values of some keys: many runs, as few at a time as the machine has room for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sightline.api.configuration import PathLike
from sightline.api.output import check_output_folder
from sightline.api.search_plan import SEARCH_FILE, Decides, Plan, agreed_plan, make_plan, settings, write_trial_file
from sightline.api.session import StoppedError
from sightline.api.table import Table
from sightline.api.training import stoppable
from sightline.api.trials import (
    LOOK_SECONDS,
    ORPHANS,
    SearchError,
    Trial,
    TrialResult,
    is_judged,
    result_of_done,
    result_of_failed,
    trial_name,
    trials_gone,
)
from sightline.config.errors import ConfigError, RunError
from sightline.config.exit_codes import STOPPED
from sightline.config.printable import counted, printable
from sightline.search.proposals import Method

if TYPE_CHECKING:
    from sightline.engine.stop import StopRequest

TRIALS_FILE, BEST_FILE = "trials.jsonl", "best.yaml"


@dataclass(frozen=True)
class SearchResult:
    """A search that ended: all trials are judged (exit code 0), or it was stopped on request (3)."""

    folder: Path
    exit_code: int
    trials: Sequence[TrialResult]
    """Those that are judged, by their number."""
    metric: str
    """What decides; ``figure`` where that is the first figure of the evaluation."""
    direction: str = "max"
    wanted: int = 0
    """How many trials there are to be."""

    @property
    def ranking(self) -> list[TrialResult]:
        """Best first; of equals the earlier one; failed trials last."""
        sign = 1 if self.direction == "min" else -1
        done = sorted(
            (one for one in self.trials if one.figure is not None), key=lambda one: sign * (one.figure or 0.0)
        )
        return [*done, *(one for one in self.trials if one.figure is None)]

    @property
    def best(self) -> TrialResult | None:
        """The best trial; None where none is done."""
        return next((one for one in self.ranking if one.figure is not None), None)

    @property
    def best_file(self) -> Path | None:
        """Change file of the best trial, for ``train``."""
        return None if self.best is None else self.folder / BEST_FILE

    def table(self) -> Table:
        """A row for each trial, best first."""
        keys = list(self.trials[0].values) if self.trials else []
        rows = [
            (
                str(one.trial),
                _figure(one.figure),
                *(_shown(one.values[key]) for key in keys),
                "failed" if one.figure is None else "",
            )
            for one in self.ranking
        ]
        return Table(("trial", self.metric, *keys, ""), rows)

    def __str__(self) -> str:
        """The table, why trials failed, and what to type next."""
        return "\n".join([str(self.table()), *self.failures(), self.last_words()])

    def last_words(self) -> str:
        """Which trial is the best, and what to type next."""
        lines = []
        if self.best is not None:
            lines.append(
                f"best: trial {self.best.trial}. Train with its values: sightline train {_path(self.best_file)}"
            )
        if self.exit_code == STOPPED:
            how = f"sightline search --out {_path(self.folder)}"
            lines.append(f"stopped: {len(self.trials)} of {self.wanted} trials are judged. Go on with: {how}")
        return "\n".join(lines)

    def failures(self) -> list[str]:
        """A line for each trial that failed."""
        return [f"trial {one.trial} failed: {printable(one.failure, limit=200)}" for one in self.trials if one.failure]


def _path(path: Path | None) -> str:
    return quote(str(path))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _shown(value: Any) -> str:
    return printable(f"{value:g}" if isinstance(value, float) else value)


def search(
    recipe: str | Path | None = None,
    changes: Sequence[str] = (),
    *,
    out: PathLike,
    space: PathLike | Mapping[str, str] | None = None,
    data: PathLike | None = None,
    trials: int | None = None,
    metric: str | None = None,
    jobs: int = 1,
    method: Method | None = None,
    generation: int | None = None,
    seed: int | None = None,
    say: Callable[[str], None] = print,
) -> SearchResult:
    """Train with many values of some keys, and find the best.

    What a trial tries depends on the seed, its number and the results of the generations before it, and on nothing
    else. So a search that was stopped or killed goes on with the same trial, from where that stands, when it is called
    again; and it ends with the values and figures of one that never was.

    Args:
        recipe: Name of a recipe, or a change file. None goes on with the search in ``out``.
        changes: ``key=value`` texts; a value such as ``log(1e-4, 1e-1)`` is a range.
        out: Folder of the search. Every trial is a run in it.
        space: More ranges: a YAML file, or a mapping, of keys to texts such as ``uniform(0.8, 0.98)``.
        data: Data set; without it the built-in world, or what the recipe names.
        trials: How many, 24 at first; a search may be called again with more.
        metric: The figure that decides, of the best evaluation of each trial; what ``evaluate.best`` says without it.
        jobs: So many trials at once, each on its share of the CPU.
        method: ``evolve``, the default: after the first generation, a trial changes one of the best before it;
            ``random``: all are spread over the space.
        generation: Trials of a generation, 8 by default.
        seed: Decides what is drawn, 0 by default.
        say: Called with each line about a trial.

    Raises:
        ConfigError: If a key, range or value is wrong; before the first trial wherever that can be known.
        RunError: If ``out`` holds something else.
        SearchError: If a trial failed for a reason outside of it, or all have failed.
        StoppedError: If a stop was asked for before the first trial.
    """
    from sightline.engine.distributed.launch import find_launch

    if find_launch() is not None:
        raise ConfigError("search: start it once, not under a launcher; every trial starts its own processes.")
    folder = Path(out).expanduser()
    decides = Decides(space, data, metric, method, generation, seed)
    if recipe is None and (changes or any(one is not None for one in decides)):
        raise ConfigError(f"search: which recipe? To go on with a search as it is: --out {quote(str(folder))} alone.")
    check_output_folder(folder)
    with stoppable(None, "The same command goes on.") as stop:
        given = None if recipe is None else make_plan(recipe, changes, decides, jobs=jobs)
        plan = agreed_plan(given, folder, trials=trials, jobs=jobs)
        plan.refuse_wrong()
        stop.say = say
        stop.watch_file(folder)
        with stop.patiently():
            return _search_in(folder, plan, jobs, stop)


def _search_in(folder: Path, plan: Plan, jobs: int, stop: StopRequest) -> SearchResult:
    """Search in a folder that is made, or taken back where no trial was begun."""
    from sightline.engine.run_folder.folder import remove_if_unused
    from sightline.engine.run_folder.lock import RunLock

    folder.mkdir(parents=True, exist_ok=True)
    writer = RunLock(folder).acquire()
    try:
        with trials_gone(folder, stop) as lock:
            result = _Search(plan, folder, jobs, stop, lock).run()
    finally:
        if not _is_begun(folder):
            for path in [*folder.glob("trial_*.yaml"), folder / SEARCH_FILE, folder / ORPHANS]:
                path.unlink(missing_ok=True)
        writer.release()
        remove_if_unused(folder)
    if not _is_begun(folder):
        raise StoppedError("stopped before the first trial. Nothing was begun: start it again.")
    return result


def _is_begun(folder: Path) -> bool:
    """Whether a trial was begun, so that there is something to go on with."""
    return (folder / TRIALS_FILE).exists() or any(path.is_dir() for path in folder.glob("trial_*"))


class _Search:
    """One session of a search."""

    def __init__(self, plan: Plan, folder: Path, jobs: int, stop: StopRequest, lock: int | None) -> None:
        self.plan, self.folder, self.jobs, self.stop, self.lock = plan, folder, jobs, stop, lock
        self.proposals = plan.proposals()
        self.told: list[TrialResult] = []
        """Results in order, without a gap; what ``trials.jsonl`` holds."""
        self.early: dict[int, TrialResult] = {}
        """Results of trials that ended before one of a smaller number."""
        self.running: list[Trial] = []

    def run(self) -> SearchResult:
        """Run all trials that are not judged yet, or as many as there is time for."""
        self._read_back()
        self.plan.write(self.folder)
        try:
            while not self.stop() and (self._fill() or self.running):
                self._look()
                time.sleep(LOOK_SECONDS)
            self._wind_down()
        except (ConfigError, SearchError):
            self.stop.ask("the search cannot go on")
            self._wind_down()
            raise
        finally:
            for trial in self.running:
                trial.kill()
                trial.close()
        result = self._result()
        if result.exit_code == 0 and result.best is None:
            raise SearchError("\n".join([*result.failures()[:4], f"all {counted(len(self.told), 'trial')} failed."]))
        return result

    def _result(self) -> SearchResult:
        is_done = len(self.told) >= self.plan.trials
        metric = self.plan.by.metric or "figure"
        return SearchResult(
            self.folder,
            0 if is_done else STOPPED,
            tuple(self.told),
            metric,
            direction=self.plan.by.direction or "max",
            wanted=self.plan.trials,
        )

    def _read_back(self) -> None:
        """What earlier sessions have judged."""
        for result in read_trials(self.folder / TRIALS_FILE):
            about = self._about(len(self.told))
            if {key: getattr(result, key) for key in about} != about:
                raise RunError(
                    f"{printable(self.folder / TRIALS_FILE)}:{len(self.told) + 1}: this is not what trial "
                    f"{len(self.told)} of the search tries: {settings(about['values'])}. Put the right file back, or "
                    "give another folder: --out DIR"
                )
            self._tell(result)

    def _about(self, trial: int) -> dict[str, Any]:
        proposal = self.proposals.propose(trial)
        return {"trial": trial, "parent": proposal.parent, "values": self.plan.values(proposal)}

    def _fill(self) -> bool:
        """Begin as many trials as may run; whether there is still one that is not judged."""
        for trial in range(len(self.told), self.plan.trials):
            if len(self.running) >= self.jobs or not self.proposals.is_open(trial):
                break
            if trial in self.early or any(trial == one.number for one in self.running):
                continue
            self._begin(trial)
        return len(self.told) < self.plan.trials

    def _begin(self, trial: int) -> None:
        run_dir = self.folder / trial_name(trial)
        if is_judged(run_dir):
            self._judged(result_of_done(run_dir, self.plan.by, self._about(trial)))
            return
        proposal = self.proposals.propose(trial)
        try:
            self.plan.refuse(proposal)
        except ConfigError as error:  # of changed copies: the values do not fit each other
            self._judged(TrialResult(**self._about(trial), failure=str(error)))
            return
        write_trial_file(self.folder / f"{trial_name(trial)}.yaml", self.plan.change_file(proposal))
        self.running.append(Trial(self.folder, trial, self.lock))

    def _look(self) -> None:
        """See which trials have ended, and judge them."""
        for trial in list(self.running):
            code = trial.exit_code()
            if code is None or (code < 0 and not self.stop() and trial.go_on()):
                continue
            self.running.remove(trial)
            with contextlib.closing(trial):
                if code == 0:
                    self._judged(result_of_done(trial.run_dir, self.plan.by, self._about(trial.number)))
                elif code == STOPPED:
                    self.stop.ask(f"{trial_name(trial.number)} was stopped")
                elif not self.stop():  # what is being stopped may fail in many ways, and is gone on with
                    self._judged(result_of_failed(trial, code, self._about(trial.number)))

    def _wind_down(self) -> None:
        """Let the trials that still run save and stop."""
        for trial in self.running:
            trial.stop()
        while self.running:
            self._look()
            time.sleep(LOOK_SECONDS)

    def _judged(self, result: TrialResult) -> None:
        """Take a result; results are written in the order of their trials, so that the file tells no clock."""
        self.early[result.trial] = result
        while (following := self.early.pop(len(self.told), None)) is not None:
            self._tell(following)
            self._write()
            is_best = self._result().best is following
            if is_best:
                self._write_best(following)
            self.stop.say(self._line(following, is_best=is_best))

    def _tell(self, result: TrialResult) -> None:
        sign = -1 if self.plan.by.direction == "min" else 1
        self.told.append(result)
        self.proposals.tell(None if result.figure is None else sign * result.figure)

    def _line(self, result: TrialResult, *, is_best: bool) -> str:
        metric = self.plan.by.metric or "figure"
        what = f"{metric} {_figure(result.figure)}" if result.figure is not None else "failed"
        tried = settings({key: _shown(value) for key, value in result.values.items()})
        why = f"\n  {printable(result.failure, limit=200)}" if result.failure else ""
        return f"trial {result.trial} of {self.plan.trials}: {what}{' (best so far)' if is_best else ''}  {tried}{why}"

    def _write(self) -> None:
        from sightline.files.atomic_file import replace_file

        lines = [one.model_dump_json() + "\n" for one in self.told]
        replace_file(self.folder / TRIALS_FILE, "".join(lines).encode())

    def _write_best(self, best: TrialResult) -> None:
        path = self.folder / BEST_FILE
        metric = self.plan.by.metric or "figure"
        write_trial_file(
            path,
            self.plan.change_file(self.proposals.propose(best.trial)),
            head=f"trial {best.trial}: {metric} {_figure(best.figure)}. Train with: sightline train {quote(str(path))}",
        )


def read_trials(path: Path) -> Iterator[TrialResult]:
    """Results of a search, in the order of their trials; none where there is no file.

    Raises:
        RunError: If a line is no result; names it.
    """
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield TrialResult.model_validate_json(line)
        except ValidationError as error:
            raise RunError(
                f"{printable(path)}:{number}: no result of a trial. Put the right file back, or give another folder: "
                "--out DIR"
            ) from error
