"""KITTI's figures as tables: difficulties side by side, a row for each class and place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.api.table import Table
from sightline.config.printable import printable

_PLACES = {"3d": "in space", "bev": "from above", "image": "picture", "aos": "orientation"}


def kitti_tables(figures: Mapping[str, float], details: Mapping[str, Any]) -> list[Table]:
    """The figures of all classes together; AP of every class in percent; how many objects count.

    Args:
        figures: Of ``KittiResult.figures``.
        details: Of ``KittiResult.details``.
    """
    kitti = details["kitti"]
    difficulties = kitti["difficulties"]
    together = [
        (name, f"{value:.2f}") for name, value in figures.items() if not name.endswith("_R40") or "/" not in name
    ]
    rows = []
    for label, name in enumerate(details["class_names"]):
        for metric, place in _PLACES.items():
            if metric in kitti["R40"]:
                strict, loose = (
                    [kitti["R40"][metric][label][level][which] for level in range(len(difficulties))]
                    for which in (0, 1)
                )
                older = kitti["R11"][metric][label][1][0]
                cells = (f"{value:.2f}" for value in (*strict, loose[1], older))
                rows.append((printable(name, limit=40), place, *cells))
    counts = [
        (
            printable(row["name"], limit=40),
            *(f"{count:,}" for count in (*valid, row["num_truths"], row["num_detections"])),
        )
        for row, valid in zip(details["classes"], kitti["num_valid"], strict=True)
    ]
    middle = difficulties[1]
    return [
        Table(("figure", "percent"), together),
        Table(("class", "AP (R40), percent", *difficulties, f"{middle}, loose", f"{middle}, R11"), rows),
        Table(("class", *(f"counts, {name}" for name in difficulties), "truths", "detections"), counts),
    ]
