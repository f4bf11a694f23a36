"""The hand-held walk: exact pinhole poses in OpenCV axes (x right, y down, z forward)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WIDTH, HEIGHT = 480, 270
FOCAL = WIDTH / 2 / np.tan(np.radians(75.0) / 2)  # pixels; the field of view is 75 degrees wide
FRAMES = 144

# Once around the quad anticlockwise, then across it to the opposite corner past the fountain.
ROUTE = (
    (-16.0, -11.3), (-8.0, -12.4), (0.0, -12.7), (9.0, -12.5), (16.5, -10.9), (19.0, -5.0),
    (19.2, 3.0), (17.3, 9.8), (10.0, 12.4), (0.0, 12.7), (-9.0, 12.4), (-16.8, 10.3),
    (-19.2, 4.0), (-19.0, -3.5), (-17.6, -8.6), (-13.8, -9.0), (-8.6, -5.9), (-3.7, -4.2),
    (1.2, -4.4), (4.4, -1.8), (7.0, 4.6), (12.5, 8.2), (15.8, 9.2),
)  # fmt: skip
LOOP_END = 14  # index of the route's point where the loop has closed


def _spline(points: Array, per: int = 64) -> Array:
    """Return a Catmull-Rom curve [M, 2] through points [K, 2]."""
    p = np.concatenate([[2 * points[0] - points[1]], points, [2 * points[-1] - points[-2]]])
    t = np.arange(per)[:, None] / per
    pieces = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        cubic = -a + 3 * b - 3 * c + d
        pieces.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + cubic * t**3)
        )
    return np.concatenate([*pieces, points[-1:]])


def _smooth(values: Array, width: float) -> Array:
    """Return values [M] smoothed by a gaussian of `width` samples, ends extended."""
    reach = int(4 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.convolve(np.pad(values, reach, "edge"), kernel / kernel.sum(), "valid")


def walk() -> Array:
    """Return the camera-to-world poses [FRAMES, 3, 4], metres, world z up."""
    curve = _spline(np.array(ROUTE))
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=-1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    # Hand-held: the pace varies a little from frame to frame.
    rng = np.random.default_rng(7)
    at = np.cumsum(rng.uniform(0.85, 1.15, FRAMES))
    at = (at - at[0]) / (at[-1] - at[0]) * along[-1]
    fine = np.arange(0, along[-1], 0.1)
    x, y = (np.interp(fine, along, curve[:, i]) for i in (0, 1))
    heading = np.unwrap(np.arctan2(np.gradient(y), np.gradient(x)))
    loop = along[LOOP_END * 64]
    turns = 2 * np.pi * fine / loop
    pan = np.where(
        fine < loop,
        np.radians(-6 + 80 * np.sin(3.5 * turns + 0.4)),
        np.radians(55 * np.sin(2.4 * turns + 2.4)),
    )
    yaw = np.interp(at, fine, _smooth(heading + pan, 22))
    pitch = np.radians(7.5 + 3.5 * np.sin(2 * np.pi * at / 23) + 0.8 * np.sin(2.1 * at))
    roll = np.radians(0.8 * np.sin(1.3 * at + 1) + 0.5 * np.sin(0.31 * at))
    side = 0.06 * np.sin(2 * np.pi * at / 1.5)
    position = np.stack(
        [
            np.interp(at, fine, x) - side * np.sin(yaw),
            np.interp(at, fine, y) + side * np.cos(yaw),
            1.6 + 0.04 * np.sin(2 * np.pi * at / 0.75 + 0.5) + 0.02 * np.sin(0.7 * at),
        ],
        -1,
    )
    return np.stack([_pose(*v) for v in zip(position, yaw, pitch, roll, strict=True)])


def _pose(position: Array, yaw: float, pitch: float, roll: float) -> Array:
    """Return one camera-to-world pose [3, 4]."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    return np.stack([c * right + s * down, c * down - s * right, forward, position], -1)


def directions(pose: Array, pixels: Array) -> Array:
    """Return unit world directions [N, 3] through pixel positions [N, 2] (centres at +0.5)."""
    x = (pixels[:, 0] - WIDTH / 2) / FOCAL
    y = (pixels[:, 1] - HEIGHT / 2) / FOCAL
    rays = np.stack([x, y, np.ones_like(x)], -1) @ pose[:, :3].T
    return np.asarray(rays / np.linalg.norm(rays, axis=-1, keepdims=True))


def project(pose: Array, points: Array) -> tuple[Array, Array]:
    """Return pixel positions [N, 2] and depths along the axis [N] of world points [N, 3]."""
    local = (points - pose[:, 3]) @ pose[:, :3]
    z = local[:, 2]
    centre = np.array([WIDTH / 2, HEIGHT / 2])
    return FOCAL * local[:, :2] / np.where(z > 1e-6, z, np.nan)[:, None] + centre, z
