"""Samples of classifiers: what augmentation does, and that each depends on its names alone."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomErasing, RandomResizedCrop

from sightline.config.errors import ConfigError, DataError
from sightline.data.class_source import ClassEvalSource, ClassTrainSource
from sightline.data.draws import sample_generator
from sightline.data.formats import open_class_dataset
from sightline.data.loader import BatchLoader
from sightline.data.memory import Scratch
from sightline.data.sampler import RepeatedSampler
from sightline.data.transforms import crop
from sightline.data.transforms.class_augment import ClassAugmentConfig, draw_view, render_view
from sightline.data.transforms.crop import centre_view, draw_part, middle_part, shift
from sightline.data.transforms.mixing import MixPlan, cut_box, draw_mix, mix
from tests.data import class_zoo
from tests.data.pictures import smooth_image

PLAIN = ClassAugmentConfig(crop="middle", flip_lr=0)
EVERYTHING = ClassAugmentConfig(
    flip_lr=0.5, flip_ud=0.5, randaugment_ops=2, erase=0.5, erase_fill="noise", mixup_alpha=0.4, cutmix_alpha=1.0
)


@pytest.fixture
def pets(tmp_path):
    return open_class_dataset(class_zoo.write_class_folders(tmp_path / "pets")).read("train")


@pytest.fixture
def cifar(tmp_path):
    return open_class_dataset(class_zoo.write_cifar_python(tmp_path / "cifar")).read("train")


@pytest.fixture
def digits(tmp_path):
    return open_class_dataset(class_zoo.write_idx(tmp_path / "mnist")).read("train")


def rendered(source, epoch=0, index=0, repeat=0):
    planes = np.zeros((source.channels, source.image_size, source.image_size), np.uint8)
    return planes, *source.write(epoch, index, planes, repeat=repeat)


def drawn_parts(count, hw=(60, 100), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    return [draw_part(sample_generator(0, 0, i), hw, scale, ratio) for i in range(count)]


def test_parts_have_the_area_and_aspect_that_torchvision_draws():
    ours = np.array([(x1 - x0, y1 - y0) for x0, y0, x1, y1 in drawn_parts(4000)], float)
    torch.manual_seed(0)
    image = torch.zeros(3, 60, 100)
    theirs = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(4000)]
    theirs = np.array([(w, h) for h, w in theirs], float)
    for measure in (lambda wh: wh.prod(axis=1) / 6000, lambda wh: np.log(wh[:, 0] / wh[:, 1])):
        deciles = [np.quantile(measure(wh), np.linspace(0.1, 0.9, 9)) for wh in (ours, theirs)]
        np.testing.assert_allclose(*deciles, atol=0.03)


def test_parts_lie_inside_the_image_and_anywhere_in_it():
    boxes = np.array(drawn_parts(2000))
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 100 and boxes[:, 3].max() <= 60
    small = boxes[(boxes[:, 2] - boxes[:, 0]) < 40]
    assert small[:, 0].min() < 5 and small[:, 2].max() > 95


def test_where_no_part_fits_the_middle_is_taken():
    assert drawn_parts(1, hw=(10, 1000), scale=(1.0, 1.0)) == [None]
    assert middle_part((10, 1000), (3 / 4, 4 / 3)) == (493, 0, 506, 10)  # 13 wide: 10 * 4 / 3
    assert middle_part((1000, 30), (3 / 4, 4 / 3)) == (0, 480, 30, 520)
    assert middle_part((50, 60), (3 / 4, 4 / 3)) == (0, 0, 60, 50)


def test_the_middle_of_an_image_is_seen_in_evaluation():
    # Short side 40 -> 20 / 0.5 = 40: nothing is resized, rows 10 to 29 and columns 20 to 39 remain.
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    view = centre_view(image, 20, 0.5, Scratch(), np.empty((20, 20, 3), np.uint8))
    np.testing.assert_array_equal(view, image[10:30, 20:40])


@pytest.mark.parametrize("hw, size, ratio", [((33, 70), 32, 0.875), ((90, 40), 32, 0.875), ((8, 9), 32, 1.0)])
def test_evaluation_keeps_the_aspect(hw, size, ratio):
    image = smooth_image(1, *hw)
    image[:] = (np.arange(hw[1]) * 255 // hw[1]).astype(np.uint8)[None, :, None]
    view = centre_view(image, size, ratio, Scratch(), np.empty((size, size, 3), np.uint8))
    short = math.floor(size / ratio)
    wide = short if hw[1] <= hw[0] else int(short * hw[1] / hw[0])
    expected = ((np.arange(size) + (wide - size) / 2 + 0.5) / wide) * 255  # brightness is the place from the left
    np.testing.assert_allclose(view[size // 2, 2:-2, 0], expected[2:-2], atol=255 / min(wide, hw[1]) + 1)


def test_a_thin_image_takes_no_memory_for_what_is_not_seen(monkeypatch):
    thin = np.zeros((1, 5_000_000, 3), np.uint8)  # whole, resized to 256 rows, it would take 980 GB
    centre_view(thin, 224, 0.875, Scratch(), np.empty((224, 224, 3), np.uint8))
    for hw in [(3, 100), (100, 4)]:
        image = np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8)
        view = centre_view(image, 24, 0.8, Scratch(), np.empty((24, 24, 3), np.uint8)).astype(int)
        monkeypatch.setattr(crop, "MOST_ASPECT", 1000)
        whole = centre_view(image, 24, 0.8, Scratch(), np.empty((24, 24, 3), np.uint8))
        monkeypatch.undo()
        np.testing.assert_allclose(view, whole, atol=1)


def test_shifting_leaves_black_behind():
    image = np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3)
    out = np.full((2, 2, 3), 99, np.uint8)
    assert shift(image, 1, 0, out).tolist() == [[[0] * 3, [1, 2, 3]], [[0] * 3, [7, 8, 9]]]
    assert shift(image, 0, -1, out).tolist() == [[[7, 8, 9], [10, 11, 12]], [[0] * 3, [0] * 3]]
    assert not shift(image, 3, 0, out).any()


def test_padded_crops_move_by_every_step_equally_often(cifar):
    source = ClassTrainSource(cifar, 32, ClassAugmentConfig(crop="padded", pad=1, flip_lr=0))
    moves = {}
    for epoch in range(900):
        plan = draw_view(sample_generator(0, epoch, 0), source.augment, (32, 32), 32)
        moves[plan.shift_xy] = moves.get(plan.shift_xy, 0) + 1
    assert len(moves) == 9 and min(moves.values()) > 60  # 100 each, standard deviation 9


def test_erased_parts_are_as_large_as_torchvision_draws_them():
    torch.manual_seed(0)
    image = torch.zeros(3, 64, 64)
    theirs = [RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[2:4] for _ in range(6000)]
    config = ClassAugmentConfig(erase=1.0)
    plans = [draw_view(sample_generator(1, 0, i), config, (64, 64), 64) for i in range(6000)]
    ours = [(p.erased[3] - p.erased[1]) * (p.erased[2] - p.erased[0]) for p in plans]
    expected = np.quantile([h * w for h, w in theirs], np.linspace(0.1, 0.9, 9))
    np.testing.assert_allclose(np.quantile(ours, np.linspace(0.1, 0.9, 9)), expected, atol=40)  # four standard errors


@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_only_the_erased_part_is_covered(fill):
    image = np.full((32, 32, 3), 200, np.uint8)
    config = PLAIN.but(erase=1.0, erase_fill=fill)
    plan = draw_view(sample_generator(0, 0, 0), config, (32, 32), 32)
    views = [render_view(image, plan, 32, Scratch(), "view", mean_rgb=(1, 2, 3)).copy() for _ in range(2)]
    np.testing.assert_array_equal(*views)
    x0, y0, x1, y1 = plan.erased
    outside = np.ones((32, 32), bool)
    outside[y0:y1, x0:x1] = False
    assert (views[0][outside] == 200).all()
    inside = views[0][~outside]
    assert (inside == (1, 2, 3)).all() if fill == "mean" else 100 < inside.mean() < 155


def test_mixing_gives_the_weighted_image_and_its_share():
    first, second = np.full((4, 6, 3), 100, np.uint8), np.full((4, 6, 3), 200, np.uint8)
    assert mix(first, second, MixPlan(1, 0.25, None)) == 0.25
    assert (first == 175).all()


def test_cut_mix_takes_the_share_of_pixels_that_is_left():
    first, second = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)
    # Share 0.75: a part of half the sides, 4 x 4, round pixel (4, 4).
    assert cut_box((8, 8), 0.75, (0.5, 0.5)) == (2, 2, 6, 6)
    assert mix(first, second, MixPlan(1, 0.75, (0.5, 0.5))) == 0.75
    assert (first[2:6, 2:6] == 9).all() and (first == 9).sum() == 16 * 3
    first[:] = 0
    # Round the corner only a quarter of it is left: 2 x 2 of 64 pixels.
    assert mix(first, second, MixPlan(1, 0.75, (0.0, 0.0))) == 1 - 4 / 64


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_cut_mix_of_all_or_nothing(share):
    first, second = np.zeros((5, 7, 3), np.uint8), np.ones((5, 7, 3), np.uint8)
    left = mix(first, second, MixPlan(1, share, (0.5, 0.5)))
    assert first[..., 0].mean() == pytest.approx(1 - left) and (left == 1) == (share == 1)


def test_mixing_is_drawn_as_told():
    def draws(**options):
        options = {"probability": 1.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "cutmix_share": 0.5} | options
        return [draw_mix(sample_generator(0, 0, i), 50, **options) for i in range(1000)]

    assert draws() == [None] * 1000
    assert all(plan.centre_xy is None for plan in draws(mixup_alpha=0.2))
    assert all(plan.centre_xy is not None for plan in draws(cutmix_alpha=1.0))
    both = draws(mixup_alpha=0.2, cutmix_alpha=1.0, cutmix_share=0.3, probability=0.5)
    mixed = [plan for plan in both if plan is not None]
    assert 440 < len(mixed) < 560
    assert 0.22 < np.mean([plan.centre_xy is not None for plan in mixed]) < 0.38
    assert {plan.partner for plan in mixed} == set(range(50))


def test_plain_samples_are_the_images_themselves(cifar):
    train, evaluate = ClassTrainSource(cifar, 32, PLAIN), ClassEvalSource(cifar, 32, crop_ratio=1.0)
    for index in range(len(cifar)):
        for source in (train, evaluate):
            planes, other, share = rendered(source, 3, index)
            np.testing.assert_array_equal(planes, cifar.packed.pixels[index].transpose(2, 0, 1))
            assert (other, share) == (index, 1.0)


def test_grey_images_have_one_plane_or_three(digits):
    (one, *_), (three, *_) = (rendered(ClassEvalSource(digits, 5, channels=c, crop_ratio=1.0)) for c in (None, 3))
    assert one.shape == (1, 5, 5) and three.shape == (3, 5, 5)
    np.testing.assert_array_equal(one[0], class_zoo.digits(6)[0, 1:6])  # the middle rows of 7
    assert (three == one).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_depends_on_seed_epoch_index_and_view_alone(pets, channels):
    def make(seed=0):
        return ClassTrainSource(pets, 24, EVERYTHING, seed=seed, channels=channels)

    source = make()
    expected = rendered(source, 2, 5)
    for index in (0, 3, 5, 11):
        rendered(source, 1, index)
    for other in (source, make(), pickle.loads(pickle.dumps(source))):
        planes, partner, share = rendered(other, 2, 5)
        np.testing.assert_array_equal(planes, expected[0])
        assert (partner, share) == expected[1:]
    for changed in (rendered(make(seed=1), 2, 5), rendered(source, 3, 5), rendered(source, 2, 5, 1)):
        assert (changed[0] != expected[0]).any()


def batches(source, sampler, **options):
    with BatchLoader(source, sampler, **options) as loader:
        for fetched in loader.iterate(epochs=2):
            batch = fetched.batch
            arrays = (batch.images, batch.labels, batch.labels_b, batch.shares)
            yield batch.sample_ids, *(tensor.clone() for tensor in arrays)


def flat(parts):
    """All samples in the order of their ids within an epoch."""
    ids = [i for part in parts for i in part[0]]
    return ids, *(torch.cat([part[k] for part in parts]) for k in range(1, 5))


@pytest.mark.parametrize("options", [{"workers": 2}, {"workers": 1, "kind": "processes", "start_method": "fork"}])
def test_workers_give_the_same_bits(pets, options):
    source = ClassTrainSource(pets, 24, EVERYTHING)
    expected = list(batches(source, source.sampler(5), workers=0))
    found = list(batches(source, source.sampler(5), **options))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[0] == theirs[0]
        assert all(torch.equal(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True))


def test_two_processes_make_the_samples_of_one(pets):
    source = ClassTrainSource(pets, 24, EVERYTHING)
    whole = list(batches(source, source.sampler(4), workers=0))
    shares = [list(batches(source, source.sampler(4, rank=r, num_processes=2), workers=0)) for r in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        ids, *tensors = flat([first, second])
        place = {sample: i for i, sample in enumerate(ids)}
        order = [place[sample] for sample in batch[0]]
        for tensor, expected in zip(tensors, batch[1:], strict=True):
            assert torch.equal(tensor[order], expected)


def test_batches_carry_both_labels(cifar):
    source = ClassTrainSource(cifar, 32, PLAIN.but(mixup_alpha=1.0))
    for ids, _images, labels, labels_b, shares in batches(source, source.sampler(4), workers=0):
        assert labels.tolist() == [int(cifar.labels[i]) for i in ids]
        assert labels.dtype == labels_b.dtype == torch.int64 and shares.dtype == torch.float32
        assert ((shares >= 0) & (shares <= 1)).all()
    plain = ClassEvalSource(cifar, 32, crop_ratio=1.0)
    for _ids, _images, labels, labels_b, shares in batches(plain, plain.sampler(4), workers=0):
        assert torch.equal(labels, labels_b) and (shares == 1).all()


def test_parts_and_copies_of_a_batch(cifar):
    source = ClassEvalSource(cifar, 32)
    with BatchLoader(source, source.sampler(6), workers=0) as loader:
        batch = next(loader.iterate(epochs=1)).batch
        part = batch.part(2, 5)
        assert len(batch) == 6 and len(part) == 3 and part.sample_ids == batch.sample_ids[2:5]
        assert torch.equal(part.images, batch.images[2:5]) and torch.equal(part.labels, batch.labels[2:5])
        moved = batch.to(torch.device("meta"))
        assert {t.device.type for t in (moved.images, moved.labels, moved.labels_b, moved.shares)} == {"meta"}


def test_repeated_augmentation_shows_each_image_several_times_differently(cifar):
    source = ClassTrainSource(cifar, 32, ClassAugmentConfig(repeats=3))
    sampler = source.sampler(6)
    assert isinstance(sampler, RepeatedSampler) and sampler.batches_per_epoch == 2
    first, second = (sampler.request(0, k) for k in range(2))
    assert first.repeats == (0, 1, 2, 0, 1, 2) and second.repeats == (0, 1, 2, 0)
    assert [*first.sample_ids, *second.sample_ids] == sampler.epoch_order(0).tolist()
    assert len(set(first.sample_ids)) == 2 and len(set(second.sample_ids)) == 2
    images = next(batches(source, sampler, workers=0))[1]
    assert len({image.numpy().tobytes() for image in images}) == 6
    shares = [source.sampler(6, rank=r, num_processes=2).request(0, 0) for r in range(2)]
    assert shares[0].sample_ids == first.sample_ids[::2] and shares[1].repeats == first.repeats[1::2]
    assert len({i for epoch in range(30) for i in sampler.epoch_order(epoch).tolist()}) == len(cifar)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_caches_give_the_same_pixels(pets, cache, tmp_path):
    plain = ClassTrainSource(pets, 24, EVERYTHING)
    cached = ClassTrainSource(pets, 24, EVERYTHING, cache=cache, cache_dir=tmp_path / "cache")
    for _ in range(2):
        for index in range(len(pets)):
            np.testing.assert_array_equal(rendered(cached, 0, index)[0], rendered(plain, 0, index)[0])


def test_impossible_settings_are_refused(pets, tmp_path):
    with pytest.raises(ConfigError, match="image_size must be at least 1"):
        ClassEvalSource(pets, 0)
    with pytest.raises(ConfigError, match="crop_ratio must be above 0"):
        ClassEvalSource(pets, 8, crop_ratio=1.5)
    bare = open_class_dataset(tmp_path / "pets", read_headers=False).read("train")
    with pytest.raises(ConfigError, match="headers were not read"):
        ClassTrainSource(bare, 8, PLAIN, cache="ram")
    for name in ("crop_scale", "erase_ratio"):
        with pytest.raises(ValueError, match=name):
            ClassAugmentConfig(**{name: (0.5, 0.1)})
    for name in ("mixup_alpha", "cutmix_alpha"):
        with pytest.raises(ValueError, match=rf"{name}\n.*finite"):
            ClassAugmentConfig(**{name: math.inf})


def test_settings_without_effect_are_named():
    assert set(ClassAugmentConfig().without_effect()) == {
        "pad",
        "randaugment_magnitude",
        "erase_scale",
        "erase_ratio",
        "erase_fill",
        "mix",
        "cutmix_share",
    }
    assert set(EVERYTHING.without_effect()) == {"pad"}
    assert {"crop_scale", "crop_ratio"} <= set(ClassAugmentConfig(crop="padded").without_effect())


def test_a_broken_file_is_named_when_it_is_read(pets):
    Path(pets.paths[3]).write_bytes(b"")
    with pytest.raises(DataError, match=r"cat/3\.png"):
        rendered(ClassEvalSource(pets, 8), 0, 3)
