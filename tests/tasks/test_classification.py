import csv

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sightline.data.annotations import PackedStrings
from sightline.data.class_labels import ClassLabels
from sightline.data.class_source import ClassEvalSource
from sightline.data.decode import decode_image
from sightline.data.loader import BatchLoader
from sightline.data.sample import ClassBatch, ClassPrediction
from sightline.tasks.classification import Classification
from sightline.tasks.classification_model import ClassificationModel
from sightline.tasks.drawing import GREEN, GREY, RED, captioned
from sightline.tasks.shape_trial import needs_two_images, refusal_of_shape
from sightline.tasks.trained_model import Found

NAMES = ("cat", "dog", "owl")


class Told(nn.Module):
    """Gives the logits that it is told, and keeps what it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float32).reshape(-1, 3))
        self.seen = None

    def forward(self, images):
        self.seen = images
        return self.logits[: len(images)]


def class_labels(paths, labels, names=NAMES):
    return ClassLabels(
        class_names=names,
        labels=np.array(labels, np.int64),
        faults=(),
        name="toy/val",
        source=paths[0].parent,
        paths=PackedStrings(map(str, paths)),
        sizes_hw=np.zeros((len(paths), 2), np.int32),
    )


def batch_of(labels, *, labels_b=None, shares=None, channels=3, level=0, first_id=0):
    labels = torch.tensor(labels, dtype=torch.int64)
    return ClassBatch(
        images=torch.full((len(labels), channels, 4, 4), level, dtype=torch.uint8),
        labels=labels,
        labels_b=labels if labels_b is None else torch.tensor(labels_b),
        shares=torch.ones(len(labels)) if shares is None else torch.tensor(shares),
        sample_ids=tuple(range(first_id, first_id + len(labels))),
    )


def task_of(network, *, smoothing=0.0, labels=None, mean=(0.0,), std=(1.0,)):
    return Classification(network, class_names=NAMES, mean=mean, std=std, label_smoothing=smoothing, labels=labels)


LOGITS = [[2.0, -1, 0.5], [0, 0, 3], [1, 2, -4]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_pytorchs_cross_entropy(smoothing):
    losses = task_of(Told(LOGITS), smoothing=smoothing)(batch_of([0, 1, 1]))
    expected = F.cross_entropy(torch.tensor(LOGITS), torch.tensor([0, 1, 1]), label_smoothing=smoothing)
    torch.testing.assert_close(losses["cross_entropy"], expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mixed_image_counts_for_both_of_its_classes_by_their_shares(smoothing):
    losses = task_of(Told(LOGITS), smoothing=smoothing)(batch_of([0, 1, 1], labels_b=[2, 1, 0], shares=[0.7, 1.0, 0.0]))
    targets = torch.tensor([[0.7, 0, 0.3], [0, 1, 0], [1, 0, 0]])  # PyTorch takes shares of classes too
    expected = F.cross_entropy(torch.tensor(LOGITS), targets, label_smoothing=smoothing)
    torch.testing.assert_close(losses["cross_entropy"], expected)


def test_the_accuracy_of_a_training_batch_is_shown_and_never_trained():
    task = task_of(Told(LOGITS))
    losses = task(batch_of([0, 1, 1]))  # the best are 0, 2, 1
    assert losses["top1"] == pytest.approx(2 / 3)
    assert not losses["top1"].requires_grad and task.only_shown == {"top1"}
    assert losses["cross_entropy"].requires_grad


def test_images_are_normalised_by_the_mean_and_deviation_of_their_channel():
    network = Told(LOGITS)
    batch = batch_of([0])
    batch.images[0, 0], batch.images[0, 1], batch.images[0, 2] = 255, 51, 0
    task_of(network, mean=(0.5, 0.2, 0.1), std=(0.25, 0.5, 0.2))(batch)
    # (1 - 0.5) / 0.25 = 2; (51 / 255 - 0.2) / 0.5 = 0; (0 - 0.1) / 0.2 = -0.5.
    expected = torch.tensor([2.0, 0.0, -0.5]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    torch.testing.assert_close(network.seen, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_one_number_normalises_grey_and_colour(channels):
    network = Told(LOGITS)
    task_of(network, mean=(0.2,), std=(0.4,))(batch_of([0], channels=channels, level=153))
    assert network.seen.shape == (1, channels, 4, 4)
    torch.testing.assert_close(network.seen, torch.ones(1, channels, 4, 4))  # (153 / 255 - 0.2) / 0.4 = 1


def test_a_process_without_images_has_losses_of_zero_and_gradients():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    task = task_of(network)
    losses = task(batch_of([]))
    assert losses["cross_entropy"] == 0 and losses["top1"] == 0
    losses["cross_entropy"].backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in network.parameters())
    assert task.predict(batch_of([])) == [] and task.draw(batch_of([]), []) == []


def test_a_network_in_double_precision_gives_losses_in_double_precision():
    task = task_of(Told(LOGITS)).double()
    assert task(batch_of([0, 1, 1]))["cross_entropy"].dtype == torch.float64


def test_a_prediction_is_told_with_its_image_and_probabilities():
    predictions = task_of(Told(LOGITS)).eval().predict(batch_of([0, 1, 1], first_id=7))
    assert [one.sample_id for one in predictions] == [7, 8, 9]
    torch.testing.assert_close(predictions[1].probs, torch.tensor([0.0, 0, 3]).softmax(0))


# metric


def metric_of(tmp_path, labels):
    paths = [tmp_path / f"{number}.png" for number in range(len(labels))]
    task = task_of(Told(LOGITS), labels=class_labels(paths, labels))
    return task, task.new_metric()


def test_processes_that_saw_some_of_the_images_merge_to_the_bits_of_one(tmp_path):
    labels = [0, 1, 1]
    task, whole = metric_of(tmp_path, labels)
    batch = batch_of(labels)
    predictions = task.eval().predict(batch)
    whole.update(predictions, batch)
    first, second, third = task.new_metric(), task.new_metric(), task.new_metric()
    first.update(predictions[1:], batch.part(1, 3))
    second.update(predictions[:1], batch.part(0, 1))
    third.update([], batch.part(0, 0))
    loaded = task.new_metric()
    loaded.load_state(second.state())
    first.merge([loaded, third])
    assert first.compute() == whole.compute()
    assert first.compute()["top1"] == pytest.approx(2 / 3)
    assert first.details() == whole.details()


def test_answers_are_written_one_line_an_image(tmp_path):
    task, metric = metric_of(tmp_path, [0, 1, 1])
    batch = batch_of([0, 1, 1])
    metric.update(task.eval().predict(batch), batch)
    metric.save(tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(tmp_path / f"{number}.png") for number in range(3)]
    assert [(row["labels"], row["predicted"]) for row in rows] == [("0", "0"), ("1", "2"), ("1", "1")]
    nll = -np.mean([float(row["log_likelihoods"]) for row in rows])
    assert nll == pytest.approx(F.cross_entropy(torch.tensor(LOGITS), batch.labels).item())


# pictures


def test_small_pictures_are_enlarged_by_a_whole_factor_above_bands_of_their_colour():
    pixels = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
    shown = captioned(pixels, [("", GREY), ("", RED)])
    # 192 / 60 = 3.2: factor 4; bands of 320 // 12 = 26 pixels.
    assert shown.shape == (240 + 2 * 26, 320, 3)
    assert (shown[:240:4, ::4] == pixels).all() and (shown[3:240:4, 3::4] == pixels).all()
    assert (shown[240:266] == GREY).all() and (shown[266:] == RED).all()


@pytest.mark.parametrize("hw", [(1, 1), (300, 2), (2, 300), (700, 500)])
def test_words_of_any_length_stay_inside_their_band(hw):
    pixels = np.zeros((*hw, 3), np.uint8)
    for text in ("ü" * 300, "", "cat"):
        shown = captioned(pixels, [(text, GREY)])
        factor = shown.shape[1] // hw[1]
        band = shown[factor * hw[0] :]
        assert len(band) == max(16, shown.shape[1] // 12)
        assert (band[:, -1] == GREY).all() and (band[-1] == GREY).all()  # its edges are free
    assert not pixels.any()


def test_right_answers_are_green_and_wrong_ones_red(tmp_path):
    task, _ = metric_of(tmp_path, [0, 1, 1])
    batch = batch_of([0, 1, 1], level=200)
    with torch.no_grad():
        pictures = task.draw(batch, task.eval().predict(batch))
    assert [picture.name for picture in pictures] == [str(tmp_path / f"{number}.png") for number in range(3)]
    assert [tuple(picture.pixels[-1, -1]) for picture in pictures] == [GREEN, RED, GREEN]
    assert all(picture.pixels.shape == (192 + 2 * 16, 192, 3) for picture in pictures)
    assert all((picture.pixels[:192] == 200).all() for picture in pictures)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mixed_training_image_is_captioned_with_both_classes(monkeypatch, channels):
    said = []
    monkeypatch.setattr(
        "sightline.tasks.classification.captioned", lambda pixels, lines: said.append((pixels.shape, lines))
    )
    batch = batch_of([0, 1], labels_b=[2, 1], shares=[0.7, 1.0], channels=channels)
    task_of(Told(LOGITS)).draw(batch, None)
    assert said == [((4, 4, 3), [("0.70 cat, 0.30 owl", GREY)]), ((4, 4, 3), [("dog", GREY)])]


# use on pictures


def tiny_network(channels):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 8, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize(("grey", "crop_ratio"), [(False, 0.875), (True, 1.0)])
def test_a_picture_of_any_size_is_answered_as_an_evaluation_of_its_file_answers_it(tmp_path, grey, crop_ratio):
    random = np.random.default_rng(0)
    sizes = [(40, 30), (16, 16), (9, 70), (3, 2), (120, 121), (200, 33)]
    paths = [tmp_path / f"{number}.png" for number in range(len(sizes))]
    for path, hw in zip(paths, sizes, strict=True):
        cv2.imwrite(str(path), random.integers(0, 256, (*hw, 3), dtype=np.uint8))
    labels = class_labels(paths, [0, 1, 2, 0, 1, 2])
    channels = 1 if grey else 3
    task = task_of(tiny_network(channels), labels=labels, mean=(0.4,), std=(0.2,)).eval()
    source = ClassEvalSource(labels, 16, crop_ratio=crop_ratio, channels=channels)
    (fetched,) = BatchLoader(source, source.sampler(8), workers=0).iterate(epochs=1)
    evaluated = {one.sample_id: one.probs for one in task.predict(fetched.batch)}

    model = ClassificationModel(task, NAMES, image_size=16, crop_ratio=crop_ratio, grey=grey)
    for index, path in enumerate(paths):
        (prediction,) = task.predict(model.batch_of(decode_image(str(path))))
        torch.testing.assert_close(prediction.probs, evaluated[index], rtol=1e-6, atol=1e-6)
        found = model.found(prediction, score_threshold=0.0)
        assert [one.score for one in found] == sorted(prediction.probs.tolist(), reverse=True)
        assert {one.class_name: one.label for one in found} == {"cat": 0, "dog": 1, "owl": 2}


def test_at_most_five_answers_and_only_those_above_the_threshold():
    model = ClassificationModel(task_of(nn.Flatten()), tuple("abcdefgh"), image_size=8, crop_ratio=1.0, grey=False)
    probs = [0.02, 0.5, 0.2, 0.1, 0.08, 0.06, 0.03, 0.01]
    prediction = ClassPrediction(0, torch.tensor(probs).log())
    found = model.found(prediction, score_threshold=0.0)
    assert [one.class_name for one in found] == list("bcdef")
    assert [one.class_name for one in model.found(prediction, score_threshold=0.15)] == list("bc")
    assert model.found(prediction, score_threshold=0.6) == ()
    assert model.tell(found[:2]) == "b 0.50, c 0.20"


def test_a_picture_is_drawn_above_its_answers():
    model = ClassificationModel(task_of(nn.Flatten()), NAMES, image_size=8, crop_ratio=1.0, grey=False)
    pixels = np.full((200, 240, 3), 9, np.uint8)
    drawn = model.draw(pixels, [Found("cat", 0, 0.8), Found("dog", 1, 0.2)])
    assert drawn.shape == (240, 240, 3) and (drawn[:200] == 9).all() and (drawn[201:].max(axis=2) > 9).all()
    assert (model.draw(pixels, []) == pixels).all()


# sizes


def test_a_network_says_what_it_does_not_take_and_stays_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.MaxPool2d(2)).train()
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert refusal_of_shape(network, (1, 3, 6, 6)) is None
    assert "Output size is too small" in refusal_of_shape(network, (1, 3, 5, 5))
    assert "Kernel size" in refusal_of_shape(network, (1, 3, 4, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training and not network[1].training


class WithNumbers(nn.Module):
    """Looks at a number, which a pass without numbers cannot."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images * self.weight if float(self.weight) > 0 else images


def test_a_network_that_needs_numbers_is_asked_with_numbers():
    assert refusal_of_shape(WithNumbers(), (1, 3, 6, 6)) is None
    assert not needs_two_images(WithNumbers(), (3, 6, 6))


def test_batch_norm_of_a_single_cell_needs_two_images():
    network = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4))
    assert needs_two_images(network, (3, 5, 5))  # the map has 1 x 1 cells
    assert not needs_two_images(network, (3, 6, 5))
    assert not needs_two_images(network, (3, 4, 4)), "no number of images fits"
    assert not needs_two_images(nn.Conv2d(3, 4, 5), (3, 5, 5))


def test_a_thin_picture_is_not_enlarged_without_limit():
    assert captioned(np.zeros((2, 12_000, 3), np.uint8), [("a long caption " * 9, GREY)]).shape == (2 + 256, 12_000, 3)
    assert captioned(np.zeros((1, 40, 3), np.uint8), [("car", GREY)]).shape[1] == 40 * 51
