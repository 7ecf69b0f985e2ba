"""YOLOv7's networks and the detector around them, small enough to run in milliseconds."""

from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from sightline.models.yolov7.config import Variant, YOLOv7Config
from sightline.models.yolov7.detector import YOLOv7
from sightline.models.yolov7.model import YOLOv7Network
from sightline.models.yolov7.published import published_names
from sightline.ops.boxes2d import BoxTargets, box_iou
from tests.models.test_conv import as_trained

VARIANTS = get_args(Variant)
WITH_AUX = ("w6", "e6", "d6", "e6e")


def small(variant="tiny", **changes):
    return YOLOv7Config(variant=variant, width=0.125, **changes)


def network_of(variant, num_classes=3):
    torch.manual_seed(0)
    return as_trained(YOLOv7Network(small(variant), num_classes))


def some_targets():
    return BoxTargets(
        boxes_xyxy=torch.tensor([[10.0, 12, 40, 50], [64, 20, 120, 60], [30, 30, 60, 90]]),
        labels=torch.tensor([0, 2, 1]),
        image_index=torch.tensor([0, 0, 1]),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_levels_have_the_size_of_their_stride(variant):
    network = network_of(variant)
    assert network.strides == ((8, 16, 32, 64) if variant in WITH_AUX else (8, 16, 32))
    raw = network(torch.rand(2, 3, 64, 128))
    assert [tuple(level.shape) for level in raw] == [(2, 3, 64 // s, 128 // s, 8) for s in network.strides]


@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_network_gives_the_same_and_leaves_the_original_alone(variant):
    network = network_of(variant).train()
    fused = network.fuse()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert not any("implicit" in name or "aux" in name for name in fused.state_dict())
    assert network.training
    network.eval()
    images = torch.rand(2, 3, 64, 128)
    with torch.no_grad():
        for got, want in zip(fused(images, with_aux=True), network(images), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_auxiliary_outputs_come_when_asked_for(variant):
    network = network_of(variant)
    images = torch.rand(1, 3, 64, 64)
    lead, everything = network(images), network(images, with_aux=True)
    assert len(everything) == (8 if variant in WITH_AUX else 3)
    for got, want in zip(everything, lead, strict=False):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    for aux, want in zip(everything[len(lead) :], lead, strict=False):
        assert aux.shape == want.shape


def test_layers_of_auxiliary_heads_rest_in_use():
    network = network_of("w6")
    ran = set()
    for number, layer in enumerate(network.layers):
        layer.register_forward_hook(lambda _l, _i, _o, number=number: ran.add(number))
    network(torch.rand(1, 3, 64, 64))
    assert set(range(len(network.layers))) - ran == set(range(len(network.layers) - 4, len(network.layers)))


def test_memory_layout_changes_nothing():
    network, images = network_of("tiny"), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        want = network(images)
        got = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_half_precision_is_close():
    network, images = network_of("tiny"), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        want = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            got = network(images)
    for a, b in zip(got, want, strict=True):
        # bfloat16 keeps 8 bits: 0.4% a step, some dozens of steps
        assert (a - b).abs().mean() < 0.02 * b.abs().mean()


@pytest.mark.parametrize("height, width", [(100, 64), (64, 48), (32, 31)])
def test_size_that_is_no_multiple_of_the_stride(height, width):
    with pytest.raises(ValueError, match=f"images: {height} x {width} pixels, .* multiples of the stride 32"):
        network_of("tiny")(torch.rand(1, 3, height, width))


def test_images_must_have_three_channels():
    with pytest.raises(ValueError, match="images: expected shape"):
        network_of("tiny")(torch.rand(1, 1, 64, 64))


@pytest.mark.parametrize("num_classes", [0, -1])
def test_detector_without_classes(num_classes):
    with pytest.raises(ValueError, match=f"num_classes: a detector needs at least 1 class, got {num_classes}"):
        YOLOv7Network(small(), num_classes)


def test_anchors_may_be_given():
    anchors = tuple(((1.0 * level, 2.0), (3.0, 4.0)) for level in (1, 2, 3))
    network = YOLOv7Network(small(anchors_px=anchors), 3)
    assert network.anchors_px.tolist() == [[list(pair) for pair in level] for level in anchors]
    assert network(torch.rand(1, 3, 64, 64))[0].shape == (1, 2, 8, 8, 8)


def test_anchors_for_another_number_of_levels():
    anchors = (((10.0, 10.0),),) * 3
    with pytest.raises(ValueError, match=r"anchors_px: 3 levels, but variant w6 has 4"):
        YOLOv7Network(small("w6", anchors_px=anchors), 3)


@pytest.mark.parametrize(
    "anchors", [(((1, 2), (3, 4)), ((5, 6),)), ((),), (((1, 0),),)], ids=["ragged", "empty", "without height"]
)
def test_anchors_that_make_no_table(anchors):
    with pytest.raises(ValidationError, match="anchors_px"):
        small(anchors_px=anchors)


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_names_are_different_for_every_tensor(variant):
    names = published_names(network_of(variant))
    assert len(set(names.values())) == len(names)
    assert all(name.startswith("model.") for name in names.values())


def test_published_names_of_every_kind_of_layer():
    names = published_names(network_of("yolov7"))
    assert names["layers.0.norm.running_mean"] == "model.0.bn.running_mean"
    assert names["layers.51.before_mix.conv.weight"] == "model.51.cv3.conv.weight"
    assert names["layers.102.pointwise.norm.bias"] == "model.102.rbr_1x1.1.bias"
    assert names["head.convs.1.bias"] == "model.105.m.1.bias"
    assert names["head.implicit_factor.2"] == "model.105.im.2.implicit"
    assert published_names(network_of("e6"))["layers.2.pooled.conv.weight"] == "model.2.cv3.conv.weight"
    assert published_names(network_of("e6"))["aux_head.convs.0.weight"] == "model.144.m2.0.weight"


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_reach_every_parameter(variant):
    torch.manual_seed(0)
    detector = YOLOv7(small(variant), num_classes=3, image_size=128)
    losses = detector.losses(torch.rand(2, 3, 64, 128), some_targets())
    assert set(losses) == {"box", "objectness", "class"}
    sum(losses.values()).backward()
    without = [name for name, p in detector.named_parameters() if p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in detector.parameters())


def test_losses_of_images_without_objects():
    detector = YOLOv7(small(), num_classes=3, image_size=64)
    nothing = BoxTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    losses = detector.losses(torch.rand(2, 3, 64, 64), nothing)
    assert losses["box"] == 0
    assert losses["class"] == 0
    assert losses["objectness"] > 0


def test_losses_are_computed_in_full_precision():
    detector = YOLOv7(small(), num_classes=3, image_size=64)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector.losses(torch.rand(2, 3, 64, 128), some_targets())
    assert all(loss.dtype == torch.float32 for loss in losses.values())


def test_detections_are_sorted_and_limited_and_fusing_keeps_them():
    torch.manual_seed(0)
    config = small(max_detections=7, score_threshold=0.0)
    detector = as_trained(YOLOv7(config, num_classes=3, image_size=64))
    images = torch.rand(2, 3, 64, 96)
    found = detector.detect(images)
    assert len(found) == 2
    for one in found:
        assert one.boxes_xyxy.shape == (7, 4)
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
        assert set(one.labels.tolist()) <= {0, 1, 2}
    for one, want in zip(detector.fuse().detect(images), found, strict=True):
        torch.testing.assert_close(one.boxes_xyxy, want.boxes_xyxy, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.scores, want.scores, rtol=1e-4, atol=1e-5)
    assert any(isinstance(m, nn.BatchNorm2d) for m in detector.modules())


def test_it_learns_to_find_the_box_of_one_image():
    torch.manual_seed(0)
    detector = YOLOv7(small(), num_classes=2, image_size=64).train()
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, 16:40, 8:48] = 1
    box = torch.tensor([[8.0, 16, 48, 40]])
    targets = BoxTargets(box, torch.tensor([1]), torch.tensor([0]))
    optimizer = torch.optim.Adam(detector.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        sum(detector.losses(image, targets).values()).backward()
        optimizer.step()
    (found,) = detector.detect(image)  # with the batch's own statistics: the running ones lag behind
    assert box_iou(found.boxes_xyxy[:1], box).item() > 0.7
    assert found.labels[0] == 1
