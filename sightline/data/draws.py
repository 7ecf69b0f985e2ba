"""Random numbers as functions of names: no generator has a history, so nothing needs to be saved for a resume.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a counter into random bits.
The names (what for, epoch, index) are the upper words of its 256-bit counter and the seed is its key, so two
different names never share a number, and the numbers of any sample are there without those of the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]

_ORDER = 1
_SAMPLE = 2
_MOST_REPEATS = 2**32


def _philox(purpose: int, seed: int, epoch: int, index: int) -> np.random.Philox:
    for name, value in (("seed", seed), ("epoch", epoch), ("index", index)):
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} must be in [0, 2**63), got {value}.")
    return np.random.Philox(key=seed, counter=[0, index, epoch, purpose])


def sample_generator(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """The generator of sample ``index`` in ``epoch``: the same numbers whoever asks, in any order.

    Args:
        seed: Seed of the run, in [0, 2**63).
        epoch: Pass over the data, from 0.
        index: Index of the sample in its data set.
        repeat: Which view of the sample, from 0, where an epoch has several.

    Raises:
        ValueError: If an argument is negative or too large.
    """
    if not 0 <= repeat < _MOST_REPEATS:
        raise ValueError(f"repeat must be in [0, 2**32), got {repeat}.")
    return np.random.Generator(_philox(_SAMPLE + (repeat << 32), seed, epoch, index))


def epoch_order(seed: int, epoch: int, length: int) -> IntArray:
    """A permutation of ``range(length)``, (length,) int64: the order of the samples in ``epoch``.

    Made by sorting raw 64-bit draws, not by the library's shuffle, whose stream may change between versions.

    Raises:
        ValueError: If an argument is negative.
    """
    if length < 0:
        raise ValueError(f"length must not be negative, got {length}.")
    keys = _philox(_ORDER, seed, epoch, 0).random_raw(length)
    return np.argsort(keys, kind="stable").astype(np.int64)
