"""A trained model on a user's own files: images, videos or point clouds in, pictures and JSON out."""

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
    from sightline.recipes.data_run import DataRun
    from sightline.tasks.trained_model import Found, TrainedModel

PREDICTION_KEYS = ("image_size", "device", "threads", "model")
"""Keys and groups that a prediction uses."""


@dataclass(frozen=True)
class PicturePrediction:
    """What was found on one picture or point cloud, or why it could not be read. ``str`` is a line about it."""

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
    unit: str = "picture"
    """What it was found on."""

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

    def __init__(self, config: DataRun, weights: Checkpoint | Release, class_names: Sequence[str]) -> None:
        import torch

        from sightline.engine.device import pick_device

        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        self.model: TrainedModel = config.trained_model(class_names)
        load_weights(self.model.task, weights, count_bits=self.device.type == "cpu")
        self.model.prepare(self.device)
        self.class_names = self.model.class_names

    def __call__(self, sample: np.ndarray[Any, Any]) -> Any:
        """Predict on one sample.

        Args:
            sample: (H, W, 3) uint8 RGB; of a LiDAR detector points (P, 4): x, y, z, metres, and intensity, 0 to 1.

        Returns:
            A ``BoxPrediction`` with boxes in pixels of the picture, best first; of a classifier a ``ClassPrediction``;
            of a LiDAR detector a ``Box3DPrediction``.
        """
        import torch

        with torch.inference_mode():
            return self.model.task.predict(self.model.batch_of(sample).to(self.device))[0]

    def found_on(self, sample: np.ndarray[Any, Any], *, score_threshold: float | None = None) -> tuple[Found, ...]:
        """As calling it, as plain values: the answers with at least this score (a detector's 0.25), best first."""
        threshold = self.model.score_threshold if score_threshold is None else score_threshold
        return self.model.found(self(sample), score_threshold=threshold)

    def predict_files(
        self, sources: Sequence[PathLike], *, out: Path, score_threshold: float | None, pictures: bool
    ) -> Iterator[PicturePrediction]:
        """Predict on files, folders or patterns; see ``sightline.predict``."""
        paths = files_of(sources, self.model.suffixes, self.model.takes)
        _refuse_overwriting(paths, out)
        entries: list[dict[str, Any]] = []
        used: set[Path] = set()
        key, unit = self.model.answers, self.model.unit
        try:
            for path, frame, sample in self._samples(paths):
                if isinstance(sample, DataError):
                    if len(paths) == 1:
                        raise sample
                    result = PicturePrediction(str(path), frame, (), "", key, error=_reason(sample, path), unit=unit)
                else:
                    found = self.found_on(sample, score_threshold=score_threshold)
                    target = _unused(out / f"{path.stem if frame is None else f'{path.stem}_{frame:06d}'}.jpg", used)
                    drawn = self._write_picture(target, sample, found) if pictures else None
                    for suffix, text in self.model.other_files(path, sample, found).items():
                        write_output(target.with_suffix(suffix), text)
                    words = self.model.tell(found)
                    result = PicturePrediction(str(path), frame, found, words, key, drawn, unit=unit)
                entries.append(result.as_dict())
                yield result
        finally:
            if entries:
                write_output(out / "predictions.json", "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n")

    def _samples(self, paths: Sequence[Path]) -> Iterator[tuple[Path, int | None, Any]]:
        """File, number in it, and every sample; an error in place of a file that is broken."""
        for path in paths:
            try:
                for frame, sample in self.model.samples_of(path):
                    yield path, frame, sample
            except DataError as error:
                yield path, None, error

    def _write_picture(self, target: Path, sample: Any, found: Sequence[Found]) -> Path:
        from sightline.engine.callbacks.gallery import write_picture

        drawn = self.model.draw(sample, found)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
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
    from sightline.recipes.data_run import DataRun

    model, found = open_model(Path(run), checkpoint)
    config = read_config(model, changes)
    refuse_unused(changes, PREDICTION_KEYS, "a prediction")
    if not isinstance(config, DataRun):
        raise ConfigError(f"{printable(run)}: a run of {title_of(config)} does not predict on files.")
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
    """Predict on images, videos or point clouds, on folders or patterns (``photos/*.jpg``) of them, one at a time.

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
    for path in (Path(one).expanduser() for one in sources):  # a wrong name is told before a model is loaded
        if not path.exists():
            _matches(path)
    predictor = load(run, checkpoint=checkpoint, changes=changes)
    return predictor.predict_files(sources, out=folder, score_threshold=score_threshold, pictures=pictures)


def free_folder(path: Path) -> Path:
    """The path, or the path with the first number from 2 that is not taken: ``predictions-2``."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def files_of(sources: Sequence[PathLike], suffixes: frozenset[str], takes: tuple[str, str]) -> list[Path]:
    """Files that sources name, each once; those of a folder or pattern in the order of their names.

    Args:
        sources: Files, folders or patterns.
        suffixes: Of the files that are taken from folders and patterns.
        takes: What such files are called, and how a source of them is named.

    Raises:
        DataError: If a source names none.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source).expanduser()
        if path.is_file():
            found[path] = None
            continue
        matches = sorted(path.rglob("*")) if path.is_dir() else _matches(path)
        files = [one for one in matches if one.suffix.lower() in suffixes and one.is_file()]
        if not files:
            raise DataError(f"{printable(path)}: no {takes[0]} there. {takes[1]}")
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
