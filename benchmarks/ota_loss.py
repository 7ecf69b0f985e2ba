"""YOLOv7's OTA loss, forward and backward, in reference convolutions and beside the plain loss.

The reference is one 3x3 convolution, 128 to 128 channels, of 8x128x40x40 without gradients (3.8 GFLOP): it
takes the machine out of the figure. The original's OTA loss costs 18.6 to 19.1 of them on the same shapes, its
plain loss 10 to 11.
"""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import emit, paired, ratios
from sightline.models.yolov7.loss import YOLOv7Loss, YOLOv7LossConfig
from sightline.ops.boxes2d import BoxTargets, cxcywh_to_xyxy

ANCHORS = [
    [[12, 16], [19, 36], [40, 28]],
    [[36, 75], [76, 55], [72, 146]],
    [[142, 110], [192, 243], [459, 401]],
]
STRIDES = (8, 16, 32)


def batch(images: int, boxes: int, classes: int, size: int) -> tuple[list[Tensor], BoxTargets]:
    """Random outputs, and boxes of 8 to 400 pixels, evenly spread over the logarithm of their size."""
    random = torch.Generator().manual_seed(0)
    raw = [
        torch.randn(images, 3, size // stride, size // stride, 5 + classes, generator=random).requires_grad_()
        for stride in STRIDES
    ]
    count = images * boxes
    centers = torch.rand(count, 2, generator=random) * size
    low, high = math.log(8), math.log(400)
    side = (torch.rand(count, 1, generator=random) * (high - low) + low).exp()
    sizes = side * (torch.randn(count, 2, generator=random) * 0.3).exp()
    labels = torch.randint(classes, (count,), generator=random)
    corners = cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1)).clamp(0, size)
    return raw, BoxTargets(corners, labels, torch.arange(images).repeat_interleave(boxes))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ota-loss", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--boxes", type=int, default=40, help="true boxes an image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--size", type=int, default=640)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    raw, targets = batch(options.images, options.boxes, options.classes, options.size)
    losses = {
        kind: YOLOv7Loss(
            YOLOv7LossConfig(assignment=kind),
            anchors_px=torch.tensor(ANCHORS),
            strides=STRIDES,
            num_classes=options.classes,
            image_size=options.size,
        )
        for kind in ("anchor", "ota")
    }
    hw = (options.size, options.size)
    features, weight = torch.randn(8, 128, 40, 40), torch.randn(128, 128, 3, 3)

    def reference() -> None:
        with torch.no_grad():
            F.conv2d(features, weight, padding=1)

    def forward(kind: str) -> Tensor:
        return torch.stack(list(losses[kind](raw, targets, hw).values())).sum()

    def step(kind: str) -> None:
        for output in raw:
            output.grad = None
        forward(kind).backward()

    def forward_only(kind: str) -> None:
        with torch.no_grad():
            forward(kind)

    samples = paired(
        {
            "reference": reference,
            "plain": lambda: step("anchor"),
            "ota": lambda: step("ota"),
            "plain_forward": lambda: forward_only("anchor"),
            "ota_forward": lambda: forward_only("ota"),
        },
        options.rounds,
    )
    in_convolutions = ratios(samples, "reference")
    emit(
        "ota_loss",
        figure=in_convolutions["ota"]["cpu"],
        unit="reference convolutions for forward and backward, CPU time",
        peer="the original program: 18.6 to 19.1, its plain loss 10 to 11 (recorded)",
        goal="< 19, and <= 3 times the plain loss",
        rounds=options.rounds,
        times_plain=ratios(samples, "plain")["ota"]["cpu"],
        rows=in_convolutions,
        positives={kind: len(loss.positives(raw, targets, hw)[0].level) for kind, loss in losses.items()},
        shape=vars(options),
        torch=torch.__version__,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
