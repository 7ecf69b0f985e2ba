"""Pictures of a run: the first training batches as the network sees them, predictions beside the truth."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sightline.engine.callback import Callback, EvaluationReport
from sightline.engine.task import Loader, Picture, Task
from sightline.engine.trackers.tracker import TrackedPicture
from sightline.files.atomic_file import naming, replace_file

if TYPE_CHECKING:
    from sightline.engine.loop import Training

PICTURES_FOLDER = "pictures"
CAPTIONS_FILE = "captions.json"
QUALITY = 88
"""Of JPEG files."""
EVALUATION_FILE = "evaluation.json"
TILE_PIXELS = 320
MOST_TILES = 16
TRACKED_PIXELS, MOST_TRACKED = 480, 4
"""Size and number of an evaluation's samples in TensorBoard, whose files keep those of all evaluations."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class PictureSink(Protocol):
    """Takes pictures: the trackers, for TensorBoard."""

    def write_pictures(self, step: int, epoch: int, pictures: Mapping[str, TrackedPicture]) -> None:
        """Take pictures of a step, by name."""


class Gallery(Callback):
    """Writes ``pictures/train_batch_N.jpg``, ``pictures/eval_N.jpg``, their captions and ``evaluation.json``.

    TensorBoard gets the training batches too, and of each evaluation the first samples as one picture.

    Args:
        run_dir: The run's folder.
        task: Draws.
        loader: Of the training batches to look at; its first batches are made once more for it.
        train_batches: How many of them.
        eval_samples: How many samples of each evaluation.
        sink: Takes pictures for TensorBoard.
    """

    def __init__(
        self,
        run_dir: Path,
        task: Task,
        loader: Loader,
        *,
        train_batches: int,
        eval_samples: int,
        sink: PictureSink | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.task = task
        self.loader = loader
        self.train_batches = train_batches
        self.eval_samples = eval_samples
        self._captions: dict[str, str] = {}
        self._drawn = 0
        self.sink = sink
        self._first: list[Pixels] = []
        """Of this evaluation, for TensorBoard."""
        self._batches: dict[str, TrackedPicture] = {}
        """Training batches for TensorBoard; to import that takes time, and a run's first step comes first."""

    def on_run_start(self, training: Training) -> None:
        """Draw the first training batches of a new run."""
        if training.step > 0 or not self.train_batches:
            return
        for fetched in self.loader.iterate(epochs=1):
            if fetched.index >= self.train_batches:
                break
            tiles = [picture.pixels for picture in self.task.draw(fetched.batch, None)[:MOST_TILES]]
            if tiles:
                caption = f"training batch {fetched.index} of the first epoch, as the network sees it"
                together = grid(tiles)
                self._write(f"train_batch_{fetched.index}.jpg", together, caption)
                if self.sink is not None:
                    self._batches[f"pictures/train_batch_{fetched.index}"] = tracked(together)
        self._write_captions()

    def on_batch(self, batch: Any, predictions: Sequence[Any]) -> None:
        """Draw the first samples of an evaluation."""
        if self._drawn >= self.eval_samples:
            return
        for picture in self.task.draw(batch, predictions)[: self.eval_samples - self._drawn]:
            self._write(f"eval_{self._drawn:03d}.jpg", picture.pixels, _caption(picture))
            self._drawn += 1
            if len(self._first) < MOST_TRACKED:
                self._first.append(picture.pixels)

    def on_evaluation_end(self, training: Training, report: EvaluationReport) -> None:
        """Write tables and curves; the next evaluation draws anew."""
        if report.losses_only:
            return
        self._drawn = 0
        self._track_batches()
        if self._first and self.sink is not None:
            tiles = grid(self._first, tile_pixels=TRACKED_PIXELS)
            self.sink.write_pictures(report.step, report.epoch, {"pictures/predictions": tracked(tiles)})
        self._first = []
        self._write_captions()
        write_evaluation(self.run_dir / EVALUATION_FILE, report)

    def _write(self, name: str, pixels: Pixels, caption: str) -> None:
        folder = self.run_dir / PICTURES_FOLDER
        folder.mkdir(exist_ok=True)
        write_picture(folder / name, pixels)
        self._captions[name] = caption

    def on_run_end(self, training: Training, outcome: str) -> None:
        """Pass on the training batches of a run without an evaluation."""
        self._track_batches()

    def _track_batches(self) -> None:
        if self._batches and self.sink is not None:
            self.sink.write_pictures(0, 0, self._batches)
        self._batches = {}

    def _write_captions(self) -> None:
        path = self.run_dir / PICTURES_FOLDER / CAPTIONS_FILE
        if self._captions:
            before = json.loads(path.read_text()) if path.exists() else {}
            replace_file(path, json.dumps({**before, **self._captions}, indent=1).encode(), durable=False)


def write_evaluation(path: Path, report: EvaluationReport) -> None:
    """Figures, tables and curves of an evaluation as ``evaluation.json``."""
    fields = {"step": report.step, "epoch": report.epoch, "figures": dict(report.metrics), **report.details}
    replace_file(path, json.dumps(fields).encode() + b"\n", durable=False)


def write_picture(path: Path, pixels: Pixels) -> None:
    """(H, W, 3) uint8 RGB as a JPEG or PNG file, by the suffix."""
    from PIL import Image

    with naming(path):
        Image.fromarray(pixels).save(path, quality=QUALITY)


def tracked(pixels: Pixels) -> TrackedPicture:
    """(H, W, 3) uint8 RGB as a tracker takes it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return TrackedPicture(pixels.shape[1], pixels.shape[0], buffer.getvalue())


def grid(tiles: Sequence[Pixels], *, tile_pixels: int = TILE_PIXELS) -> Pixels:
    """Pictures in rows and columns, each shrunk to at most ``tile_pixels``."""
    from PIL import Image

    small = []
    for tile in tiles:
        image = Image.fromarray(tile)
        image.thumbnail((tile_pixels, tile_pixels))
        small.append(np.asarray(image))
    height, width = max(t.shape[0] for t in small), max(t.shape[1] for t in small)
    columns = int(np.ceil(np.sqrt(len(small))))
    rows = -(-len(small) // columns)
    out = np.full((rows * (height + 2), columns * (width + 2), 3), 255, np.uint8)
    for place, tile in enumerate(small):
        top, left = place // columns * (height + 2), place % columns * (width + 2)
        out[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return out


def _caption(picture: Picture) -> str:
    return f"{picture.name}: {picture.caption}" if picture.caption else picture.name
