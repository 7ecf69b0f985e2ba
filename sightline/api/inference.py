"""Using a trained model: load, predict, evaluate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sightline.api.configuration import PathLike, read_config
from sightline.config.errors import ConfigError, DataError, RunError

if TYPE_CHECKING:
    import numpy as np

    from sightline.data.sample import BoxPrediction
    from sightline.engine.checkpoint_reader import Checkpoint
    from sightline.engine.run_config import RunConfig
    from sightline.engine.task import Task

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}


@dataclass(frozen=True)
class Figures(Mapping[str, float]):
    """Figures of an evaluation by name, with the tables behind them."""

    figures: Mapping[str, float]
    details: Mapping[str, Any]
    title: str = ""

    def __getitem__(self, name: str) -> float:
        """One figure."""
        return self.figures[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the figures."""
        return iter(self.figures)

    def __len__(self) -> int:
        """Number of figures."""
        return len(self.figures)

    def table(self) -> str:
        """Figures and the per-class table as text."""
        lines = [self.title] if self.title else []
        lines += [f"{name:<12} {value:.4f}" for name, value in self.figures.items()]
        classes = self.details.get("classes", [])
        if classes:
            width = max(len("class"), *(len(row["name"]) for row in classes))
            lines.append(f"\n{'class':<{width}}  {'AP':>7} {'AP50':>7} {'AR':>7} {'truths':>7} {'found':>7}")
            for row in classes:
                figures = " ".join(_cell(row[key]) for key in ("ap", "ap50", "ar"))
                lines.append(f"{row['name']:<{width}}  {figures} {row['num_truths']:>7} {row['num_detections']:>7}")
        return "\n".join(lines)

    def write_json(self, path: PathLike) -> None:
        """Figures and tables to a file."""
        text = json.dumps({**self.details, "figures": dict(self.figures)}, indent=1)
        Path(path).write_text(text + "\n")


def _cell(value: float | None) -> str:
    return f"{'-':>7}" if value is None else f"{value:>7.4f}"


def open_run(path: Path, checkpoint: str) -> tuple[Path, Checkpoint]:
    """The run folder and the checkpoint that a user means.

    Args:
        path: A run folder, or the folder of one of its checkpoints.
        checkpoint: ``best`` (``latest`` where no evaluation was made), ``latest``, or a step; of a run folder.

    Raises:
        RunError: If there is no such run or checkpoint, or it is damaged.
    """
    from sightline.engine.checkpoint import BEST, CHECKPOINTS_FOLDER, LATEST, STATE_FILE, folder_name
    from sightline.engine.checkpoint_reader import find_checkpoints, open_checkpoint
    from sightline.engine.run_folder import existing_run

    if path.is_file() or (path / STATE_FILE).exists():
        found = open_checkpoint(path)
        return existing_run(found.path.parent.parent), found
    run_dir = existing_run(path)
    folder = run_dir / CHECKPOINTS_FOLDER
    if checkpoint in (BEST, LATEST):
        pointer = folder / checkpoint
        return run_dir, open_checkpoint(pointer if pointer.exists() else run_dir)
    if not checkpoint.isdigit() or not (folder / folder_name(int(checkpoint))).exists():
        there = ", ".join(str(int(one.name.removeprefix("step_"))) for one in reversed(find_checkpoints(run_dir)))
        raise RunError(
            f"{run_dir}: no checkpoint {checkpoint!r}. There are: best, latest, and steps {there or '(none)'}."
        )
    return run_dir, open_checkpoint(folder / folder_name(int(checkpoint)))


