import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops.heatmap import draw_gaussians, gather_cells, gaussian_radius, top_peaks


def test_radius_of_a_square_by_hand():
    # Side 2, overlap 0.5. Moved the same way: b = 4, c = 4/3: (4 + sqrt(32/3)) / 2 = 3.63. Inwards: b = 8, c = 2, 4ac =
    # 32: (8 + sqrt 32) / 2 = 6.83. Outwards: a = 2, b = -4, c = -2: (-4 + sqrt 32) / 2 = 0.83, the smallest.
    radius = gaussian_radius(torch.tensor([2.0]), torch.tensor([2.0]), min_overlap=0.5)
    torch.testing.assert_close(radius, torch.tensor([(math.sqrt(32) - 4) / 2]))


def test_the_smallest_of_three_cases_counts():
    heights, widths = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([4.0, 3.0, 0.0])
    total, area = heights + widths, heights * widths
    cases = []
    for a, b, c in ((1, total, area * 0.9 / 1.1), (4, 2 * total, 0.9 * area), (0.4, -0.2 * total, -0.9 * area)):
        cases.append((b + torch.sqrt(b * b - 4 * a * c)) / 2)
    expected = torch.stack(cases).amin(0)
    torch.testing.assert_close(gaussian_radius(heights, widths, min_overlap=0.1), expected)


@pytest.mark.parametrize("overlap", [0.0, 1.0, -0.3])
def test_an_overlap_outside_of_0_to_1_is_refused(overlap):
    with pytest.raises(ValueError, match="min_overlap"):
        gaussian_radius(torch.ones(1), torch.ones(1), min_overlap=overlap)


def test_one_object_of_radius_1_by_hand():
    # s = 3 / 6: beside the centre exp(-1 / 0.5) = e^-2, at the corners e^-4.
    drawn = draw_gaussians(torch.tensor([0]), torch.tensor([[2, 1]]), torch.tensor([1]), shape=(1, 4, 5))
    side, corner = math.exp(-2), math.exp(-4)
    expected = torch.zeros(1, 4, 5)
    expected[0, 0:3, 1:4] = torch.tensor([[corner, side, corner], [side, 1, side], [corner, side, corner]])
    torch.testing.assert_close(drawn, expected, rtol=1e-7, atol=0)


def test_the_higher_value_counts_and_planes_do_not_meet():
    cells = torch.tensor([[1, 1], [2, 1], [3, 1]])
    drawn = draw_gaussians(torch.tensor([0, 0, 1]), cells, torch.tensor([1, 0, 0]), shape=(2, 3, 4))
    assert drawn[0, 1].tolist() == pytest.approx([math.exp(-2), 1, 1, 0])
    assert drawn[1, 1].tolist() == [0, 0, 0, 1]


def test_an_object_without_a_plane_is_not_drawn():
    drawn = draw_gaussians(torch.tensor([-1]), torch.tensor([[1, 1]]), torch.tensor([3]), shape=(2, 3, 4))
    assert drawn.count_nonzero() == 0


def test_a_peak_that_is_wider_than_the_map_takes_no_more_memory_than_the_map():
    # Its square has (2 * 10^6 + 1)^2 cells; over the 12 that there are it is flat.
    drawn = draw_gaussians(torch.tensor([1]), torch.tensor([[1, 1]]), torch.tensor([10**6]), shape=(2, 3, 4))
    assert drawn[0].count_nonzero() == 0
    torch.testing.assert_close(drawn[1], torch.ones(3, 4))


def test_no_objects():
    none = torch.zeros(0, dtype=torch.int64)
    assert draw_gaussians(none, none.reshape(0, 2), none, shape=(2, 3, 4)).tolist() == torch.zeros(2, 3, 4).tolist()


@given(st.lists(st.tuples(*(st.integers(low, high) for low, high in ((-1, 2), (-4, 9), (-4, 9), (0, 5)))), max_size=8))
def test_all_at_once_is_one_after_the_other(objects):
    expected = np.zeros((3, 6, 7), dtype=np.float32)
    for plane, x, y, radius in objects:
        sigma = (2 * radius + 1) / 6
        for row in range(max(y - radius, 0), min(y + radius + 1, 6)):
            for column in range(max(x - radius, 0), min(x + radius + 1, 7)):
                value = np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * sigma * sigma))
                if plane >= 0:
                    expected[plane, row, column] = max(expected[plane, row, column], np.float32(value))
    table = torch.tensor(objects, dtype=torch.int64).reshape(-1, 4)
    drawn = draw_gaussians(table[:, 0], table[:, 1:3], table[:, 3], shape=(3, 6, 7))
    np.testing.assert_allclose(drawn.numpy(), expected, rtol=1e-6)


def test_peaks_of_all_classes_are_taken_together():
    heatmaps = torch.zeros(2, 2, 2, 3)
    heatmaps[0, 1, 0, 2], heatmaps[0, 0, 1, 1], heatmaps[1, 0, 1, 0] = 0.9, 0.7, 0.4
    peaks = top_peaks(heatmaps, 2)
    assert peaks.scores[0].tolist() == pytest.approx([0.9, 0.7])
    assert peaks.labels[0].tolist() == [1, 0]
    assert peaks.cells[0].tolist() == [2, 4]
    assert (float(peaks.scores[1, 0]), int(peaks.cells[1, 0])) == (pytest.approx(0.4), 3)


def test_a_small_map_has_fewer_peaks_than_asked_for():
    assert top_peaks(torch.rand(1, 2, 2, 2), 50).scores.shape == (1, 8)


def test_cells_are_counted_row_by_row():
    maps = torch.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)
    got = gather_cells(maps, torch.tensor([1, 0]), torch.tensor([5, 0]))
    assert got.tolist() == [maps[1, :, 1, 1].tolist(), maps[0, :, 0, 0].tolist()]
