"""A small residual network for small images: what the first ten minutes are trained with.

Shapes: B images, C channels, K classes.

Reference:
    He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016 (normalisation before the convolution).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sightline.models.small_cnn.config import SmallCNNConfig


class SmallCNN(nn.Module):
    """Images to logits.

    Args:
        config: Sizes.
        num_classes: K.
        in_channels: 3 for colour, 1 for grey.
    """

    def __init__(self, config: SmallCNNConfig, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        channels = config.width
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for stage in range(config.stages):
            for place in range(config.blocks):
                grows = stage > 0 and place == 0
                out = channels * 2 if grows else channels
                blocks.append(ResidualBlock(channels, out, stride=2 if grows else 1))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised -> logits (B, K)."""
        features = F.relu(self.norm(self.blocks(self.stem(images))))
        pooled = features.mean(dim=(2, 3))  # (B, C)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


class ResidualBlock(nn.Module):
    """Two normalised 3 x 3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        normed = F.relu(self.norm1(x))
        beside = x if self.shortcut is None else self.shortcut(normed)
        out: Tensor = beside + self.conv2(F.relu(self.norm2(self.conv1(normed))))
        return out
