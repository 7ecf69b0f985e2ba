"""Settings of LiDAR detectors that do nothing, or are no numbers, are refused by name."""

import pytest

from sightline import api
from sightline.config.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("data.one_long_epoch=true", "data.drop_last=true"), r"data\.drop_last.*all batches are full"),
        (("model.head.direction_bins=0", "model.head.direction_offset=0"), "direction_offset.*no direction"),
        (("model.head.direction_bins=0", "model.head.loss.direction_weight=1"), "direction_weight.*no direction"),
        (("model.head.direction_offset=nan",), "direction_offset.*finite"),
        (("model.head.loss.class_weight=inf",), "class_weight.*finite"),
        (("data.class_names=[]",), "class_names.*at least 1"),
        (("model.backbone.up_strides=[.inf,2,4]",), "up_strides.*finite"),
    ],
)
def test_settings_without_a_meaning_are_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        api.resolve("pointpillars", changes)


@pytest.mark.parametrize("name", ["pointpillars-world", "second-world", "centerpoint-world"])
def test_a_world_recipe_can_be_trained_on_one_class_alone(name):
    run, _ = api.resolve(name, ("data.class_names=[Cyclist]",))
    assert run.augment.paste.counts_of(run.data.class_names) == {0: 10}


def test_without_direction_bins_the_rest_of_the_recipe_stands():
    run, _ = api.resolve("pointpillars", ("model.head.direction_bins=0",))
    assert run.model.head.direction_bins == 0
