"""The centre head by hand: targets of one object, losses, and boxes that come back from a perfect answer."""

import math

import pytest
import torch

from sightline.config.errors import ConfigError
from sightline.models.centerpoint.head import CenterHead
from sightline.models.centerpoint.head_config import CenterHeadConfig, CenterLossConfig
from sightline.models.centerpoint.predictor import CenterMaps
from sightline.models.centerpoint.targets import CenterGrid
from sightline.ops.boxes3d import BoxTargets3D

CLASSES = ("Car", "Pedestrian", "Cyclist")
GRID = CenterGrid(origin=(0.0, -8.0), voxel_size=(0.5, 0.5), stride=2, map_hw=(16, 20))
"""Cells of 1 m: x from 0 to 20 m, y from -8 to 8 m."""


def head_of(**changes):
    torch.manual_seed(0)
    return CenterHead(CenterHeadConfig(channels=8, **changes), CLASSES, in_channels=4, grid=GRID)


def truth(*samples):
    """Boxes with their labels in front, a list for each sample."""
    rows = torch.tensor([row for sample in samples for row in sample], dtype=torch.float32)
    return BoxTargets3D(rows[:, 1:], rows[:, 0].long(), tuple(len(sample) for sample in samples))


def perfect(head, targets):
    """Maps that say the targets and are sure of them."""
    wanted = head.targets(targets)
    labels = targets.labels[wanted.boxes]
    said = []
    for own in head.labels_of_heads:
        heatmap = torch.where(wanted.heatmaps[:, list(own)] == 1, 8.0, -8.0)
        codes = torch.zeros(len(targets.counts), head.config.num_codes, *GRID.map_hw)
        rows = torch.isin(labels, torch.tensor(own)).nonzero().squeeze(1)
        codes.flatten(2)[wanted.samples[rows], :, wanted.cells[rows]] = wanted.codes[rows]
        sizes = [2, 1, 3, 2, *([2] if head.config.velocity else [])]
        said.append(CenterMaps(heatmap, codes.split(sizes, dim=1)))
    return said


def test_the_targets_of_one_object_by_hand():
    # Centre (7.3, -5.25) is 7.3 cells from the left and 2.75 from below: cell 7, 2. Corners of a box of 2 x 2 cells may
    # be off by (-0.8 + sqrt(0.64 + 5.76)) / 2 = 0.87 cells outwards at an IoU of 0.1, so the least radius of 2 counts:
    # s = 5 / 6.
    head = head_of()
    wanted = head.targets(truth([(1, 7.3, -5.25, -1.0, 2.0, 2.0, math.e, math.pi / 2)]))
    assert wanted.cells.tolist() == [2 * 20 + 7]
    codes = [0.3, 0.75, -1.0, math.log(2), math.log(2), 1.0, 0.0, 1.0]
    torch.testing.assert_close(wanted.codes, torch.tensor([codes]), rtol=0, atol=1e-5)
    heatmap = torch.zeros(3, 16, 20)
    for row in range(5):
        for column in range(5, 10):
            heatmap[1, row, column] = math.exp(-((row - 2) ** 2 + (column - 7) ** 2) / (2 * (5 / 6) ** 2))
    torch.testing.assert_close(wanted.heatmaps[0], heatmap)
    assert wanted.heatmaps[0, 1, 2, 7] == 1


def test_the_radius_of_a_large_object_is_cut_to_whole_cells():
    # 10 x 10 cells at an IoU of 0.1: both corners outwards, a = 0.4, b = -4, c = -90: (-4 + sqrt(16 + 144)) / 2 = 4.32.
    wanted = head_of().targets(truth([(0, 10.5, 0.5, 0, 10.0, 10.0, 2, 0)]))
    row = wanted.heatmaps[0, 0, 8]
    assert (row > 0).nonzero().squeeze(1).tolist() == list(range(6, 15))


