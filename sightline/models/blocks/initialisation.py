"""How weights start, as functions of the values that enter and leave a layer (``fan_in`` and ``fan_out``)."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

Initialisation = Literal["gaussian", "xavier", "prelu_in", "prelu_average", "small"]
"""Normal with the standard deviation ``sqrt(2 / fan_in)`` (gaussian); uniform within ``sqrt(2 / m)``, ``m`` the mean
of fan_in and fan_out (xavier); normal for a PReLU of slope 0.25, ``sqrt(2 / (1 + 1/16) / fan)``, of fan_in (prelu_in)
or of ``m`` (prelu_average); normal with 0.01 (small)."""

PRELU_SLOPE = 0.25


def initialise(module: nn.Module, kind: Initialisation) -> None:
    """Draw the weights of all convolutions and dense layers anew, quantised ones too; their biases become 0.

    Weights with one axis, such as those of normalisation, are left alone.
    """
    for layer in module.modules():
        weight = layer._parameters.get("weight")
        if weight is None or weight.dim() < 2:
            continue
        _draw(weight, kind)
        bias = layer._parameters.get("bias")
        if bias is not None:
            nn.init.zeros_(bias)


def _draw(weight: Tensor, kind: Initialisation) -> None:
    fan_in = weight[0].numel()
    mean_fan = (fan_in + weight.shape[0] * weight[0, 0].numel()) / 2
    prelu = 2 / (1 + PRELU_SLOPE**2)
    if kind == "xavier":
        bound = math.sqrt(2 / mean_fan)
        nn.init.uniform_(weight, -bound, bound)
        return
    deviations = {
        "gaussian": math.sqrt(2 / fan_in),
        "prelu_in": math.sqrt(prelu / fan_in),
        "prelu_average": math.sqrt(prelu / mean_fan),
        "small": 0.01,
    }
    nn.init.normal_(weight, std=deviations[kind])
