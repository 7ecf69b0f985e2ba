"""Data formats: readers that turn files into flat arrays, and bad files into faults with file and line."""

from sightline.data.formats.find import open_dataset
from sightline.data.formats.find_classes import open_class_dataset
from sightline.data.formats.source import DataSource

__all__ = ["DataSource", "open_class_dataset", "open_dataset"]
