import pytest

from sightline.report import plots


@pytest.fixture
def quick(monkeypatch):
    """Plots are made, but not painted: most of a page's time."""
    monkeypatch.setattr(plots, "_png", lambda figure: b"")
