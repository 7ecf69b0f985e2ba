"""A trained task as it is used: one sample of a user's file in, what was found in it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from sightline.config.errors import ConfigError
from sightline.config.printable import printable
from sightline.engine.task import Task
from sightline.tasks.drawing import Pixels
from sightline.tasks.graph import Graph, PixelType


@dataclass(frozen=True)
class Found:
    """One answer to a sample: a class and how sure the model is of it."""

    class_name: str
    label: int
    score: float
    """In [0, 1]."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"class": self.class_name, "label": self.label, "score": round(self.score, 5)}


class TrainedModel(ABC):
    """What using a model on files asks of its task.

    Args:
        task: With fresh weights; those of a checkpoint are loaded into it before ``prepare``.
        class_names: Names by label.
    """

    answers: ClassVar[str]
    """What it gives for a sample, the key in ``predictions.json``: ``detections``, ``classes``."""
    score_threshold: ClassVar[float]
    """Answers below this score are left out where nobody asks for another."""
    suffixes: ClassVar[frozenset[str]]
    """Of the files that it takes, such as ``.jpg``."""
    unit: ClassVar[str] = "picture"
    """What one sample is called."""
    takes: ClassVar[tuple[str, str]]
    """What such files are called, and how a source of them is named: to tell a user."""

    def __init__(self, task: Task, class_names: Sequence[str]) -> None:
        self.task = task
        self.class_names = tuple(class_names)

    def prepare(self, device: torch.device) -> None:
        """The weights are there: bring the task to its device and make it fast."""
        self.task.to(device).eval()

    @abstractmethod
    def samples_of(self, path: Path) -> Iterator[tuple[int | None, Any]]:
        """The samples that a file holds; with their numbers, where it holds several by its nature, as a video does.

        Raises:
            DataError: If it cannot be read.
        """

    @abstractmethod
    def batch_of(self, sample: Any) -> Any:
        """One sample as a batch that the task predicts on."""

    @abstractmethod
    def found(self, prediction: Any, *, score_threshold: float) -> tuple[Found, ...]:
        """The answers of the task's prediction for a sample with at least this score, best first."""

    @abstractmethod
    def draw(self, sample: Any, found: Sequence[Any]) -> Pixels:
        """A picture of the sample with the answers drawn in."""

    def tell(self, found: Sequence[Found]) -> str:
        """The answers in a few words, how many of each class: ``2 car, 1 person``."""
        names = [one.class_name for one in found]
        counts = {name: names.count(name) for name in dict.fromkeys(names)}
        return ", ".join(f"{count} {printable(name)}" for name, count in counts.items())

    def other_files(self, path: Path, sample: Any, found: Sequence[Any]) -> Mapping[str, str]:
        """Texts that are written beside the picture, by suffix: the answers in formats of the field."""
        return {}

    def graph(self, *, dynamic_batch: bool = False, input: PixelType | None = None) -> Graph:
        """The model as other programs run it, its weights shared; after ``prepare``.

        Args:
            dynamic_batch: Of a network on images: any number of them at once, and not one.
            input: Of a network on images: ``uint8`` (the default), pixels that it normalises; ``float32``, images that
                are normalised already.

        Raises:
            ConfigError: If there is none, or none that is so.
        """
        raise ConfigError(f"{type(self.task).__name__}: has no graph that can be exported.")
