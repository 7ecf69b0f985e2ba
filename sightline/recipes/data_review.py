"""A look at all the data of a run before it begins: truth, files, classes, shapes and caches."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sightline.config.errors import UserError
from sightline.config.printable import counted, printable
from sightline.data.annotations import Fault, Ints
from sightline.data.draws import epoch_order
from sightline.data.faults import KINDS, by_kind
from sightline.data.formats.source import SplitSource
from sightline.engine.finding import DataReview, Finding, Weight

if TYPE_CHECKING:
    from sightline.engine.run_config import Problem, RunConfig
    from sightline.recipes.data_run import DataRun, SplitDataConfig

LOOK_SECONDS = 10.0
"""Files are looked into for so long; the others are trusted to be what their headers say."""
_AT_ONCE = 32
_PLACES = 2


class _ReadOnce(SplitSource[Any]):
    """A data set whose splits are read once, however often they are asked for."""

    def __init__(self, source: SplitSource[Any]) -> None:
        super().__init__(source.path, source.splits, source.faults)
        self.source = source
        self.held: dict[str, Any] = {}
        self.broken: dict[str, list[Fault]] = {}
        """Of each split, samples that only the whole file shows to be broken. They are among its other faults too."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the data set."""
        return self.source.class_names

    def _read(self, split: str) -> Any:
        if split not in self.held:
            self.held[split] = self.source.read(split)
        return self.held[split]


