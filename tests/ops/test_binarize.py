import math

import pytest
import torch
from torch.autograd import gradcheck

from sightline.ops.binarize import (
    clip,
    det_sign,
    dorefa_quantise,
    gradient_gate,
    leaky_clip,
    round_half_away,
    round_quantise,
    sign_approx_sign,
    smooth_sign,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def gradient(function, values, upstream=None, dtype=torch.float64):
    x = torch.tensor(values, dtype=dtype, requires_grad=True)
    upstream = torch.ones_like(x) if upstream is None else torch.tensor(upstream, dtype=dtype)
    return torch.autograd.grad(function(x), x, upstream)[0].tolist()


def of(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [det_sign, sign_approx_sign])
def test_both_zeros_have_the_sign_plus(function, dtype):
    out = function(of([-math.inf, -1.0, -1e-7, -0.0, 0.0, 1e-7, 2.0], dtype))
    assert out.tolist() == [-1, -1, -1, 1, 1, 1, 1]
    assert out.dtype == dtype
    assert function(of([math.nan], dtype)).item() == 1  # it is not below 0


def test_the_sign_passes_every_gradient_unless_it_has_a_threshold():
    assert gradient(det_sign, [-9.0, 0.5, 9.0], [3.0, 4.0, 5.0]) == [3, 4, 5]
    assert gradient(lambda x: det_sign(x, threshold=1.0), [-9.0, 0.5, 9.0], [3.0, 4.0, 5.0]) == [0, 4, 0]


def test_the_approximate_sign_has_a_gradient_that_turns_negative_outside_its_range():
    # 2 - 2 |x| times the upstream gradient 3.
    assert gradient(sign_approx_sign, [-2.0, -1.0, -0.5, 0.0, 0.25], [3.0] * 5) == [-6, 0, 3, 6, 4.5]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.001, 0.3, 1.0, 1.3, 2.0])
def test_the_gate_includes_its_threshold_and_not_the_next_number_of_the_dtype(threshold, dtype):
    at = torch.tensor(threshold, dtype=dtype)
    above = at + torch.finfo(dtype).eps * 2.0 ** (math.frexp(at.item())[1] - 1)
    x = torch.stack([at, -at, above, -above])
    assert gradient_gate(x, threshold).equal(x)
    assert above > at
    assert gradient(lambda x: gradient_gate(x, threshold), x.tolist(), dtype=dtype) == [1, 1, 0, 0]


