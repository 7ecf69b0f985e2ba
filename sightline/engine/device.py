"""Where a run computes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import torch

from sightline.config.errors import ConfigError
from sightline.config.printable import counted
from sightline.engine.distributed.launch import Launch

_GPUS = re.compile(r"(?:cuda:)?(\d{1,4}(?:, ?\d{1,4})*)", re.ASCII)


def device_name(given: object) -> str:
    """What a user wrote as a device, as it is recorded: ``0,2`` and ``[0, 2]`` become ``cuda:0,2``.

    Raises:
        ValueError: If it names none.
    """
    if isinstance(given, str) and given in ("auto", "cpu", "cuda", "mps"):
        return given
    numbers = given if isinstance(given, list | tuple) else [given]
    text = ",".join(map(str, numbers))
    found = _GPUS.fullmatch(text)
    if found is None:
        raise ValueError(
            f"no device {given!r}; give auto, cpu, cuda, mps, cuda:0 (the first GPU), cuda:0,2 (two of them)"
        )
    gpus = [int(number) for number in found[1].split(",")]
    twice = [number for number in gpus if gpus.count(number) > 1]
    if twice:
        raise ValueError(f"device {text} names GPU {twice[0]} twice; every process has one of its own")
    return "cuda:" + ",".join(map(str, gpus))


def gpus_of(name: str) -> tuple[int, ...]:
    """The GPUs that a device's recorded name numbers, in their order; none for ``auto``, ``cuda``, ``cpu``, ``mps``."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def pick_device(name: str, launch: Launch | None = None) -> torch.device:
    """``auto`` is the first GPU, or the CPU where there is none.

    Args:
        name: As in the configuration.
        launch: In a run of several processes every one has a GPU of its own: that of its number on the machine, or of
            its place among those that ``name`` numbers. Without it the first of these is taken, and all of them must
            be there.

    Raises:
        ConfigError: If the device is not there.
    """
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else "cpu"
    gpus = gpus_of(name)
    kind = name.partition(":")[0]
    if kind == "cuda" and not has_cuda:
        raise ConfigError(
            f"device={name}: PyTorch {torch.__version__} finds no GPU on this machine. "
            "Use device=cpu, or install a driver and a PyTorch build for your GPU."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device=mps: PyTorch finds no Apple GPU on this machine. Use device=cpu.")
    if kind != "cuda":
        return torch.device(kind)
    if launch is not None and not _sees_one_alone():
        if gpus and launch.local_rank >= len(gpus):
            raise ConfigError(
                f"device={name} is {counted(len(gpus), 'GPU')}, and the launcher has started more processes than that "
                "on this machine. Start as many, or use device=cuda."
            )
        index = gpus[launch.local_rank] if gpus else launch.local_rank
        _refuse_missing(name, [index])
        return torch.device("cuda", index)
    _refuse_missing(name, gpus)
    if launch is not None:
        return torch.device("cuda", 0)
    return torch.device("cuda", gpus[0]) if gpus else torch.device("cuda")


def _refuse_missing(name: str, gpus: Iterable[int]) -> None:
    there = torch.cuda.device_count()
    missing = [str(number) for number in gpus if number >= there]
    if missing:
        raise ConfigError(
            f"device={name}: there is no GPU {' and no GPU '.join(missing)}; this machine has "
            f"{counted(there, 'GPU')}, counted from 0. Use device=cuda:0 or device=cpu."
        )


def _sees_one_alone() -> bool:
    """Whether a launcher shows every process a GPU of its own, as ``srun --gpus-per-task=1`` does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return bool(visible) and "," not in visible and torch.cuda.device_count() == 1
