"""What every recipe on a data set with splits has in common, whatever its samples are: data, loaders, use."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt

from sightline.config.base import Config
from sightline.config.errors import DataError
from sightline.config.printable import printable
from sightline.data.formats.source import SplitSource
from sightline.data.loader import BatchLoader
from sightline.engine.distributed.processes import WHOLE, Share
from sightline.engine.finding import DataReview
from sightline.engine.run_config import PathText, Problem, RunConfig
from sightline.engine.seed import seed_everything
from sightline.engine.task import Task
from sightline.tasks.trained_model import TrainedModel


class SplitDataConfig(Config):
    """Where samples and their truth come from, and what happens to faulty ones."""

    path: PathText | None = None
    """Data set. None: the built-in world."""
    train_split: str = "train"
    """Part of the data set to train on."""
    val_split: str = "val"
    """Part of the data set to evaluate on."""
    on_fault: Literal["refuse", "skip"] = "refuse"
    """What to do with samples whose file or truth is broken: stop and list them, or leave them out and say how many."""
    drop_last: bool = False
    """Leave out the last training batch of an epoch where it is not full, unless it is the only one; its samples wait
    for another epoch. Validation uses every sample in any case."""
    loader: Literal["threads", "processes"] = "threads"
    """What the workers are."""


class DataRun(RunConfig, abc.ABC):
    """A run on a data set with splits.

    A kind of run says how a split is read, and what task, loaders and statistics are made of it; in the signatures
    below a split is of that kind's own class, a ``data.faults.SplitTruth``.
    """

    unit: ClassVar[str] = "image"
    """What one sample is called."""
    headline: ClassVar[tuple[str, ...]]
    """Figures of an evaluation that a person wants to see first."""
    kept_for_world: ClassVar[tuple[str, ...]] = ()
    """Keys of ``data`` that belong to a data set of the user's and not to the built-in world."""

    eval_batch_size: PositiveInt | None = None
    """Samples per batch of an evaluation; twice the training batch when left out."""
    data: SplitDataConfig = SplitDataConfig()

    def without_effect(self) -> dict[str, str]:
        """The world beside a data set, workers that there are none of, and what the engine says."""
        idle = super().without_effect()
        if self.data.path is not None:
            idle["data.world"] = "the built-in world is not used where data is named (data.path or --data)"
        else:
            reason = "the built-in world is used; it belongs to a data set of yours (--data)"
            idle |= dict.fromkeys((f"data.{key}" for key in self.kept_for_world), reason)
        if self.workers == 0:
            idle["data.loader"] = "the training thread prepares the batches itself (workers=0)"
        return idle

    @abc.abstractmethod
    def open_data(self) -> SplitSource[Any]:
        """The data set, or the built-in world where none is named: a source whose ``read`` gives splits.

        Raises:
            DataError: If there is none that can be read.
        """

    @abc.abstractmethod
    def read_split(self, source: Any, split: str, messages: list[str]) -> Any:
        """A split with its faults dealt with as ``data.on_fault`` says; what was found is added to ``messages``."""

    @abc.abstractmethod
    def build_task(self, val: Any) -> Task:
        """The task for the classes of the split that is evaluated, with fresh weights."""

    @abc.abstractmethod
    def train_loader(self, train: Any, share: Share) -> BatchLoader:
        """Augmented samples, in the order of the seed."""

    @abc.abstractmethod
    def eval_loader(self, val: Any, task: Task, share: Share) -> BatchLoader:
        """Every sample once, plain."""

    @abc.abstractmethod
    def statistics(self, split: Any) -> dict[str, Any]:
        """What the report says of a split, as plain values; ``num_images``, the samples, is among them."""

    @abc.abstractmethod
    def trained_model(self, class_names: Sequence[str]) -> TrainedModel:
        """The model for use on files of a user's, with fresh weights."""

    @abc.abstractmethod
    def describe_model(self, task: Task) -> str:
        """A few words on the size of the model beside the number of its parameters."""

    @abc.abstractmethod
    def review_data(self, *, decode: bool = True, tell: Callable[[str], None] = lambda text: None) -> DataReview:
        """Truth and files of all splits, classes, the shape of the input, and what caches take."""

    @property
    def samples_per_evaluation_batch(self) -> int:
        """``eval_batch_size``, or its default."""
        return self.eval_batch_size if self.eval_batch_size is not None else 2 * self.samples_per_batch

    def open(self, *, training: bool = True, share: Share = WHOLE) -> Problem:
        """Read the truth, build the model for its classes, and the loaders.

        Raises:
            UserError: If the data cannot be used or contradicts the configuration.
        """
        return self.open_source(self.open_data(), training=training, share=share)

    def open_source(self, source: SplitSource[Any], *, training: bool = True, share: Share = WHOLE) -> Problem:
        """As ``open``, of a data set that is open already."""
        messages = [str(fault) for fault in source.faults]
        evaluated = self.evaluated_split(source)
        val = self.read_split(source, evaluated, messages)
        train = self.read_split(source, self.data.train_split, messages) if training else None
        seed_everything(self.seed)
        task = self.build_task(val)
        return Problem(
            task=task,
            train_loader=None if train is None else self.train_loader(train, share),
            eval_loader=self.eval_loader(val, task, share),
            messages=messages,
            facts=self._facts([split for split in (train, val) if split is not None]),
            unit=f"{self.unit}s",
            source=f"{printable(self.data.path or 'the built-in world')}, {printable(evaluated)}",
            headline=self.headline,
            figures=tuple(task.new_metric().compute()),
        )

    def evaluated_split(self, source: SplitSource[Any]) -> str:
        """Name of the part of a data set that is evaluated."""
        return self.data.val_split

    def with_classes(self, class_names: tuple[str, ...]) -> DataRun:
        """The run with the names of the classes given, where its data has no list of them."""
        return self

    def open_trained(self, facts: Mapping[str, Any]) -> Problem:
        """Open the data of an evaluation; it must have the classes of the training, in their order.

        Data without a list of classes is read with the names of the training.
        """
        names = tuple(map(str, facts.get("class_names", ())))
        problem = self.with_classes(names).open(training=False)
        found = tuple(problem.facts["class_names"])
        if found != names:
            assert problem.eval_loader is not None
            problem.eval_loader.close()
            raise DataError(
                f"{printable(self.data.path or 'the built-in world')}: its classes are not those of the run.\n"
                f"  data: {printable(', '.join(found), limit=200)}\n  run:  {printable(', '.join(names), limit=200)}\n"
                "  Give data with the same names in the same order (data.class_names=[...] where the format has none)."
            )
        return problem

    def _facts(self, splits: Sequence[Any]) -> dict[str, Any]:
        """What the report says of the data: names, statistics and faults, as plain values."""
        faults = [
            {
                "split": split.name,
                "kind": fault.kind,
                "place": fault.place,
                "message": printable(fault.message),
                "fatal": fault.fatal,
            }
            for split in splits
            for fault in split.faults
        ]
        return {
            "class_names": list(splits[0].class_names),
            "splits": {split.name: self.statistics(split) for split in splits},
            "faults": faults[:MOST_FAULTS],
            "num_faults": len(faults),
        }


MOST_FAULTS = 200
