"""The centre head: radii, heat maps, targets, losses, gradients and final boxes of OpenPCDet."""

import math

import numpy as np
import pytest
import torch

from sightline.losses.heatmap_focal import heatmap_focal_loss, known_l1_loss
from sightline.models.centerpoint.head import CenterHead
from sightline.models.centerpoint.head_config import CenterHeadConfig, CenterLossConfig
from sightline.models.centerpoint.predictor import openpcdet_center_names
from sightline.models.centerpoint.targets import CenterGrid
from sightline.ops.heatmap import draw_gaussians, gather_cells, gaussian_radius
from sightline.ops.rotated_iou import rotated_iou_bev
from tests.conftest import oracle
from tests.parity.openpcdet_anchors import box_targets
from tests.parity.openpcdet_weights import our_name, recipe, recorded_model

OUTPUTS = 1e-4
LOSSES = 1e-6
MARGIN = 5e-3  # the original's overlaps in the suppression are up to 4e-3 too large: corners 1 cm wider
PARTS = ("center", "center_z", "dim", "rot", "vel")


def arrays_of(name):
    with np.load(oracle("openpcdet", name)) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def test_radii_are_as_recorded():
    arrays = arrays_of("gaussian.npz")
    names = [name for name in arrays if name.startswith("radius_overlap")]
    assert names
    for name in names:
        overlap = float(name.removeprefix("radius_overlap"))
        got = gaussian_radius(arrays["h"], arrays["w"], min_overlap=overlap)
        torch.testing.assert_close(got, arrays[name], rtol=LOSSES, atol=LOSSES)


def test_peaks_are_as_recorded():
    arrays = arrays_of("gaussian.npz")
    names = [name for name in arrays if name.startswith("gaussian_r")]
    assert names
    for name in names:
        radius = int(name.removeprefix("gaussian_r"))
        side = 2 * radius + 1
        middle = torch.tensor([[radius, radius]])
        got = draw_gaussians(torch.tensor([0]), middle, torch.tensor([radius]), shape=(1, side, side))
        torch.testing.assert_close(got[0], arrays[name].float(), rtol=LOSSES, atol=1e-12)
    objects = arrays["drawn_x_y_radius"].long()  # centres are cut to whole cells
    shape = (1, *arrays["drawn"].shape)
    got = draw_gaussians(torch.zeros(len(objects), dtype=torch.int64), objects[:, :2], objects[:, 2], shape=shape)
    torch.testing.assert_close(got[0], arrays["drawn"], rtol=LOSSES, atol=1e-12)


def test_heat_map_focal_loss_is_as_recorded():
    arrays = arrays_of("loss_functions.npz")
    probs, wanted = arrays["hm/pred"].clone().requires_grad_(), arrays["hm/target"]
    loss = heatmap_focal_loss(probs, wanted).sum() / (wanted == 1).sum()
    torch.testing.assert_close(loss.detach(), arrays["hm/loss"], rtol=LOSSES, atol=0)
    loss.backward()
    torch.testing.assert_close(probs.grad, arrays["hm/grad"], rtol=LOSSES, atol=LOSSES * arrays["hm/grad"].abs().max())


def test_differences_at_centres_are_as_recorded():
    arrays = arrays_of("loss_functions.npz")
    maps = arrays["reg/pred"].clone().requires_grad_()
    samples, places = arrays["reg/mask"].nonzero().unbind(1)
    codes = gather_cells(maps, samples, arrays["reg/ind"][samples, places])
    loss = known_l1_loss(codes, arrays["reg/target"][samples, places]).sum(dim=0) / max(len(samples), 1)
    torch.testing.assert_close(loss.detach(), arrays["reg/loss_per_code"], rtol=LOSSES, atol=0)
    loss.sum().backward()
    torch.testing.assert_close(maps.grad, arrays["reg/grad"], rtol=LOSSES, atol=LOSSES)