class SplitReview(ABC):
    """The review of a run's data; a kind of data says how its truth is counted and its files are looked into.

    Args:
        config: The run.
        tell: Called with what is being done.
    """

    noun: ClassVar[str]
    """What the truth consists of: ``box``, ``image``."""
    looked: ClassVar[str]
    """What looking into a file is called: ``decoded``."""

    def __init__(self, config: DataRun, tell: Callable[[str], None] = lambda text: None) -> None:
        self.config = config
        self.tell = tell

    @abstractmethod
    def count(self, truth: Any) -> str:
        """What a split holds, in a few words."""

    @abstractmethod
    def per_class(self, truth: Any) -> Ints:
        """(K,) how much truth there is of each class."""

    @abstractmethod
    def fitting(self, class_names: Sequence[str]) -> tuple[Mapping[str, Any], list[Finding]]:
        """Changes after which the model takes the images, and what is wrong without them."""

    def of_batches(self, train: Any) -> list[Finding]:
        """What is wrong with the batches that the split makes; nothing where a run says nothing else."""
        return []

    @abstractmethod
    def whole_files(self, truth: Any) -> Iterable[int]:
        """Samples whose file can be looked into."""

    @abstractmethod
    def look(self, path: str) -> Fault | None:
        """What is wrong with a file that its truth and header do not show."""

    def caches(self, truths: Sequence[Any]) -> tuple[dict[str, int], dict[Path, int]]:
        """Bytes of memory, by what for, and of disk, by folder, that caches of the splits take."""
        return {}, {}

    def run(self, *, decode: bool) -> DataReview:
        """Everything that can be said about the data.

        Args:
            decode: Look into the files too, for at most ``LOOK_SECONDS``.
        """
        data = self.config.data
        try:
            source = _ReadOnce(self.config.open_data())
        except (UserError, OSError) as error:
            return DataReview(None, [Finding("data", "problem", str(error))])
        findings = [Finding("data", "note", str(fault)) for fault in source.faults]
        evaluated = self.config.evaluated_split(source)
        used = list(dict.fromkeys((data.train_split, evaluated)))
        for split in dict.fromkeys((*used, *source.splits)):
            self.tell(f"reading {split}")
            try:
                source.read(split)
            except UserError as error:
                findings.append(Finding("data", "problem" if split in used else "note", str(error)))
        if decode:
            findings += self._look(source, [split for split in used if split in source.held])
        told: set[str] = set()
        for split in source.held:
            findings += self._of_split(source, split, is_used=split in used, told=told)
        if any(split not in source.held for split in used):
            return DataReview(None, findings)
        findings += self._of_classes(source.held[data.train_split], source.held[evaluated])
        changes, findings_of_size = self.fitting(source.class_names)
        findings += findings_of_size
        findings += self.of_batches(source.held[data.train_split])
        memory, disk = self.caches([source.held[split] for split in used])

        def open_leniently(variant: RunConfig) -> Problem:
            run = cast("DataRun", variant)
            lenient = run.but(**changes, data=self.lenient(run.data))
            return lenient.open_source(source)

        return DataReview(open_leniently, findings, memory, disk)

    def lenient(self, data: SplitDataConfig) -> SplitDataConfig:
        """The same data without what is broken, and without caches."""
        return data.but(on_fault="skip")

    def _look(self, source: _ReadOnce, splits: Sequence[str]) -> list[Finding]:
        """Look into the files of the splits; the broken ones become faults of the truth."""
        places = [(split, i) for split in splits for i in self.whole_files(source.held[split])]
        if not places:
            return []
        order = [places[k] for k in epoch_order(0, 0, len(places))]
        end, done = time.perf_counter() + LOOK_SECONDS, 0
        unit = self.config.unit

        def look(place: tuple[str, int]) -> tuple[str, Fault] | None:
            split, index = place
            fault = self.look(source.held[split].paths[index])
            return None if fault is None else (split, replace(fault, image=index))

        with ThreadPoolExecutor(4) as pool:
            while done < len(order) and time.perf_counter() < end:
                self.tell(f"looking into {unit}s, {done:,} of {len(order):,}")
                for found in pool.map(look, order[done : done + _AT_ONCE]):
                    if found is not None:
                        source.broken.setdefault(found[0], []).append(found[1])
                done = min(done + _AT_ONCE, len(order))
        for split, faults in source.broken.items():
            held = source.held[split]
            faults.sort(key=lambda fault: str(fault.path))
            source.held[split] = replace(held, faults=(*held.faults, *faults))
        if done < len(order):
            text = f"{done:,} of {counted(len(order), unit)} {self.looked}, drawn at random, in {LOOK_SECONDS:g} s"
            return [Finding(f"{unit}s", "note", text, f"look at all: sightline check {_quoted(source.path)}")]
        return [Finding(f"{unit}s", "ok", f"all {counted(len(order), unit)} were {self.looked}")]

    def _of_split(self, source: _ReadOnce, split: str, *, is_used: bool, told: set[str]) -> list[Finding]:
        """Counts of a split and its faults, without those that a split which shares the files has ``told``."""
        truth, broken = source.held[split], source.broken.get(split, [])
        spoilt = {fault.image for fault in truth.faults if fault.fatal and fault.image is not None}
        text = f"{split}: {self.count(truth)}{'' if is_used else '; not used by this run'}"
        weight: Weight = "ok"
        cure, unit = "", self.config.unit
        if is_used and len(spoilt) == len(truth):
            weight, cure = "problem", f"give it {unit}s whose truth can be trusted"
        elif is_used and len(truth.labels) == 0:
            weight, cure = "problem", f"label its {unit}s, or name another split: data.train_split, data.val_split"
        findings = [Finding("labels", weight, text, cure)]
        repair = f"repair them (all are listed by: sightline check {_quoted(source.path)})"
        faults = [fault for fault in truth.faults[: len(truth.faults) - len(broken)] if str(fault) not in told]
        told.update(map(str, faults))
        for group in by_kind(faults).values():
            counts = is_used and group[0].fatal
            weight = "problem" if counts and self.config.data.on_fault == "refuse" else "note"
            cure = f"{repair} or leave such {unit}s out with data.on_fault=skip" if counts else ""
            findings.append(Finding("labels", weight, _told(split, group), cure))
        for group in by_kind(broken).values():
            findings.append(Finding(f"{unit}s", "problem", _told(split, group), repair))
        return findings

    def _of_classes(self, train: Any, val: Any) -> list[Finding]:
        """Classes that cannot be learned, or not be measured, and samples that are in both splits."""
        findings = []
        for held, what in ((train, "learned"), (val, "measured")):
            counts = zip(held.class_names, self.per_class(held), strict=True)
            missing = [printable(name) for name, count in counts if not count]
            if missing and len(held.labels):
                shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
                text = f"{held.name.rsplit('/', 1)[-1]}: no {self.noun} of {shown}: this cannot be {what}"
                findings.append(Finding("classes", "note", text))
        shared = set(train.paths) & set(val.paths)
        if shared and train.paths is not val.paths:
            count = counted(len(shared), self.config.unit)
            text = f"{count} of {len(val):,} that evaluate are trained on, such as {min(shared)}"
            findings.append(Finding("splits", "note", printable(text, limit=300), "the figures will be too good"))
        return findings


def _told(split: str, faults: Sequence[Fault]) -> str:
    """Faults of one kind: how many, what, and where the first ones are."""
    kind = faults[0].kind
    places = "; ".join(printable(fault, limit=300) for fault in faults[:_PLACES])
    more = f"; ... and {len(faults) - _PLACES:,} more" if len(faults) > _PLACES else ""
    return f"{split}: {counted(len(faults), 'place')} with {kind}: {KINDS[kind]}. {places}{more}"


def _quoted(path: Path) -> str:
    return quote(printable(path))