def test_a_centre_beside_of_the_map_belongs_to_the_outermost_cell():
    wanted = head_of().targets(truth([(0, 25.0, -9.0, 0, 4, 2, 2, 0)]))
    assert wanted.cells.tolist() == [19]
    assert wanted.codes[0, :2].tolist() == [0.5, 0]


NO_BOXES = [(place, number) for place in range(7) for number in (math.nan, math.inf)]
NO_BOXES += [(place, number) for place in (3, 4, 5) for number in (0.0, -1.0)]


@pytest.mark.parametrize(("place", "number"), NO_BOXES)
def test_boxes_without_an_extent_or_with_a_number_that_is_not_finite_are_not_trained(place, number):
    box = [5.0, 0, 0, 2, 2, 2, 0]
    box[place] = number
    head = head_of()
    targets = truth([(0, *box), (1, 5, 0, 0, 1, 1, 2, 0)])
    wanted = head.targets(targets)
    assert wanted.boxes.tolist() == [1]
    assert wanted.heatmaps[0, 0].count_nonzero() == 0
    assert all(loss.isfinite() for loss in head.losses(perfect(head, targets), targets).values())


def test_a_process_without_samples_has_losses_of_zero():
    head = head_of()
    nothing = BoxTargets3D(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64), ())
    said = [CenterMaps(torch.zeros(0, 3, 16, 20), tuple(torch.zeros(0, n, 16, 20) for n in (2, 1, 3, 2)))]
    assert head.losses(said, nothing) == {"heatmap": 0, "box": 0}


@pytest.mark.parametrize("groups", [(), (("Cyclist", "Car"), ("Pedestrian",))])
@pytest.mark.parametrize("velocity", [False, True])
def test_a_perfect_answer_gives_the_boxes_back(groups, velocity):
    head = head_of(groups=groups, velocity=velocity)
    speeds = [(1.5, -2.0), (0.0, 0.25), (-3.0, 4.0), (9.0, 0.5)] if velocity else [()] * 4
    rows = [
        (0, 4.25, -3.5, -0.75, 4.0, 1.75, 1.5, 0.5, *speeds[0]),
        (1, 12.0, 6.75, -0.5, 0.75, 0.5, 1.75, -3.0, *speeds[1]),
        (2, 18.9, 0.1, -0.25, 1.75, 0.6, 1.7, 3.1, *speeds[2]),
        (1, 0.1, -7.9, -0.5, 0.75, 0.5, 1.75, 1.5, *speeds[3]),
    ]
    targets = truth(rows[:3], [], rows[3:])
    found = head.detections(perfect(head, targets))
    for one, (boxes3d, labels) in zip(found, targets.split(), strict=True):
        order, wanted = one.labels.argsort(), labels.argsort()
        assert one.labels[order].tolist() == labels[wanted].tolist()
        torch.testing.assert_close(one.boxes3d[order], boxes3d[wanted], rtol=0, atol=1e-4)
        torch.testing.assert_close(one.scores, torch.full((len(labels),), 1 / (1 + math.exp(-8))))


def test_detections_outside_of_the_allowed_space_are_dropped():
    targets = truth([(0, 4.25, -3.5, -0.75, 4, 1.75, 1.5, 0), (0, 14.25, -3.5, -0.75, 4, 1.75, 1.5, 0)])
    head = head_of(center_range=(0.0, -8.0, -3.0, 10.0, 8.0, 1.0))
    (found,) = head.detections(perfect(head, targets))
    assert found.boxes3d[:, 0].tolist() == pytest.approx([4.25])


def test_heads_suppress_only_their_own_boxes():
    rows = [(0, 4.5, 0.5, 0, 4, 2, 2, 0), (1, 4.5, 0.5, 0, 4, 2, 2, 0)]
    alone, apart = head_of(), head_of(groups=(("Car", "Cyclist"), ("Pedestrian",)))
    assert len(alone.detections(perfect(alone, truth(rows)))[0].scores) == 1
    assert len(apart.detections(perfect(apart, truth(rows)))[0].scores) == 2


