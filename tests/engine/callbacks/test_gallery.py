import io
import json

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sightline.engine.building import build_training
from sightline.engine.callback import EvaluationReport
from sightline.engine.callbacks.gallery import Gallery, grid
from sightline.engine.task import Picture
from sightline.engine.trackers.tensorboard import TensorBoardTracker
from sightline.engine.trackers.tracker import TrackedPicture, TrackedRow
from tests.engine.toy import ToyTask, toy_run


class Painter(ToyTask):
    def draw(self, batch, predictions):
        what = "seen" if predictions is None else "predicted"
        return [Picture(f"<b>{i}</b>", np.full((30, 50, 3), 7, np.uint8), what) for i in batch.sample_ids]


def gallery(tmp_path, **counts):
    config = toy_run()
    problem = config.open()
    training = build_training(config, problem)
    counts = {"train_batches": 2, "eval_samples": 3, **counts}
    return Gallery(tmp_path, Painter(), problem.train_loader, **counts), training, problem


def test_first_batches_are_drawn_once_as_one_picture_each(tmp_path):
    watcher, training, _ = gallery(tmp_path)
    watcher.on_run_start(training)
    names = sorted(path.name for path in (tmp_path / "pictures").glob("*.jpg"))
    assert names == ["train_batch_0.jpg", "train_batch_1.jpg"]
    training.step = 5
    (tmp_path / "pictures" / "train_batch_0.jpg").unlink()
    watcher.on_run_start(training)  # a resumed run does not draw again
    assert not (tmp_path / "pictures" / "train_batch_0.jpg").exists()


def test_an_evaluation_leaves_so_many_pictures_their_captions_and_its_tables(tmp_path):
    watcher, training, problem = gallery(tmp_path, train_batches=0)
    for fetched in problem.eval_loader.iterate(epochs=1):
        watcher.on_batch(fetched.batch, [0] * len(fetched.batch))
    watcher.on_evaluation_end(training, EvaluationReport(6, 0, {"AP": 0.5}, {"table": [1, 2]}))
    assert len(list((tmp_path / "pictures").glob("eval_*.jpg"))) == 3
    captions = json.loads((tmp_path / "pictures" / "captions.json").read_text())
    assert captions["eval_000.jpg"] == "<b>0</b>: predicted"
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written == {"step": 6, "epoch": 0, "figures": {"AP": 0.5}, "table": [1, 2]}


class Shown:
    """Keeps what it is given."""

    def __init__(self):
        self.pictures = []

    def write_pictures(self, step, epoch, pictures):
        self.pictures += [(step, epoch, name, picture) for name, picture in pictures.items()]


def test_tensorboard_gets_the_training_batches_and_one_picture_of_each_evaluation(tmp_path):
    sink = Shown()
    watcher, training, problem = gallery(tmp_path, sink=sink)
    watcher.on_run_start(training)
    assert not sink.pictures  # the first step comes first
    for number in range(2):
        for fetched in problem.eval_loader.iterate(epochs=1):
            watcher.on_batch(fetched.batch, [0] * len(fetched.batch))
        watcher.on_evaluation_end(training, EvaluationReport(6 + number, number, {"AP": 0.5}, {}))
    assert [(step, epoch, name) for step, epoch, name, _ in sink.pictures] == [
        (0, 0, "pictures/train_batch_0"),
        (0, 0, "pictures/train_batch_1"),
        (6, 0, "pictures/predictions"),
        (7, 1, "pictures/predictions"),
    ]
    picture = sink.pictures[-1][3]
    with Image.open(io.BytesIO(picture.jpeg)) as image:
        assert (image.width, image.height) == (picture.width, picture.height) == (2 * 52, 2 * 32)  # of 3 samples


def test_tensorboard_gets_the_training_batches_of_a_run_without_evaluation_at_its_end(tmp_path):
    sink = Shown()
    watcher, training, _ = gallery(tmp_path, sink=sink)
    watcher.on_run_start(training)
    watcher.on_run_end(training, "done")
    assert [name for _, _, name, _ in sink.pictures] == ["pictures/train_batch_0", "pictures/train_batch_1"]


def test_tensorboard_shows_pictures_at_their_steps(tmp_path):
    image = Image.fromarray(np.full((30, 50, 3), 7, np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    picture = TrackedPicture(50, 30, buffer.getvalue())
    tracker = TensorBoardTracker(tmp_path)
    tracker.open()
    tracker.write([TrackedRow("pictures", 6, 0, {}, {}, 1.0, pictures={"pictures/predictions": picture})])
    tracker.close("done")
    events = EventAccumulator(str(tmp_path)).Reload()
    (shown,) = events.Images("pictures/predictions")
    assert (shown.step, shown.width, shown.height) == (6, 50, 30)
    assert shown.encoded_image_string == picture.jpeg


def test_a_grid_holds_pictures_of_all_sizes_and_shrinks_large_ones(tmp_path):
    tiles = [np.full((h, w, 3), v, np.uint8) for h, w, v in ((20, 40, 1), (40, 20, 2), (640, 640, 3))]
    out = grid(tiles)
    assert out.shape == (2 * 322, 2 * 322, 3)
    assert out[0, 0].tolist() == [1, 1, 1]
    assert out[0, 322].tolist() == [2, 2, 2]
    assert out[322, 0].tolist() == [3, 3, 3]
