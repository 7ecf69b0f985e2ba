import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from sightline.config.errors import ConfigError
from sightline.losses.box_iou import paired_overlap
from sightline.models.yolov7 import targets as targets_module
from sightline.models.yolov7.loss import YOLOv7Loss, YOLOv7LossConfig, _Gather, _write_last
from sightline.models.yolov7.targets import Positives, find_candidates, match_predictions
from sightline.ops.boxes2d import BoxTargets, box_iou, cxcywh_to_xyxy, xyxy_to_cxcywh

ANCHORS = torch.tensor([[[12.0, 16], [40, 28]], [[36, 75], [76, 55]], [[142, 110], [192, 243]]])
STRIDES = (8, 16, 32)
CLASSES = 4


def outputs(images=3, hw=(96, 128), classes=CLASSES, seed=0, dtype=torch.float32, heads=1):
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, 2, hw[0] // stride, hw[1] // stride, 5 + classes, generator=random, dtype=dtype)
        for _ in range(heads)
        for stride in STRIDES
    ]


def truth(counts, hw=(96, 128), classes=CLASSES, seed=0):
    random = torch.Generator().manual_seed(seed)
    count = sum(counts)
    centers = torch.rand(count, 2, generator=random) * torch.tensor([hw[1], hw[0]])
    sizes = (torch.rand(count, 2, generator=random) * 2.5 + 2).exp()
    image_index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = torch.randint(classes, (count,), generator=random)
    return BoxTargets(cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1)), labels, image_index)


def loss_of(classes=CLASSES, image_size=640, **options):
    config = YOLOv7LossConfig(**options)
    return YOLOv7Loss(config, anchors_px=ANCHORS, strides=STRIDES, num_classes=classes, image_size=image_size)


def summed(losses):
    return torch.stack(list(losses.values())).sum()


def grids(raw):
    return [tuple(output.shape[2:4]) for output in raw]


def naive_matching(raw, candidates, targets, iou_candidates):
    """The matching as its description reads: image by image, box by box, class by class."""
    kept = []
    columns = torch.stack(candidates[:5], dim=1).tolist()
    for image in range(len(raw[0])):
        mine = [c for c in range(len(columns)) if columns[c][1] == image]
        true = (targets.image_index == image).nonzero().squeeze(1).tolist()
        if not mine or not true:
            continue
        boxes, joint = [], []
        for level, b, anchor, row, column in (columns[c] for c in mine):
            probs = raw[level][b, anchor, row, column].sigmoid()
            center = (2 * probs[:2] - 0.5 + torch.tensor([column, row])) * STRIDES[level]
            boxes.append(torch.cat((center, (2 * probs[2:4]) ** 2 * ANCHORS[level, anchor])))
            joint.append((probs[5:] * probs[4]).sqrt())
        iou = box_iou(targets.boxes_xyxy[true], cxcywh_to_xyxy(torch.stack(boxes)))
        joint = torch.stack(joint)
        cost = torch.empty(len(true), len(mine))
        for g, box in enumerate(true):
            wanted = F.one_hot(targets.labels[box], joint.shape[1]).float().expand_as(joint)
            classes = F.binary_cross_entropy_with_logits((joint / (1 - joint)).log(), wanted, reduction="none")
            cost[g] = classes.sum(dim=1) - 3 * (iou[g] + 1e-8).log()
        claims = torch.zeros(len(true), len(mine), dtype=torch.bool)
        for g in range(len(true)):
            k = max(1, int(iou[g].topk(min(iou_candidates, len(mine))).values.sum()))
            claims[g, cost[g].topk(k, largest=False).indices] = True
        for position, c in enumerate(mine):
            if claims[:, position].sum() > 1:
                kept.append((*columns[c], true[int(cost[:, position].argmin())]))
            elif claims[:, position].any():
                kept.append((*columns[c], true[int(claims[:, position].nonzero())]))
    return sorted(kept, key=lambda row: row[0])  # stable: by image, then candidate