def load_weights(task: Task, checkpoint: Checkpoint) -> None:
    """Averaged weights of a checkpoint, or its live ones, into a task of the same shape.

    Raises:
        RunError: If they do not fit.
    """
    import torch

    from sightline.engine.checkpoint_reader import load_tensors

    group = "ema" if "ema.safetensors" in checkpoint.manifest.files else "model"
    tensors = load_tensors(checkpoint, group)[group]
    own = task.state_dict()
    odd = [n for n in {**own, **tensors} if n not in own or n not in tensors or own[n].shape != tensors[n].shape]
    if odd:
        shapes = [f"{n}: file {_shape(tensors, n)}, model {_shape(own, n)}" for n in odd[:3]]
        raise RunError(
            f"{checkpoint.path}: {len(odd)} of {len(own)} weights do not fit. {'; '.join(shapes)}.\n"
            "  The data has other classes, or the configuration another model, than the run."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _shape(tensors: Mapping[str, Any], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "missing"


def evaluate(
    run: PathLike,
    *,
    data: PathLike | None = None,
    split: str = "val",
    changes: Sequence[str] = (),
    checkpoint: str = "best",
    save: PathLike | None = None,
) -> Figures:
    """Evaluate a trained model.

    Args:
        run: Run folder, or the folder of one of its checkpoints.
        data: Another data set than the run's.
        split: Part of the data set.
        changes: ``key=value`` texts, e.g. ``image_size=640``.
        checkpoint: ``best``, ``latest``, or a step; of a run folder.
        save: Write the detections to this file in COCO's result format.

    Raises:
        UserError: If something does not fit.
    """
    from sightline.data.formats.coco_results import write_coco_detections
    from sightline.engine.evaluation import evaluate as evaluate_task
    from sightline.engine.precision import Precision
    from sightline.engine.session import pick_device, settle
    from sightline.tasks.detection2d import Detection2DMetric

    run_dir, found = open_run(Path(run), checkpoint)
    given = [*changes, f"data.val_split={split}", *([f"data.path={data}"] if data is not None else [])]
    config = settle(read_config(run_dir, given))
    device = pick_device(config.device)
    problem = config.open(training=False)
    load_weights(problem.task, found)
    assert problem.eval_loader is not None
    try:
        metric = evaluate_task(
            problem.task.to(device),
            problem.eval_loader,
            device=device,
            precision=Precision(cast(Any, config.precision), device=device),
        )
    finally:
        problem.eval_loader.close()
    if save is not None:
        write_coco_detections(Path(save), *cast(Detection2DMetric, metric).coco_results())
    notes = "\n".join(problem.messages)
    title = f"{found.path} on {config.data.path or 'the built-in world'} ({split})"  # type: ignore[attr-defined]
    return Figures(metric.compute(), metric.details(), f"{notes}\n{title}" if notes else title)


class Predictor:
    """A trained 2D detector, ready to use. Made by ``sightline.load``."""

    def __init__(self, config: RunConfig, checkpoint: Checkpoint, class_names: Sequence[str]) -> None:
        from sightline.engine.session import pick_device
        from sightline.recipes.detection2d import Detection2DRun
        from sightline.tasks.detection2d import Detection2D

        if not isinstance(config, Detection2DRun):
            raise ConfigError(f"recipe {config.recipe!r}: only 2D detectors predict on images.")
        self.class_names = tuple(class_names)
        self.image_size = config.image_size
        self.device = pick_device(config.device)
        detector = config.build_detector(len(class_names))
        task = Detection2D(detector, class_names=class_names)
        load_weights(task, checkpoint)
        fuse = getattr(detector, "fuse", None)
        if fuse is not None:
            task.detector = fuse()
        self.stride = int(cast(Any, detector).stride)
        self.task = task.to(self.device).eval()

    def __call__(self, image: np.ndarray[Any, Any]) -> BoxPrediction:
        """Detect on one picture.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            Boxes in pixels of the picture, best first.
        """
        import torch

        from sightline.data.single_image import batch_of_one

        with torch.inference_mode():
            batch = batch_of_one(image, self.image_size, stride=self.stride)
            return self.task.predict(batch.to(self.device))[0]

    def predict_files(self, source: str, *, out: Path, score_threshold: float, pictures: bool) -> Iterator[str]:
        """Detect on an image, folder, glob or video; see ``sightline.predict``."""
        found = list(_pictures_of(source))
        if not found:
            raise DataError(
                f"{source}: no image or video there. Give an image, a folder, a glob in quotes, or a video."
            )
        out.mkdir(parents=True, exist_ok=True)
        records: list[dict[str, Any]] = []
        used: set[Path] = set()
        for name, frame, image in _frames(found):
            prediction = self(image)
            keep = prediction.scores >= score_threshold
            boxes, labels, scores = prediction.boxes_xyxy[keep], prediction.labels[keep], prediction.scores[keep]
            record: dict[str, Any] = {"file": name}
            if frame is not None:
                record["frame"] = frame
            record["detections"] = [
                {
                    "class": self.class_names[label],
                    "label": label,
                    "score": round(score, 5),
                    "box_xyxy": [round(value, 2) for value in box],
                }
                for box, label, score in zip(boxes.tolist(), labels.tolist(), scores.tolist(), strict=True)
            ]
            records.append(record)
            if pictures:
                self._write_picture(out, name, frame, image, (boxes, labels, scores), used)
            yield _line(name, frame, [self.class_names[label] for label in labels.tolist()])
        (out / "predictions.json").write_text(json.dumps(records, indent=1) + "\n")
        yield f"{len(records)} pictures: {out / 'predictions.json'}"

    def _write_picture(
        self, out: Path, name: str, frame: int | None, image: Any, found: tuple[Any, Any, Any], used: set[Path]
    ) -> None:
        from sightline.engine.gallery import write_picture
        from sightline.tasks.drawing import draw_boxes

        boxes, labels, scores = found
        drawn = draw_boxes(image, boxes.numpy(), labels.numpy(), self.class_names, scores=scores.numpy())
        stem = Path(name).stem if frame is None else f"{Path(name).stem}_{frame:06d}"
        write_picture(_unused(out / f"{stem}.jpg", used), drawn)


def _unused(path: Path, used: set[Path]) -> Path:
    """The path, or one with a number: two files of one name in different folders do not overwrite each other."""
    number, free = 1, path
    while free in used:
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")
    used.add(free)
    return free


def load(run: PathLike, *, checkpoint: str = "best") -> Predictor:
    """A trained model, ready to predict.

    Args:
        run: Run folder, or the folder of one of its checkpoints.
        checkpoint: ``best``, ``latest``, or a step; of a run folder.

    Raises:
        UserError: If there is no such run or checkpoint, or it is damaged.
    """
    run_dir, found = open_run(Path(run), checkpoint)
    path = run_dir / "data.json"
    try:
        class_names = json.loads(path.read_text())["class_names"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: names of the classes cannot be read ({error}). It belongs to the run.") from error
    return Predictor(read_config(run_dir), found, class_names)


def predict(
    run: PathLike,
    source: str,
    *,
    out: PathLike = "predictions",
    score_threshold: float = 0.25,
    checkpoint: str = "best",
    pictures: bool = True,
) -> Iterator[str]:
    """Detect on an image, folder, glob or video.

    Pictures with the boxes drawn in and ``predictions.json`` are written to ``out``; yields a line for each picture.

    Raises:
        UserError: If the model or the source cannot be used.
    """
    return load(run, checkpoint=checkpoint).predict_files(
        source, out=Path(out), score_threshold=score_threshold, pictures=pictures
    )


def _pictures_of(source: str) -> Iterator[Path]:
    """Image and video files that a source names, in the order of their names."""
    from glob import glob, has_magic

    from sightline.data.image_header import IMAGE_SUFFIXES

    path = Path(source).expanduser()
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(one for one in path.rglob("*") if one.suffix.lower() in known)
    else:
        matches = sorted(map(Path, glob(str(path), recursive=True)))  # noqa: PTH207 - a user's pattern may be absolute
        if not matches and not has_magic(source):
            raise DataError(f"{source}: no such file or folder.")
        yield from (one for one in matches if one.suffix.lower() in known)


def _frames(paths: Sequence[Path]) -> Iterator[tuple[str, int | None, Any]]:
    """Name, frame number (of a video) and RGB pixels of every picture."""
    import cv2

    from sightline.data.decode import decode_image

    for path in paths:
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            yield str(path), None, decode_image(path)
            continue
        video = cv2.VideoCapture(str(path))
        frame = 0
        try:
            while True:
                got, image = video.read()
                if not got:
                    break
                yield str(path), frame, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                frame += 1
        finally:
            video.release()
        if frame == 0:
            raise DataError(f"{path}: no frame of this video can be read; its codec may be unknown to OpenCV.")


def _line(name: str, frame: int | None, classes: Sequence[str]) -> str:
    counts = {label: classes.count(label) for label in dict.fromkeys(classes)}
    found = ", ".join(f"{count} {label}" for label, count in counts.items()) or "nothing"
    return f"{name}{'' if frame is None else f' frame {frame}'}: {found}"
