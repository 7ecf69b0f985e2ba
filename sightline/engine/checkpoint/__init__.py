"""Checkpoints: their layout, writing while training goes on, reading and checking, and which of them stay."""