# Who answers for a box


def test_candidates_by_hand():
    # One 40 x 28 box, the anchor (40, 28) of the finest level, centre (44, 60): cell (5.5, 7.5) of 8 pixels.
    # x: 5.5 is not in the left half, and from the right end 16 - 5.5 = 10.5 is not in the last half either.
    # Centre (42, 62) instead: cell (5.25, 7.75): the left and the lower neighbour are near.
    box = torch.tensor([[42.0, 62, 40, 28]])
    found = find_candidates(box, torch.tensor([0]), ANCHORS, STRIDES, [(12, 16), (6, 8), (3, 4)])
    finest = [row[2:5] for row in zip(*(field.tolist() for field in found), strict=True) if row[0] == 0]
    # Anchor 0 is 12 x 16: 40 / 12 = 3.3 < 4 fits as well.
    assert finest == [(0, 7, 5), (1, 7, 5), (0, 7, 4), (1, 7, 4), (0, 8, 5), (1, 8, 5)]


def test_a_shape_too_far_from_every_anchor_has_no_candidates():
    thin = torch.tensor([[40.0, 40, 2, 2], [40, 40, 100, 0]])
    found = find_candidates(thin, torch.tensor([0, 0]), ANCHORS, STRIDES, [(12, 16), (6, 8), (3, 4)])
    assert len(found.level) == 0


def test_centres_at_and_past_the_edge_stay_inside_the_grid():
    boxes = torch.tensor([[0.0, 0, 40, 28], [128, 96, 40, 28], [-9, 200, 40, 28]])
    found = find_candidates(boxes, torch.zeros(3).long(), ANCHORS, STRIDES, [(12, 16), (6, 8), (3, 4)], reach=1.0)
    assert set(found.target.tolist()) == {0, 1, 2}
    heights, widths = torch.tensor([12, 6, 3])[found.level], torch.tensor([16, 8, 4])[found.level]
    assert ((found.row >= 0) & (found.row < heights) & (found.column >= 0) & (found.column < widths)).all()


def test_larger_reach_proposes_all_four_neighbours():
    box = torch.tensor([[42.0, 62, 40, 28]])
    found = find_candidates(box, torch.tensor([0]), ANCHORS, STRIDES, [(12, 16), (6, 8), (3, 4)], reach=1.0)
    cells = {(r, c) for level, _, _, r, c, _ in zip(*map(torch.Tensor.tolist, found), strict=True) if level == 0}
    assert cells == {(7, 5), (7, 4), (6, 5), (7, 6), (8, 5)}


@pytest.mark.parametrize("iou_candidates", [1, 10, 20])
@pytest.mark.parametrize("counts", [(1, 0, 0), (0, 7, 3), (12, 2, 20)])
@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_loop_over_boxes(seed, counts, iou_candidates):
    raw, targets = outputs(seed=seed), truth(counts, seed=seed)
    boxes = xyxy_to_cxcywh(targets.boxes_xyxy)
    found = find_candidates(boxes, targets.image_index, ANCHORS, STRIDES, grids(raw))
    expected = naive_matching(raw, found, targets, iou_candidates)
    for max_pairs in (1 << 22, 500):
        matched = match_predictions(
            raw,
            found,
            boxes,
            targets.labels,
            targets.image_index,
            ANCHORS,
            STRIDES,
            iou_candidates=iou_candidates,
            max_pairs=max_pairs,
        )
        assert list(zip(*(field.tolist() for field in matched), strict=True)) == expected


