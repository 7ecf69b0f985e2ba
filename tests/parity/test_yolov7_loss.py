"""YOLOv7's plain, OTA and auxiliary losses against recorded losses, gradients and assignments."""

import json

import numpy as np
import pytest
import torch

from sightline.losses.box_iou import paired_overlap
from sightline.models.yolov7.loss import YOLOv7Loss, YOLOv7LossConfig
from sightline.models.yolov7.targets import Positives, find_candidates, match_predictions
from sightline.ops.boxes2d import BoxTargets, cxcywh_to_xyxy
from tests.conftest import oracle, recorded

FOLDER = recorded("yolov7", "loss")


def cases() -> dict[str, dict]:
    path = FOLDER / "meta.json"
    return {k: v for k, v in json.loads(path.read_text()).items() if "hyp" in v} if path.exists() else {}


def recordings(*kinds: str) -> list:
    """Every (case, loss) pair on record; one that names the missing file where there is none."""
    found = []
    for name in cases():
        path = FOLDER / f"{name}.npz"
        keys = np.load(path).files if path.exists() else [f"{kinds[0]}:loss"]
        found += [pytest.param(name, kind, id=f"{name}-{kind}") for kind in kinds if f"{kind}:loss" in keys]
    return found or [pytest.param("", kinds[0], id="missing")]


class Recording:
    """One case: inputs as the loss takes them, and the recorded arrays."""

    def __init__(self, name: str, kind: str) -> None:
        oracle("yolov7", "loss", "meta.json")
        self.meta = cases()[name]
        self.arrays = np.load(oracle("yolov7", "loss", f"{name}.npz"))
        self.kind = kind
        self.num_levels = self.meta["nl"]
        self.height, self.width = self.meta["H"], self.meta["W"]
        strides = torch.from_numpy(self.arrays["strides"])
        self.strides = [int(stride) for stride in strides]
        self.anchors_px = torch.from_numpy(self.arrays["anchors_grid"]) * strides[:, None, None]
        outputs = self.num_levels * (2 if kind == "aux" else 1)
        self.raw = [torch.from_numpy(self.arrays[f"pred{i}"]).requires_grad_() for i in range(outputs)]
        # In float64, so that the way over corners and back does not move a centre across a cell's border.
        rows = torch.from_numpy(self.arrays["targets"]).double()
        self.boxes_cxcywh = rows[:, 2:] * rows.new_tensor([self.width, self.height, self.width, self.height])
        self.targets = BoxTargets(cxcywh_to_xyxy(self.boxes_cxcywh), rows[:, 1].long(), rows[:, 0].long())

    def loss(self) -> YOLOv7Loss:
        hyp, share = self.meta["hyp"], 3 / self.num_levels
        config = YOLOv7LossConfig(
            assignment="anchor" if self.kind == "std" else "ota",
            box_gain=hyp["box"] / share,
            objectness_gain=hyp["obj"] / share,
            class_gain=hyp["cls"] / share / (self.meta["nc"] / 80),
            objectness_positive_weight=hyp["obj_pw"],
            class_positive_weight=hyp["cls_pw"],
            anchor_ratio_threshold=hyp["anchor_t"],
            focal_gamma=hyp["fl_gamma"],
            label_smoothing=hyp["label_smoothing"],
            objectness_iou_ratio=self.meta["gr"],
            pixel_scale="exact" if self.kind == "std" else "height",
        )
        return YOLOv7Loss(
            config, anchors_px=self.anchors_px, strides=self.strides, num_classes=self.meta["nc"], image_size=640
        )

    def candidates(self, reach: float = 0.5) -> Positives:
        """Every anchor that may answer for a box, before the matching."""
        return find_candidates(
            self.boxes_cxcywh,
            self.targets.image_index,
            self.anchors_px,
            self.strides,
            [tuple(output.shape[2:4]) for output in self.raw[: self.num_levels]],
            ratio_threshold=self.meta["hyp"]["anchor_t"],
            reach=reach,
        )

    def has_twins(self) -> bool:
        """Equal rows among the targets: which of them an anchor is given to is then open."""
        rows = self.arrays["targets"]
        return len(np.unique(rows, axis=0)) < len(rows)


def as_multiset(rows: np.ndarray) -> list:
    return sorted(map(tuple, rows.tolist()))


def check_rows(ours: np.ndarray, recorded: np.ndarray, *, any_order: bool) -> None:
    if any_order:
        assert as_multiset(ours) == as_multiset(recorded)
    else:
        np.testing.assert_array_equal(ours, recorded)


def index_rows(positives) -> np.ndarray:
    return torch.stack((positives.image, positives.anchor, positives.row, positives.column), dim=1).numpy()


@pytest.mark.parametrize("name, kind", recordings("std", "ota", "aux"))
def test_losses_and_gradients_are_the_recorded_ones(name, kind):
    case = Recording(name, kind)
    losses = case.loss()(case.raw, case.targets, (case.height, case.width))
    items = torch.stack((losses["box"], losses["objectness"], losses["class"]))
    recorded = case.arrays[f"{kind}:items"]
    np.testing.assert_allclose(items.detach().numpy(), recorded[:3], rtol=1e-5, atol=1e-9)
    total = items.sum() * case.meta["bs"]
    np.testing.assert_allclose(total.item(), case.arrays[f"{kind}:loss"][0], rtol=1e-5)
    total.backward()
    for i, output in enumerate(case.raw):
        np.testing.assert_allclose(
            output.grad.numpy(), case.arrays[f"{kind}:grad{i}"], rtol=1e-4, atol=1e-6, err_msg=f"output {i}"
        )


