"""Convolution blocks, and that folding them changes nothing."""

import pytest
import torch
from torch import nn

from sightline.models.blocks.conv import ConvAct, ConvNormAct, RepConv, fold_batch_norm, folded


def as_trained(module):
    """Batch norms with the statistics and scales of a model that has seen data."""
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)
    return module.eval()


def test_folding_by_hand():
    # Convolution 2 x + 7; batch norm 4 * (y - 1) / sqrt(3 + 1) + 5; together 4 x + 17.
    conv = nn.Conv2d(1, 1, 1)
    norm = nn.BatchNorm2d(1, eps=1.0)
    for tensor, value in (
        (conv.weight, 2),
        (conv.bias, 7),
        (norm.weight, 4),
        (norm.bias, 5),
        (norm.running_mean, 1),
        (norm.running_var, 3),
    ):
        nn.init.constant_(tensor, value)
    weight, bias = fold_batch_norm(conv, norm)
    assert (weight.item(), bias.item()) == (4, 17)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 4)])
def test_folded_block_gives_the_same(kernel_size, stride, groups):
    torch.manual_seed(0)
    block = as_trained(ConvNormAct(8, 12, kernel_size, stride, groups=groups, activation=nn.SiLU, eps=1e-3))
    x = torch.randn(2, 8, 10, 14)
    want = block(x)
    assert want.shape == (2, 12, 10 // stride, 14 // stride)
    torch.testing.assert_close(block.folded()(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("out_channels, stride, branches", [(8, 1, 3), (16, 1, 2), (8, 2, 2)])
def test_branches_fold_into_one_convolution(out_channels, stride, branches):
    torch.manual_seed(0)
    block = as_trained(RepConv(8, out_channels, stride, activation=nn.SiLU))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in block.modules()) == branches
    x = torch.randn(2, 8, 10, 14)
    one = block.folded()
    assert [type(m) for m in one.modules()] == [ConvAct, nn.Conv2d, nn.SiLU]
    torch.testing.assert_close(one(x), block(x), rtol=1e-5, atol=1e-5)


def test_folding_a_model_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    inner = nn.ModuleDict({"deep": ConvNormAct(4, 4, 3, activation=nn.SiLU)})
    model = nn.Sequential(ConvNormAct(3, 4, activation=nn.SiLU), RepConv(4, 4, activation=nn.SiLU), inner).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = folded(model)
    assert not any(isinstance(m, (nn.BatchNorm2d, ConvNormAct, RepConv)) for m in copy.modules())
    assert all(m.training for m in model.modules())
    assert not any(m.training for m in copy.modules())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
