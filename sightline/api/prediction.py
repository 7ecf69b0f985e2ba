"""A trained model on a user's own pictures: image, folder, pattern or video in, pictures and JSON out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.api.configuration import PathLike, read_config
from sightline.api.inference import class_names_of, load_weights, open_model, refuse_unused
from sightline.api.output import check_output_folder, write_output
from sightline.api.own_runs import title_of
from sightline.config.errors import ConfigError, DataError, RunError, did_you_mean
from sightline.config.printable import printable

if TYPE_CHECKING:
    import numpy as np

    from sightline.engine.checkpoint.reader import Checkpoint
    from sightline.engine.checkpoint.release import Release
    from sightline.recipes.images import ImageRun
    from sightline.tasks.image_model import Found, ImageModel

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
PREDICTION_KEYS = ("image_size", "device", "threads", "model")
"""Keys and groups that a prediction uses."""


@dataclass(frozen=True)
class PicturePrediction:
    """What was found on one picture, or why it could not be read. ``str`` is a line about it."""

    file: str
    frame: int | None
    """Number of a video's frame, from 0; None for an image."""
    found: tuple[Found, ...]
    """Best first: ``FoundBox`` of a detector, ``Found`` of a classifier."""
    words: str
    """The same in a few words."""
    key: str
    """What ``found`` is called in ``predictions.json``: ``detections`` or ``classes``."""
    picture: Path | None = None
    """Where the picture with the answers drawn in is."""
    error: str = ""
    """Why nothing was found."""

    def __str__(self) -> str:
        """``photos/a.jpg: 2 car, 1 person``."""
        place = printable(self.file) + ("" if self.frame is None else f" frame {self.frame}")
        return f"{place}: {self.error or self.words or 'nothing'}"

    def as_dict(self) -> dict[str, Any]:
        """The entry of ``predictions.json``."""
        entry: dict[str, Any] = {"file": self.file}
        if self.frame is not None:
            entry["frame"] = self.frame
        if self.error:
            return entry | {"error": self.error}
        if self.picture is not None:
            entry["picture"] = self.picture.name
        return entry | {self.key: [one.as_dict() for one in self.found]}


class Predictor:
    """A trained model, ready to use on pictures. Made by ``sightline.load``."""

    def __init__(self, config: ImageRun, weights: Checkpoint | Release, class_names: Sequence[str]) -> None:
        import torch

        from sightline.engine.device import pick_device

        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        self.model: ImageModel = config.image_model(class_names)
        load_weights(self.model.task, weights, count_bits=self.device.type == "cpu")
        self.model.prepare(self.device)
        self.class_names = self.model.class_names

    def __call__(self, image: np.ndarray[Any, Any]) -> Any:
        """Predict on one picture.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            A ``BoxPrediction`` with boxes in pixels of the picture, best first; of a classifier a ``ClassPrediction``.
        """
        import torch

        with torch.inference_mode():
            return self.model.task.predict(self.model.batch_of(image).to(self.device))[0]

    def found_on(self, image: np.ndarray[Any, Any], *, score_threshold: float | None = None) -> tuple[Found, ...]:
        """As calling it, as plain values: the answers with at least this score (a detector's 0.25), best first."""
        threshold = self.model.score_threshold if score_threshold is None else score_threshold
        return self.model.found(self(image), score_threshold=threshold)

    def predict_files(
        self, sources: Sequence[PathLike], *, out: Path, score_threshold: float | None, pictures: bool
    ) -> Iterator[PicturePrediction]:
        """Predict on images, folders, patterns or videos; see ``sightline.predict``."""
        paths = files_of(sources)
        _refuse_overwriting(paths, out)
        entries: list[dict[str, Any]] = []
        used: set[Path] = set()
        key = self.model.answers
        try:
            for path, frame, image in _frames(paths):
                if isinstance(image, DataError):
                    if len(paths) == 1:
                        raise image
                    result = PicturePrediction(str(path), frame, (), "", key, error=_reason(image, path))
                else:
                    found = self.found_on(image, score_threshold=score_threshold)
                    drawn = self._write_picture(out, path, frame, image, found, used) if pictures else None
                    result = PicturePrediction(str(path), frame, found, self.model.tell(found), key, drawn)
                entries.append(result.as_dict())
                yield result
        finally:
            if entries:
                write_output(out / "predictions.json", "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n")

    def _write_picture(
        self, out: Path, path: Path, frame: int | None, image: Any, found: Sequence[Found], used: set[Path]
    ) -> Path:
        from sightline.engine.callbacks.gallery import write_picture

        drawn = self.model.draw(image, found)
        target = _unused(out / f"{path.stem if frame is None else f'{path.stem}_{frame:06d}'}.jpg", used)
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_picture(target, drawn)
        except OSError as error:
            raise RunError(f"{printable(target)}: cannot be written ({error.strerror}). Name another --out.") from error
        return target


