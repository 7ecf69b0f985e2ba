"""The city as triangles, and rays through them one by one: slow, on purpose unlike the package's casting."""

from typing import NamedTuple

import numpy as np

from sightline.data.world.camera import transform
from sightline.data.world.scene import Scene


class Triangles(NamedTuple):
    """Opaque surfaces in the world frame. T triangles."""

    corners: np.ndarray
    """(T, 3, 3) metres; counter-clockwise seen from outside."""
    owner: np.ndarray
    """(T,) index in ``Scene.objects``, or -1 for the background and the ground."""


def solid_triangles(scene: Scene) -> Triangles:
    """Objects, background, and the ground as two triangles."""
    corners, owner = [], []
    for number, thing in enumerate((*scene.objects, *scene.background)):
        solid = np.flatnonzero(~thing.mesh.is_decal)
        polygons = thing.mesh.placed(thing.ground_position, thing.yaw)[solid]
        for k in range(1, polygons.shape[1] - 1):  # a fan over every convex face
            has = thing.mesh.corner_counts[solid] > k + 1
            corners.append(polygons[has][:, [0, k, k + 1]])
            owner.append(np.full(int(has.sum()), number if number < len(scene.objects) else -1))
    flat = np.array([[-400, -400, 0.0], [400, -400, 0.0], [400, 400, 0.0], [-400, 400, 0.0]])
    corners.append(transform(flat, scene.street.world_from_street)[[[0, 1, 2], [0, 2, 3]]])
    owner.append(np.full(2, -1))
    return Triangles(np.concatenate(corners), np.concatenate(owner))


def first_triangles(
    triangles: Triangles, origin: np.ndarray, rays: np.ndarray, nearest: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Ray parameter (infinite without a hit) and owner (-1 too) of what every ray meets: Moeller and Trumbore, 1997.

    Args:
        triangles: What can be met, from outside only.
        origin: (3,) of all rays.
        rays: (N, 3) directions.
        nearest: Smallest parameter that counts.
    """
    corner = triangles.corners[:, 0]
    edge1, edge2 = triangles.corners[:, 1] - corner, triangles.corners[:, 2] - corner
    s = origin - corner
    q = np.cross(s, edge1)
    parameters, owners = [], []
    for ray in rays:
        p = np.cross(ray, edge2)
        determinant = (edge1 * p).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = (s * p).sum(axis=1) / determinant, q @ ray / determinant
            t = (edge2 * q).sum(axis=1) / determinant
        hit = np.flatnonzero((determinant > 1e-12) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > nearest))
        first = hit[t[hit].argmin()] if len(hit) else None
        parameters.append(np.inf if first is None else t[first])
        owners.append(-1 if first is None else triangles.owner[first])
    return np.array(parameters), np.array(owners)
