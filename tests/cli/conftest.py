"""One small run that many tests look at."""

import pytest

from tests.cli.tool import RECIPE, TINY, sightline, write_city


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A user's folder: ``city``, a data set, and ``runs/yolov7-tiny/1``, a run of two epochs on it.

    Do not write here.
    """
    folder = tmp_path_factory.mktemp("workplace")
    write_city(folder / "city")
    done = sightline("train", RECIPE, "--data", "city", *TINY, cwd=folder)
    assert done.code == 0, done.err
    (folder / "train.log").write_text(done.out)
    return folder