class Case:
    """A recorded head, with the weights of the recipe."""

    def __init__(self, name):
        self.recorded = recorded_model(name)
        self.arrays = arrays_of(f"{name}.npz")
        told = self.told = self.recorded["config"]
        assigner, post = told["target_assigner"], told["post_processing"]
        nms, weights = post["NMS_CONFIG"], told["loss_weights"]
        (layers,) = {one["num_conv"] for one in told["head_dict"].values()}
        self.config = CenterHeadConfig(
            groups=told["class_names_each_head"],
            velocity="vel" in told["head_order"],
            channels=told["shared_conv_channel"],
            layers=layers,
            heatmap_layers=told["num_hm_conv"],
            bias_before_norm=told["use_bias_before_norm"],
            min_overlap=assigner["GAUSSIAN_OVERLAP"],
            min_radius=assigner["MIN_RADIUS"],
            loss=CenterLossConfig(
                heatmap_weight=weights["cls_weight"],
                box_weight=weights["loc_weight"],
                code_weights=weights["code_weights"],
            ),
            score_threshold=post["SCORE_THRESH"],
            center_range=post["POST_CENTER_LIMIT_RANGE"],
            max_peaks=post["MAX_OBJ_PER_SAMPLE"],
            nms_iou_threshold=nms["NMS_THRESH"],
            max_candidates=nms["NMS_PRE_MAXSIZE"],
            max_detections=nms["NMS_POST_MAXSIZE"],
        )
        grid = CenterGrid(
            tuple(told["point_cloud_range"][:2]),
            tuple(told["voxel_size"][:2]),
            told["feature_map_stride"],
            tuple(told["feature_map_hw"]),
        )
        self.head = CenterHead(self.config, told["class_names"], in_channels=told["input_channels"], grid=grid)
        self.layers = openpcdet_center_names(self.config, theirs="")
        state = self.head.predictor.state_dict()
        keys = [our_name(entry["key"], self.layers) for entry in self.recorded["state_dict"]]
        assert sorted(keys) == sorted(state)
        for key, entry in zip(keys, self.recorded["state_dict"], strict=True):
            state[key].copy_(recipe(entry, self.recorded["weight_seed_base"]))
        self.targets = box_targets(self.arrays["gt_boxes"])


@pytest.fixture(params=["centerhead_single", "centerhead_multi_velocity"])
def case(request):
    return Case(request.param)


@torch.no_grad()
def test_maps_in_evaluation_are_as_recorded(case):
    said = case.head.eval()(case.arrays["input"])
    parts = [part for part in PARTS if part in case.told["head_order"]]
    for number, maps in enumerate(said):
        for part, got in (*zip(parts, maps.codes, strict=True), ("hm", maps.heatmap)):
            wanted = case.arrays[f"eval/head{number}/{part}"]
            torch.testing.assert_close(got, wanted, rtol=0, atol=OUTPUTS * wanted.abs().max().item())


def test_final_boxes_are_those_recorded_but_for_overlaps_at_the_threshold(case):
    found = case.head.detections(case.head.eval()(case.arrays["input"]))
    threshold = case.config.nms_iou_threshold
    head_of = {label: head for head, labels in enumerate(case.head.labels_of_heads) for label in labels}
    for sample, ours in enumerate(found):
        theirs, scores, labels = (
            case.arrays[f"eval/final{sample}/pred_{name}"] for name in ("boxes", "scores", "labels")
        )
        labels = labels - 1
        assert ours.scores.tolist() == sorted(ours.scores.tolist(), reverse=True)
        # A box belongs to one of theirs if its label, score and all of its numbers are those.
        turns = (ours.boxes3d[:, None, 6] - theirs[None, :, 6]).remainder(2 * math.pi)
        distance = (ours.boxes3d[:, None] - theirs[None]).abs()
        distance[..., 6] = torch.minimum(turns, 2 * math.pi - turns)
        is_same = distance.amax(dim=2) <= OUTPUTS * theirs.abs().max()
        is_same &= (ours.scores[:, None] - scores[None]).abs() <= 1e-5
        is_same &= ours.labels[:, None] == labels[None]
        our, their = is_same.nonzero().unbind(1)
        assert len(our.unique()) == len(our) == len(their.unique())
        assert len(our) >= 0.98 * len(scores)
        # The others were dropped for an overlap near the threshold with a better box of the same head.
        heads, their_heads = (torch.tensor([head_of[int(one)] for one in all_]) for all_ in (ours.labels, labels))
        for number in sorted(set(range(len(ours.scores))) - set(our.tolist())):
            rivals = theirs[(their_heads == heads[number]) & (scores > ours.scores[number])]
            overlap = rotated_iou_bev(ours.boxes3d[number : number + 1], rivals)
            assert ((overlap - threshold).abs() < MARGIN).any()
        for number in sorted(set(range(len(scores))) - set(their.tolist())):
            rivals = ours.boxes3d[(heads == their_heads[number]) & (ours.scores > scores[number])]
            overlap = rotated_iou_bev(theirs[number : number + 1], rivals)
            assert (overlap > threshold).any()


