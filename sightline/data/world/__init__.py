"""The built-in synthetic city: scenes, renderings and writers of the real formats.

``scene`` makes a scene in 3D from a seed and an index, ``render`` takes pictures of it with their truth, ``writers``
put them on disk, ``embedded`` keeps them in the user's cache. A scene knows nothing of pictures: other sensors are
rendered from ``Scene.triangles``, its poses, velocities and calibration.
"""
