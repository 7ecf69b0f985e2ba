"""SECOND: an anchor-based detector of boxes in space, on voxels and sparse convolutions."""
