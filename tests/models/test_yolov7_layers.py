"""The parts of YOLOv7's networks, each against a plain way of writing it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sightline.models.yolov7.graph import IMAGE, Graph, Step, plan
from sightline.models.yolov7.layers import DetectionHead, DownBlock, PixelPhases, SpatialPyramidCSP


def test_pixel_phases_go_down_before_right():
    image = torch.tensor([[[[1.0, 2], [3, 4]]]])  # rows (1, 2) and (3, 4)
    assert PixelPhases()(image).flatten().tolist() == [1, 3, 2, 4]


def test_pixel_phases_keep_channels_together():
    image = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    phases = PixelPhases()(image)
    assert phases.shape == (2, 12, 2, 3)
    torch.testing.assert_close(phases[:, 3:6], image[..., 1::2, ::2])


def test_down_block_halves_the_resolution():
    block = DownBlock(8, 24, activation=nn.SiLU)
    assert block(torch.rand(1, 8, 6, 10)).shape == (1, 24, 3, 5)


def test_three_small_poolings_equal_the_three_windows_of_the_paper():
    torch.manual_seed(0)
    block = SpatialPyramidCSP(8, 16, activation=nn.SiLU).double()
    x = torch.randn(2, 8, 14, 15, dtype=torch.float64, requires_grad=True)

    entered = block.before(block.before_mix(block.enter(x)))
    windows = [F.max_pool2d(entered, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
    main = block.after_mix(block.after(torch.cat([entered, *windows], dim=1)))
    want = block.leave(torch.cat((main, block.skip(x)), dim=1))
    weight = torch.randn_like(want)
    (want_grad,) = torch.autograd.grad((want * weight).sum(), x)

    got = block(x)
    (got_grad,) = torch.autograd.grad((got * weight).sum(), x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_grad, want_grad)


def test_head_with_folded_implicit_tensors_equals_adding_and_multiplying():
    torch.manual_seed(0)
    head = DetectionHead([(6, 8), (10, 16)], num_anchors=2, num_classes=3, has_implicit=True).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    features = [torch.randn(2, 6, 4, 5, dtype=torch.float64), torch.randn(2, 10, 2, 3, dtype=torch.float64)]
    got = head(features)
    for level, feature in enumerate(features):
        out = head.convs[level](feature + head.implicit_offset[level]) * head.implicit_factor[level]
        height, width = feature.shape[2:]
        want = out.view(2, 2, 8, height, width).permute(0, 1, 3, 4, 2)
        torch.testing.assert_close(got[level], want)
        parameters = [head.implicit_offset[level], head.implicit_factor[level], *head.convs[level].parameters()]
        grads = [torch.autograd.grad(raw.square().sum(), parameters) for raw in (got[level], want)]
        torch.testing.assert_close(*grads)
        torch.testing.assert_close(head.folded()(features)[level], want)


@pytest.mark.parametrize("num_classes", [1, 3, 80])
def test_untrained_head_expects_eight_objects_in_a_640_image(num_classes):
    torch.manual_seed(0)
    strides = (8, 16, 32)
    head = DetectionHead([(64, s) for s in strides], num_anchors=3, num_classes=num_classes, has_implicit=True)
    bound = 1 / math.sqrt(64)  # a convolution's bias starts uniformly inside this
    for conv, stride in zip(head.convs, strides, strict=True):
        bias = conv.bias.detach().view(3, 5 + num_classes)
        cells = (640 / stride) ** 2
        assert bias[:, :4].abs().max() <= bound
        assert (bias[:, 4] - math.log(8 / cells)).abs().max() <= bound
        assert (bias[:, 5:] - math.log(0.6 / (num_classes - 0.99))).abs().max() <= bound


def test_drawing_keeps_channels_and_strides():
    graph = Graph(nn.SiLU, width=0.3)
    x = graph.conv(IMAGE, 32, 3, 2)  # 9.6 channels become 16
    y = graph.concat(graph.halve(x), graph.halve(x))
    assert (x.channels, x.stride) == (16, 2)
    assert (y.layer, y.channels, y.stride) == (3, 32, 4)
    assert graph.double(y).stride == 2
    assert graph.sources == [(-1,), (0,), (0,), (1, 2), (3,)]


def test_plan_runs_only_what_is_wanted_and_frees_what_is_read():
    # 0 <- image, 1 <- 0, 2 <- 0, 3 <- (1, image), 4 <- 2
    sources = [(-1,), (0,), (0,), (1, -1), (2,)]
    assert plan(sources, wanted=[3]) == (Step(0, (-1,), ()), Step(1, (0,), (0,)), Step(3, (1, -1), (-1, 1)))
    assert [step.layer for step in plan(sources, wanted=[3, 4])] == [0, 1, 2, 3, 4]
    assert plan(sources, wanted=[0, 1]) == (Step(0, (-1,), (-1,)), Step(1, (0,), ()))
