"""Anchors and the code of boxes relative to them, against OpenPCDet's."""

import numpy as np
import pytest
import torch

from sightline.ops.anchors3d import cell_centers
from sightline.ops.residual_code import decode_residuals, encode_residuals
from tests.conftest import oracle
from tests.parity.openpcdet_anchors import anchor_grid, head_config, map_range, models

METRES = 2e-5


def close(got, wanted, what=""):
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-6, atol=METRES, err_msg=what)


def test_anchors_stand_and_are_shaped_as_recorded():
    with np.load(oracle("openpcdet", "anchors.npz")) as arrays:
        names = models(arrays, r"(\w+)/total")
        assert names
        for name in names:
            grid = anchor_grid(arrays, name)
            assert grid.num_anchors == arrays[f"{name}/total"]
            assert [one.num_per_cell for one in head_config(name).anchors] == arrays[
                f"{name}/num_per_location"
            ].tolist()
            close(grid.xs, arrays[f"{name}/x_centres"], name)
            close(grid.ys, arrays[f"{name}/y_centres"], name)
            close(grid.boxes(torch.arange(len(grid.shapes))), arrays[f"{name}/first_location_6_anchors"], name)
            index = torch.from_numpy(arrays[f"{name}/sample_flat_index"])
            close(grid.boxes(index), arrays[f"{name}/sample_anchors"], name)
            sums = grid.boxes().double().sum(dim=0)
            wanted = arrays[f"{name}/column_sums64"]
            np.testing.assert_allclose(sums, wanted, rtol=1e-6, atol=METRES * grid.num_anchors)


def test_centred_anchors_stand_in_the_middle_of_their_cells():
    with np.load(oracle("openpcdet", "anchors.npz")) as arrays:
        cases = [name.removesuffix("/x_centres") for name in arrays.files if name.endswith("_align_center/x_centres")]
        assert cases
        for case in cases:
            low_x, low_y, _, high_x, high_y, _ = map_range(case.removesuffix("_align_center"))
            for axis, low, high in (("x", low_x, high_x), ("y", low_y, high_y)):
                wanted = arrays[f"{case}/{axis}_centres"]
                close(cell_centers(low, high, len(wanted), is_centered=True), wanted, case)


@pytest.fixture(scope="module")
def coder():
    with np.load(oracle("openpcdet", "box_coder.npz")) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def equal(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


def same_boxes(got, wanted):
    # Coordinates near 0 are differences of large ones.
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=METRES)


def test_boxes_become_the_recorded_offsets_and_boxes_again(coder):
    equal(encode_residuals(coder["boxes"], coder["anchors"]), coder["encoded"])
    same_boxes(decode_residuals(coder["encoded"], coder["anchors"]), coder["decoded_back"])
    same_boxes(decode_residuals(coder["random_encodings"], coder["anchors"]), coder["random_decoded"])


def test_yaw_as_sine_and_cosine_is_as_recorded(coder):
    encoded = encode_residuals(coder["boxes"], coder["anchors"], as_sine_and_cosine=True)
    equal(encoded, coder["sincos_encoded"])
    decoded = decode_residuals(coder["sincos_encoded"], coder["anchors"], as_sine_and_cosine=True)
    same_boxes(decoded, coder["sincos_decoded_back"])


def test_velocities_are_differences(coder):
    resting = torch.cat((coder["anchors"], torch.zeros(len(coder["anchors"]), 2)), dim=1)
    equal(encode_residuals(coder["vel_boxes"], resting), coder["vel_encoded"])
    same_boxes(decode_residuals(coder["vel_encoded"], resting), coder["vel_decoded_back"])


def test_boxes_without_size_are_taken_for_tiny_ones(coder):
    wanted = coder["clamped_zero_size_encoded"]
    equal(encode_residuals(torch.zeros(len(wanted), 7), torch.ones(len(wanted), 7)), wanted)
