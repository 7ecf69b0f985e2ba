"""PointPillars as a whole, at a small size."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.config.errors import ConfigError
from sightline.models.blocks.anchor_config import AnchorConfig, AnchorHead3DConfig
from sightline.models.blocks.bev_backbone import BevBackboneConfig
from sightline.models.pointpillars.config import PointPillarsConfig
from sightline.models.pointpillars.model import PointPillars, openpcdet_names
from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.point_clouds import PointClouds

CLASSES = ("Car", "Pedestrian")


COARSER = BevBackboneConfig(layers=(1,), strides=(4,), channels=(8,), up_strides=(0.333,), up_channels=(8,))


def small(**changes):
    values = {
        "point_range": (0, -6.4, -3, 12.8, 6.4, 1),
        "pillar_size": (0.4, 0.4),
        "max_points_per_pillar": 8,
        "backbone": BevBackboneConfig(
            layers=(1, 1), strides=(2, 2), channels=(16, 16), up_strides=(1, 2), up_channels=(16, 16)
        ),
    }
    return PointPillarsConfig(**{**values, **changes})


def model(config=None, seed=0):
    torch.manual_seed(seed)
    return PointPillars(config or small(), CLASSES)


def batch(seed=0, counts=(300, 0, 200)):
    random = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([0.0, -6.4, -3, 0]), torch.tensor([12.8, 6.4, 1, 1])
    points = torch.rand(sum(counts), 4, generator=random) * (high - low) + low
    boxes = torch.tensor(
        [[5.0, 1, -1, 3.9, 1.6, 1.5, 0.3], [8.0, -3, -1, 0.8, 0.6, 1.7, 2.0], [4.0, 4, -1, 4, 1.7, 1.6, -3]]
    )
    return PointClouds(points, counts), BoxTargets3D(boxes, torch.tensor([0, 1, 0]), (2, 0, 1))


def test_losses_have_gradients_for_every_parameter_also_with_an_empty_cloud():
    net = model()
    clouds, targets = batch()
    losses = net.losses(clouds, targets)
    assert set(losses) == {"class", "box", "direction"}
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_batch_without_points_and_boxes_has_finite_losses():
    net = model()
    nothing = BoxTargets3D(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64), (0, 0))
    losses = net.losses(PointClouds(torch.zeros(0, 4), (0, 0)), nothing)
    assert losses["box"] == losses["direction"] == 0
    assert losses["class"].isfinite()


def test_points_that_are_no_numbers_or_out_of_range_are_left_out():
    net = model().eval()
    clouds, _ = batch(counts=(300,))
    bad = torch.tensor([[float("nan"), 0, 0, 0], [5, float("inf"), 0, 0], [100, 0, 0, 0]])
    more = PointClouds(torch.cat((bad, clouds.points)), (303,))
    assert torch.equal(net(more).logits, net(clouds).logits)


def test_a_box_is_learnt_and_found():
    net = model()
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 0.2  # the original's 0.01 needs hundreds of steps
    clouds, targets = batch(counts=(300, 200, 200))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(net.losses(clouds, targets).values())).sum().backward()
        optimizer.step()
    found = net.eval().detect(clouds)
    assert [len(one.scores) > 0 for one in found] == [True, False, True]
    best = found[2]
    torch.testing.assert_close(best.boxes3d[0, :6], targets.boxes3d[2, :6], rtol=0, atol=0.4)
    assert best.labels[0] == 0
    turn = (best.boxes3d[0, 6] - targets.boxes3d[2, 6]).cos()
    assert turn > 0.9  # the front is at the front
    assert best.scores.tolist() == sorted(best.scores.tolist(), reverse=True)


def test_the_exported_graph_gives_all_boxes_and_takes_unused_places():
    net = model().eval()
    clouds, _ = batch(counts=(300,))
    predictions = net(clouds)
    graph = net.graph()
    places = [torch.cat((one, one.new_zeros(5, *one.shape[1:]))) for one in graph.inputs(clouds.points)]
    boxes3d, scores = graph(*places)
    torch.testing.assert_close(boxes3d, net.head.decode(predictions, 0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores, predictions.logits[0].sigmoid(), rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    ("gap", "yaw", "turns"), [(0, 0.1, True), (1e-5, 0.1, True), (0.1, 0.1, False), (0.1, 0, True)]
)
def test_a_box_may_turn_by_a_rounding_where_directions_are_alike_or_the_yaw_is_at_the_border(gap, yaw, turns):
    net = model(small(head=AnchorHead3DConfig(direction_offset=0.0)))
    predictor = net.head.predictor
    for layer in (predictor.boxes, predictor.directions):
        layer.weight.zero_()
        layer.bias.zero_()
    predictor.directions.bias[1::2] = gap  # of two directions the second one
    predictor.boxes.bias[6::7] = yaw  # anchors stand at 0 and 1.57, bins begin at 0 and pi
    graph = net.graph()
    is_along = net.head.grid.boxes()[:, 6] == 0
    undecided = graph.undecided(*graph.inputs(batch(counts=(50,))[0].points))
    assert undecided[is_along].all() if turns else not undecided.any()


def test_every_tensor_has_the_name_of_the_original():
    net = model()
    layers = {name.rpartition(".")[0] for name in net.state_dict()}
    assert set(openpcdet_names(net.config).values()) == layers


def test_anchors_are_found_by_the_names_of_classes():
    net = PointPillars(small(), ("Cyclist", "Car"))
    assert net.head.shapes[0, 1:4].tolist() == pytest.approx([1.76, 0.6, 1.73])
    assert net.head.shapes[2, 1:4].tolist() == pytest.approx([3.9, 1.6, 1.56])


def test_a_class_without_anchors_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"no anchors for the class 'Pedestrain'.*Did you mean 'Pedestrian'"):
        PointPillars(small(), ("Car", "Pedestrain"))


def test_anchors_without_names_go_by_the_order_of_the_classes():
    anchor = AnchorConfig(sizes=((1, 1, 1),), bottom=0, matched_iou=0.5, unmatched_iou=0.3)
    head = AnchorHead3DConfig(anchors=(anchor, anchor))
    assert len(PointPillars(small(head=head), ("a", "b")).head.shapes) == 4
    with pytest.raises(ConfigError, match="2 entries for 3 classes"):
        PointPillars(small(head=head), ("a", "b", "c"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"pillar_size": (0.3, 0.4)}, "not a whole number"),
        ({"point_range": (0, -6.4, -3, 12.4, 6.4, 1)}, "multiple of 4"),
        ({"pillar_channels": (7, 8)}, "pillar_channels"),
        ({"pillar_size": (0.4, 0.3997)}, "y from -6.4 to 6.4 m is not a whole number of pillars of 0.3997 m"),
        ({"backbone": COARSER}, "32 pillars along x, but all strides together need a multiple of 12"),
        ({"point_range": (0, -6.4, 3, 12.8, 6.4, 1)}, "point_range"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        small(**changes)


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="above matched_iou"):
        AnchorConfig(sizes=((1, 1, 1),), bottom=0, matched_iou=0.3, unmatched_iou=0.5)


def test_two_layers_on_points_and_no_direction_bins_are_possible():
    config = small(pillar_channels=(16, 8), head=AnchorHead3DConfig(direction_bins=0))
    net = model(config)
    clouds, targets = batch()
    assert set(net.losses(clouds, targets)) == {"class", "box"}
    assert len(net.eval().detect(clouds)) == 3
    assert set(openpcdet_names(config).values()) == {name.rpartition(".")[0] for name in net.state_dict()}
