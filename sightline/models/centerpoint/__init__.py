"""CenterPoint: detects objects as peaks of heat maps seen from above, on pillars or on voxels."""
