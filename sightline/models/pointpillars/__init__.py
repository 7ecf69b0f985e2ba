"""PointPillars: an anchor-based detector of boxes in space, on pillars of points."""
