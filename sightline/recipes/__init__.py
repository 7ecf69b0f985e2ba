"""Runs by name: one function is one run."""
