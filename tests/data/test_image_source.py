"""Samples and batches of images: pixels and boxes agree, and depend on names only."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sightline.config.errors import ConfigError, DataError
from sightline.data import image_source
from sightline.data.image_source import ImageEvalSource, ImageTrainSource
from sightline.data.loader import BatchLoader
from sightline.data.memory import Scratch
from sightline.data.sampler import BatchRequest
from sightline.data.transforms.augment import ImageAugmentConfig
from sightline.data.transforms.colour import apply_hsv
from sightline.data.transforms.image import PAD_VALUE
from tests.data.pictures import MIXED_SIZES, NO_AUGMENTATION, annotations_of, write_pictures

ROOT = Path(__file__).parents[2]
EVERYTHING = ImageAugmentConfig(
    mosaic=0.8, mosaic9=0.3, mixup=0.5, degrees=10, shear=3, perspective=0.0005, flip_lr=0.5, flip_ud=0.5
)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), MIXED_SIZES * 3)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Dark images with one bright rectangle each, whose box is known."""
    folder = tmp_path_factory.mktemp("marked")
    paths, boxes, sizes = [], [], []
    for i in range(12):
        height, width = [(96, 128), (128, 96), (128, 128)][i % 3]
        x, y = 20 + i, 15 + 2 * i
        image = np.full((height, width, 3), 40, np.uint8)
        image[y : y + 40, x : x + 45] = 230
        paths.append(folder / f"{i}.png")
        cv2.imwrite(str(paths[-1]), image)
        boxes.append([(x, y, x + 45, y + 40)])
        sizes.append((height, width))
    return annotations_of(paths, sizes, boxes, [[i % 3] for i in range(12)])


def samples(source, count=40, epoch=0):
    return [source.sample(epoch, i % len(source)) for i in range(count)]


def grown(box, pixels):
    """Rows and columns of a box that is this much larger on all sides; smaller if negative."""
    low, high = np.ceil(box[:2] - pixels).clip(0).astype(int), np.floor(box[2:] + pixels).clip(0).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


@pytest.fixture
def all_boxes_kept(monkeypatch):
    """Objects of which little is left keep their boxes, so that every bright pixel belongs to one."""
    monkeypatch.setattr(
        image_source, "boxes_worth_keeping", lambda before, after: (after[:, 2:] > after[:, :2]).all(axis=1)
    )


def test_without_augmentation_a_sample_is_the_letterboxed_image(marked):
    source = ImageTrainSource(marked, 128, NO_AUGMENTATION)
    for i in range(12):
        sample = source.sample(5, i)
        image = cv2.cvtColor(cv2.imread(marked.paths[i]), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        x, y = (128 - width) // 2, (128 - height) // 2
        expected = np.full((128, 128, 3), PAD_VALUE, np.uint8)
        expected[y : y + height, x : x + width] = image
        np.testing.assert_array_equal(sample.image.transpose(1, 2, 0), expected)
        np.testing.assert_array_equal(sample.boxes_xyxy, marked.boxes_of(i)[0] + (x, y, x, y))
        assert sample.labels.tolist() == [i % 3]


@pytest.mark.parametrize(
    "change",
    [
        {"mosaic": 0},
        {"mosaic": 1},
        {"mosaic": 1, "mosaic9": 1},
        {"mosaic": 1, "flip_lr": 1},
        {"mosaic": 0, "flip_ud": 1},
        {"mosaic": 1, "flip_lr": 1, "flip_ud": 1},
    ],
    ids=str,
)
def test_boxes_follow_the_pixels(marked, change, all_boxes_kept):
    config = ImageAugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0, scale=(0.6, 1.4)).but(**{"flip_lr": 0, **change})
    source, num_boxes = ImageTrainSource(marked, 128, config), 0
    for sample in samples(source):
        bright = sample.image.min(axis=0) > 135
        for box in sample.boxes_xyxy:
            assert bright[grown(box, -2)].all()
        for box in sample.boxes_xyxy:
            bright[grown(box, 2)] = False
        assert not bright.any()
        num_boxes += len(sample.labels)
    assert num_boxes > 30


def test_boxes_hold_the_pixels_after_rotation_and_shear(marked, all_boxes_kept):
    config = ImageAugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0, degrees=20, shear=5, perspective=0.0003, scale=(0.6, 1.2))
    for sample in samples(ImageTrainSource(marked, 128, config)):
        bright = sample.image.min(axis=0) > 135
        for box in sample.boxes_xyxy:
            is_whole = (box[:2] > 0).all() and (box[2:] < 128).all()
            assert not is_whole or bright[grown(box, 0)].mean() > 0.5
        for box in sample.boxes_xyxy:
            bright[grown(box, 2)] = False
        assert not bright.any()


