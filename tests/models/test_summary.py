"""The table of a model's parts."""

import torch
from torch import nn

from sightline.models.summary import summarize
from sightline.models.yolov7.config import YOLOv7Config
from sightline.models.yolov7.model import YOLOv7Network


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.heads = nn.ModuleList([nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)])
        self.unused = nn.Linear(5, 5)

    def forward(self, x):
        x = self.stem(x)
        return [head(x) for head in self.heads]


def test_a_small_model_by_hand():
    model = Two()
    model.heads[1].requires_grad_(False)
    summary = summarize(model, torch.zeros(1, 3, 10, 10))
    assert [(row.name, row.kind, row.parameters, row.shapes) for row in summary.rows] == [
        ("stem", "Conv2d", 3 * 8 * 9, ((1, 8, 10, 10),)),
        ("heads.0", "Conv2d", 8 * 2 + 2, ((1, 2, 10, 10),)),
        ("heads.1", "Conv2d", 8 * 4 + 4, ((1, 4, 10, 10),)),
        ("unused", "Linear", 5 * 5 + 5, ()),
    ]
    assert summary.parameters == 216 + 18 + 36 + 30
    assert summary.trainable == 216 + 18 + 30
    # 100 cells; a multiplication and an addition for each weight of the convolutions
    assert summary.gflops == 2 * 100 * (216 + 16 + 32) / 1e9
    assert str(summary).splitlines()[-1] == "4 layers, 300 parameters, 0.0 GFLOPs"


def test_a_summary_leaves_the_model_in_its_mode_and_without_hooks():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)).train()
    model[1].eval()
    summarize(model, torch.rand(2, 3, 4, 4))
    assert model.training
    assert model[0].training
    assert not model[1].training
    assert model[0].num_batches_tracked == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_yolov7_tiny_has_the_size_that_its_paper_says():
    # Table 2 of the paper: YOLOv7-tiny 6.2 M parameters, 13.8 GFLOPs at 640 pixels.
    summary = summarize(YOLOv7Network(YOLOv7Config(variant="tiny"), 80), torch.zeros(1, 3, 640, 640))
    assert round(summary.parameters / 1e6, 1) == 6.2
    assert abs(summary.gflops / 13.8 - 1) < 0.01
    assert summary.num_layers == 78
