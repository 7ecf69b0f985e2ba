"""A tiny problem that has nothing to do with pictures: the engine must not mind."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.engine.distributed.processes import WHOLE, Share
from sightline.engine.run_config import Problem, RunConfig
from sightline.engine.seed import seed_everything
from sightline.engine.task import Picture, Task


@dataclass(frozen=True)
class ToyBatch:
    x: Tensor
    y: Tensor
    sample_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def to(self, device: torch.device) -> "ToyBatch":
        return ToyBatch(self.x.to(device), self.y.to(device), self.sample_ids)

    def part(self, first: int, end: int) -> "ToyBatch":
        return ToyBatch(self.x[first:end], self.y[first:end], self.sample_ids[first:end])


class ToyFetched(NamedTuple):
    epoch: int
    index: int
    batch: ToyBatch


class ToyLoader:
    """Numbers drawn per (epoch, sample), in an order drawn per epoch: exact from any place."""

    def __init__(
        self, samples: int, batch_size: int, *, seed: int = 0, shuffle: bool = True, share: Share = WHOLE
    ) -> None:
        self.samples, self.batch_size, self.seed, self.shuffle = samples, batch_size, seed, shuffle
        self.share = share
        self.closed = False

    @property
    def batches_per_epoch(self) -> int:
        return -(-self.samples // self.batch_size)

    def batch_length(self, index: int) -> int:
        return min(self.batch_size, self.samples - index * self.batch_size)

    def batch(self, epoch: int, index: int) -> ToyBatch:
        order = np.arange(self.samples)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
        batch = order[index * self.batch_size : (index + 1) * self.batch_size]
        ids = tuple(int(i) for i in batch[self.share.rank :: self.share.count])
        rows = [np.random.default_rng((self.seed, 7, i, epoch if self.shuffle else 0)).normal(size=4) for i in ids]
        x = torch.tensor(np.array(rows).reshape(-1, 4), dtype=torch.float32)  # (B, 4)
        return ToyBatch(x, (x.sum(dim=1) > 0).long(), ids)

    def iterate(self, *, epoch: int = 0, index: int = 0, epochs: int) -> Iterator[ToyFetched]:
        while epoch < epochs:
            for k in range(index, self.batches_per_epoch):
                yield ToyFetched(epoch, k, self.batch(epoch, k))
            epoch, index = epoch + 1, 0

    def close(self) -> None:
        self.closed = True


class ToyMetric:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.seen = 0
        self.found: list[tuple[int, int]] = []

    def update(self, predictions: Sequence[int], batch: ToyBatch) -> None:
        self.right += sum(p == int(y) for p, y in zip(predictions, batch.y, strict=True))
        self.seen += len(batch)
        self.found += zip(batch.sample_ids, predictions, strict=True)

    def state(self) -> dict[str, Tensor]:
        return {"right": torch.tensor(self.right), "seen": torch.tensor(self.seen)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.right, self.seen = int(state["right"]), int(state["seen"])

    def merge(self, others: Sequence["ToyMetric"]) -> None:
        for other in others:
            self.right, self.seen = self.right + other.right, self.seen + other.seen
            self.found += other.found

    def compute(self) -> dict[str, float]:
        return {"accuracy": self.right / self.seen}

    def details(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def save(self, path: Path) -> None:
        path.write_text("".join(f"{sample} {label}\n" for sample, label in self.found))


class ToyTask(Task):
    """Batch norm and dropout are in it because they are what a careless resume loses."""

    def __init__(self, width: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 2)
        )

    def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
        logits = self.logits(batch)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return {"entropy": F.cross_entropy(logits, batch.y), "size": 1e-3 * logits.square().mean()}

    def logits(self, batch: ToyBatch) -> Tensor:
        return self.net(batch.x.to(self.net[0].weight.dtype))

    def predict(self, batch: ToyBatch) -> list[int]:
        return self.logits(batch).argmax(dim=1).tolist()

    def new_metric(self) -> ToyMetric:
        return ToyMetric()

    def draw(self, batch: ToyBatch, predictions: Sequence[int] | None) -> list[Picture]:
        return []


class ToyRun(RunConfig):
    data_samples: int = 22
    width: int = 8
    dropout: float = 0.2

    def open(self, *, training: bool = True, share: Share = WHOLE) -> Problem:
        seed_everything(self.seed)
        return Problem(
            task=ToyTask(self.width, self.dropout),
            train_loader=ToyLoader(self.data_samples, self.samples_per_batch, seed=self.seed, share=share),
            eval_loader=ToyLoader(9, 4, seed=1, shuffle=False, share=share),
            figures=("accuracy",),
        )


def toy_run(**changes: Any) -> ToyRun:
    """4 epochs of 6 batches (the last of 2 samples), SGD with momentum and an average."""
    values: dict[str, Any] = {
        "recipe": "toy",
        "epochs": 4,
        "batch_size": 4,
        "lr": 0.05,
        "device": "cpu",
        "ema": {"decay": 0.9, "ramp": 5},
        "optimizer": {"kind": "sgd", "nesterov": True, "weight_decay": 1e-3},
        "schedule": {"kind": "cosine", "final": 0.1},
        "checkpoint": {"every_steps": 3},
        "log": {"every_steps": 4, "trackers": [], "train_pictures": 0, "eval_pictures": 0},
    }
    return ToyRun(**{**values, **changes})
