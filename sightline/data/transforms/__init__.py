"""Augmentation: every random number comes from a generator that is passed in."""
