import pytest

from sightline.config.errors import ConfigError
from sightline.models.centerpoint.head_config import CenterHeadConfig
from sightline.recipes import recipe
from tests.data.kitti_zoo import write_kitti

RECIPES = ("centerpoint-pillar", "centerpoint-voxel", "centerpoint-world")


def task_of(run, folder):
    source = run.but(data=run.data.but(path=str(folder))).open_data()
    return run.build_task(run.read_split(source, "val", []))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_make_one_head_for_the_classes_of_the_data(name, tmp_path):
    task = task_of(recipe(name), write_kitti(tmp_path / "kitti"))
    assert task.detector.head.labels_of_heads == ((0, 1, 2),)


@pytest.mark.parametrize("name", RECIPES)
def test_velocities_are_refused_where_the_data_have_none(name, tmp_path):
    run = recipe(name)
    run = run.but(model=run.model.but(head=CenterHeadConfig(velocity=True)))
    with pytest.raises(ConfigError, match=r"model\.head\.velocity=true.*7 numbers"):
        task_of(run, write_kitti(tmp_path / "kitti"))
