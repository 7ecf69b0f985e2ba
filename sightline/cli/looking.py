"""Commands that look at runs and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.arguments import RECIPE, Changes, Checkpoint, DataPath, JsonFile, Run, command, recipe_names
from sightline.cli.show import help_style, show, show_lines

PANEL = "Looking at runs and recipes"

commands = typer.Typer()


@command(commands, "list", panel=PANEL)
def list_(
    recipe: Annotated[
        str | None,
        typer.Argument(help="a recipe, to see all its keys with their values and help", autocompletion=recipe_names),
    ] = None,
    group: Annotated[str | None, typer.Argument(help="only the keys of this group")] = None,
) -> None:
    """List all recipes, or all keys of one.

    Examples:
        sightline list
        sightline list yolov7-tiny
        sightline list yolov7-tiny augment
    """
    from sightline import api

    if recipe is None:
        show(api.list_recipes())
    else:
        show_lines(api.describe_keys(recipe, group), help_style)


@command(commands, panel=PANEL)
def report(run: Run) -> None:
    """Write the run's page: report/index.html.

    Examples:
        sightline report runs/yolov7-tiny-small/1
    """
    from sightline import api

    show(f"report: {api.report(run)}")


@command(commands, panel=PANEL)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="two or more run folders", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="write the overlaid curves to this PNG file")] = None,
    json: JsonFile = None,
) -> None:
    """Put runs side by side: what differs in their configuration, and their figures.

    Examples:
        sightline compare runs/yolov7-tiny-small/1 runs/yolov7-tiny-small/2 --out curves.png
        sightline compare runs/yolov7-tiny-small/* --json compared.json
    """
    from sightline import api

    api.check_output(json)
    compared = api.compare(runs, out=out)
    show(*compared.tables())
    if compared.is_of_one_configuration:
        show("The configurations are the same.")
    if json is not None:
        compared.write_json(json)


@command(commands, "show", panel=PANEL)
def show_contents(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="run folder, the folder of one of its checkpoints, or a .safetensors file",
            show_default=False,
        ),
    ],
    checkpoint: Checkpoint = "latest",
    tensors: Annotated[bool, typer.Option("--tensors", help="list every tensor, not the parts of the model")] = False,
    json: Annotated[Path | None, typer.Option(help="write all of it to this file, every tensor too")] = None,
) -> None:
    """Tell what is in a checkpoint or a file of weights, and whether it is whole. No tensor is loaded.

    Ends with exit code 2 where something is damaged.

    Examples:
        sightline show runs/yolov7-tiny-small/1
        sightline show runs/yolov7-tiny-small/1/checkpoints/best --tensors
        sightline show detector.safetensors --json contents.json
    """
    from sightline import api

    api.check_output(json)
    contents = api.show(path, checkpoint=checkpoint)
    show(*contents.tables(tensors=tensors))
    if json is not None:
        contents.write_json(json)
    raise typer.Exit(0 if contents.is_whole else 2)


@command(commands, "plot-lr", panel=PANEL)
def plot_lr(
    recipe: Annotated[str, RECIPE],
    changes: Changes = None,
    data: DataPath = None,
    out: Annotated[Path, typer.Option(help="picture; a .csv of the same name is written beside it")] = Path("lr.png"),
) -> None:
    """Draw learning rates and momentum over a whole run before starting it.

    Examples:
        sightline plot-lr yolov7-tiny --data my_data epochs=60 schedule.kind=linear
    """
    from sightline import api

    config, _ = api.resolve(recipe, changes or [], data=data)
    show(api.plot_lr(config, out=out))