def load(run: PathLike, *, checkpoint: str = "best", changes: Sequence[str] = ()) -> Predictor:
    """A trained model, ready to predict.

    Args:
        run: Run folder, the folder of one of its checkpoints, or a released file.
        checkpoint: ``best``, ``latest``, or a step; of a run folder.
        changes: ``key=value`` texts, e.g. ``image_size=640`` or ``device=cpu``.

    Raises:
        UserError: If there is no such run or checkpoint, or it is damaged.
    """
    from sightline.recipes.images import ImageRun

    model, found = open_model(Path(run), checkpoint)
    config = read_config(model, changes)
    refuse_unused(changes, PREDICTION_KEYS, "a prediction")
    if not isinstance(config, ImageRun):
        raise ConfigError(f"{printable(run)}: a run of {title_of(config)} does not predict on images.")
    return Predictor(config, found, class_names_of(model))


def predict(
    run: PathLike,
    source: PathLike | Sequence[PathLike],
    *,
    out: PathLike | None = None,
    score_threshold: float | None = None,
    checkpoint: str = "best",
    pictures: bool = True,
    changes: Sequence[str] = (),
) -> Iterator[PicturePrediction]:
    """Predict on images, folders, patterns (``photos/*.jpg``) or videos, one picture at a time.

    Pictures with the answers drawn in and ``predictions.json`` are written to ``out``. A picture that cannot be read
    gives a result with an ``error``, unless it is the only one.

    Args:
        run: Run folder, the folder of one of its checkpoints, or a released file.
        source: One source or several.
        out: Folder for the results; files of the same name in it are replaced. Default: ``predictions``, or
            ``predictions-2`` and so on where that exists.
        score_threshold: Answers below this score are left out; 0.25 of a detector, 0.01 of a classifier by default.
        checkpoint: ``best``, ``latest``, or a step; of a run folder.
        pictures: Whether to write pictures.
        changes: ``key=value`` texts, e.g. ``image_size=640``.

    Raises:
        UserError: If the model or the source cannot be used.
    """
    sources = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    folder = free_folder(Path("predictions")) if out is None else Path(out).expanduser()
    check_output_folder(folder)
    files_of(sources)  # wrong sources are told before a model is loaded
    predictor = load(run, checkpoint=checkpoint, changes=changes)
    return predictor.predict_files(sources, out=folder, score_threshold=score_threshold, pictures=pictures)


def free_folder(path: Path) -> Path:
    """The path, or the path with the first number from 2 that is not taken: ``predictions-2``."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def files_of(sources: Sequence[PathLike]) -> list[Path]:
    """Image and video files that sources name, each once; those of a folder or pattern in the order of their names.

    Raises:
        DataError: If a source names none.
    """
    from sightline.data.image_header import IMAGE_SUFFIXES

    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source).expanduser()
        if path.is_file():
            found[path] = None
            continue
        matches = sorted(path.rglob("*")) if path.is_dir() else _matches(path)
        files = [one for one in matches if one.suffix.lower() in known and one.is_file()]
        if not files:
            raise DataError(
                f"{printable(path)}: no image or video there. Give an image, a folder, a pattern in quotes such as "
                "'photos/*.jpg', or a video."
            )
        found.update(dict.fromkeys(files))
    return list(found)


def _matches(path: Path) -> list[Path]:
    from glob import glob, has_magic

    matches = sorted(map(Path, glob(str(path), recursive=True)))  # noqa: PTH207 - a user's pattern may be absolute
    if not matches and not has_magic(str(path)):
        parent = path.parent
        near = did_you_mean(path.name, [one.name for one in parent.iterdir()]) if parent.is_dir() else ""
        raise DataError(f"{printable(path)}: no such file or folder.{near}")
    return matches


def _refuse_overwriting(paths: Sequence[Path], out: Path) -> None:
    """A picture with boxes must not take the place of the picture that it was made from."""
    folder = out.resolve()
    for path in paths:
        if path.resolve().parent == folder:
            raise RunError(f"{printable(out)}: holds {printable(path.name)}, a source. Give another folder: --out DIR.")


def _frames(paths: Sequence[Path]) -> Iterator[tuple[Path, int | None, Any]]:
    """File, frame number (of a video) and RGB pixels of every picture; an error in place of pixels that are broken."""
    import cv2

    from sightline.data.decode import decode_image

    for path in paths:
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            try:
                yield path, None, decode_image(path)
            except DataError as error:
                yield path, None, error
            continue
        video = cv2.VideoCapture(str(path))
        frame = 0
        try:
            while True:
                got, image = video.read()
                if not got:
                    break
                yield path, frame, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                frame += 1
        finally:
            video.release()
        if frame == 0:
            message = "no frame of this video can be read; convert it, for example to an mp4 with H.264"
            yield path, None, DataError(f"{printable(path)}: {message}.")


def _reason(error: DataError, path: Path) -> str:
    """The error without the path that stands before it."""
    return str(error).removeprefix(f"{printable(path)}: ")


def _unused(path: Path, used: set[Path]) -> Path:
    """The path, or one with a number: two files of one name in different folders do not overwrite each other."""
    number, free = 1, path
    while free in used:
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")
    used.add(free)
    return free
