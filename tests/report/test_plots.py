import io

import numpy as np
import pytest
from PIL import Image

from sightline.report import plots
from sightline.report.layout import Confusion, DataFacts, Evaluation
from tests.report.example_run import data_facts, evaluation

ODD_NAMES = ("$\\frac{1", "_hidden", "汽车", "a" * 300, "line\nbreak\x1b[31m")


def pixels(png):
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("names", [ODD_NAMES, tuple(map(str, range(90)))])
def test_names_of_all_kinds_and_numbers_can_be_drawn(names):
    random = np.random.default_rng(0)
    details = Evaluation.model_validate(evaluation(names, random))
    for values in ("precision", "recall", "f1"):
        pixels(plots.confidence_plot(details.curves, values, names))
    pixels(plots.precision_recall_plot(details.curves, names))
    for shares in (True, False):
        pixels(plots.confusion_plot(details.confusion, names, shares=shares))
    pixels(plots.class_histogram(DataFacts.model_validate(data_facts(names, random))))
    pixels(plots.lines_plot({name: (np.arange(3), np.arange(3)) for name in names}))
    pixels(plots.stacked_plot([(name, {}) for name in names[:5]]))


def test_the_background_is_transparent():
    drawn = pixels(plots.lines_plot({"a": (np.arange(3), np.arange(3))}))
    assert drawn[0, 0, 3] == 0
    assert drawn[..., 3].max() == 255


def test_a_long_line_keeps_its_shape():
    x = np.arange(100_001)
    thin_x, thin_y = plots.thinned(x, 2.0 * x)
    assert len(thin_x) == plots.MAX_POINTS
    np.testing.assert_allclose(thin_y, 2 * thin_x)
    assert thin_x[-1] > 99_900


@pytest.mark.parametrize("values", [np.zeros(5), -np.ones(5), np.full(5, np.nan), np.full(5, np.inf), np.zeros(0)])
def test_lines_without_a_logarithm_are_drawn_all_the_same(values):
    pixels(plots.lines_plot({"a": (np.arange(len(values)), values)}, log_y=True))


def test_rates_and_momentum_stand_in_two_panels():
    x = np.arange(4)
    one = pixels(plots.schedule_plot(x, {"weights": x, "bias": x}, {}))
    two = pixels(plots.schedule_plot(x, {"weights": x, "bias": x}, {"weights": x}))
    assert two.shape[0] == 2 * one.shape[0]


def test_an_empty_plot_is_a_picture_too():
    pixels(plots.lines_plot({}))
    pixels(plots.stacked_plot([]))
    pixels(plots.class_histogram(DataFacts()))
    pixels(plots.bars_plot([], x_label="x", y_label="y"))
    empty = Confusion(counts=[[0, 0], [0, 0]], score_threshold=0.25, iou_threshold=0.45)
    pixels(plots.confusion_plot(empty, ["car"], shares=True))


def test_the_diagonal_of_a_confusion_matrix_is_dark():
    confusion = Confusion(counts=[[9, 1, 0], [1, 9, 0], [0, 0, 0]], score_threshold=0.25, iou_threshold=0.45)
    drawn = pixels(plots.confusion_plot(confusion, ["car", "truck"], shares=False)).astype(int)
    blue = (drawn[..., 2] - drawn[..., 0] > 60) & (drawn[..., 3] == 255) & (drawn[..., 0] < 60)
    rows, columns = np.nonzero(blue)
    left_half = columns < (columns.min() + columns.max()) / 2
    assert rows[left_half].mean() < rows[~left_half].mean()  # from top left to bottom right
