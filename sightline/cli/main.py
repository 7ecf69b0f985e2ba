"""``sightline``: every command turns text into one call of the api, and its result into an exit code.

0 done, 1 failed, 2 the user must change something, 3 stopped on request with a resumable checkpoint.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sightline.config.errors import UserError

app = typer.Typer(
    name="sightline",
    help="Train, resume, evaluate and look at perception models. Start with: sightline train yolov7-tiny",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="changes, e.g. epochs=3 optimizer.momentum=0.9", show_default=False),
]
Run = Annotated[Path, typer.Argument(help="run folder, e.g. runs/yolov7-tiny/1", show_default=False)]
DataPath = Annotated[
    Path | None,
    typer.Option("--data", help="data set: YOLO data.yaml or folder, COCO folder or json, Pascal VOC folder"),
]


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


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="name of a run (see: sightline list) or a YAML file of changes", show_default=False),
    ] = None,
    changes: Changes = None,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option(help="run folder; default runs/RECIPE/NUMBER")] = None,
    from_run: Annotated[
        Path | None, typer.Option("--from", help="repeat the run of this folder, with the same configuration")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="print every value and where it came from, and stop")
    ] = False,
) -> None:
    """Train a model. Without --data it trains on the built-in world.

    Example: sightline train yolov7-tiny --data coco128 epochs=3 image_size=320
    """
    from sightline import api

    if recipe is not None and "=" in recipe:
        changes = [recipe, *(changes or [])]
        recipe = None
    config, origins = api.resolve(recipe, changes or [], data=data, from_run=from_run)
    if print_config:
        typer.echo(api.describe_config(config, origins))
        return
    raise typer.Exit(api.train(config, out=out).exit_code)


@app.command()
def resume(run: Run, changes: Changes = None) -> None:
    """Continue a run exactly where its newest whole checkpoint stands.

    Example: sightline resume runs/yolov7-tiny/1, or with more epochs: sightline resume RUN epochs=100
    """
    from sightline import api

    raise typer.Exit(api.resume(run, changes or []).exit_code)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="run folder or one of its checkpoints", show_default=False)],
    changes: Changes = None,
    data: DataPath = None,
    split: Annotated[str, typer.Option(help="part of the data set: val, test or train")] = "val",
    checkpoint: Annotated[str, typer.Option(help="best, latest, or a step number")] = "best",
    save: Annotated[Path | None, typer.Option(help="write the detections as COCO results to this file")] = None,
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
) -> None:
    """Evaluate a trained model.

    Example: sightline eval runs/yolov7-tiny/1 --split test --save detections.json
    """
    from sightline import api

    figures = api.evaluate(run, changes=changes or [], data=data, split=split, checkpoint=checkpoint, save=save)
    typer.echo(figures.table())
    if json is not None:
        figures.write_json(json)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="run folder or one of its checkpoints", show_default=False)],
    source: Annotated[str, typer.Argument(help="image, folder, glob ('*.jpg') or video", show_default=False)],
    out: Annotated[Path, typer.Option(help="folder for pictures and predictions.json")] = Path("predictions"),
    score: Annotated[float, typer.Option(min=0, max=1, help="show detections above this score")] = 0.25,
    checkpoint: Annotated[str, typer.Option(help="best, latest, or a step number")] = "best",
    pictures: Annotated[bool, typer.Option(help="write pictures with the boxes drawn in")] = True,
) -> None:
    """Detect on your own images.

    Example: sightline predict runs/yolov7-tiny/1 photos/ --score 0.4
    """
    from sightline import api

    for line in api.predict(run, source, out=out, score_threshold=score, checkpoint=checkpoint, pictures=pictures):
        typer.echo(line)


@app.command("list")
def list_(
    recipe: Annotated[
        str | None, typer.Argument(help="a recipe, to see all its keys with their values and help")
    ] = None,
) -> None:
    """List all recipes, or all keys of one.

    Example: sightline list yolov7-tiny
    """
    from sightline import api

    typer.echo(str(api.list_recipes()) if recipe is None else api.describe_keys(recipe))


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="data set: YOLO, COCO or Pascal VOC", show_default=False)],
    quick: Annotated[bool, typer.Option("--quick", help="read headers only, do not decode the images")] = False,
    json: Annotated[Path | None, typer.Option(help="write all faults to this file")] = None,
) -> None:
    """Look for faults in a data set: every one with file and line.

    Example: sightline check my_data/data.yaml
    """
    from sightline import api

    found = api.check(data, decode=not quick)
    typer.echo("\n".join(found.lines()))
    if json is not None:
        import json as json_format

        json.write_text(json_format.dumps(found.as_dict(), indent=1) + "\n")
    raise typer.Exit(0 if found.is_usable else 2)


@app.command()
def report(run: Run) -> None:
    """Write the run's page: report/index.html.

    Example: sightline report runs/yolov7-tiny/1
    """
    from sightline import api

    typer.echo(f"report: {api.report(run)}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="two or more run folders", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="write the overlaid curves to this PNG file")] = None,
) -> None:
    """Put runs side by side: what differs in their configuration, and their figures."""
    from sightline import api

    typer.echo(api.compare(runs, out=out))


@app.command()
def world(
    out: Annotated[Path, typer.Argument(help="new folder for the data set", show_default=False)],
    format: Annotated[str, typer.Option(help="yolo, coco or voc")] = "yolo",
    scenes: Annotated[int, typer.Option(min=2, help="number of pictures, training and validation together")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="another seed, another city")] = 0,
) -> None:
    """Write the built-in synthetic city as a data set.

    Example: sightline world city --format coco --scenes 500
    """
    from sightline import api

    typer.echo(api.world(out, format=format, scenes=scenes, seed=seed))


@app.command("plot-lr")
def plot_lr(
    recipe: Annotated[str, typer.Argument(help="name of a run or a YAML file of changes", show_default=False)],
    changes: Changes = None,
    data: DataPath = None,
    out: Annotated[Path, typer.Option(help="picture; a .csv of the same name is written beside it")] = Path("lr.png"),
) -> None:
    """Draw learning rates and momentum over a whole run before starting it."""
    from sightline import api

    config, _ = api.resolve(recipe, changes or [], data=data)
    typer.echo(api.plot_lr(config, out=out))


@app.command()
def status(run: Run) -> None:
    """What a run is doing: step, ETA, losses; or that its process is dead."""
    from sightline import api

    typer.echo(api.status(run))


score = typer.Typer(help="Score the result files of any tool.", no_args_is_help=True)
app.add_typer(score, name="score")


@score.callback()
def _score() -> None:
    """Score the result files of any tool."""


@score.command("coco")
def score_coco(
    truth: Annotated[Path, typer.Argument(help="COCO annotations, instances_*.json", show_default=False)],
    detections: Annotated[Path, typer.Argument(help="COCO results, a json list", show_default=False)],
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
) -> None:
    """The 12 official COCO box figures.

    Example: sightline score coco instances_val.json detections.json
    """
    from sightline import api

    result = api.score_coco(truth, detections)
    typer.echo(result.table())
    if json is not None:
        result.write_json(json)


def main() -> None:
    """Run one command; the only place where an error becomes an exit code."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    try:
        app(standalone_mode=False)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except UserError as error:
        _fail(str(error))
    except typer.Abort:
        _fail("stopped", code=3)
    except Exception as error:
        if not hasattr(error, "format_message"):  # only usage errors of the command line have it
            raise
        context = getattr(error, "ctx", None)
        hint = f"\nSee: {context.command_path} --help" if context is not None else ""
        _fail(error.format_message() + hint)


def _fail(message: str, *, code: int = 2) -> None:
    """Print a short text and leave. Control characters (of file names, say) are shown, not sent."""
    shown = "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in message)
    typer.secho("error: ", fg="red", nl=False, err=True)
    typer.echo(shown, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