@pytest.mark.parametrize("name, kind", recordings("std"))
def test_plain_assignment_gives_the_recorded_cells_and_targets(name, kind):
    case = Recording(name, kind)
    (positives,) = case.loss().positives(case.raw, case.targets, (case.height, case.width))
    for i, here in enumerate(positives.by_level(case.num_levels)):
        np.testing.assert_array_equal(index_rows(here), case.arrays[f"std:idx{i}"])
        np.testing.assert_array_equal(case.targets.labels[here.target].numpy(), case.arrays[f"std:tcls{i}"])
        boxes = (case.boxes_cxcywh[here.target] / case.strides[i]).float()
        boxes[:, :2] -= torch.stack((here.column, here.row), dim=1)
        np.testing.assert_allclose(boxes.numpy(), case.arrays[f"std:tbox{i}"], rtol=1e-5, atol=1e-5)
        anchors = case.anchors_px[i, here.anchor] / case.strides[i]
        np.testing.assert_allclose(anchors.numpy(), case.arrays[f"std:anch{i}"], rtol=1e-6)


@pytest.mark.parametrize("name, kind", recordings("ota", "aux"))
def test_candidates_and_matches_are_the_recorded_ones(name, kind):
    case = Recording(name, kind)
    heads = case.loss().positives(case.raw, case.targets, (case.height, case.width))
    names = ("lead", "auxh") if kind == "aux" else ("lead",)
    assert len(heads) == len(names)
    for head, matched in zip(names, heads, strict=True):
        found = case.candidates(reach=1.0 if head == "auxh" else 0.5)
        for i, here in enumerate(found.by_level(case.num_levels)):
            np.testing.assert_array_equal(index_rows(here), case.arrays[f"{kind}:{head}:cand_idx{i}"])
        for i, here in enumerate(matched.by_level(case.num_levels)):
            anchors = (case.anchors_px[i, here.anchor] / case.strides[i]).numpy()
            truth = case.arrays["targets"][here.target.numpy()]
            ours = np.concatenate((index_rows(here), truth, anchors), axis=1).astype(np.float32)
            parts = (f"{kind}:{head}:{part}{i}" for part in ("match_idx", "match_target", "match_anch"))
            recorded = np.concatenate([case.arrays[part] for part in parts], axis=1).astype(np.float32)
            check_rows(ours, recorded, any_order=case.has_twins())


@pytest.mark.parametrize("pairs", [1, 1000])
@pytest.mark.parametrize("name, kind", recordings("ota", "aux"))
def test_matching_in_chunks_changes_nothing(name, kind, pairs):
    case = Recording(name, kind)
    whole = case.loss().positives(case.raw, case.targets, (case.height, case.width))[0]
    square = case.boxes_cxcywh * case.boxes_cxcywh.new_tensor([case.height / case.width, 1] * 2)
    chunked = match_predictions(
        case.raw[: case.num_levels],
        case.candidates(),
        square,
        case.targets.labels,
        case.targets.image_index,
        case.anchors_px,
        case.strides,
        iou_candidates=20 if kind == "aux" else 10,
        max_pairs=pairs,
    )
    for some, all_at_once in zip(chunked, whole, strict=True):
        assert torch.equal(some, all_at_once)


def test_overlap_measures_and_their_gradients_are_the_recorded_ones():
    arrays = np.load(oracle("yolov7", "loss", "iou.npz"))
    for kind in ("iou", "giou", "diou", "ciou"):
        boxes = torch.from_numpy(arrays["b1"]).requires_grad_()
        others = torch.from_numpy(arrays["b2"])
        overlap = paired_overlap(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(others), kind=kind)
        np.testing.assert_allclose(overlap.detach().numpy(), arrays[kind], rtol=1e-5, atol=1e-6)
        overlap.sum().backward()
        np.testing.assert_allclose(boxes.grad.numpy(), arrays[f"{kind}_grad_b1"], rtol=1e-4, atol=1e-5)


def test_level_weights_drift_as_recorded():
    arrays = np.load(oracle("yolov7", "loss", "autobalance.npz"))
    recorded = arrays["balance"]  # before the first call and after each
    num_levels = recorded.shape[1]
    raw = [torch.from_numpy(arrays[f"pred{i}"]) for i in range(num_levels)]
    rows = torch.from_numpy(arrays["targets"]).double()

    def drift(case: Recording) -> tuple[list, list]:
        """Losses and level weights with the anchors and unscaled gains of a case."""
        height, width = (size * case.strides[0] for size in raw[0].shape[2:4])
        boxes = cxcywh_to_xyxy(rows[:, 2:] * rows.new_tensor([width, height, width, height]))
        targets = BoxTargets(boxes, rows[:, 1].long(), rows[:, 0].long())
        old = case.loss().config
        case_size = max(case.height, case.width)
        config = YOLOv7LossConfig(
            assignment="anchor",
            box_gain=old.box_gain,
            objectness_gain=old.objectness_gain / (case_size / 640) ** 2,
            class_gain=old.class_gain,
            autobalance=True,
        )
        loss = YOLOv7Loss(
            config,
            anchors_px=case.anchors_px,
            strides=case.strides,
            num_classes=raw[0].shape[-1] - 5,
            image_size=max(height, width),
        )
        losses, balances = [], [loss.balance.tolist()]
        for _ in range(len(recorded) - 1):
            losses.append(sum(loss(raw, targets, (height, width)).values()).item() * len(raw[0]))
            balances.append(loss.balance.tolist())
        return losses, balances

    # The recording does not say which anchors and gains it used: those of one of the cases beside it.
    alike = [Recording(p.values[0], "std") for p in recordings("std")]
    results = [drift(case) for case in alike if case.num_levels == num_levels]
    fits = [
        np.allclose(losses, arrays["loss"], rtol=1e-5, atol=0) and np.allclose(balances, recorded, rtol=2e-6, atol=0)
        for losses, balances in results
    ]
    assert any(fits)
