"""The settings of augmentation of point clouds, and the whole way of a scene."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.config.base import field_help
from sightline.data.draws import sample_generator
from sightline.data.transforms.ground_truth_paste import PasteConfig, PasteObjects
from sightline.data.transforms.point_augment import ObjectNoiseConfig, PointAugmentConfig, augment_scene
from sightline.data.transforms.points import PointScene
from sightline.data.transforms.pyramids import PyramidConfig
from sightline.ops.point_pairs import inside_pairs
from tests.data.point_scenes import CLASS_NAMES, random_scene, small_database

OFF = PointAugmentConfig(paste=None, flip_x=0, rotate=(0, 0), scale=(1, 1), shuffle=False, close=(), close_epochs=0)
EVERYTHING = PointAugmentConfig(
    paste=PasteConfig(counts=5, min_points=0, without_levels=()),
    object_noise=ObjectNoiseConfig(),
    local_rotate=(-0.3, 0.3),
    local_scale=(0.9, 1.1),
    local_translate=(-0.2, 0.2),
    local_drop=("top", "left"),
    local_pyramids=PyramidConfig(drop=0.3, thin=0.5, thin_points=3, swap=0.5, swap_points=1),
    flip_x=0.5,
    flip_y=0.5,
    translate_std=(0.2, 0.2, 0.2),
    drop=("bottom", "right"),
    close_epochs=3,
    close=("paste", "object_noise", "local_drop", "drop"),
)


def objects_for(config):
    return PasteObjects(small_database(), config.paste, CLASS_NAMES)


def test_what_is_off_changes_nothing_but_who_is_trained():
    scene = random_scene(0, velocity=True)
    after = augment_scene(scene, OFF, np.random.default_rng(0))
    np.testing.assert_array_equal(after.points, scene.points)
    np.testing.assert_allclose(after.boxes3d, scene.boxes3d[scene.labels >= 0], rtol=1e-6)
    assert after.labels.tolist() == scene.labels[scene.labels >= 0].tolist()


@pytest.mark.parametrize("config", [OFF, PointAugmentConfig(), EVERYTHING], ids=["nothing", "defaults", "everything"])
def test_a_sample_is_a_function_of_seed_epoch_and_index(config):
    objects = None if config.paste is None else objects_for(config)
    first, again, other = (
        augment_scene(random_scene(4), config, sample_generator(7, epoch, 11), database=objects) for epoch in (2, 2, 3)
    )
    for name in ("points", "boxes3d", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (config is OFF) == (first.points.tobytes() == other.points.tobytes())


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_whatever_is_drawn_the_scene_is_sound_and_its_source_untouched(seed, closing, velocity):
    scene = random_scene(seed, velocity=velocity)
    before = scene.points.tobytes(), scene.boxes3d.tobytes(), scene.labels.tobytes()
    after = augment_scene(
        scene,
        EVERYTHING,
        np.random.default_rng(seed),
        closing=closing,
        database=objects_for(EVERYTHING),
        point_range=(-40, -40, -5, 40, 40, 10),
    )
    assert (scene.points.tobytes(), scene.boxes3d.tobytes(), scene.labels.tobytes()) == before
    assert after.points.dtype == after.boxes3d.dtype == np.float32 and after.labels.dtype == np.int64
    assert np.isfinite(after.points).all() and np.isfinite(after.boxes3d).all()
    assert len(after.boxes3d) == len(after.labels) and (after.labels >= 0).all()
    assert (np.abs(after.boxes3d[:, 6]) <= np.float32(math.pi)).all()
    assert (np.abs(after.points[:, :2]) <= 40).all() and (np.abs(after.boxes3d[:, :2]) <= 40).all()


@given(st.integers(0, 2**32 - 1))
def test_trained_objects_keep_their_points_under_the_default_moves(seed):
    scene = random_scene(seed)
    config = PointAugmentConfig(paste=None, translate_std=(1, 1, 1))
    after = augment_scene(scene, config, np.random.default_rng(seed))
    trained = np.flatnonzero(scene.labels >= 0)
    rows, owners = inside_pairs(scene.points, scene.boxes3d[trained])
    wanted = set(zip(scene.points[rows, 3].tolist(), owners.tolist(), strict=True))
    rows, owners = inside_pairs(after.points, after.boxes3d)
    assert wanted <= set(zip(after.points[rows, 3].tolist(), owners.tolist(), strict=True))


def test_the_last_epochs_are_without_what_is_closed():
    config = PointAugmentConfig(paste=EVERYTHING.paste, shuffle=False, close_epochs=2, close=("paste", "scale"))
    scene, objects = random_scene(0), objects_for(EVERYTHING)
    trained = scene.labels >= 0
    open_, closed = (
        augment_scene(scene, config, np.random.default_rng(3), closing=closing, database=objects)
        for closing in (False, True)
    )
    assert len(open_.labels) > trained.sum() == len(closed.labels)
    np.testing.assert_allclose(closed.boxes3d[:, 3:6], scene.boxes3d[trained, 3:6])
    far, near = (np.hypot(*one.boxes3d[: trained.sum(), :2].T) for one in (closed, scene.keep_boxes(trained)))
    np.testing.assert_allclose(far, near, rtol=1e-5)  # still turned, no longer scaled
    assert not np.allclose(closed.boxes3d[:, :2], scene.boxes3d[trained, :2])


def test_closing_everything_leaves_the_scene_as_it_was():
    config = EVERYTHING.but(
        close=(
            "paste", "object_noise", "local_rotate", "local_scale", "local_translate", "local_drop", "local_pyramids",
            "flip_x", "flip_y", "rotate", "scale", "translate_std", "drop",
        ),
        shuffle=False,
    )  # fmt: skip
    scene = random_scene(5)
    after = augment_scene(scene, config, np.random.default_rng(0), closing=True, database=objects_for(EVERYTHING))
    np.testing.assert_array_equal(after.points, scene.points)


def test_objects_that_are_not_trained_leave_only_after_they_were_in_the_way():
    # A truck where the only object of the database would stand.
    database = small_database(counts=(1, 0, 0), points=(5, 6))
    config = OFF.but(paste=PasteConfig(counts=1, min_points=0, without_levels=(), onto_plane=False))
    objects = PasteObjects(database, config.paste, CLASS_NAMES)
    truck = PointScene(np.zeros((0, 4), np.float32), database.boxes3d.astype(np.float32), np.array([-1]))
    assert len(augment_scene(truck, config, np.random.default_rng(0), database=objects).labels) == 0
    free = truck.keep_boxes(np.zeros(1, bool))
    assert len(augment_scene(free, config, np.random.default_rng(0), database=objects).labels) == 1


@pytest.mark.parametrize("num_points", [0, 1])
def test_a_scene_without_anything_goes_through_everything(num_points):
    scene = PointScene(np.zeros((num_points, 4), np.float32), np.zeros((0, 7), np.float32), np.zeros(0, np.int64))
    config = EVERYTHING.but(paste=None, close=("drop",))
    after = augment_scene(scene, config, np.random.default_rng(0), point_range=(-40, -40, -5, 40, 40, 10))
    assert len(after.boxes3d) == 0 and len(after.points) <= num_points


# Settings


def test_the_defaults_are_those_of_pointpillars_on_kitti():
    config = PointAugmentConfig()
    assert config.paste is not None
    assert (config.paste.counts, config.paste.min_points, config.paste.without_levels) == (15, 5, (-1,))
    assert (config.flip_x, config.flip_y, config.scale) == (0.5, 0, (0.95, 1.05))
    assert config.rotate == (-math.pi / 4, math.pi / 4)


@pytest.mark.parametrize("owner", [PointAugmentConfig, PasteConfig, ObjectNoiseConfig, PyramidConfig])
def test_every_key_has_a_text(owner):
    assert set(field_help(owner)) == set(owner.model_fields)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rotate": (1, -1)}, r"rotate must be \(smallest, largest\)"),
        ({"scale": (0, 1)}, "scale must be .* 0 < smallest"),
        ({"local_scale": (1.2, 1.1)}, "local_scale must be"),
        ({"rotate": (0, math.inf)}, "finite"),
        ({"flip_x": 1.5}, "flip_x"),
        ({"drop_share": (0.5, 0.1)}, "drop_share must be"),
        ({"drop": ("top", "top")}, "drop names something twice"),
        ({"drop": ("front",)}, "drop"),
        ({"close": ("gt_sampling",)}, "close"),
        ({"paste": None, "close_epochs": 5}, r"close_epochs=5 closes what is off already: close is \['paste'\]"),
        ({"close": (), "close_epochs": 5}, "closes what is off already"),
        ({"translate_std": (-1, 0, 0)}, "translate_std"),
        ({"paste": {"without_levels": (3,)}}, "without_levels"),
        ({"object_noise": {"tries": 0}}, "tries"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PointAugmentConfig(**changes)


def test_a_single_side_or_step_needs_no_list():
    config = PointAugmentConfig(drop="top", local_drop="left", close="rotate", close_epochs=1)
    assert (config.drop, config.local_drop, config.close) == (("top",), ("left",), ("rotate",))


def test_keys_that_do_nothing_are_told():
    assert set(PointAugmentConfig().without_effect()) == {
        "local_translate_axes", "local_drop_share", "drop_share", "close",
    }  # fmt: skip
    assert EVERYTHING.without_effect() == {}


def test_a_recipe_s_last_epochs_give_way_where_nothing_is_left_to_close():
    assert PointAugmentConfig.useless({"close_epochs": 5, "paste": None}) == ("close_epochs",)
    assert PointAugmentConfig.useless({"close_epochs": 5, "close": ["rotate"], "rotate": [0, 0]}) == ("close_epochs",)
    assert PointAugmentConfig.useless({"close_epochs": 5}) == ()
    assert PointAugmentConfig.useless({"paste": None}) == ()
