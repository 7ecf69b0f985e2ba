"""What every row of ``loop`` trains: a small model whose forward pass notes the time, on batches ready in memory."""

import time
from typing import Any

import torch
from torch import Tensor, nn

LOG_EVERY = 50
STAMPS: list[tuple[float, float]] = []
"""(wall, CPU of all threads) seconds at the start of every forward pass of a run."""


class Net(nn.Module):
    """The model; its forward pass notes the time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64) -> (B, 10)."""
        STAMPS.append((time.perf_counter(), time.process_time()))
        return self.layers(x)


class Ready(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Four ready batches in turn."""

    def __init__(self, steps: int) -> None:
        random = torch.Generator().manual_seed(0)
        self.steps = steps
        self.x = torch.randn(4, 32, 64, generator=random)
        self.y = torch.randint(0, 10, (4, 32), generator=random)
        self.pairs = [(self.x[k], self.y[k]) for k in range(4)]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.steps:
            raise IndexError
        return self.x[index % 4], self.y[index % 4]


def data_loader(steps: int) -> Any:
    return torch.utils.data.DataLoader(Ready(steps), batch_size=None, num_workers=0)
