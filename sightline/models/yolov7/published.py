"""The names that published YOLOv7 checkpoints give to our tensors.

Both number the layers alike; only the parts inside a layer are called differently.
"""

from __future__ import annotations

import re

from sightline.models.yolov7.model import YOLOv7Network

_PARTS = {
    # blocks.conv.RepConv
    "dense.conv": "rbr_dense.0",
    "dense.norm": "rbr_dense.1",
    "pointwise.conv": "rbr_1x1.0",
    "pointwise.norm": "rbr_1x1.1",
    "identity": "rbr_identity",
    # layers.SpatialPyramidCSP
    "enter": "cv1",
    "skip": "cv2",
    "before_mix": "cv3",
    "before": "cv4",
    "after": "cv5",
    "after_mix": "cv6",
    "leave": "cv7",
    # layers.DownBlock, whose first part is called ``enter`` too
    "strided": "cv2",
    "pooled": "cv3",
    # blocks.conv.ConvNormAct
    "norm": "bn",
}
_PART = re.compile(r"(?<=\.)(" + "|".join(sorted(map(re.escape, _PARTS), key=len, reverse=True)) + r")(?=\.)")


def published_names(network: YOLOv7Network) -> dict[str, str]:
    """The published name of every entry of the network's state, e.g. ``model.0.bn.weight``.

    The published ``anchor_grid`` and ``anchors`` have no counterpart: ours stand in the configuration.
    """
    head = f"model.{len(network.layers)}"
    names = {}
    for name in network.state_dict():
        if implicit := re.fullmatch(r"head\.implicit_(offset|factor)\.(\d+)", name):
            kind = {"offset": "ia", "factor": "im"}[implicit[1]]
            names[name] = f"{head}.{kind}.{implicit[2]}.implicit"
        elif name.startswith("head.convs."):
            names[name] = name.replace("head.convs", f"{head}.m", 1)
        elif name.startswith("aux_head.convs."):
            names[name] = name.replace("aux_head.convs", f"{head}.m2", 1)
        else:
            names[name] = _PART.sub(lambda part: _PARTS[part[0]], name.replace("layers", "model", 1))
    return names
