import json

import numpy as np

from sightline.engine.building import build_training
from sightline.engine.callback import EvaluationReport
from sightline.engine.callbacks.gallery import Gallery, grid
from sightline.engine.task import Picture
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


def test_a_grid_holds_pictures_of_all_sizes_and_shrinks_large_ones(tmp_path):
    tiles = [np.full((h, w, 3), v, np.uint8) for h, w, v in ((20, 40, 1), (40, 20, 2), (640, 640, 3))]
    out = grid(tiles)
    assert out.shape == (2 * 322, 2 * 322, 3)
    assert out[0, 0].tolist() == [1, 1, 1]
    assert out[0, 322].tolist() == [2, 2, 2]
    assert out[322, 0].tolist() == [3, 3, 3]
