"""Moves along the channel axis. Shapes: B images, C channels, H x W cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def add_to_channels(x: Tensor, update: Tensor, begin: int) -> Tensor:
    """Add a map of fewer channels to a part of another one.

    Args:
        x: (B, C, H, W).
        update: (B, D, H, W), D <= C.
        begin: Channel of ``x`` to which the first one of ``update`` is added.

    Returns:
        (B, C, H, W).
    """
    end = begin + update.shape[1]
    if end - begin == x.shape[1]:
        return x + update
    return torch.cat((x[:, :begin], x[:, begin:end] + update, x[:, end:]), dim=1)


class ChannelShuffle(nn.Module):
    """Channels of several groups dealt out in turn, so that a grouped convolution after it sees all groups.

    Reference:
        Zhang et al., "ShuffleNet", CVPR 2018.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; C is a multiple of the groups."""
        return F.channel_shuffle(x, self.groups)
