"""The built-in synthetic city: scenes, renderings and writers of the real formats.

``scene`` makes a scene in 3D from a seed and an index, ``render`` takes pictures of it with their truth, ``lidar``
casts the rays of a LiDAR into it, ``writers`` put them on disk, ``embedded`` keeps them in the user's cache. A scene
knows nothing of sensors: each is rendered from the meshes of its things, its poses, velocities and calibration.
"""