def test_mirrored_samples_are_mirrored_pixels_and_boxes(annotations):
    config = ImageAugmentConfig(flip_lr=0, hsv_h=0.1)
    plain = ImageTrainSource(annotations, 64, config, seed=4)
    mirrored = ImageTrainSource(annotations, 64, config.but(flip_lr=1, flip_ud=1), seed=4)
    for i in range(10):
        a, b = plain.sample(1, i), mirrored.sample(1, i)
        np.testing.assert_array_equal(a.image[:, ::-1, ::-1], b.image)
        np.testing.assert_allclose(a.boxes_xyxy[:, [2, 3, 0, 1]], 64 - b.boxes_xyxy, atol=1e-4)


def test_colours_of_the_grey_border_are_what_a_conversion_of_all_pixels_gives(annotations):
    config = ImageAugmentConfig(scale=(0.3, 0.5), hsv_h=0.1, hsv_s=0.7, hsv_v=0.4, flip_lr=0)
    plain = ImageTrainSource(annotations, 64, config.but(hsv_h=0, hsv_s=0, hsv_v=0))
    coloured = ImageTrainSource(annotations, 64, config)
    for i in range(10):
        image = np.ascontiguousarray(plain.sample(0, i).image.transpose(1, 2, 0))
        image = apply_hsv(image, coloured.plan(0, i).hsv_gains, Scratch())
        # OpenCV rounds the last few pixels of a row in another way, so one level may differ.
        assert np.abs(image.transpose(2, 0, 1).astype(int) - coloured.sample(0, i).image).max() <= 1


def test_a_mixture_has_the_pixels_and_boxes_of_both(annotations):
    config = ImageAugmentConfig(mixup=1, hsv_h=0, hsv_s=0, hsv_v=0, flip_lr=0)
    source = ImageTrainSource(annotations, 64, config)
    for i in range(8):
        plan, sample = source.plan(0, i), source.sample(0, i)
        with source._images.borrow([*plan.canvas.sample_ids, *plan.mixed_with.sample_ids]) as images:
            first, _, first_boxes, first_labels = source._render(plan.canvas, images[:4], "a")
            second, _, second_boxes, second_labels = source._render(plan.mixed_with, images[4:], "b")
        mean = first * plan.mix_ratio + second * (1 - plan.mix_ratio)
        assert np.abs(sample.image.transpose(1, 2, 0) - mean).max() < 1.01
        np.testing.assert_allclose(sample.boxes_xyxy, np.concatenate((first_boxes, second_boxes)), rtol=1e-6)
        assert sample.labels.tolist() == [*first_labels, *second_labels]


def test_boxes_stay_inside_and_are_float32(annotations):
    for sample in samples(ImageTrainSource(annotations, 64, EVERYTHING), 60):
        assert sample.boxes_xyxy.dtype == np.float32
        assert sample.labels.dtype == np.int64
        assert sample.image.shape == (3, 64, 64)
        assert len(sample.boxes_xyxy) == len(sample.labels)
        assert (sample.boxes_xyxy >= 0).all()
        assert (sample.boxes_xyxy <= 64).all()
        assert ((sample.boxes_xyxy[:, 2:] - sample.boxes_xyxy[:, :2]) > 2 - 1e-4).all()


def test_a_sample_depends_on_seed_epoch_and_index_only(annotations):
    first = ImageTrainSource(annotations, 64, EVERYTHING, seed=7)
    again = ImageTrainSource(annotations, 64, EVERYTHING, seed=7, recent_bytes=0)
    expected = {(e, i): first.sample(e, i) for e in range(2) for i in range(12)}
    for (e, i), sample in reversed(expected.items()):
        np.testing.assert_array_equal(again.sample(e, i).image, sample.image)
        np.testing.assert_array_equal(again.sample(e, i).boxes_xyxy, sample.boxes_xyxy)
    assert len({sample.image.tobytes() for sample in expected.values()}) == 24
    other = ImageTrainSource(annotations, 64, EVERYTHING, seed=8)
    assert not np.array_equal(other.sample(0, 0).image, expected[0, 0].image)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cache_changes_no_sample(annotations, cache, tmp_path):
    plain = ImageTrainSource(annotations, 64, EVERYTHING)
    cached = ImageTrainSource(annotations, 64, EVERYTHING, cache=cache, cache_dir=tmp_path)
    for i in range(12):
        np.testing.assert_array_equal(plain.sample(2, i).image, cached.sample(2, i).image)


