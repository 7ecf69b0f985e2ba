"""Class-aware suppression of overlaps beside torchvision's batched form, for few and for many candidates."""

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import emit, paired, ratios
from sightline.ops.nms import class_aware_nms

IOU_THRESHOLD = 0.65
MAX_KEPT = 300


def crowd(count: int, classes: int = 80) -> tuple[Tensor, Tensor, Tensor]:
    """About 20 candidates around each object, as a detector gives them."""
    random = torch.Generator().manual_seed(0)
    objects = max(count // 20, 1)
    centers = torch.rand(objects, 2, generator=random) * 640
    sizes = torch.rand(objects, 2, generator=random) * 120 + 10
    near = torch.randint(objects, (count,), generator=random)
    half = sizes[near] * (1 + 0.2 * torch.randn(count, 2, generator=random)).clamp(min=0.3) / 2
    middle = centers[near] + torch.randn(count, 2, generator=random) * 8
    boxes = torch.cat((middle - half, middle + half), dim=1)
    labels = torch.randint(classes, (objects,), generator=random)[near]
    return boxes, torch.rand(count, generator=random), labels


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks nms", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    from torchvision.ops import batched_nms

    torch.set_num_threads(1)
    rows: dict[int, dict[str, Any]] = {}
    for count in (300, 1000, 5000, 30_000):
        boxes, scores, labels = crowd(count)
        ours = class_aware_nms(boxes, scores, labels, IOU_THRESHOLD, max_kept=MAX_KEPT)
        peer = batched_nms(boxes, scores, labels, IOU_THRESHOLD)[:MAX_KEPT]
        # Its form for few boxes shifts classes in float32, which moves coordinates: some boxes differ.
        others = len(set(ours.tolist()) ^ set(peer.tolist()))
        samples = paired(
            {
                "ours": lambda b=boxes, s=scores, k=labels: class_aware_nms(b, s, k, IOU_THRESHOLD, max_kept=MAX_KEPT),
                "torchvision": lambda b=boxes, s=scores, k=labels: batched_nms(b, s, k, IOU_THRESHOLD)[:MAX_KEPT],
            },
            options.rounds,
            inner=10 if count <= 1000 else 1,
        )
        rows[count] = {**ratios(samples, "torchvision"), "kept": len(ours), "kept_by_one_only": others}
    import torchvision

    emit(
        "nms",
        figure=rows[1000]["ours"]["cpu"],
        unit="of torchvision's batched_nms, 1000 candidates, CPU time",
        peer=f"torchvision {torchvision.__version__}",
        goal="<= 1.0",
        rounds=options.rounds,
        rows=rows,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
