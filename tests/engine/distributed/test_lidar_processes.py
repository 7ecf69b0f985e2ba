"""A LiDAR detector in several processes is the detector of one: samples, losses, weights and figures."""

import json

import pytest
import torch

from sightline import api
from sightline.engine.building import settle
from tests.engine.distributed.test_processes import assert_same_losses, assert_same_weights, live, samples_by_step
from tests.faults.tiny_lidar import RECIPE, TINY_PILLARS, TINY_VOXELS, changes_with
from tests.together import together

LONG = ("epochs=4", "evaluate.every_epochs=2", "lr=3e-4", "channels_last=false", "model.head.score_threshold=0.005")
"""What rounding does grows by large steps; detections of low scores are many, so that there is something to compare."""


@pytest.fixture(scope="module", autouse=True)
def _cache_of_the_world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def detector(processes, folder, recipe, changes):
    """A tiny detector in double precision: what rounding does in single precision grows by training."""
    torch.set_num_threads(1)
    config = settle(api.resolve(recipe, changes)[0])
    problem = config.open(share=processes.share)
    problem.task.double()
    return live(processes, config, problem, folder, False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (RECIPE, changes_with(*LONG)),  # the last batch of an epoch has one frame: none for the others
        (RECIPE, changes_with(*LONG, "accumulation.every=2", "batch_size=2", "max_grad_norm=0.5")),
        (RECIPE, changes_with(*LONG, "data.one_long_epoch=true")),
        ("centerpoint-world", changes_with(*LONG, "model.head.channels=8", model=TINY_PILLARS)),
        ("second-world", changes_with(*LONG, model=TINY_VOXELS)),
    ],
)
def test_processes_see_the_frames_and_take_the_steps_of_one(tmp_path, recipe, changes):
    alone = together(1, detector, tmp_path / "1", recipe, changes)
    for count in (2, 3):
        results = together(count, detector, tmp_path / str(count), recipe, changes)
        assert samples_by_step(results) == samples_by_step(alone)
        assert_same_losses(tmp_path / str(count), tmp_path / "1")
        assert_same_weights(tmp_path / str(count), tmp_path / "1")
        found, wanted = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in (str(count), "1"))
        assert found == wanted
        assert all(result[2] == results[0][2] for result in results), "every process knows the figures"
