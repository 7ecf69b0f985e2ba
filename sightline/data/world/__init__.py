"""The built-in synthetic city: scenes, renderings and writers of the real formats."""