def test_the_gate_looks_at_the_input_and_not_at_the_gradient():
    assert gradient(lambda x: gradient_gate(x, 1.0), [0.5, 5.0], [100.0, 0.1]) == [100, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_halves_are_rounded_away_from_zero(dtype):
    x = of([0.5, -0.5, 1.5, 2.5, -2.5, 2.25, -0.25, 0.0, 7.0], dtype)
    assert round_half_away(x).tolist() == [1, -1, 2, 3, -3, 2, 0, 0, 7]


def test_a_number_just_below_a_half_is_not_lifted_over_it():
    below = math.nextafter(0.5, 0)  # plus 0.5 it would be 1.0, rounded
    assert round_half_away(of([below, -below])).tolist() == [0, 0]


def test_rounding_passes_the_gradient():
    assert gradient(round_half_away, [0.4, 0.5, -7.1], [1.0, 2.0, 3.0]) == [1, 2, 3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_the_clip_includes_both_ends(dtype):
    tiny = torch.finfo(dtype).tiny
    assert gradient(lambda x: clip(x, 0.0, 1.0), [-tiny, -0.0, 0.0, 0.5, 1.0, 1.01], dtype=dtype) == [0, 1, 1, 1, 1, 0]
    assert gradient(lambda x: clip(x, -1.0, 1.0), [-1.01, -1.0, 1.0, 1.01], dtype=dtype) == [0, 1, 1, 0]
    assert clip(of([-3.0, 0.5, 3.0], dtype), -1.0, 1.0).tolist() == [-1, 0.5, 1]


def test_a_threshold_narrows_the_window_of_the_clip_and_of_the_steps():
    assert gradient(lambda x: clip(x, -1.0, 1.0, threshold=0.5), [-0.6, -0.5, 0.5, 0.6]) == [0, 1, 1, 0]
    assert gradient(lambda x: round_quantise(x, 2, threshold=0.5), [-0.1, 0.0, 0.5, 0.6]) == [0, 1, 1, 0]
    assert gradient(lambda x: round_quantise(x, 2, threshold=2.0), [-0.1, 0.0, 1.0, 1.1]) == [0, 1, 1, 0]


def test_two_bits_are_four_steps_from_0_to_1():
    # n = 3: the borders lie at 1/6, 1/2 and 5/6; a half goes up.
    out = round_quantise(of([-4.0, 0.16, 0.17, 0.49, 0.5, 0.83, 0.84, 9.0]), 2) * 3
    assert out.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_one_bit_is_0_or_1():
    assert round_quantise(of([-1.0, 0.49, 0.5, 2.0]), 1).tolist() == [0, 0, 1, 1]


def test_dorefa_has_its_largest_value_at_an_end():
    w = of([-2.0, -0.1, 0.0, 0.4, 1.0])
    # tanh 2 = 0.9640: z = 0, 0.4483, 0.5, 0.6971, 0.8950; times 3, rounded: 0, 1, 2 (a half goes up), 2, 3.
    torch.testing.assert_close(dorefa_quantise(w, 2), of([-1, -1 / 3, 1 / 3, 1 / 3, 1]))


def test_dorefa_sends_its_gradient_through_the_maximum_too_and_whole_to_each_of_equal_ones():
    a, b = 0.5, 2.0
    # With t = tanh: dz/da = t'(a) / (2 t(b)) and dz/db = -t(a) t'(b) / (2 t(b)^2); the result is 2 z.
    slope = {v: 1 - math.tanh(v) ** 2 for v in (a, b)}
    expected_a = slope[a] / math.tanh(b)
    through_maximum = -math.tanh(a) * slope[b] / math.tanh(b) ** 2
    got = gradient(lambda x: dorefa_quantise(x, 3), [a, b, b, -b], [1.0, 0.0, 0.0, 0.0])
    assert got == pytest.approx([expected_a, through_maximum, through_maximum, -through_maximum])


def test_the_leaky_clip_by_hand():
    assert leaky_clip(of([-3.0, -1.0, 0.5, 1.0, 3.0])).tolist() == pytest.approx([-0.3, -1, 0.5, 1, 0.3])
    assert gradient(leaky_clip, [-3.0, -1.0, 0.5, 1.0, 3.0]) == pytest.approx([0.1, 1, 1, 1, 0.1])


def test_the_smooth_sign_by_hand():
    # 2x + x^2 below 0, 2x - x^2 above.
    assert smooth_sign(of([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])).tolist() == [-1, -1, -0.75, 0, 0.75, 1, 1]
    assert gradient(smooth_sign, [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]) == [0, 0, 1, 2, 1, 0, 0]


@pytest.mark.parametrize(
    "function",
    [
        smooth_sign,
        leaky_clip,
        lambda x: clip(x, -1.0, 1.0),
        lambda x: gradient_gate(x, math.inf),
        lambda x: gradient_gate(0.1 * x, 1.0),
    ],
)
def test_what_is_differentiable_has_its_true_gradient(function):
    x = torch.linspace(-2.3, 2.4, 12, dtype=torch.float64, requires_grad=True)
    assert gradcheck(function, (x,))


@pytest.mark.parametrize("function", [det_sign, sign_approx_sign, round_half_away, lambda x: round_quantise(x, 2)])
def test_an_input_is_never_written_to(function):
    x = torch.randn(50)
    before = x.clone()
    function(x)
    assert x.equal(before)


@pytest.mark.parametrize("bits", [16, 31])
def test_more_steps_than_fp16_has_numbers_round_to_the_value_itself(bits):
    # 2^16 - 1 is above 65504, where fp16 ends; its numbers are coarser than the steps, so that nothing changes.
    values = torch.linspace(0, 1, 9, dtype=torch.float16)
    assert round_quantise(values, bits).equal(values)
    assert gradient(lambda x: round_quantise(x, bits), values.tolist(), dtype=torch.float16) == [1] * 9
    expected = (values.double().tanh() / math.tanh(1)).half()
    found = dorefa_quantise(values, bits)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    slopes = gradient(lambda x: dorefa_quantise(x, bits), values.tolist(), dtype=torch.float16)
    assert all(map(math.isfinite, slopes))
