"""What commands have in common: the arguments that several take, and help that shows examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

F = TypeVar("F", bound=Callable[..., None])


def command(of: typer.Typer, name: str | None = None, *, panel: str | None = None) -> Callable[[F], F]:
    """Make a function a command whose help is its docstring, with the lines of its examples left as they are.

    Args:
        of: What it is a command of.
        name: In place of the function's own.
        panel: The heading that it stands under.
    """

    def register(function: F) -> F:
        text = inspect.cleandoc(function.__doc__ or "").replace("Examples:\n", "\b\nExamples:\n")
        return of.command(name, rich_help_panel=panel, help=text)(function)

    return register


def recipe_names() -> list[str]:
    """What the shell completes where a recipe is asked for."""
    from sightline import api

    return [row[0] for row in api.list_recipes().rows]


RECIPE = typer.Argument(
    metavar="RECIPE",
    help="name of a run (see: sightline list), or a YAML file that names a recipe and lists changes",
    show_default=False,
    autocompletion=recipe_names,
)
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="changes, e.g. epochs=3 optimizer.momentum=0.9", show_default=False),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="run folder, e.g. runs/yolov7-tiny/1", show_default=False)]
AnyRun = Annotated[
    Path, typer.Argument(metavar="RUN", help="run folder, or the folder of one of its checkpoints", show_default=False)
]
Checkpoint = Annotated[
    str, typer.Option(help="best, latest, or a step number", autocompletion=lambda: ["best", "latest"])
]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="data set. Boxes: YOLO data.yaml or folder, COCO folder or json, Pascal VOC folder. Classes: folders of "
        "them, ImageNet, CIFAR, MNIST",
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="write the figures to this file")]
