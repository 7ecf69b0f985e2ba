"""Units of binary ResNets: gate, sign, binary convolution, batch norm, and a shortcut beside them.

Shapes: B images, C channels, H x W cells. Nothing rectifies between units; what the next sign sees keeps its sign.
"""

from __future__ import annotations

from torch import Tensor, nn

from sightline.models.binary_resnet.config import ShortcutConfig
from sightline.models.blocks.batch_norm import BiasedBatchNorm
from sightline.models.blocks.binary_layers import ActivatedConv
from sightline.models.blocks.channels import add_to_channels
from sightline.models.blocks.quantisation import QuantisationConfig


class Shortcut(nn.Module):
    """Brings an input to the channels and the size of a unit's output.

    Args:
        in_channels: C.
        out_channels: Of the output.
        stride: Of the unit.
        config: Precision, pooling and groups.
        quantisation: Of a binary one.
        has_norm: Whether a batch norm follows.
    """

    conv: nn.Module

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        config: ShortcutConfig,
        quantisation: QuantisationConfig,
        has_norm: bool,
    ) -> None:
        super().__init__()
        pools = config.pool and stride > 1
        self.pool = nn.AvgPool2d(stride) if pools else nn.Identity()
        stride = 1 if pools else stride
        if config.conv == "full_precision":
            self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, groups=config.groups, bias=False)
        else:
            self.conv = ActivatedConv(in_channels, out_channels, 1, stride, quantisation=quantisation)
        self.norm = BiasedBatchNorm(out_channels) if has_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H / stride, W / stride)."""
        out: Tensor = self.norm(self.conv(self.pool(x)))
        return out


class UnitE1(nn.Module):
    """One convolution, normalised, and a shortcut around it.

    Args:
        in_channels: C.
        out_channels: Of the output.
        stride: Of the convolution.
        shortcut: What stands beside it where the channels change.
        quantisation: Bits, methods, threshold and scaling.
        slices: The convolution makes ``out_channels / slices`` channels.
        index: To which slice they are added, from 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        shortcut: ShortcutConfig,
        quantisation: QuantisationConfig,
        slices: int = 1,
        index: int = 0,
    ) -> None:
        super().__init__()
        width = out_channels // slices
        self.begin = width * index
        self.conv = ActivatedConv(in_channels, width, 3, stride, 1, quantisation=quantisation)
        self.norm = BiasedBatchNorm(width)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = Shortcut(
                in_channels, out_channels, stride, config=shortcut, quantisation=quantisation, has_norm=True
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H / stride, W / stride)."""
        return add_to_channels(self.shortcut(x), self.norm(self.conv(x)), self.begin)


class UnitE2(nn.Module):
    """One convolution of the normalised input, and a shortcut around both.

    Where the channels change, the shortcut starts from the normalised input. Arguments are those of ``UnitE1``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        shortcut: ShortcutConfig,
        quantisation: QuantisationConfig,
        slices: int = 1,
        index: int = 0,
    ) -> None:
        super().__init__()
        width = out_channels // slices
        self.begin = width * index
        self.norm = BiasedBatchNorm(in_channels)
        self.conv = ActivatedConv(in_channels, width, 3, stride, 1, quantisation=quantisation)
        self.shortcut = (
            Shortcut(in_channels, out_channels, stride, config=shortcut, quantisation=quantisation, has_norm=False)
            if in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H / stride, W / stride)."""
        normed = self.norm(x)
        kept = x if self.shortcut is None else self.shortcut(normed)
        return add_to_channels(kept, self.conv(normed), self.begin)


class UnitV1(nn.Module):
    """Two convolutions, each normalised, and one shortcut around both.

    Args:
        in_channels: C.
        out_channels: Of the output.
        stride: Of the first convolution.
        shortcut: What stands beside them where the channels change.
        quantisation: Bits, methods, threshold and scaling.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        shortcut: ShortcutConfig,
        quantisation: QuantisationConfig,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ActivatedConv(in_channels, out_channels, 3, stride, 1, quantisation=quantisation),
            BiasedBatchNorm(out_channels),
            ActivatedConv(out_channels, out_channels, 3, 1, 1, quantisation=quantisation),
            BiasedBatchNorm(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = Shortcut(
                in_channels, out_channels, stride, config=shortcut, quantisation=quantisation, has_norm=True
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H / stride, W / stride)."""
        out: Tensor = self.shortcut(x) + self.body(x)
        return out
