"""Tensor operations that are true without any model: boxes, NMS, checks."""
