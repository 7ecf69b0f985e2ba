"""The operations of RandAugment against torchvision's own, and the draws against their description."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, RandAugment
from torchvision.transforms import functional as F

from sightline.data.transforms.randaugment import MAX_MAGNITUDE, NAMES, OPERATIONS, apply_changes, draw_changes
from tests.data.pictures import smooth_image


def random_image(seed, height=24, width=31):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def theirs(function, image, *arguments, **options):
    """A function of torchvision on (H, W, 3)."""
    return function(torch.from_numpy(image).permute(2, 0, 1), *arguments, **options).permute(1, 2, 0).numpy()


IMAGES = [random_image(0), random_image(1) // 3 + 60, smooth_image(2, 40, 33), np.full((9, 8, 3), 77, np.uint8)]


@pytest.mark.parametrize("image", IMAGES, ids=["noise", "flat noise", "smooth", "one colour"])
@pytest.mark.parametrize("name", ["brightness", "contrast", "colour", "sharpness"])
@pytest.mark.parametrize("change", [-0.9, -0.27, 0.0, 0.27, 0.9])
def test_factors_are_those_of_torchvision_up_to_rounding(image, name, change):
    names = {"brightness": F.adjust_brightness, "contrast": F.adjust_contrast, "sharpness": F.adjust_sharpness}
    expected = theirs(names.get(name, F.adjust_saturation), image, 1 + change)
    ours = OPERATIONS[name][0](image, change)
    assert np.abs(ours.astype(int) - expected).max() <= 1  # float32 there, partly float64 here, cut to whole numbers


@pytest.mark.parametrize("image", IMAGES, ids=["noise", "flat noise", "smooth", "one colour"])
def test_levels_are_those_of_torchvision(image):
    for bits in (8, 6, 4):
        np.testing.assert_array_equal(OPERATIONS["posterize"][0](image, bits), theirs(F.posterize, image, bits))
    for threshold in (255.0, 178.5, 0.0):
        np.testing.assert_array_equal(OPERATIONS["solarize"][0](image, threshold), theirs(F.solarize, image, threshold))
    np.testing.assert_array_equal(OPERATIONS["equalize"][0](image, 0), theirs(F.equalize, image))
    stretched = OPERATIONS["autocontrast"][0](image, 0).astype(int)
    assert np.abs(stretched - theirs(F.autocontrast, image)).max() <= 1


def affine(image, *, shear=(0.0, 0.0), translate=(0, 0)):
    nearest = InterpolationMode.NEAREST
    return theirs(F.affine, image, 0.0, list(translate), 1.0, list(shear), nearest, [0.0], [0, 0])


@pytest.mark.parametrize("amount", [-0.3, -0.09, 0.09, 0.3])
def test_shear_and_shift_are_those_of_torchvision(amount):
    image = smooth_image(5, 64, 48)
    degrees = math.degrees(math.atan(amount))
    pairs = [
        (OPERATIONS["translate_x"][0](image, amount), affine(image, translate=(int(amount * 48), 0))),
        (OPERATIONS["translate_y"][0](image, amount), affine(image, translate=(0, int(amount * 64)))),
        (OPERATIONS["shear_x"][0](image, -amount), affine(image, shear=(degrees, 0.0))),
        (OPERATIONS["shear_y"][0](image, -amount), affine(image, shear=(0.0, degrees))),
    ]
    for ours, expected in pairs:
        differs = (np.abs(ours.astype(int) - expected) > 24).any(axis=2)  # a pixel that is taken from its neighbour
        assert differs.mean() < 0.02


@pytest.mark.parametrize("degrees", [-30, -9, 9, 30])
def test_rotation_is_that_of_torchvision(degrees):
    image = smooth_image(6, 64, 48)
    ours = OPERATIONS["rotate"][0](image, degrees).astype(int)
    differs = (np.abs(ours - theirs(F.rotate, image, degrees)) > 24).any(axis=2)
    assert differs.mean() < 0.03


def test_strengths_are_those_of_torchvision():
    names = {
        "identity": "Identity",
        "shear_x": "ShearX",
        "shear_y": "ShearY",
        "translate_x": "TranslateX",
        "translate_y": "TranslateY",
        "rotate": "Rotate",
        "brightness": "Brightness",
        "colour": "Color",
        "contrast": "Contrast",
        "sharpness": "Sharpness",
        "posterize": "Posterize",
        "solarize": "Solarize",
        "autocontrast": "AutoContrast",
        "equalize": "Equalize",
    }
    space = RandAugment()._augmentation_space(31, (1, 1))
    assert set(names.values()) == set(space) and set(names) == set(NAMES)
    for ours, other in names.items():
        _, strength, either_way = OPERATIONS[ours]
        table, is_signed = space[other]
        assert either_way == is_signed
        for step in range(31):
            expected = float(table[step] if table.ndim else table)
            assert strength(step / MAX_MAGNITUDE) == pytest.approx(expected, abs=1e-4), (ours, step)


def test_all_operations_are_drawn_equally_often_and_both_ways():
    rng = np.random.default_rng(0)
    drawn = [change for _ in range(7000) for change in draw_changes(rng, 2, 9)]
    for name in NAMES:
        amounts = [amount for other, amount in drawn if other == name]
        assert abs(len(amounts) - 1000) < 4 * math.sqrt(1000)
        if OPERATIONS[name][2]:
            assert 0.43 < np.mean(np.array(amounts) > 0) < 0.57
        assert len({abs(amount) for amount in amounts}) == 1


def test_no_operation_gives_the_image_itself_and_none_writes_to_its_input():
    image = random_image(3)
    kept = image.copy()
    assert apply_changes(image, ()) is image
    for name in NAMES:
        result = apply_changes(image, ((name, OPERATIONS[name][1](0.5)),))
        assert result.shape == image.shape and result.dtype == np.uint8
        np.testing.assert_array_equal(image, kept)


def test_images_of_a_pixel_or_two_pass():
    for hw in ((1, 1), (2, 5), (3, 3)):
        for name in NAMES:
            assert OPERATIONS[name][0](random_image(4, *hw), OPERATIONS[name][1](1.0)).shape == (*hw, 3)
