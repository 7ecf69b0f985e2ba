"""Commands of a training: begin it, go on with it, see what it is doing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.arguments import RECIPE, Changes, DataPath, Run, command
from sightline.cli.show import origin_style, show, show_lines
from sightline.config.errors import ConfigError

PANEL = "Training"

commands = typer.Typer()

Quiet = Annotated[bool, typer.Option("--quiet", help="show warnings and errors alone: log.level=WARNING")]
Verbose = Annotated[bool, typer.Option("--verbose", help="show more: log.level=DEBUG")]


@command(commands, panel=PANEL)
def train(
    recipe: Annotated[str | None, RECIPE] = None,
    changes: Changes = None,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option(help="run folder; default runs/RECIPE/NUMBER")] = None,
    name: Annotated[str | None, typer.Option(help="name of the run in place of the number")] = None,
    from_run: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="repeat this run, with the same configuration")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="print every value and where it came from, and stop")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a model. Without --data it trains on the built-in world.

    Examples:
        sightline train yolov7-tiny-small --data my_data epochs=50 image_size=320
        sightline train yolov7-tiny-small --data my_data --print-config
        sightline train small-cnn --data my_data image_size=64
        sightline train my_changes.yaml lr=0.002 --name slower
        sightline train --from runs/yolov7-tiny-small/1 seed=1

    Any key of a recipe can be changed; sightline list RECIPE shows them all. Ctrl-C saves and stops.
    """
    began = time.monotonic()
    from sightline import api

    if recipe is not None and "=" in recipe:
        changes = [recipe, *(changes or [])]
        recipe = None
    changes = [*(changes or []), *_log_level(quiet=quiet, verbose=verbose)]
    config, origins = api.resolve(recipe, changes, data=data, from_run=from_run)
    if print_config:
        show_lines(api.describe_config(config, origins), origin_style)
        return
    raise typer.Exit(api.train(config, out=out, name=name, began=began).exit_code)


@command(commands, panel=PANEL)
def resume(run: Run, changes: Changes = None, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Continue a run exactly where its newest whole checkpoint stands.

    Examples:
        sightline resume runs/yolov7-tiny-small/1
        sightline resume runs/yolov7-tiny-small/1 epochs=100
    """
    began = time.monotonic()
    from sightline import api

    changes = [*(changes or []), *_log_level(quiet=quiet, verbose=verbose)]
    raise typer.Exit(api.resume(run, changes, began=began).exit_code)


def _log_level(*, quiet: bool, verbose: bool) -> list[str]:
    """What ``--quiet`` and ``--verbose`` change."""
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose are both given. Leave one out.")
    return ["log.level=WARNING"] * quiet + ["log.level=DEBUG"] * verbose


@command(commands, panel=PANEL)
def search(
    out: Annotated[Path, typer.Option(help="folder of the search; to go on with one, it is enough")],
    recipe: Annotated[str | None, RECIPE] = None,
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="changes, e.g. epochs=3, and ranges, e.g. 'lr=log(1e-4,1e-1)'",
            show_default=False,
        ),
    ] = None,
    data: DataPath = None,
    space: Annotated[Path | None, typer.Option(help="YAML file of keys and their ranges")] = None,
    trials: Annotated[int | None, typer.Option(help="how many; 24 at first")] = None,
    metric: Annotated[str | None, typer.Option(help="figure that decides; the recipe's without it")] = None,
    jobs: Annotated[int, typer.Option(help="trials at once, each on its share of the CPU")] = 1,
    method: Annotated[
        str | None,
        typer.Option(
            help="evolve: change the best trials, the default; random: spread all over the ranges",
            autocompletion=lambda: ["evolve", "random"],
        ),
    ] = None,
    generation: Annotated[int | None, typer.Option(help="trials of a generation, 8 by default")] = None,
    seed: Annotated[int | None, typer.Option(help="decides what is tried, 0 by default")] = None,
) -> None:
    """Search for better values: many trainings, and the best of them.

    Examples:
        sightline search yolov7-tiny-small --data my_data epochs=20 'lr=log(1e-3,1e-1)' --metric AP50 --out tuned
        sightline search yolov7-tiny-small --data my_data --space space.yaml --trials 40 --jobs 4 --out tuned
        sightline search --out tuned
        sightline train tuned/best.yaml epochs=100

    Ranges: uniform(LOW,HIGH) log(LOW,HIGH) int(LOW,HIGH) choice(A,B,...). Ctrl-C saves and stops all trials; the same
    command, or --out alone, goes on.
    """
    from sightline import api

    if recipe is not None and "=" in recipe:
        raise ConfigError(f"search: which recipe? Name one before {recipe}. List them with: sightline list")
    result = api.search(
        recipe,
        changes or [],
        out=out,
        space=space,
        data=data,
        trials=trials,
        metric=metric,
        jobs=jobs,
        method=method,  # type: ignore[arg-type]
        generation=generation,
        seed=seed,
        say=show,
    )
    show(*([result.table()] if result.trials else []), *result.failures(), result.last_words())
    raise typer.Exit(result.exit_code)


@command(commands, panel=PANEL)
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder, or a folder of runs")] = Path("runs"),
) -> None:
    """What a run is doing: step, losses, time left; or that its process is dead.

    Examples:
        sightline status runs/yolov7-tiny-small/1
        sightline status runs
    """
    from sightline import api

    show(api.status(run))