@pytest.mark.parametrize("partners", ["uniform", "nearby"])
def test_partners_are_uniform_over_the_data_set(annotations, partners):
    config = ImageAugmentConfig(partners=partners, partner_window=6)
    source = ImageTrainSource(annotations, 64, config)
    counts = Counter(partner for epoch in range(700) for partner in source.plan(epoch, 5).canvas.sample_ids[1:])
    expected = 2100 / len(annotations)  # 87.5; standard deviation 9. Nearby never draws the sample itself.
    others = [counts[i] for i in range(len(annotations)) if i != 5]
    assert min(others) > expected - 45
    assert max(others) < expected + 50
    assert (counts[5] == 0) == (partners == "nearby")


def test_nearby_partners_come_shortly_before_in_the_order(annotations):
    config = ImageAugmentConfig(partners="nearby", partner_window=6, mixup=1)
    source = ImageTrainSource(annotations, 64, config, seed=3)
    for epoch in (4, 5):
        order = source.sampler(4).epoch_order(epoch).tolist()
        for place in (0, 3, 10, 23):
            plan = source.plan(epoch, order[place])
            near = {order[place - distance] for distance in range(1, 7)}
            assert set(plan.canvas.sample_ids[1:]) <= near
            assert set(plan.mixed_with.sample_ids) <= near


def test_nearby_partners_make_the_loader_read_every_image_once(annotations):
    config = ImageAugmentConfig(partners="nearby", partner_window=5)
    source = ImageTrainSource(annotations, 64, config, recent_bytes=10 * 3 * 64 * 64)
    reads = Counter()
    read = source._images._reader.read

    def counting(index, out):
        reads[index] += 1
        read(index, out)

    source._images._reader.read = counting
    with BatchLoader(source, source.sampler(4), workers=0) as loader:
        for _ in loader.iterate(epochs=1):
            pass
    assert sum(reads.values()) <= len(annotations) + 5  # the first few look back to the end of the order


def test_the_last_epochs_are_without_mosaic(annotations):
    source = ImageTrainSource(annotations, 64, ImageAugmentConfig(close_mosaic=2), epochs=10)
    assert [len(source.plan(epoch, 0).canvas.sample_ids) for epoch in (0, 7, 8, 9)] == [4, 4, 1, 1]


def test_closing_mosaic_needs_the_number_of_epochs(annotations):
    with pytest.raises(ConfigError, match=r"close_mosaic=2 counts epochs from the end"):
        ImageTrainSource(annotations, 64, ImageAugmentConfig(close_mosaic=2))


def test_crowds_are_no_objects(marked):
    crowd = np.arange(12) == 3
    boxes = [marked.boxes_of(i)[0] for i in range(12)]
    with_crowd = annotations_of(marked.paths, marked.sizes_hw, boxes, [[0]] * 12, is_crowd=crowd)
    for source in (ImageTrainSource(with_crowd, 128, NO_AUGMENTATION), ImageEvalSource(with_crowd, 128)):
        assert [len(source.sample(0, i).labels) for i in (2, 3, 4)] == [1, 0, 1]


def test_a_batch_is_flat_and_points_to_its_images(annotations):
    source = ImageTrainSource(annotations, 64, EVERYTHING)
    with BatchLoader(source, source.sampler(5), workers=0) as loader:
        batch = next(loader.iterate(epochs=1)).batch
    alone = [source.sample(0, i) for i in batch.sample_ids]
    assert len(batch) == 5
    assert batch.images.dtype == torch.uint8
    np.testing.assert_array_equal(batch.images, np.stack([sample.image for sample in alone]))
    np.testing.assert_array_equal(batch.boxes_xyxy, np.concatenate([sample.boxes_xyxy for sample in alone]))
    np.testing.assert_array_equal(batch.labels, np.concatenate([sample.labels for sample in alone]))
    assert batch.image_index.tolist() == [i for i, sample in enumerate(alone) for _ in sample.labels]
    assert batch.geometries == (None,) * 5


def test_images_without_boxes_make_a_batch(tmp_path):
    annotations = write_pictures(tmp_path, MIXED_SIZES, num_boxes=0)
    for source in (ImageTrainSource(annotations, 64, EVERYTHING), ImageEvalSource(annotations, 64)):
        with BatchLoader(source, source.sampler(4), workers=0) as loader:
            for fetched in loader.iterate(epochs=1):
                assert fetched.batch.boxes_xyxy.shape == (0, 4)
                assert fetched.batch.labels.shape == fetched.batch.image_index.shape == (0,)


WORKERS = [
    pytest.param({"workers": 2}, id="threads"),
    pytest.param({"workers": 2, "kind": "processes", "start_method": "fork"}, id="forked"),
    pytest.param({"workers": 2, "kind": "processes", "start_method": "spawn"}, id="spawned"),
]