def test_the_form_for_accelerators_claims_the_same_where_no_costs_are_equal():
    random = torch.Generator().manual_seed(0)
    cost = torch.rand(3, 5, 40, generator=random)
    widths = [40, 11, 0]
    for i, width in enumerate(widths):
        cost[i, :, width:] = torch.inf
    k = torch.randint(1, 12, (3, 5), generator=random)
    k[:, 4] = 0  # padding
    k[2] = 0
    at_once = targets_module._cheapest_at_once(cost, k)
    row_by_row = targets_module._cheapest_row_by_row(cost, k, widths)
    claims = [sorted(zip(*(part.tolist() for part in way), strict=True)) for way in (at_once, row_by_row)]
    assert claims[0] == claims[1]
    assert len(claims[0]) == int(k[0].sum() + k[1].clamp(max=11).sum())


@pytest.mark.parametrize("assignment", ["ota", "anchor"])
def test_order_of_images_and_boxes_does_not_matter(assignment):
    raw, targets = outputs(), truth((3, 9, 2))
    loss = loss_of(assignment=assignment)
    shuffled = torch.randperm(14, generator=torch.Generator().manual_seed(1))
    mixed = BoxTargets(*(field[shuffled] for field in targets))
    flipped = [output.flip(0) for output in raw]
    value = summed(loss(raw, targets, (96, 128)))
    torch.testing.assert_close(summed(loss(raw, mixed, (96, 128))), value)
    other = targets._replace(image_index=2 - targets.image_index)
    torch.testing.assert_close(summed(loss(flipped, other, (96, 128))), value)


def test_saturated_predictions_are_matched_without_nan():
    raw = [output * 1000 for output in outputs()]
    loss = loss_of()
    (matched,) = loss.positives(raw, truth((5, 5, 5)), (96, 128))
    assert len(matched.level) >= 10
    assert summed(loss(raw, truth((5, 5, 5)), (96, 128))).isfinite()


def test_predictions_of_nan_give_a_loss_of_nan_not_a_crash():
    raw = [torch.full_like(output, torch.nan) for output in outputs()]
    assert summed(loss_of()(raw, truth((5, 0, 2)), (96, 128))).isnan()


def test_exact_pixels_match_by_overlap_in_wide_images_and_the_originals_rule_does_not():
    # A box in the right half of a wide image, and outputs that predict it exactly everywhere near it.
    hw = (64, 256)
    target = BoxTargets(torch.tensor([[180.0, 18, 220, 46]]), torch.tensor([1]), torch.tensor([0]))
    raw = [torch.zeros_like(output) for output in outputs(1, hw)]  # sigmoid 0.5: cell centre, anchor size
    (exact,) = loss_of().positives(raw, target, hw)
    assert (exact.level[0].item(), exact.anchor[0].item()) == (0, 1)  # anchor 40 x 28 at (200, 32)
    center = (torch.stack((exact.column, exact.row), dim=1)[0] + 0.5) * 8
    assert (center - torch.tensor([200.0, 32])).abs().max() <= 8
    (original,) = loss_of(pixel_scale="height").positives(raw, target, hw)
    assert len(original.level) == 1  # its box lies at x = 50, so no candidate overlaps it


# The loss


@pytest.mark.parametrize("options", [{}, {"assignment": "anchor"}, {"aux": True}])
def test_a_batch_without_boxes_has_only_objectness(options):
    heads = 2 if options.pop("aux", False) else 1
    raw = [output.requires_grad_() for output in outputs(heads=heads)]
    losses = loss_of(**options)(raw, truth((0, 0, 0)), (96, 128))
    assert losses["box"].item() == losses["class"].item() == 0 < losses["objectness"].item()
    summed(losses).backward()
    for output in raw:
        assert output.grad[..., 4].ne(0).all()
        assert output.grad[..., :4].eq(0).all() and output.grad[..., 5:].eq(0).all()


def test_boxes_that_no_anchor_fits_are_as_good_as_none():
    raw = outputs()
    thin = BoxTargets(torch.tensor([[10.0, 10, 11, 11]]), torch.tensor([0]), torch.tensor([1]))
    assert loss_of()(raw, thin, (96, 128)) == loss_of()(raw, truth((0, 0, 0)), (96, 128))


