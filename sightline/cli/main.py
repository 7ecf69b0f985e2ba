"""``sightline``: every command turns text into one call of the api, and its result into an exit code.

0 done, 1 failed, 2 the user must change something, 3 stopped on request with a resumable checkpoint.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from sightline.cli.show import (
    counting,
    fault_style,
    finding_style,
    help_style,
    origin_style,
    show,
    show_lines,
    working,
)
from sightline.config import exit_codes
from sightline.config.errors import ConfigError, DataError
from sightline.config.foreign_names import our_key
from sightline.config.printable import printable

INTERRUPTED = 130
"""What typer makes of Ctrl-C where nothing catches it."""

TRAINING, USE, LOOK, DATA = "Training", "Using a trained model", "Looking at runs and recipes", "Data"

app = typer.Typer(
    name="sightline",
    help="Train, resume, evaluate and look at perception models. Start with: sightline train yolov7-tiny-small",
    epilog="Exit codes: 0 done, 1 failed, 2 you must change something, 3 stopped on request, go on with resume.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


F = TypeVar("F", bound=Callable[..., None])


def command(name: str | None = None, *, of: typer.Typer = app, panel: str | None = None) -> Callable[[F], F]:
    """Make a function a command whose help is its docstring, with the lines of its examples left as they are.

    Args:
        name: In place of the function's own.
        of: What it is a command of.
        panel: The heading that it stands under.
    """

    def register(function: F) -> F:
        text = inspect.cleandoc(function.__doc__ or "").replace("Examples:\n", "\b\nExamples:\n")
        return of.command(name, rich_help_panel=panel, help=text)(function)

    return register


def _recipe_names() -> list[str]:
    from sightline import api

    return [row[0] for row in api.list_recipes().rows]


Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="changes, e.g. epochs=3 optimizer.momentum=0.9", show_default=False),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="run folder, e.g. runs/yolov7-tiny/1", show_default=False)]
AnyRun = Annotated[
    Path, typer.Argument(metavar="RUN", help="run folder, or the folder of one of its checkpoints", show_default=False)
]
DataPath = Annotated[
    Path | None,
    typer.Option("--data", help="data set: YOLO data.yaml or folder, COCO folder or json, Pascal VOC folder"),
]
Checkpoint = Annotated[
    str, typer.Option(help="best, latest, or a step number", autocompletion=lambda: ["best", "latest"])
]
Quiet = Annotated[bool, typer.Option("--quiet", help="show warnings and errors alone: log.level=WARNING")]
Verbose = Annotated[bool, typer.Option("--verbose", help="show more: log.level=DEBUG")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="write the figures to this file")]


def _version(wanted: bool) -> None:
    if wanted:
        from sightline import __version__

        typer.echo(f"sightline {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    del version


@command(panel=TRAINING)
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="name of a run (see: sightline list), or a YAML file that names a recipe and lists changes",
            show_default=False,
            autocompletion=_recipe_names,
        ),
    ] = None,
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


@command(panel=TRAINING)
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


@command(panel=TRAINING)
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


@command("eval", panel=USE)
def evaluate(
    run: AnyRun,
    changes: Changes = None,
    data: DataPath = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="part of the data set: val, test or train; default the one that the training evaluated",
            autocompletion=lambda: ["val", "test"],
        ),
    ] = None,
    checkpoint: Checkpoint = "best",
    every: Annotated[
        bool, typer.Option("--all", help="every checkpoint of the run, in a table over its steps")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="as --all, then each new checkpoint until the run is finished, or Ctrl-C")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="write the predictions to this file, in their field's format: COCO results")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Evaluate a trained model.

    Examples:
        sightline eval runs/yolov7-tiny-small/1
        sightline eval runs/yolov7-tiny-small/1 --split test --save detections.json --json figures.json
        sightline eval runs/yolov7-tiny-small/1 --data other_data image_size=640 --checkpoint latest
        sightline eval runs/yolov7-tiny-small/1 --all
        sightline eval runs/yolov7-tiny-small/1 --watch --json figures.json

    --watch leaves the machine to others: it runs at the lowest priority.
    """
    from sightline import api

    api.check_output(json)
    if every or watch:
        if save is not None or checkpoint != "best":
            option = "--checkpoint" if save is None else "--save"
            raise ConfigError(f"{option} is for one checkpoint: leave it out, or leave out --all and --watch.")
        if watch:
            api.step_aside()
        _evaluate_all(run, changes=changes or [], data=data, split=split, watch=watch, json=json)
        return
    figures = api.evaluate(run, changes=changes or [], data=data, split=split, checkpoint=checkpoint, save=save)
    show(*figures.notes, figures.title, *figures.tables())
    if json is not None:
        figures.write_json(json)


