"""Finished runs to plots and one page."""