def test_one_perfect_positive_by_hand():
    # Zero logits predict the centre of a cell and the size of the anchor: CIoU 1 with the box that is just
    # that. Its own cell only, as the centre is in no half. Objectness targets: 1 there, 0 elsewhere: log 2 each.
    raw = [torch.zeros_like(output) for output in outputs(images=1)]
    target = BoxTargets(torch.tensor([[100 - 20.0, 60 - 14, 120, 74]]), torch.tensor([2]), torch.tensor([0]))
    losses = loss_of(assignment="anchor", anchor_ratio_threshold=1.01, objectness_gain=1.0, class_gain=1.0)(
        raw, target, (96, 128)
    )
    log2 = torch.tensor(2.0).log().item()
    assert losses["box"].item() == pytest.approx(0, abs=1e-6)
    assert losses["objectness"].item() == pytest.approx((4 + 1 + 0.4) * log2, rel=1e-5)
    assert losses["class"].item() == pytest.approx(log2 * CLASSES / 80, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_classes_count_by_their_weights_each_by_the_class_of_its_box(gamma):
    raw, targets = outputs(), truth((5, 3, 6))
    plain = loss_of(focal_gamma=gamma)(raw, targets, (96, 128))
    weights, names = (3.0, 0.0, 1.0, 0.5), [str(number) for number in range(CLASSES)]
    found = loss_of(focal_gamma=gamma, class_weights=weights)(raw, targets, (96, 128))
    # Each level's mean over positives and classes, with weights: by hand from the positives that the loss names.
    judge, expected = loss_of(focal_gamma=gamma), 0.0
    positives = judge.positives(raw, targets, (96, 128))[0]
    for level, here in enumerate(positives.by_level(3)):
        logits = raw[level][here.image, here.anchor, here.row, here.column][:, 5:]
        wanted = F.one_hot(targets.labels[here.target], CLASSES).float()
        p_true = (wanted * logits.sigmoid() + (1 - wanted) * (1 - logits.sigmoid())).clamp(min=1e-30)
        damping = (0.25 * wanted + 0.75 * (1 - wanted)) * (1 - p_true) ** gamma if gamma else 1.0
        row_weights = torch.tensor(weights)[targets.labels[here.target], None]
        if len(here.target):
            expected += float((-p_true.log() * damping * row_weights).mean())
    assert float(found["class"]) == pytest.approx(expected * judge.gains.label, rel=1e-4)
    assert (found["box"], found["objectness"]) == (plain["box"], plain["objectness"])
    by_name = loss_of(class_weights=[["0", 3], ["1", 0], ["3", 0.5]]).config
    assert by_name.class_weights_of(names) == weights


def test_equal_weights_of_classes_are_a_factor_and_ones_change_nothing():
    raw, targets = outputs(), truth((5, 3, 6))
    plain, ones, twos = (
        loss_of(class_weights=weights)(raw, targets, (96, 128))["class"] for weights in (None, [1] * 4, [2] * 4)
    )
    torch.testing.assert_close(ones, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(twos, 2 * plain, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "weights", [[], 2, "car", [1, -1], [1, float("nan")], [1, float("inf")], [True, 1], [["car", 1], 2], [["car"]],
                [["car", "2"]], [["car", 1], ["car", 2]], {"car": 2}]
)  # fmt: skip
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValidationError, match="class_weights"):
        YOLOv7LossConfig(class_weights=weights)


@pytest.mark.parametrize(
    ("weights", "names", "words"),
    [
        ([1, 2], ["car", "bus", "van"], r"2 weights for 3 classes \(car, bus, van\)"),
        ([["buss", 2]], ["car", "bus"], "no class 'buss'. Did you mean 'bus'"),
        ([["car", 2]], ["car"], "there is no class loss"),
    ],
)
def test_weights_of_other_classes_are_refused(weights, names, words):
    with pytest.raises(ConfigError, match=words):
        YOLOv7LossConfig(class_weights=weights).class_weights_of(names)


def test_a_single_class_has_no_class_loss():
    raw = [output.requires_grad_() for output in outputs(classes=1)]
    losses = loss_of(classes=1)(raw, truth((3, 3, 3), classes=1), (96, 128))
    assert losses["class"].item() == 0 < losses["box"].item()
    summed(losses).backward()
    assert raw[0].grad[..., 5].eq(0).all()


def test_auxiliary_heads_add_their_share():
    raw, targets = outputs(heads=2), truth((4, 4, 4))
    lead = loss_of(iou_candidates=20)(raw[:3], targets, (96, 128))
    with_aux = loss_of()(raw, targets, (96, 128))
    without = loss_of(aux_gain=0.0)(raw, targets, (96, 128))
    for name, value in lead.items():
        torch.testing.assert_close(without[name], value)
        assert with_aux[name] > value


def test_gains_are_scaled_for_levels_classes_and_size():
    gains = YOLOv7LossConfig(box_gain=0.05, objectness_gain=0.7, class_gain=0.3).gains(
        num_levels=4, num_classes=20, image_size=1280
    )
    assert gains.box == pytest.approx(0.05 * 3 / 4)
    assert gains.objectness == pytest.approx(0.7 * 4 * 3 / 4)
    assert gains.label == pytest.approx(0.3 * 20 / 80 * 3 / 4)


def test_loss_does_not_grow_with_the_batch():
    raw, targets = outputs(images=1), truth((6,))
    twice = BoxTargets(
        targets.boxes_xyxy.repeat(2, 1), targets.labels.repeat(2), torch.tensor([0, 1]).repeat_interleave(6)
    )
    once = loss_of()(raw, targets, (96, 128))
    both = loss_of()([output.repeat(2, 1, 1, 1, 1) for output in raw], twice, (96, 128))
    for name, value in once.items():
        torch.testing.assert_close(both[name], value)


@pytest.mark.parametrize("options", [{}, {"focal_gamma": 1.5}, {"label_smoothing": 0.1, "class_positive_weight": 2.0}])
@pytest.mark.parametrize("assignment", ["ota", "anchor"])
def test_gradient_of_objectness_and_classes(assignment, options):
    # Without the box part and with constant objectness targets: those two are constants for the gradient only.
    loss = loss_of(classes=3, assignment=assignment, box_gain=0.0, objectness_iou_ratio=0.0, class_gain=30.0, **options)
    raw = [o.requires_grad_() for o in outputs(1, (32, 32), classes=3, dtype=torch.float64)]
    targets = truth((3,), (32, 32), classes=3)
    assert torch.autograd.gradcheck(lambda *raw: summed(loss(raw, targets, (32, 32))), raw, fast_mode=True)


def test_gradient_of_the_boxes_is_that_of_plain_indexing():
    raw, targets = outputs(dtype=torch.float64), truth((5, 9, 2))
    loss = loss_of(objectness_gain=0.0, class_gain=0.0, assignment="anchor", box_gain=1.0)
    ours, plain = ([output.clone().requires_grad_() for output in raw] for _ in range(2))
    loss(ours, targets, (96, 128))["box"].backward()
    total = 0
    for i, here in enumerate(loss.positives(raw, targets, (96, 128))[0].by_level(3)):
        probs = plain[i][here.image, here.anchor, here.row, here.column].sigmoid()
        centers = (2 * probs[:, :2] - 0.5 + torch.stack((here.column, here.row), dim=1)) * STRIDES[i]
        predicted = torch.cat((centers, (2 * probs[:, 2:4]) ** 2 * ANCHORS[i, here.anchor]), dim=1)
        wanted = targets.boxes_xyxy[here.target].double()
        total = total + (1 - paired_overlap(cxcywh_to_xyxy(predicted), wanted, kind="ciou")).mean()
    total.backward()
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-8)