def _evaluate_all(
    run: Path, *, changes: list[str], data: Path | None, split: str | None, watch: bool, json: Path | None
) -> None:
    """Print each checkpoint as it is done, and the table at the end; the file is written anew after each."""
    from sightline import api

    def tell(series: api.Series) -> None:
        if json is not None:
            series.write_json(json)
        if watch:
            show(series.latest())

    series = api.evaluate_all(run, changes=changes, data=data, split=split, watch=watch, on_row=tell, say=show)
    show(series.title, series.table() if series.rows else "no checkpoint was evaluated")
    if json is not None:
        series.write_json(json)


@command(panel=USE)
def predict(
    run: AnyRun,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="images, folders, patterns or videos; KEY=VALUE changes may follow",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="folder for pictures and predictions.json; default predictions, predictions-2, ..."),
    ] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="leave out detections below this score")] = 0.25,
    checkpoint: Checkpoint = "best",
    pictures: Annotated[bool, typer.Option(help="write pictures with the boxes drawn in")] = True,
) -> None:
    """Detect on your own images.

    Examples:
        sightline predict runs/yolov7-tiny-small/1 photos/
        sightline predict runs/yolov7-tiny-small/1 'photos/*.jpg' --score 0.4 --out found
        sightline predict runs/yolov7-tiny-small/1 drive.mp4 image_size=640 --no-pictures
    """
    from sightline import api

    changes = [text for text in source if re.match(r"[a-z_.]+=", text) and not Path(text).exists()]
    sources = [text for text in source if text not in changes]
    if not sources:
        raise DataError("predict: no image, folder, pattern or video is given. See: sightline predict --help")
    folder = out if out is not None else api.free_folder(Path("predictions"))
    results = api.predict(
        run,
        sources,
        out=folder,
        score_threshold=score,
        checkpoint=checkpoint,
        pictures=pictures,
        changes=changes,
    )
    done, errors = 0, []
    for result in results:
        show(str(result))
        done += 1
        errors += [str(result)] if result.error else []
    show(f"{done} {'picture' if done == 1 else 'pictures'}: {folder / 'predictions.json'}")
    if errors:
        more = f" (the first of {len(errors)} is shown)" if len(errors) > 1 else ""
        raise DataError(f"{len(errors)} of {done} could not be read{more}. Repair or leave out {errors[0]}")


