import math

import pytest
import torch
from torch import nn

from sightline.config.errors import RunError
from sightline.engine.ema import Ema, EmaConfig


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.tied = self.conv  # the same tensors under a second name
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("not_saved", torch.ones(2), persistent=False)

    def forward(self, x):
        return self.bn(self.conv(x)).sum()


def train(net, *, steps, ema=None, seed=0):
    """Something that changes weights, running statistics and counters."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        net(torch.randn(2, 2, 5, 5, generator=generator))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        if ema is not None:
            ema.update()
    return net


def bits(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_every_floating_entry_is_averaged_by_the_formula_and_counters_stay():
    net = Net()
    ema = Ema(EmaConfig(decay=0.9, ramp=3.0), net)
    expected = {name: tensor.double() for name, tensor in bits(net).items()}
    for update in range(1, 6):
        train(net, steps=1, seed=update)
        ema.update()
        decay = 0.9 * (1 - math.exp(-update / 3.0))
        for name, tensor in net.state_dict().items():
            if name not in ("mask", "bn.num_batches_tracked"):
                expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    state = ema.state_tensors()
    assert state.keys() == net.state_dict().keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert state["bn.num_batches_tracked"].item() == 0 and net.bn.num_batches_tracked.item() == 5
    assert state["mask"].tolist() == [0.0, float("-inf")]


def test_without_a_ramp_the_decay_is_constant():
    ema = Ema(EmaConfig(decay=0.5, ramp=0), nn.Linear(1, 1))
    assert [ema.decay_at(update) for update in (1, 100)] == [0.5, 0.5]


def test_a_tensor_with_two_names_is_averaged_once():
    net = Net()
    ema = Ema(EmaConfig(decay=0.5, ramp=0), net)
    before = net.conv.bias.detach().clone()
    with torch.no_grad():
        net.conv.bias.add_(1.0)
    ema.update()
    torch.testing.assert_close(ema.state_tensors()["conv.bias"], before + 0.5)
    assert ema.state_tensors()["tied.bias"] is ema.state_tensors()["conv.bias"]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_swapping_computes_with_the_average_and_gives_all_bits_back(memory_format):
    net = Net().to(memory_format=memory_format)
    ema = Ema(EmaConfig(decay=0.9, ramp=0), net)
    train(net, steps=3, ema=ema)
    live, average = bits(net), {name: tensor.clone() for name, tensor in ema.state_tensors().items()}
    other = Net()
    other.load_state_dict(average)
    pointers = [parameter.data_ptr() for parameter in net.parameters()]
    x = torch.randn(1, 2, 5, 5)
    with ema.swapped():
        torch.testing.assert_close(net.eval()(x), other.eval()(x))
        assert torch.equal(net.conv.weight, average["conv.weight"])
        assert [parameter.data_ptr() for parameter in net.parameters()] != pointers
    assert_same(bits(net), live)
    assert_same(ema.state_tensors(), average)
    assert [parameter.data_ptr() for parameter in net.parameters()] == pointers


def test_training_goes_on_after_a_swap_as_if_there_had_been_none():
    a, b = Net(), Net()
    b.load_state_dict(a.state_dict())
    ema_a, ema_b = Ema(EmaConfig(ramp=5), a), Ema(EmaConfig(ramp=5), b)
    for seed in range(4):
        train(a, steps=2, ema=ema_a, seed=seed)
        train(b, steps=2, ema=ema_b, seed=seed)
        with ema_b.swapped():
            pass
    assert_same(bits(a), bits(b))
    assert_same(ema_a.state_tensors(), ema_b.state_tensors())


def test_an_exception_in_evaluation_gives_the_bits_back():
    net = Net()
    ema = Ema(EmaConfig(), net)
    train(net, steps=2, ema=ema)
    live = bits(net)
    with pytest.raises(RuntimeError, match="evaluation"), ema.swapped():
        raise RuntimeError("evaluation")
    assert_same(bits(net), live)


def test_a_loaded_average_goes_on_with_the_same_bits():
    net = Net()
    ema = Ema(EmaConfig(ramp=4), net)
    train(net, steps=3, ema=ema)
    second_net = Net()
    second_net.load_state_dict(net.state_dict())
    second = Ema(EmaConfig(ramp=4), second_net)
    saved = {name: t.clone() for name, t in ema.state_tensors().items() if not name.startswith("tied.")}
    second.load(saved, updates=ema.updates)
    train(net, steps=3, ema=ema, seed=9)
    train(second_net, steps=3, ema=second, seed=9)
    assert second.updates == 6
    assert_same(ema.state_tensors(), second.state_tensors())


def test_an_average_of_another_model_is_refused_and_changes_nothing():
    net = Net()
    ema = Ema(EmaConfig(), net)
    before = {name: tensor.clone() for name, tensor in ema.state_tensors().items()}
    wrong = {**before, "conv.bias": torch.zeros(7), "head": torch.zeros(1)}
    wrong = {name: tensor + 1 for name, tensor in wrong.items() if name != "bn.bias"}
    with pytest.raises(
        RunError, match=r"3 tensors do not fit. bn\.bias is missing; conv\.bias is \(7,\).*head is unknown"
    ):
        ema.load(wrong, updates=3)
    assert ema.updates == 0
    assert_same(ema.state_tensors(), before)
