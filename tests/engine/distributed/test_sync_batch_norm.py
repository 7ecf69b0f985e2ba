import pytest
import torch
from torch import nn

from sightline.engine.distributed.sync_batch_norm import SyncBatchNorm, has_batch_norm, synchronise_batch_norm
from tests.together import together

SHARES = {1: [8], 2: [5, 3], 3: [4, 0, 4]}


def net():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3, momentum=0.03), nn.SiLU())
    return nn.Sequential(layers, nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)).double()


def losses_and_gradients(processes, count, layout):
    """Two passes over shares of one batch; the sum of squares divided by the samples of all."""
    module = net().to(memory_format=layout)
    if count > 1:
        synchronise_batch_norm(module, torch.device("cpu"))
    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own = images.split(SHARES[count])[processes.share.rank].contiguous(memory_format=layout)
    weights = torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(1, 2, 4, 4)
    for _ in range(2):
        module.zero_grad()
        loss = (module(own) * weights).square().sum() * count / 8
        loss.backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    shown = processes.mean({**{name: g.sum() for name, g in gradients.items()}, "loss": loss})
    full = {name: g.clone() for name, g in gradients.items()}
    for gradient in full.values():
        if count > 1:
            torch.distributed.all_reduce(gradient)
            gradient.div_(count)
    return {name: float(value.detach()) for name, value in shown.items()}, full, dict(module.named_buffers())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [2, 3])
def test_uneven_and_empty_shares_give_the_gradients_and_statistics_of_one_process(count, layout):
    shown, gradients, buffers = together(1, losses_and_gradients, 1, torch.contiguous_format)[0]
    for found_shown, found_gradients, found_buffers in together(count, losses_and_gradients, count, layout):
        assert found_shown["loss"] == pytest.approx(shown["loss"], rel=1e-6)  # sent as float32
        for name, gradient in gradients.items():
            torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
        for name, buffer in buffers.items():
            torch.testing.assert_close(found_buffers[name], buffer, rtol=1e-9, atol=1e-12, msg=name)


def test_only_batch_norms_are_replaced_and_their_tensors_stay_the_same_objects():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.LayerNorm(3))
    before = {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}
    assert has_batch_norm(module) and not has_batch_norm(module[2])
    assert synchronise_batch_norm(module, torch.device("cpu")) is module
    assert isinstance(module[1], SyncBatchNorm) and isinstance(module[2], nn.LayerNorm)
    assert {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()} == before


def test_in_evaluation_it_is_a_plain_batch_norm():
    plain = nn.BatchNorm1d(3)
    plain.running_mean.uniform_(-1, 1)
    plain.eval()
    x = torch.randn(5, 3)
    wanted = plain(x)
    torch.testing.assert_close(synchronise_batch_norm(plain, torch.device("cpu"))(x), wanted, rtol=0, atol=0)