score = typer.Typer(help="Score the result files of any tool.", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(score, name="score", rich_help_panel=USE)


@score.callback()
def _score() -> None:
    """Score the result files of any tool."""


@command("coco", of=score)
def score_coco(
    truth: Annotated[
        Path, typer.Argument(metavar="TRUTH", help="COCO annotations, instances_*.json", show_default=False)
    ],
    detections: Annotated[
        Path, typer.Argument(metavar="DETECTIONS", help="COCO results, a json list", show_default=False)
    ],
    json: JsonFile = None,
) -> None:
    """The 12 official COCO box figures of any tool's results.

    Examples:
        sightline score coco instances_val.json detections.json --json figures.json
    """
    from sightline import api

    api.check_output(json)
    figures = api.score_coco(truth, detections)
    show(figures.title, *figures.tables(), *figures.notes)
    if json is not None:
        figures.write_json(json)


@command("list", panel=LOOK)
def list_(
    recipe: Annotated[
        str | None,
        typer.Argument(help="a recipe, to see all its keys with their values and help", autocompletion=_recipe_names),
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


@command(panel=LOOK)
def report(run: Run) -> None:
    """Write the run's page: report/index.html.

    Examples:
        sightline report runs/yolov7-tiny-small/1
    """
    from sightline import api

    show(f"report: {api.report(run)}")


@command(panel=LOOK)
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


@command("plot-lr", panel=LOOK)
def plot_lr(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="name of a run or a YAML file of changes",
            show_default=False,
            autocompletion=_recipe_names,
        ),
    ],
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


@command(panel=DATA)
def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="DATA|RECIPE",
            help="a data set (YOLO, COCO or Pascal VOC), or a recipe or YAML file of changes; what exists is a path",
            show_default=False,
            autocompletion=_recipe_names,
        ),
    ],
    changes: Changes = None,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option(help="run folder that RECIPE would write")] = None,
    name: Annotated[str | None, typer.Option(help="name of the run that RECIPE would begin")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="read headers only, do not decode the images")] = False,
    copies: Annotated[bool, typer.Option("--copies", help="DATA: look for images with the same content too")] = False,
    every: Annotated[bool, typer.Option("--all", help="DATA: show every place, not the first of each kind")] = False,
    format: Annotated[
        str | None,
        typer.Option(
            help="DATA: yolo, coco or voc, where a folder holds several",
            show_default=False,
            autocompletion=lambda: ["yolo", "coco", "voc"],
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write everything that was found to this file")] = None,
) -> None:
    """Look for everything that is wrong with a data set, or with a run before it begins.

    Of DATA it lists all faults, every one with file and line. Of RECIPE it builds all that a run would build and takes
    a few steps: configuration, labels, anchors, shapes, losses, memory, disk and time. It writes nothing into the data
    or a run folder. Ends with exit code 2 where training would refuse, or would not come to its end.

    Examples:
        sightline check my_data/data.yaml
        sightline check my_data --all --json faults.json
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
        with counting("looking at images") as tell:
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


@command(panel=DATA)
def world(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="new folder for the data set", show_default=False)],
    format: Annotated[
        str, typer.Option(help="yolo, coco or voc", autocompletion=lambda: ["yolo", "coco", "voc"])
    ] = "yolo",
    scenes: Annotated[int, typer.Option(min=2, help="number of pictures, training and validation together")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="another seed, another city")] = 0,
) -> None:
    """Write the built-in synthetic city as a data set.

    Examples:
        sightline world city --format coco --scenes 500
    """
    from sightline import api

    with counting("rendering") as tell:
        text = api.world(
            out, format=format, scenes=scenes, seed=seed, progress=tell and (lambda done: tell(done, scenes))
        )
    show(text)


def main() -> None:
    """Run one command; the only place where an error becomes an exit code."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        code = app(standalone_mode=False)  # what a command's typer.Exit carries comes back as a value
        if code == INTERRUPTED:
            _fail("aborted", code=1)
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Abort:
        _fail("aborted", code=1)
    except BrokenPipeError:  # of `sightline list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if type(error).__name__ == "ProcessesFailedError":  # they have said what it was
            sys.exit(getattr(error, "exit_code", 1))
        if hasattr(error, "format_message"):  # a usage error of the command line
            context = getattr(error, "ctx", None)
            hint = f"\nSee: {context.command_path} --help" if context is not None else ""
            _fail(error.format_message() + (_as_a_key(error) or hint), code=2)
        exit_codes.leave(error)


def _as_a_key(error: Exception) -> str:
    """What an option that there is none of should have been, where a command takes keys: ``epochs=3``."""
    option, context = str(getattr(error, "option_name", "")), getattr(error, "ctx", None)
    key = option.removeprefix("--").replace("-", "_")
    is_slip = getattr(error, "possibilities", None) and our_key(key) is None
    if not option.startswith("--") or context is None or is_slip:
        return ""
    if option == "--resume":
        return "\nTo go on with a run: sightline resume RUN"
    if not {"changes", "source"} & {parameter.name for parameter in context.command.params}:
        return ""
    words = " ".join(sys.argv).partition(option)[2].replace("=", " ", 1).split()
    value = words[0] if words and not words[0].startswith("--") else "VALUE"
    return f"\nKeys of a recipe are given without dashes: {our_key(key) or key}={printable(value, limit=80)}"


def _fail(message: str, *, code: int) -> None:
    exit_codes.say(message)
    sys.exit(code)


if __name__ == "__main__":
    main()
