"""A classifier in several processes is the classifier of one: samples, losses, weights and figures."""

import json

import pytest
import torch

from sightline import api
from sightline.config.errors import ConfigError
from sightline.engine.building import settle
from tests.class_pictures import write_shapes
from tests.engine.distributed.test_processes import assert_same_losses, assert_same_weights, live, samples_by_step
from tests.faults.tiny_classifier import changes_with
from tests.together import together

WITHOUT_NOISE = ("model.dropout=0", "channels_last=false", "lr=0.01")
"""Dropout draws by process; what rounding does grows by large steps."""


def classifier(processes, folder, recipe, data, changes):
    """A tiny classifier in double precision: what rounding does in single precision grows by training."""
    torch.set_num_threads(1)
    config = settle(api.resolve(recipe, changes_with(recipe, data, *changes))[0])
    problem = config.open(share=processes.share)
    problem.task.double()
    return live(processes, config, problem, folder, False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("small-cnn", ("epochs=4", *WITHOUT_NOISE)),  # the last batch has one image: none for the others
        ("small-cnn", ("epochs=4", "augment.repeats=2", "accumulation.every=2", *WITHOUT_NOISE)),
        ("lenet", ("epochs=2", "lr=1e-4")),
    ],
)
def test_processes_see_the_images_and_take_the_steps_of_one(tmp_path, recipe, changes):
    data = write_shapes(tmp_path / "shapes", train=3, val=3)
    alone = together(1, classifier, tmp_path / "1", recipe, data, changes)
    for count in (2, 3):
        results = together(count, classifier, tmp_path / str(count), recipe, data, changes)
        assert samples_by_step(results) == samples_by_step(alone)
        assert_same_losses(tmp_path / str(count), tmp_path / "1")
        assert_same_weights(tmp_path / str(count), tmp_path / "1")
        found, wanted = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in (str(count), "1"))
        # The likelihood is no count: it shows the last bits of the weights.
        assert found.pop("figures") == pytest.approx(wanted.pop("figures"), rel=1e-9)
        assert found == wanted
        assert all(result[2] == results[0][2] for result in results), "every process knows the figures"


def refused(processes, folder, data, changes):
    with pytest.raises(ConfigError) as caught:
        classifier(processes, folder, "lenet", data, changes)
    return str(caught.value)


def test_all_processes_refuse_a_share_of_one_image_that_batch_norm_cannot_train_on(tmp_path):
    data = write_shapes(tmp_path / "shapes", train=2, val=2)  # 6 images: 4 and 2, of which each process has one
    changes = ("batch_size=4", "sync_batch_norm=false")
    said = together(2, refused, tmp_path / "run", data, changes)
    assert said[0] == said[1] and "6 images leave 1 for the last batch of an epoch in a process" in said[0]
    assert not (tmp_path / "run").exists()
    together(2, classifier, tmp_path / "common", "lenet", data, (changes[0], "epochs=1"))