def test_losses_of_one_object_by_hand():
    # Everything is at p = 0.5; of 16 x 20 x 3 cells 25 belong to the peak.
    head = head_of()
    targets = truth([(1, 7.5, 0.5, -1.0, 1.0, 1.0, 1.0, 0.0)])
    zeros = CenterMaps(torch.zeros(1, 3, 16, 20), tuple(torch.zeros(1, n, 16, 20) for n in (2, 1, 3, 2)))
    losses = head.losses([zeros], targets)
    far = 3 * 16 * 20 - 25
    near = 0.0
    for row in range(-2, 3):
        for column in range(-2, 3):
            if row or column:
                near += (1 - math.exp(-(row**2 + column**2) / (2 * (5 / 6) ** 2))) ** 4
    assert losses["heatmap"].item() == pytest.approx((1 + near + far) * 0.25 * math.log(2), rel=1e-5)
    # Off by 0.5, 0.5 cells, z by 1, cosine by 1: 3, twice.
    assert losses["box"].item() == pytest.approx(2 * 3.0)


def test_unknown_velocities_cost_nothing():
    head = head_of(velocity=True)
    nan = math.nan
    targets = truth([(0, 4.5, 0.5, 0, 1, 1, 1, 0, 2.0, nan), (0, 9.5, 0.5, 0, 1, 1, 1, 0, nan, nan)])
    maps = [torch.zeros(1, n, 16, 20, requires_grad=True) for n in (3, 2, 1, 3, 2, 2)]
    (losses,) = head.head_losses([CenterMaps(maps[0], tuple(maps[1:]))], targets)
    # One of the two boxes is 2 m/s off: 2 / 2 boxes, weighted 0.2 and 2.
    assert losses.codes[8:].tolist() == pytest.approx([0.4, 0.0])
    losses.codes.sum().backward()
    assert maps[5].grad.count_nonzero() == 1 and maps[5].grad.isfinite().all()


def test_a_batch_without_objects_has_a_loss_that_is_all_background():
    head = head_of()
    targets = BoxTargets3D(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64), (0, 0))
    losses = head.losses(head(torch.randn(2, 4, 16, 20)), targets)
    assert losses["box"].item() == 0
    assert losses["heatmap"].item() > 0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_at_first_every_cell_is_a_centre_with_a_probability_of_a_tenth():
    maps = head_of(layers=1, heatmap_layers=1)(torch.zeros(1, 4, 16, 20))[0]
    assert maps.heatmap.sigmoid().mean().item() == pytest.approx(0.1, abs=0.01)


def test_velocities_that_the_boxes_have_not_are_refused():
    with pytest.raises(ValueError, match="velocities"):
        head_of(velocity=True).targets(truth([(0, 4.5, 0.5, 0, 1, 1, 1, 0)]))


@pytest.mark.parametrize(
    ("groups", "word"),
    [
        ((("Car",), ("Pedestrain", "Cyclist")), "Pedestrian"),
        ((("Car",), ("Pedestrian",)), "Cyclist"),
    ],
)
def test_groups_that_do_not_fit_the_classes_are_refused(groups, word):
    with pytest.raises(ConfigError, match=word):
        head_of(groups=groups)


def test_contradictions_of_the_configuration_are_refused():
    with pytest.raises(ValueError, match="one group"):
        CenterHeadConfig(groups=(("Car", "Van"), ("Car",)))
    with pytest.raises(ValueError, match="code_weights"):
        CenterHeadConfig(velocity=True, loss=CenterLossConfig(code_weights=(1.0,) * 8))
    with pytest.raises(ValueError, match="center_range"):
        CenterHeadConfig(center_range=(0, 0, 0, -1, 1, 1))


def test_a_box_of_a_million_metres_does_not_fill_the_memory():
    wanted = head_of().targets(truth([(0, 4.5, 0.5, 0, 1e6, 1e6, 2, 0)]))
    assert wanted.heatmaps[0, 0].max() == wanted.heatmaps[0, 0, 8, 4] == 1
