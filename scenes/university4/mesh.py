"""Triangles by material, collected in nested local frames."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Site:
    """A local frame (x along a facade, y into the building, z up, metres) over shared triangles.

    Parameters
    ----------
    store
        Triangles [N, 3, 3] in world metres by material name, shared by all frames of a scene.
    matrix
        Local-to-world transform [4, 4].
    """

    store: dict[str, list[Array]] = field(default_factory=lambda: defaultdict(list))
    matrix: Array = field(default_factory=lambda: np.eye(4))

    def at(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Site:
        """Return the frame at a local position, turned by `yaw` degrees about z."""
        c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
        local = np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, z], [0, 0, 0, 1.0]])
        return Site(self.store, self.matrix @ local)

    def triangles(self, material: str, triangles: ArrayLike) -> None:
        """Add local triangles [N, 3, 3]."""
        points = np.asarray(triangles, np.float64)
        self.store[material].append(points @ self.matrix[:3, :3].T + self.matrix[:3, 3])

    def polygon(self, material: str, points: ArrayLike) -> None:
        """Add a convex polygon [K, 3]."""
        p = np.asarray(points, np.float64)
        self.triangles(material, [[p[0], p[i], p[i + 1]] for i in range(1, len(p) - 1)])

    def box(self, material: str, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> None:
        """Add an axis-aligned box from the (low, high) of each axis."""
        grid = np.stack(np.meshgrid(x, y, z, indexing="ij"), -1).reshape(8, 3)
        for face in ((0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4)):
            self.polygon(material, grid[list(face)])
        self.polygon(material, grid[[1, 3, 7, 5]])

    def strip(self, material: str, first: ArrayLike, second: ArrayLike) -> None:
        """Join two polylines [K, 3] of equal length with quads."""
        a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
        lower = np.stack([a[:-1], a[1:], b[1:]], 1)
        upper = np.stack([a[:-1], b[1:], b[:-1]], 1)
        self.triangles(material, np.concatenate([lower, upper]))

    def lathe(self, material: str, x: float, y: float, profile: ArrayLike, sides: int = 16) -> None:
        """Add a solid of revolution from a profile of (radius, height) [K, 2]."""
        angle = np.linspace(0, 2 * np.pi, sides + 1) + np.pi / sides
        ring = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], -1)
        rings = [ring * r + (x, y, z) for r, z in np.asarray(profile, np.float64)]
        for low, high in pairwise(rings):
            self.strip(material, low, high)

    def tube(self, material: str, ends: ArrayLike, radii: tuple[float, float]) -> None:
        """Add an open, tapered tube between two points [2, 3]."""
        a, b = np.asarray(ends, np.float64)
        axis = (b - a) / np.linalg.norm(b - a)
        side = np.cross(axis, (0.3, 0.9, 0.1))
        side /= np.linalg.norm(side)
        up = np.cross(axis, side)
        angle = np.linspace(0, 2 * np.pi, 9)[:, None]
        ring = np.cos(angle) * side + np.sin(angle) * up
        self.strip(material, a + radii[0] * ring, b + radii[1] * ring)


def planar_uv(triangles: Array) -> Array:
    """Return texture coordinates in metres [N, 3, 2] for triangles [N, 3, 3].

    Every face is projected along its own normal: u runs level, v up the slope (x and y on level
    ground), so the courses of coplanar pieces continue across them.
    """
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    # Either winding of a face must give the same courses.
    normal *= np.where(normal @ (0.2, 0.3, 0.9) < 0, -1.0, 1.0)[:, None]
    level = np.cross((0.0, 0.0, 1.0), normal)
    length = np.linalg.norm(level, axis=-1, keepdims=True)
    level = np.where(length > 1e-3, level / np.maximum(length, 1e-12), (1.0, 0.0, 0.0))
    slope = np.cross(normal, level)
    u = np.einsum("nkc,nc->nk", triangles, level)
    v = np.einsum("nkc,nc->nk", triangles, slope)
    return np.stack([u, v], -1)


def icosphere() -> Array:
    """Return the 320 triangles [320, 3, 3] of a unit icosphere."""
    g = (1 + 5**0.5) / 2
    v = [(s * 1, t * g, 0) for s in (-1, 1) for t in (-1, 1)]
    v += [(0, s * 1, t * g) for s in (-1, 1) for t in (-1, 1)]
    v += [(t * g, 0, s * 1) for s in (-1, 1) for t in (-1, 1)]
    points = np.array(v, np.float64)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
    near = np.abs(gaps - 2) < 1e-6
    faces = [
        points[[i, j, k]]
        for i in range(12)
        for j in range(i + 1, 12)
        for k in range(j + 1, 12)
        if near[i, j] and near[j, k] and near[i, k]
    ]
    triangles = np.array(faces)
    for _ in range(2):
        a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        triangles = np.concatenate([np.stack(part, 1) for part in parts])
    return triangles / np.linalg.norm(triangles, axis=-1, keepdims=True)
