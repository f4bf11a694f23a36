"""Which way is up, from the cameras and from the points that they saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
How = Literal["auto", "cameras", "ground"]

_VARIED = 0.02  # least mean square of the cameras' right edges along a second axis: 8 degrees
_AGREE = 3.0  # degrees: right edges that are level to within as many were held by a gimbal
_THIN = 0.35  # of its extent: ground is no thicker
_ABOVE = 0.95  # of the cameras, or of the points below them


@dataclass(frozen=True)
class Level:
    """up: [3] unit vector. how: 'cameras' or 'ground'. reason: the words that tell it."""

    up: Array
    how: Literal["cameras", "ground"]
    reason: str


def level(poses: Array, points: Array, how: How = "auto") -> Level:
    """Find the direction that is up.

    Photographs are held level, more or less: their right edges [x axes] are horizontal, so that
    up is what is perpendicular to all of them. Where all look the same way that leaves it open,
    and up is their mean upper edge. Cameras of a flight that look down on the ground, and were not
    held level by a gimbal, know less of it than the ground.

    Parameters
    ----------
    poses: [N, 3, 4] camera-to-world. points: [P, 3]. how: 'cameras' or 'ground' asks for one.
    """
    right, upper, forward = poses[:, :, 0], -poses[:, :, 1], poses[:, :, 2]
    axis, off, varied = _perpendicular(right)
    axis = axis if axis @ (upper - forward).mean(axis=0) >= 0 else -axis
    ground = _ground(points, poses)
    if how == "ground" or (how == "auto" and ground is not None and not (varied and off < _AGREE)):
        return _by_ground(points, poses)
    if varied:
        return Level(axis, "cameras", f"right edges of the cameras, level to {off:.1f} degrees")
    # The mean upper edge, made perpendicular to the edge that all cameras share.
    shared = np.linalg.svd(right)[2][0]
    mean = upper.mean(axis=0)
    mean = mean - (mean @ shared) * shared
    return Level(mean / np.linalg.norm(mean), "cameras", "upper edges of the cameras")


def _perpendicular(right: Array) -> tuple[Array, float, bool]:
    """Axis that is perpendicular to most edges [N, 3], their median degrees off, and if it is one.

    Weights bring the sum of squares near to the sum of distances: a few cameras that were held
    upright do not tilt it.
    """
    weights = np.ones(len(right))
    for _ in range(20):
        values, axes = np.linalg.eigh((right * weights[:, None]).T @ right / weights.sum())
        axis = axes[:, 0]
        weights = 1 / (0.01 + np.abs(right @ axis))
    off = float(np.degrees(np.arcsin(np.median(np.abs(right @ axis)).clip(0, 1))))
    return axis, off, bool(values[1] > _VARIED)


def _ground(points: Array, poses: Array) -> Array | None:
    """Up, if points lie in a layer that the cameras look down on from above; None if not."""
    if len(points) < 10:
        return None
    up, thick = _layer(points, poses)
    heights, places = points @ up, poses[:, :, 3] @ up
    below = np.quantile(heights, _ABOVE)
    down = np.median(poses[:, :, 2] @ -up)
    is_ground = thick < _THIN and (places > below).mean() >= _ABOVE and down > 0.5
    return up if is_ground else None


def _layer(points: Array, poses: Array) -> tuple[Array, float]:
    """Normal of the plane near most points, towards the cameras, and the layer's flatness."""
    middle = np.median(points, axis=0)
    near = np.linalg.norm(points - middle, axis=1)
    kept = points[near <= np.quantile(near, 0.9)]
    for _ in range(10):
        middle = kept.mean(axis=0)
        values, axes = np.linalg.eigh((kept - middle).T @ (kept - middle) / len(kept))
        away = np.abs((points - middle) @ axes[:, 0])
        kept = points[(away <= np.quantile(away, 0.8)) & (near <= np.quantile(near, 0.9))]
    up = axes[:, 0]
    up = up if np.median((poses[:, :, 3] - middle) @ up) >= 0 else -up
    return up, float(np.sqrt(values[0] / max(values[1], 1e-30)))


def _by_ground(points: Array, poses: Array) -> Level:
    up, _ = _layer(points, poses)
    off = np.degrees(np.arccos(np.clip(np.median(poses[:, :, 2] @ -up), -1, 1)))
    return Level(
        up, "ground", f"plane of the points; cameras look {off:.0f} degrees off straight down"
    )
