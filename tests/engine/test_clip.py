import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.engine.clip import clip_grad_norm, global_norm, non_finite


def test_the_norm_of_3_and_4_is_5():
    assert global_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]).item() == 5.0


def test_a_long_gradient_is_shortened_and_its_direction_kept():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    assert clip_grad_norm(gradients, 2.5).item() == 5.0
    torch.testing.assert_close(torch.cat(gradients), torch.tensor([1.5, 0.0, 2.0]))


def test_without_a_limit_it_only_measures():
    gradients = [torch.tensor([300.0])]
    assert clip_grad_norm(gradients, None).item() == 300.0
    assert gradients[0].item() == 300.0


@settings(max_examples=60)
@given(scale=st.floats(-6, 6), limit=st.floats(-5, 5), close=st.booleans())
def test_the_bits_are_those_of_torch(scale, limit, close):
    torch.manual_seed(0)
    parameters = [torch.zeros(shape, requires_grad=True) for shape in ((3, 4), (5,), ())]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape) * 10**scale
    ours = [parameter.grad.clone() for parameter in parameters]
    max_norm = global_norm(ours).item() * (1 + limit * 1e-7) if close else 10**limit
    theirs = torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
    assert torch.equal(clip_grad_norm(ours, max_norm), theirs)
    for gradient, parameter in zip(ours, parameters, strict=True):
        assert torch.equal(gradient, parameter.grad)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_number_anywhere_is_seen_in_the_norm(bad):
    gradients = [torch.ones(3), torch.ones(2, 2)]
    assert non_finite(global_norm(gradients)).item() == 0.0
    gradients[1][1, 0] = bad
    assert non_finite(clip_grad_norm(gradients, 1.0)).item() == 1.0
    assert non_finite(global_norm(gradients)).dtype == torch.float32
