"""Suppression of rotated boxes beside a compiled loop, by way of a convolution that both were timed against."""

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.timing import emit, paired, ratios
from sightline.ops.rotated_nms import rotated_nms

IOU_THRESHOLD = 0.01
LOOP = {500: 0.2996, 1000: 0.8552, 4096: 4.4628}
"""CPU time of OpenPCDet 0.6.0's C++ functions in the greedy loop over that of the convolution, one thread."""


def scattered(count: int) -> tuple[Tensor, Tensor]:
    """Cars anywhere on 100 m x 100 m, at any angle: as dense as the recorded boxes, by how many of them stay."""
    random = torch.Generator().manual_seed(0)
    low = torch.tensor([0, 0, -1, 3.5, 1.45, 1.4, -3.14])
    high = torch.tensor([100, 100, 0, 4.3, 1.75, 1.6, 3.14])
    boxes3d = low + torch.rand(count, 7, generator=random) * (high - low)
    return boxes3d, torch.rand(count, generator=random)


def crowded(count: int) -> tuple[Tensor, Tensor]:
    """The same number of candidates around 20 cars, as a detector gives them."""
    random = torch.Generator().manual_seed(0)
    cars, _ = scattered(20)
    spread = torch.tensor([0.3, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1])
    near = torch.randint(20, (count,), generator=random)
    return cars[near] + torch.randn(count, 7, generator=random) * spread, torch.rand(count, generator=random)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks rotated-nms", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    image, weight = torch.randn(1, 64, 248, 216), torch.randn(64, 64, 3, 3)
    rows: dict[str, dict[str, Any]] = {}
    for count, loop in LOOP.items():
        for draw in (scattered, crowded):
            boxes3d, scores = draw(count)
            samples = paired(
                {
                    "ours": lambda b=boxes3d, s=scores: rotated_nms(b, s, IOU_THRESHOLD),
                    "convolution": lambda: conv2d(image, weight, padding=1),
                },
                options.rounds,
            )
            of_convolution = ratios(samples, "convolution")["ours"]
            rows[f"{count} {draw.__name__}"] = {
                **of_convolution,
                "of_loop": round(of_convolution["cpu"] / loop, 4) if draw is scattered else None,
                "kept": len(rotated_nms(boxes3d, scores, IOU_THRESHOLD)),
            }
    emit(
        "rotated_nms",
        figure=rows["4096 scattered"]["of_loop"],
        unit="of the CPU time of the compiled loop, 4096 boxes",
        peer="C++ loop of OpenPCDet 0.6.0, recorded as 4.46 reference convolutions",
        goal="<= 1.0",
        rounds=options.rounds,
        rows=rows,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