def test_gathering_checks_its_gradient_also_for_repeated_rows_and_other_layouts():
    raw = torch.randn(2, 7, 3, 4, 2, dtype=torch.float64).permute(0, 4, 2, 3, 1).requires_grad_()
    where = [torch.tensor(values) for values in ([0, 1, 1, 1], [1, 0, 1, 1], [2, 0, 1, 1], [3, 2, 0, 0])]
    assert torch.autograd.gradcheck(lambda x: _Gather.apply(x, *where), raw)
    rows, plane = _Gather.apply(raw, *where)
    (rows.sum() + plane.sum()).backward()
    assert raw.grad.stride() == raw.stride()


def test_memory_layout_changes_nothing():
    raw, targets = outputs(), truth((3, 9, 2))
    loss = loss_of()
    layouts = [
        [o.clone().requires_grad_() for o in raw],
        [o.permute(0, 1, 4, 2, 3).contiguous().permute(0, 1, 3, 4, 2).requires_grad_() for o in raw],
    ]
    values = [summed(loss(layout, targets, (96, 128))) for layout in layouts]
    assert values[0] == values[1]
    for value in values:
        value.backward()
    for a, b in zip(*layouts, strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_judged_in_float32(dtype):
    raw, targets = outputs(), truth((3, 9, 2))
    half = [output.to(dtype).requires_grad_() for output in raw]
    losses = loss_of()(half, targets, (96, 128))
    exact = loss_of()([output.detach().float() for output in half], targets, (96, 128))
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name])
    summed(losses).backward()
    assert half[0].grad.dtype == dtype and half[0].grad.isfinite().all()


