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
        (("model.backbone.up_strides=[.inf,2,4]",), "up_strides.*finite"),
    ],
)
def test_settings_without_a_meaning_are_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        api.resolve("pointpillars", changes)


def test_without_direction_bins_the_rest_of_the_recipe_stands():
    run, _ = api.resolve("pointpillars", ("model.head.direction_bins=0",))
    assert run.model.head.direction_bins == 0
