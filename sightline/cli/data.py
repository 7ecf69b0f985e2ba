"""Commands for data: look for what is wrong with it, or with a run before it begins; write the built-in city."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.arguments import Changes, DataPath, command, recipe_names
from sightline.cli.show import counting, fault_style, finding_style, show, show_lines, working
from sightline.config.errors import ConfigError, DataError
from sightline.config.printable import printable

PANEL = "Data"

commands = typer.Typer()


def _formats() -> list[str]:
    from sightline import api

    return [*api.dataset_formats()]


@command(commands, panel=PANEL)
def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="DATA|RECIPE",
            help="a data set (boxes, image classes, point clouds), or a recipe or YAML file; what exists is a path",
            show_default=False,
            autocompletion=recipe_names,
        ),
    ],
    changes: Changes = None,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option(help="run folder that RECIPE would write")] = None,
    name: Annotated[str | None, typer.Option(help="name of the run that RECIPE would begin")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="read headers only, do not decode images or read points")
    ] = False,
    copies: Annotated[bool, typer.Option("--copies", help="DATA: look for files with the same content too")] = False,
    every: Annotated[bool, typer.Option("--all", help="DATA: show every place, not the first of each kind")] = False,
    format: Annotated[
        str | None,
        typer.Option(
            help="DATA: yolo, coco, voc, class_folders, kitti, ... where a folder holds several",
            show_default=False,
            autocompletion=_formats,
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write everything that was found to this file")] = None,
) -> None:
    """Look for everything that is wrong with a data set, or with a run before it begins.

    DATA is YOLO, COCO or Pascal VOC, or of image classes: folders of them, ImageNet, CIFAR, MNIST; or point clouds
    in KITTI's folders. All its faults are listed, every one with file and line. Of RECIPE it builds all that a run
    would build and takes a few steps: configuration, labels, shapes, losses, memory, disk and time, for detectors
    anchors too. It writes nothing into the data or a run folder. Ends with exit code 2 where training would refuse,
    or would not come to its end.

    Examples:
        sightline check my_data/data.yaml
        sightline check my_data --all --json faults.json
        sightline check cifar-10-python.tar.gz
        sightline check kitti --json faults.json
        sightline check yolov7-tiny-small --data my_data batch_size=32
        sightline check my_changes.yaml --json preflight.json
    """
    import json as json_format

    from sightline import api

    api.check_output(json)
    of_run = {"KEY=VALUE": changes, "--data": data, "--out": out, "--name": name}
    of_data = {"--copies": copies, "--all": every, "--format": format}
    if api.names_a_run(target) or (any(of_run.values()) and not Path(target).expanduser().exists()):
        _refuse(of_data, f"is for data sets. Give a path in place of {target!r}.")
        with working() as say:
            run = api.preflight(
                target, changes=changes or [], data=data, out=out, name=name, decode=not quick, tell=say
            )
        show_lines("\n".join(run.lines()), finding_style)
        good, found = run.can_start, run.as_dict()
    else:
        if not Path(target).expanduser().exists() and (near := api.near_recipe(target)):
            raise DataError(f"{printable(target)}: no such path and no such recipe.{near}")
        _refuse(of_run, f"is for recipes, and {printable(target)} is a path. Name a recipe or a file of changes.")
        with counting("looking at files") as tell:
            held = api.check(target, format=format, decode=not quick, same_content=copies, progress=tell)
        show_lines("\n".join(held.lines(places=None if every else 5)), fault_style)
        good, found = held.is_usable, held.as_dict()
    if json is not None:
        api.write_output(json, json_format.dumps(found, indent=1) + "\n")
    raise typer.Exit(0 if good else 2)


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Refuse options that would do nothing.

    Raises:
        ConfigError: If one of them is given.
    """
    for name, value in options.items():
        if value:
            raise ConfigError(f"check: {name} {why}")


@command(commands, panel=PANEL)
def world(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="new folder for the data set", show_default=False)],
    format: Annotated[
        str,
        typer.Option(
            help="yolo, coco or voc; kitti has the points of a LiDAR too",
            autocompletion=lambda: ["yolo", "coco", "voc", "kitti"],
        ),
    ] = "yolo",
    scenes: Annotated[int, typer.Option(min=2, help="number of pictures, training and validation together")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="another seed, another city")] = 0,
) -> None:
    """Write the built-in synthetic city as a data set.

    Examples:
        sightline world city --format coco --scenes 500
        sightline world streets --format kitti --scenes 100
    """
    from sightline import api

    with counting("rendering") as tell:
        text = api.world(
            out, format=format, scenes=scenes, seed=seed, progress=tell and (lambda done: tell(done, scenes))
        )
    show(text)