def test_the_last_of_several_rows_sets_the_objectness():
    plane = torch.zeros(1, 1, 2, 2)
    zeros = torch.zeros(3).long()
    rows = Positives(zeros, zeros, zeros, torch.tensor([1, 0, 1]), torch.tensor([1, 1, 1]), zeros)
    _write_last(plane, rows, torch.tensor([0.3, 0.4, 0.2]))
    assert plane.flatten().tolist() == pytest.approx([0, 0.4, 0, 0.2])


def test_drifting_weights_are_state_and_fixed_ones_are_not():
    drifting, fixed = loss_of(autobalance=True), loss_of()
    assert list(drifting.state_dict()) == ["balance"] and not fixed.state_dict()
    raw, targets = outputs(), truth((3, 9, 2))
    drifting.eval()(raw, targets, (96, 128))
    assert torch.equal(drifting.balance, fixed.balance)
    drifting.train()(raw, targets, (96, 128))
    assert drifting.balance[1] == 1 and not torch.equal(drifting.balance, fixed.balance)


def test_matching_keeps_no_graph():
    raw = [output.requires_grad_() for output in outputs()]
    (matched,) = loss_of().positives(raw, truth((3, 9, 2)), (96, 128))
    assert not any(field.requires_grad for field in matched)


@pytest.mark.parametrize("name", ["iou_candidates", "pixel_scale"])
def test_options_of_the_matching_are_refused_where_nothing_is_matched(name):
    with pytest.raises(ValidationError, match=name):
        YOLOv7LossConfig(assignment="anchor", **{name: {"iou_candidates": 5, "pixel_scale": "height"}[name]})


def test_wrong_shapes_are_named():
    loss = loss_of()
    with pytest.raises(ValueError, match="expected 3 or 6 outputs, got 2"):
        loss(outputs()[:2], truth((1, 0, 0)), (96, 128))
    with pytest.raises(ValueError, match=r"raw: expected shape \(B, 2, H, W, 9\)"):
        loss(outputs(classes=7), truth((1, 0, 0)), (96, 128))
    with pytest.raises(ValueError, match="level_balance: 2 weights"):
        loss_of(level_balance=(1.0, 2.0))
