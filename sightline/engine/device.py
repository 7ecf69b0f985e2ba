"""Where a run computes."""

from __future__ import annotations

import os

import torch

from sightline.config.errors import ConfigError
from sightline.config.printable import counted
from sightline.engine.distributed.launch import Launch


def pick_device(name: str, launch: Launch | None = None) -> torch.device:
    """``auto`` is the first GPU, or the CPU where there is none.

    Args:
        name: As in the configuration.
        launch: In a run of several processes every one has a GPU of its own.

    Raises:
        ConfigError: If the device is not there.
    """
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and launch is not None:
        device = torch.device("cuda", 0 if _sees_one_alone() else launch.local_rank)
    if device.type == "cuda" and not has_cuda:
        raise ConfigError(
            f"device={name}: PyTorch {torch.__version__} finds no GPU on this machine. "
            "Use device=cpu, or install a driver and a PyTorch build for your GPU."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = counted(torch.cuda.device_count(), "GPU")
        raise ConfigError(f"device={name}: this machine has {there}, counted from 0. Use device=cuda:0 or device=cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device=mps: PyTorch finds no Apple GPU on this machine. Use device=cpu.")
    return device


def _sees_one_alone() -> bool:
    """Whether a launcher shows every process a GPU of its own, as ``srun --gpus-per-task=1`` does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return bool(visible) and "," not in visible and torch.cuda.device_count() == 1
