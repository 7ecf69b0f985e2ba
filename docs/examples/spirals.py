"""Two spirals to tell apart, and a small network that can."""

import math

import numpy as np
import torch
from torch import nn


def spirals(seed, count=500):
    """Points (N, 2) on two spirals, and which of them each is on (N,)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    turns = random.uniform(0.5, 3.0, count)
    angles = turns * 3 + labels * math.pi
    points = turns[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1) + random.normal(0, 0.1, (count, 2))
    return torch.tensor(points, dtype=torch.float32), torch.tensor(labels)


def network():
    """Points (N, 2) to logits (N, 2)."""
    first, second = [nn.Linear(2, 64), nn.BatchNorm1d(64), nn.ReLU()], [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Linear(64, 2))
