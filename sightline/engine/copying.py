"""Tensors of a file into tensors of a program: all of them, bit for bit, or none."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sightline.config.errors import RunError

SHOWN = 3


def copy_exactly(own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, where: str, what: str, cure: str) -> None:
    """Copy every tensor of ``given`` over the one of its name in ``own``.

    Args:
        own: What is written to.
        given: What is copied; the same names, shapes and dtypes.
        where: The file, or whatever it is that is copied from.
        what: Plural of what is copied, e.g. ``weights``.
        cure: Ends it.

    Raises:
        RunError: If names, shapes or dtypes differ; names the first ones. Nothing is copied then.
    """
    faults = []
    for name in {**own, **given}:
        here, there = own.get(name), given.get(name)
        if here is None:
            faults.append(f"{name} is unknown here")
        elif there is None:
            faults.append(f"{name} is missing")
        elif here.shape != there.shape or here.dtype != there.dtype:
            faults.append(f"{name}: file {_kind(there, here)}, model {_kind(here, there)}")
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise RunError(
            f"{where}: {len(faults)} of {len(own)} {what} do not fit. {'; '.join(faults[:SHOWN])}{more}.\n  {cure}"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])


def _kind(tensor: Tensor, other: Tensor) -> str:
    """Shape, and the dtype where that is what differs."""
    return f"{tuple(tensor.shape)}" + (f" {tensor.dtype}" if tensor.dtype != other.dtype else "")
