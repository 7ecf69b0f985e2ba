"""The one seam between the engine and a problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn


class Batch(Protocol):
    """What the engine asks of a batch: how many samples, which ones, and a copy on another device."""

    @property
    def sample_ids(self) -> Sequence[int]:
        """Index of every sample in its data set."""

    def __len__(self) -> int:
        """Number of samples."""

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on ``device``."""

    def part(self, first: int, end: int) -> Self:
        """The samples ``first .. end - 1`` of it: a batch that does not fit into memory is run in parts."""


class Fetched(Protocol):
    """A batch and its place in the run."""

    @property
    def epoch(self) -> int:
        """From 0."""

    @property
    def index(self) -> int:
        """Number of the batch in its epoch, from 0."""

    @property
    def batch(self) -> Any:
        """A ``Batch``."""


class Loader(Protocol):
    """Endless or finite source of batches that can start anywhere without replaying."""

    @property
    def batches_per_epoch(self) -> int:
        """Number of (global) batches of one pass over the data, the last incomplete one included."""

    def batch_length(self, index: int) -> int:
        """Samples of the global batch ``index`` of any epoch, over all processes."""

    def iterate(self, *, epoch: int = 0, index: int = 0, epochs: int) -> Iterator[Fetched]:
        """Batches from batch ``index`` of ``epoch`` to the end of epoch ``epochs - 1``."""

    def close(self) -> None:
        """Stop all workers."""


class Metric(Protocol):
    """States of several processes merge exactly: ``merge`` of states gives what one process would have."""

    def reset(self) -> None:
        """Forget everything."""

    def update(self, predictions: Sequence[Any], batch: Any) -> None:
        """Add the predictions of one batch."""

    def state(self) -> dict[str, Tensor]:
        """Everything since ``reset`` as tensors on the CPU, to be sent to another process."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become the metric whose ``state`` this is."""

    def merge(self, others: Sequence[Any]) -> None:
        """Take in metrics of the same kind from other processes."""

    def compute(self) -> dict[str, float]:
        """Figures by name over everything since ``reset``."""

    def details(self) -> dict[str, Any]:
        """Tables and curves for the report, as plain JSON values."""

    def save(self, path: Path) -> None:
        """Write the predictions since ``reset`` in the field's own format, so that they score to the same figures.

        Raises:
            OSError: If the disk refuses.
        """


class PartWeights(Protocol):
    """Makes the losses of a batch's parts such that their mean is the loss of the whole batch: see ``weigh_parts``."""

    def counting(self) -> AbstractContextManager[object]:
        """Round a forward pass of each part that only finds out how many things its means are of."""

    def end_counting(self) -> None:
        """All parts were counted."""

    def weighing(self) -> AbstractContextManager[object]:
        """Round the forward pass of each part, in the same order."""


@dataclass(frozen=True)
class Picture:
    """Something to look at: ``pixels`` is (H, W, 3) uint8 RGB."""

    name: str
    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    caption: str = ""


class Task(nn.Module):
    """All that training asks of a problem. A module, so that DDP and compile wrap it like any other."""

    losses_are_whole: ClassVar[bool] = False
    """How its losses of an uneven share are weighted in a run of several processes. False: by the number of samples,
    by the engine. True: the task multiplies every mean by its ``ops.process_shares.share_weights``, because it is a
    mean over boxes or points; the mean over all processes is then the loss of the whole batch."""

    def weigh_parts(self, parts: int) -> PartWeights | None:
        """Where losses are whole: what weights those of the parts of a batch that does not fit into memory.

        Such a mean over boxes or points needs their number in all parts, so each part is run twice, at first without
        gradients. None: parts are weighted by their samples, in one pass.
        """
        return None

    only_shown: ClassVar[frozenset[str]] = frozenset()
    """Names of what ``forward`` gives beside its losses: figures of the batch such as its accuracy. They are averaged
    as losses are and logged under their own names, but not minimised."""

    losses_need_training_mode: bool = False
    """Whether ``forward`` gives losses in training mode alone, as torchvision's detectors do. Losses of validation
    data are then measured in that mode, with running statistics in use but fixed and without dropout."""

    kept_in_eval: Sequence[nn.Module] = ()
    """Parts that stay in evaluation mode whatever the rest does: see ``freeze``."""

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode, but for the parts that are kept in evaluation mode."""
        super().train(mode)
        for part in self.kept_in_eval:
            part.eval()
        return self

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Weighted scalar losses by name, with gradients; the sum of those not in ``only_shown`` is minimised.

        Each loss is a mean over the samples (or what they contain) of the batch, so that its size does
        not depend on the batch size. In a run of several processes the batch may be empty.
        """
        raise NotImplementedError

    def predict(self, batch: Any) -> list[Any]:
        """One typed prediction per sample, in the sample's own coordinates."""
        raise NotImplementedError

    def new_metric(self) -> Metric:
        """An empty metric of this problem."""
        raise NotImplementedError

    def modules_to_compile(self) -> list[nn.Module]:
        """The parts that torch.compile makes faster, where the run asks for it: those with fixed shapes."""
        return [self]

    def draw(self, batch: Any, predictions: Sequence[Any] | None) -> list[Picture]:
        """What a person would look at, nothing by default; without predictions, training samples and their truth."""
        return []
