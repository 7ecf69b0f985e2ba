"""Boxes as offsets from anchors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops.residual_code import decode_residuals, encode_residuals


def test_offsets_by_hand():
    # Diagonal of 3 x 4 is 5; height 2; sizes twice, once, half as large.
    anchor = torch.tensor([[1.0, 2, 3, 3, 4, 2, 0.5]])
    box = torch.tensor([[6.0, -8, 4, 6, 4, 1, 1.5]])
    wanted = torch.tensor([[1.0, -2, 0.5, math.log(2), 0, -math.log(2), 1]])
    torch.testing.assert_close(encode_residuals(box, anchor), wanted)


number = st.floats(-20, 20)
size = st.floats(0.1, 10)
boxes = st.tuples(number, number, number, size, size, size, st.floats(-3, 3), number, number)


@given(boxes, boxes, st.booleans())
def test_decoding_undoes_encoding(one, other, as_sine_and_cosine):
    box, anchor = torch.tensor([one], dtype=torch.float64), torch.tensor([other], dtype=torch.float64)
    codes = encode_residuals(box, anchor, as_sine_and_cosine=as_sine_and_cosine)
    back = decode_residuals(codes, anchor, as_sine_and_cosine=as_sine_and_cosine)
    torch.testing.assert_close(back, box, rtol=1e-9, atol=1e-9)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="anchors"):
        encode_residuals(torch.zeros(2, 7), torch.zeros(3, 7))
    with pytest.raises(ValueError, match="codes"):
        decode_residuals(torch.zeros(2, 7), torch.zeros(2, 7), as_sine_and_cosine=True)
