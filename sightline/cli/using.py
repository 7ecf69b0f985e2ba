"""Commands that use a trained model: evaluate it, predict with it, score the results of any tool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.arguments import AnyRun, Changes, Checkpoint, DataPath, JsonFile, command, recipe_names
from sightline.cli.show import show
from sightline.config.errors import ConfigError, DataError
from sightline.config.printable import counted

PANEL = "Using a trained model"

commands = typer.Typer()

Trained = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="run folder, the folder of one of its checkpoints, or a file of sightline release or pack",
        show_default=False,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="ema (averaged) or live; default the averaged ones where there are any",
        autocompletion=lambda: ["ema", "live"],
    ),
]
Force = Annotated[bool, typer.Option("--force", help="replace a file that is there")]


@command(commands, "eval", panel=PANEL)
def evaluate(
    run: Trained,
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
        Path | None,
        typer.Option(
            help="write the predictions to this file: COCO results, or a CSV table of classes; of LiDAR to this folder"
        ),
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
        sightline eval detector.safetensors --data other_data
        sightline eval runs/small-cnn/1 --save answers.csv
        sightline eval runs/pointpillars/1 --save results

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


@command(commands, panel=PANEL)
def predict(
    run: Trained,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="images, videos, point clouds, folders or patterns; KEY=VALUE changes may follow",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="folder for pictures and predictions.json; default predictions, predictions-2, ..."),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="leave out what scores below this; default 0.25, of a classifier 0.01"),
    ] = None,
    checkpoint: Checkpoint = "best",
    pictures: Annotated[bool, typer.Option(help="write pictures with the answers drawn in")] = True,
) -> None:
    """Predict on your own images or point clouds: boxes, or the classes of whole images, as the model has learnt.

    Examples:
        sightline predict runs/yolov7-tiny-small/1 photos/
        sightline predict runs/yolov7-tiny-small/1 'photos/*.jpg' --score 0.4 --out found
        sightline predict runs/yolov7-tiny-small/1 drive.mp4 image_size=640 --no-pictures
        sightline predict detector.safetensors photos/
        sightline predict runs/small-cnn/1 photos/
        sightline predict runs/pointpillars/1 kitti/testing/velodyne
    """
    from sightline import api

    changes = [text for text in source if re.match(r"[a-z_.]+=", text) and not Path(text).exists()]
    sources = [text for text in source if text not in changes]
    if not sources:
        raise DataError("predict: no file, folder or pattern is given. See: sightline predict --help")
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
    done, errors, unit = 0, [], "picture"
    for result in results:
        show(str(result))
        done, unit = done + 1, result.unit
        errors += [str(result)] if result.error else []
    show(f"{counted(done, unit)}: {folder / 'predictions.json'}")
    if errors:
        more = f" (the first of {len(errors)} is shown)" if len(errors) > 1 else ""
        raise DataError(f"{len(errors)} of {done} could not be read{more}. Repair or leave out {errors[0]}")


@command(commands, panel=PANEL)
def release(
    run: AnyRun,
    out: Annotated[
        Path | None,
        typer.Option(help="the file, *.safetensors; default in this folder, named after recipe, run and step"),
    ] = None,
    checkpoint: Checkpoint = "best",
    weights: Weights = None,
    half: Annotated[
        str | None,
        typer.Option(help="store the weights in 16 bits: fp16 or bf16", autocompletion=lambda: ["fp16", "bf16"]),
    ] = None,
    force: Force = False,
) -> None:
    """Write a trained model to one small file: its weights, and what eval and predict have to know.

    Paths, callbacks, logging and file names of the data are left out.

    Examples:
        sightline release runs/yolov7-tiny-small/1
        sightline release runs/yolov7-tiny-small/1 --out detector.safetensors --half fp16
        sightline release runs/yolov7-tiny-small/1 --checkpoint latest --weights live
    """
    from sightline import api

    show(str(api.release(run, out=out, checkpoint=checkpoint, weights=weights, half=half, force=force)))


@command(commands, panel=PANEL)
def pack(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="run of a binary network, the folder of one of its checkpoints, or a file of sightline release",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="the file, *.safetensors; default in this folder, named after recipe, run and step"),
    ] = None,
    checkpoint: Checkpoint = "best",
    weights: Weights = None,
    half: Annotated[
        str | None,
        typer.Option(
            help="store the weights that are not binary in 16 bits: fp16 or bf16",
            autocompletion=lambda: ["fp16", "bf16"],
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Write a trained binary network to one file with one bit for each binary weight.

    eval and predict take the file like that of sightline release, and count equal bits.

    Examples:
        sightline pack runs/resnet-e18-cifar/1
        sightline pack runs/resnet-e18-cifar/1 --out small.safetensors --half fp16
        sightline pack network.safetensors --out small.safetensors
    """
    from sightline import api

    packed = api.pack(model, out=out, checkpoint=checkpoint, weights=weights, half=half, force=force)
    show(packed.table(), str(packed))


