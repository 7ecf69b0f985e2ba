import pytest
import torch
from torch import nn

from sightline.api.summary import convolution_gflops


class OneConvolution(nn.Module):
    """(B, 3, H, W) to 8 channels of half the size."""

    stride = 32

    def __init__(self):
        super().__init__()
        self.network = nn.Conv2d(3, 8, 3, stride=2, padding=1)

    def detect(self, images):
        return self.network(images)


def test_operations_of_a_convolution_by_hand():
    # 320 x 320 outputs of 8 channels; each takes 3 * 3 * 3 multiplications and as many additions.
    assert convolution_gflops(OneConvolution(), 640) == pytest.approx(2 * 320 * 320 * 8 * 27 / 1e9)


def test_counting_operations_compiles_nothing_and_leaves_compiling_to_the_run():
    detector, compiled_for = OneConvolution(), []

    def backend(graph, inputs):
        compiled_for.append(tuple(inputs[-1].shape))
        return graph.forward

    detector.network.compile(backend=backend)
    plain = convolution_gflops(OneConvolution(), 640)
    assert convolution_gflops(detector, 640, is_compiled=True) == plain
    assert compiled_for == []
    detector.detect(torch.zeros(1, 3, 32, 32))
    assert len(compiled_for) == 1
