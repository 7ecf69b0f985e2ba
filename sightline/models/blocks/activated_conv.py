"""The unit that binary networks are made of: a quantised activation and a quantised convolution.

Reference:
    Rastegari et al., "XNOR-Net", ECCV 2016, section 3.2 (scaling by the input).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.models.blocks.binary_layers import QuantisedActivation, QuantisedConv2d
from sightline.models.blocks.quantisation import QuantisationConfig


class ActivatedConv(nn.Module):
    """A quantised activation and a quantised convolution: the unit that networks are made of.

    With the scaling ``xnor``, the output of every place is multiplied by the mean absolute value of the input under
    the kernel, channels included, before it was quantised and padded with 0; without a gradient.

    Args:
        in_channels: C.
        out_channels: Of the output.
        kernel_size: Of the convolution.
        stride: Of the convolution.
        padding: Cells of -1 on all sides.
        dilation: Of the convolution.
        quantisation: Bits, methods, threshold and scaling.

    Raises:
        ValueError: If a dilation is to be scaled by the input, which is not defined.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        *,
        quantisation: QuantisationConfig,
    ) -> None:
        super().__init__()
        if quantisation.scaling == "xnor" and dilation != 1:
            raise ValueError(f"scaling='xnor' is not defined for dilation={dilation}; use 'none' or 'binet'.")
        self.activation = QuantisedActivation(
            quantisation.activation_method, quantisation.activation_bits, threshold=quantisation.threshold
        )
        self.conv = QuantisedConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            method=quantisation.weight_method,
            bits=quantisation.weight_bits,
            scaling=quantisation.scaling,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H_out, W_out)."""
        out: Tensor = self.conv(self.activation(x))
        return out * self._mean_input(x) if self.conv.scaling == "xnor" else out

    @torch.no_grad()
    def _mean_input(self, x: Tensor) -> Tensor:
        """Mean absolute input under the kernel at every place of the output, (B, 1, H_out, W_out)."""
        padded = F.pad(x.abs().mean(dim=1, keepdim=True), self.conv.edges)
        return F.avg_pool2d(padded, self.conv.kernel_size, self.conv.stride)
