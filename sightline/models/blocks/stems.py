"""First layers of classifiers, always in full precision. Shapes: B images, C channels, H x W pixels."""

from __future__ import annotations

from typing import Literal

from torch import nn

from sightline.models.blocks.batch_norm import BiasedBatchNorm

Stem = Literal["thumbnail", "imagenet", "grouped"]
"""``thumbnail`` is one 3x3 convolution and keeps the size; the others make it four times smaller: ``imagenet`` with a
7x7 convolution, ``grouped`` with three of 3x3, two of them in groups."""

StemChoice = Literal["auto", "thumbnail", "imagenet", "grouped"]
"""A stem, or ``auto``: ``thumbnail`` for images below 50 pixels, else ``imagenet``."""

SMALLEST_LARGE_IMAGE = 50
GROUPED_CHANNELS = 16
"""The channels of a grouped stem are a multiple of this."""


def choose_stem(choice: StemChoice, image_size: int) -> Stem:
    """The stem that a choice means for images of a size in pixels."""
    if choice == "auto":
        return "thumbnail" if image_size < SMALLEST_LARGE_IMAGE else "imagenet"
    return choice


def stem_output_size(stem: Stem, size: int) -> int:
    """Cells along an axis of so many pixels."""
    return size if stem == "thumbnail" else -(-size // 4)  # two halvings, each rounded up


def build_stem(stem: Stem, in_channels: int, channels: int) -> nn.Sequential:
    """(B, in_channels, H, W) -> (B, channels, H, W) or a quarter of it; see ``stem_output_size``."""
    if stem == "thumbnail":
        return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
    if stem == "imagenet":
        convolutions: list[nn.Module] = [nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)]
    else:
        half = channels // 2
        convolutions = [
            nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
            BiasedBatchNorm(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=4, bias=False),
            BiasedBatchNorm(half),
            nn.ReLU(),
            nn.Conv2d(half, channels, 3, padding=1, groups=8, bias=False),
        ]
    return nn.Sequential(*convolutions, BiasedBatchNorm(channels), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