@pytest.mark.parametrize("options", WORKERS)
@pytest.mark.parametrize("rectangular", [None, False, True], ids=["train", "square", "rectangular"])
def test_all_workers_make_the_same_batches(annotations, options, rectangular):
    def run(**options):
        if rectangular is None:
            source = ImageTrainSource(annotations, 64, EVERYTHING, seed=2)
        else:
            source = ImageEvalSource(annotations, 64, stride=8, rectangular=rectangular)
        with BatchLoader(source, source.sampler(5), **options) as loader:
            for fetched in loader.iterate(epoch=1, index=2, epochs=3):
                batch = fetched.batch
                tensors = (batch.images, batch.boxes_xyxy, batch.labels, batch.image_index)
                yield [tensor.clone() for tensor in tensors], batch.sample_ids, batch.geometries

    for (tensors, *rest), (expected, *expected_rest) in zip(run(**options), run(workers=0), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))
        assert rest == expected_rest


@pytest.mark.parametrize("options", [{"workers": 0}, *WORKERS[:2]])
def test_a_broken_image_is_reported_with_its_path(options, tmp_path):
    annotations = write_pictures(tmp_path, MIXED_SIZES)
    (tmp_path / "0003.png").write_bytes(b"")
    source = ImageTrainSource(annotations, 64, ImageAugmentConfig())
    with BatchLoader(source, source.sampler(4), **options) as loader, pytest.raises(DataError, match=r"0003\.png"):
        list(loader.iterate(epochs=1))


@pytest.mark.parametrize("rectangular", [False, True])
def test_evaluation_images_are_whole_and_their_boxes_come_back(marked, rectangular):
    source = ImageEvalSource(marked, 96, stride=32, rectangular=rectangular)
    with BatchLoader(source, source.sampler(5), workers=0) as loader:
        seen = []
        for fetched in loader.iterate(epochs=1):
            batch = fetched.batch
            seen += batch.sample_ids
            for i, (sample_id, geometry) in enumerate(zip(batch.sample_ids, batch.geometries, strict=True)):
                boxes = batch.boxes_xyxy[batch.image_index == i]
                expected = torch.from_numpy(marked.boxes_of(sample_id)[0].astype(np.float32))
                torch.testing.assert_close(geometry.to_image(boxes), expected, atol=1e-4, rtol=0)
                bright = (batch.images[i].min(dim=0).values > 135).nonzero()
                found = torch.stack((*bright.min(dim=0).values.flip(0), *(bright.max(dim=0).values.flip(0) + 1)))
                assert (found - boxes[0]).abs().max() <= 1
    assert sorted(seen) == list(range(12))


def test_rectangular_inputs_have_little_padding(marked):
    source = ImageEvalSource(marked, 128, stride=32, pad=0.0)
    with BatchLoader(source, source.sampler(4), workers=0) as loader:
        shapes = [tuple(fetched.batch.images.shape[2:]) for fetched in loader.iterate(epochs=1)]
    assert shapes == [(96, 128), (128, 128), (128, 96)]


def test_square_evaluation_inputs_are_squares(marked):
    source = ImageEvalSource(marked, 64, rectangular=False)
    assert source.sample(0, 0).image.shape == (3, 64, 64)
    assert source.sampler(4).request(3, 0).sample_ids == (0, 1, 2, 3)


def test_shrinking_for_evaluation_averages(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    source = ImageEvalSource(annotations_of([tmp_path / "a.png"], [(128, 128)], [[]], [[]]), 64)
    mean = image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(source.sample(0, 0).image - mean).max() <= 0.5


def test_an_image_size_that_does_not_fit_the_stride_is_refused(annotations):
    with pytest.raises(ConfigError, match=r"image_size=100 is no multiple of the model's stride 32. Use image_size=96"):
        ImageEvalSource(annotations, 100)
    with pytest.raises(ConfigError, match="at least 1"):
        ImageTrainSource(annotations, 0, ImageAugmentConfig())


def test_worker_processes_do_not_import_torch():
    code = "import sys, sightline.data.loader, sightline.data.image_source; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_loader_can_be_imported_where_there_are_few_signals():
    names = ("SIGHUP", "SIGUSR1", "SIGUSR2", "pthread_sigmask")  # Windows has none of them
    code = f"import signal; [delattr(signal, name) for name in {names}]; import sightline.data.loader"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_whole_batch_can_be_asked_for_directly(annotations):
    source = ImageTrainSource(annotations, 64, EVERYTHING)
    request = BatchRequest(0, 0, (3, 1))
    arrays = {"images": np.empty((2, 3, 64, 64), np.uint8)}
    batch = source.collate(request, arrays, [source.fill(request, slot, arrays) for slot in range(2)])
    np.testing.assert_array_equal(batch.images[1], source.sample(0, 1).image)
