"""Seeds as functions of names, so that no generator's history matters.

A step of training draws from a generator seeded with ``(seed, step, rank)``. A resumed run, or one that skipped a
step, therefore draws what an unbroken run would.
"""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
import torch

_MASK_32 = 0xFFFF_FFFF
_MASK_64 = 0xFFFF_FFFF_FFFF_FFFF


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (CPU and all GPUs). For what is drawn before training, such as fresh weights.

    Args:
        seed: Any integer >= 0; all of its bits count in torch on a GPU, the low 32 elsewhere.
    """
    random.seed(seed)
    np.random.seed(seed & _MASK_32)
    torch.manual_seed(seed & _MASK_64)


def step_generator_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of the generator of one step in one process.

    torch's CPU generator uses only the low 32 bits of a seed. In one run and process these differ for any two
    steps below 2**32, so no two steps draw the same numbers.

    Args:
        seed: The run's seed.
        step: Optimizer updates made before, >= 0.
        rank: Number of the process.

    Returns:
        In [0, 2**63).

    Reference:
        Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014 (the 64-bit mixer).
    """
    key = _key(seed, rank)
    low = (step + key) & _MASK_32
    low = ((low ^ (low >> 16)) * 0x7FEB352D) & _MASK_32  # odd factors and xor-shifts: a permutation of 32 bits
    low = ((low ^ (low >> 15)) * 0x846CA68B) & _MASK_32
    low ^= low >> 16
    return (_mix(key ^ step) >> 33 << 32) | low


def reseed(device: torch.device, seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's default generators for one step: the CPU's, and the device's where it is a GPU.

    Takes about 2 microseconds on a CPU, because it leaves the generators of other devices alone.
    """
    value = step_generator_seed(seed, step, rank)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.default_generators[index].manual_seed(value)


@lru_cache(maxsize=16)
def _key(seed: int, rank: int) -> int:
    return _mix(_mix(seed & _MASK_64) + rank)


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)