def test_training_targets_are_as_recorded(case):
    wanted = case.head.targets(case.targets)
    labels = case.targets.labels[wanted.boxes]
    for head, own in enumerate(case.head.labels_of_heads):
        heatmap = case.arrays[f"train/head{head}/heatmap"]
        torch.testing.assert_close(wanted.heatmaps[:, list(own)], heatmap, rtol=LOSSES, atol=1e-12)
        masks = case.arrays[f"train/head{head}/masks_first_rows"]
        for sample, mask in enumerate(masks.bool()):
            is_own = torch.tensor([int(label) in own for label in labels]) & (wanted.samples == sample)
            rows = is_own.nonzero().squeeze(1)[: len(mask)]
            cells = case.arrays[f"train/head{head}/inds_first_rows"][sample][mask]
            codes = case.arrays[f"train/head{head}/target_boxes_first_rows"][sample][mask]
            source = case.arrays[f"train/head{head}/target_boxes_src_first_rows"][sample][mask]
            assert torch.equal(wanted.cells[rows], cells)
            torch.testing.assert_close(wanted.codes[rows], codes, rtol=LOSSES, atol=2e-5, equal_nan=True)
            boxes3d = case.targets.boxes3d[wanted.boxes[rows]]
            torch.testing.assert_close(boxes3d, source[:, :-1], rtol=0, atol=0, equal_nan=True)
            assert (labels[rows] == torch.tensor(own)[source[:, -1].long() - 1]).all()


def test_losses_and_gradients_are_as_recorded(case):
    head = case.head.train()
    bev = case.arrays["input"].clone().requires_grad_()
    losses = head.head_losses(head(bev), case.targets)
    for number, loss in enumerate(losses):
        for got, part in ((loss.heatmap, "hm"), (loss.codes.sum(), "loc")):
            wanted = case.recorded["tb"][f"{part}_loss_head_{number}"]
            assert got.item() == pytest.approx(wanted, rel=OUTPUTS), (part, number)
    total = sum(one.heatmap + one.codes.sum() for one in losses)
    assert total.item() == pytest.approx(case.recorded["loss"], rel=OUTPUTS)
    total.backward()
    grads = {name: parameter.grad.double() for name, parameter in head.predictor.named_parameters()}
    norms = case.recorded["grad_norm_per_parameter"]
    nothing = 1e-6 * max(norms.values())  # biases before a norm have no gradient but rounding
    assert len(norms) == len(grads)
    for key, norm in norms.items():
        grad = grads[our_name(key, case.layers)]
        assert grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=nothing), key
        wanted = case.recorded["grad_sum64_per_parameter"][key]
        assert grad.sum().item() == pytest.approx(wanted, abs=1e-3 * norm * grad.numel() ** 0.5 + nothing), key
    assert bev.grad.norm().item() == pytest.approx(case.recorded["input_grad_norm"], rel=1e-3)
    wanted = case.arrays["train/input_grad_ch0_4"]
    difference = (bev.grad[:, : wanted.shape[1]] - wanted).norm()
    assert difference <= 3e-3 * wanted.norm()  # rounding turns some of the choices of ReLU
