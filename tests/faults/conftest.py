"""The built-in world of these tests lies in a folder of their own."""

import os

import pytest

from tests.faults.lives import Life


@pytest.fixture(scope="session")
def world_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session", autouse=True)
def _use_world_cache(world_cache):
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(world_cache)
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def begin_life(tmp_path):
    """Begins lives that print into ``log``; none of them outlives the test."""
    lives = []

    def begin(work):
        lives.append(Life(work, tmp_path / "log"))
        return lives[-1]

    yield begin
    for life in lives:
        life.bury()
