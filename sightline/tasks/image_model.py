"""A trained task as it is used: one picture in, what was found on it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sightline.config.errors import ConfigError
from sightline.engine.task import Task
from sightline.tasks.drawing import Pixels


@dataclass(frozen=True)
class Found:
    """One answer to a picture: a class and how sure the model is of it."""

    class_name: str
    label: int
    score: float
    """In [0, 1]."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"class": self.class_name, "label": self.label, "score": round(self.score, 5)}


@dataclass(frozen=True)
class Graph:
    """A trained model as other programs run it: one tensor of images in, one tensor out."""

    module: nn.Module
    """(B, ``channels``, ``image_size``, ``image_size``) to the output."""
    channels: int
    image_size: int
    input_meaning: str
    output: str
    """What the output is called."""
    output_meaning: str
    facts: Mapping[str, Any]
    """What whoever prepares images has to know, as plain values."""
    prepared: Callable[[Tensor], Tensor]
    """(B, C, H, W) uint8 as the module takes images."""


class ImageModel(ABC):
    """What using a model on pictures asks of its task.

    Args:
        task: With fresh weights; those of a checkpoint are loaded into it before ``prepare``.
        class_names: Names by label.
    """

    answers: ClassVar[str]
    """What it gives for a picture, the key in ``predictions.json``: ``detections``, ``classes``."""
    score_threshold: ClassVar[float]
    """Answers below this score are left out where nobody asks for another."""

    def __init__(self, task: Task, class_names: Sequence[str]) -> None:
        self.task = task
        self.class_names = tuple(class_names)

    def prepare(self, device: torch.device) -> None:
        """The weights are there: bring the task to its device and make it fast."""
        self.task.to(device).eval()

    @abstractmethod
    def batch_of(self, image: Pixels) -> Any:
        """One picture, (H, W, 3) uint8 RGB of any size, as a batch that the task predicts on."""

    @abstractmethod
    def found(self, prediction: Any, *, score_threshold: float) -> tuple[Found, ...]:
        """The answers of the task's prediction for a picture with at least this score, best first."""

    @abstractmethod
    def draw(self, image: Pixels, found: Sequence[Any]) -> Pixels:
        """A copy of the picture with the answers drawn in."""

    @abstractmethod
    def tell(self, found: Sequence[Found]) -> str:
        """The answers in a few words: ``2 car, 1 person``."""

    def graph(self, *, normalised: bool) -> Graph:
        """The model as other programs run it, its weights shared; after ``prepare``.

        Args:
            normalised: Whether the images come as floats that are normalised already, or as uint8.

        Raises:
            ConfigError: If there is none.
        """
        raise ConfigError(f"{type(self.task).__name__}: has no graph that can be exported.")