@command(commands, panel=PANEL)
def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="run folder, the folder of one of its checkpoints, or a file of sightline release or pack",
            show_default=False,
        ),
    ],
    format: Annotated[
        str,
        typer.Option(
            help="onnx, for classifiers and detectors; or bmxnet, parameters of a binary classifier",
            autocompletion=lambda: ["onnx", "bmxnet"],
        ),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(help="the file, *.onnx or *.params; default in this folder, named after recipe, run and step"),
    ] = None,
    checkpoint: Checkpoint = "best",
    opset: Annotated[int | None, typer.Option(help="onnx: version of the operators; default the exporter's")] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="onnx, images: any number of them at once; without it one")
    ] = False,
    input: Annotated[
        str | None,
        typer.Option(
            help="onnx, images: uint8 (the default), pixels that the graph normalises; or float32, normalised before",
            autocompletion=lambda: ["uint8", "float32"],
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="bmxnet: packed (the default), binary weights as words of 32 bits; packed64; or float",
            autocompletion=lambda: ["packed", "packed64", "float"],
        ),
    ] = None,
    force: Force = False,
) -> None:
    r"""Write a trained model for another program: ONNX, or BMXNet's parameters.

    An ONNX file needs the extra onnx: pip install 'sightline\[onnx]'. It is checked with ONNX Runtime against PyTorch.

    Examples:
        sightline export runs/small-cnn/1 --out classifier.onnx
        sightline export runs/small-cnn/1 --dynamic-batch --opset 18 --input float32
        sightline export runs/pointpillars/1 --out pillars.onnx
        sightline export runs/resnet-e18-cifar/1 --format bmxnet --out resnet.params
        sightline export small.safetensors --format bmxnet --layout float
    """
    from sightline import api

    exported = api.export(
        model,
        format=format,
        out=out,
        checkpoint=checkpoint,
        opset=opset,
        dynamic_batch=dynamic_batch,
        input=input,
        layout=layout,
        force=force,
    )
    show(str(exported))


imported = typer.Typer(
    help="Make a released file of another program's trained network.", no_args_is_help=True, rich_markup_mode="rich"
)
commands.add_typer(imported, name="import", rich_help_panel=PANEL)


@imported.callback()
def _import() -> None:
    """Make a released file of another program's trained network."""


@command(imported, "bmxnet")
def import_bmxnet(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="MXNet's parameters, *.params", show_default=False)],
    recipe: Annotated[
        str,
        typer.Option(
            help="a classifier with the same network, e.g. resnet-e18-cifar",
            show_default=False,
            autocompletion=recipe_names,
        ),
    ],
    changes: Changes = None,
    data: DataPath = None,
    out: Annotated[
        Path | None, typer.Option(help="the file to write, *.safetensors; default in this folder, named after FILE")
    ] = None,
    force: Force = False,
) -> None:
    """BMXNet v2's parameters, in floats or in packed words. eval, predict and weights= take what is written.

    KEY=VALUE make the recipe's network the one that was trained. The names of the classes are those of --data.

    Examples:
        sightline import bmxnet resnet.params --recipe resnet-e18-cifar model.variant=resnet18_e1
        sightline import bmxnet lenet.params --recipe lenet --data mnist --out lenet.safetensors
    """
    from sightline import api

    made = api.import_bmxnet(file, recipe=recipe, changes=changes or [], data=data, out=out, force=force)
    show(made.table(), *(f"note: {note}" for note in made.notes), str(made))


@command(imported, "openpcdet")
def import_openpcdet(
    cfg: Annotated[
        Path, typer.Option(help="its YAML file, e.g. tools/cfgs/kitti_models/pointpillar.yaml", show_default=False)
    ],
    ckpt: Annotated[
        Path | None, typer.Option(help="a checkpoint that was trained with it, *.pth; without it only the recipe")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a value of theirs, as --set KEY VALUE gave it; repeatable"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="the recipe file to write, *.yaml; weights come beside it as *.safetensors"),
    ] = None,
    force: Force = False,
) -> None:
    """OpenPCDet's configurations and checkpoints. train takes the recipe file, eval and predict the weights.

    Base files (_BASE_CONFIG_) are found beside the file. All that has no counterpart is listed, with the reason.

    Examples:
        sightline import openpcdet --cfg cfgs/kitti_models/pointpillar.yaml --out pillars.yaml
        sightline import openpcdet --cfg cfgs/kitti_models/second.yaml --ckpt checkpoint_epoch_80.pth --out second.yaml
    """
    from sightline import api

    made = api.import_openpcdet(cfg, ckpt=ckpt, changes=changes or [], out=out, force=force)
    show(*made.tables(), str(made))


score = typer.Typer(help="Score the result files of any tool.", no_args_is_help=True, rich_markup_mode="rich")
commands.add_typer(score, name="score", rich_help_panel=PANEL)


@score.callback()
def _score() -> None:
    """Score the result files of any tool."""


@command(score, "coco")
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


@command(score, "kitti")
def score_kitti(
    labels: Annotated[
        Path, typer.Argument(metavar="LABEL_DIR", help="folder of label files, such as label_2", show_default=False)
    ],
    detections: Annotated[
        Path,
        typer.Argument(
            metavar="DETECTION_DIR", help="folder of result files, a line a detection, 16 columns", show_default=False
        ),
    ],
    frames: Annotated[
        Path | None,
        typer.Option(help="list of frames, such as ImageSets/val.txt; without it all that have a result file"),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="types to score; default Car,Pedestrian,Cyclist and what else the detections name"
        ),
    ] = None,
    json: JsonFile = None,
) -> None:
    """KITTI's AP of any tool's results: in space, from above, in the picture, and of orientation.

    All figures are percent. Strict overlaps are 0.7 for vehicles and 0.5 for all else, loose ones 0.5 and 0.25 (in the
    picture as the strict ones).

    Examples:
        sightline score kitti kitti/training/label_2 results --frames kitti/ImageSets/val.txt
        sightline score kitti label_2 results --classes Car --json figures.json
    """
    from sightline import api

    api.check_output(json)
    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    figures = api.score_kitti(labels, detections, frames=frames, class_names=names)
    show(figures.title, *figures.tables(), *figures.notes)
    if json is not None:
        figures.write_json(json)
