"""Paths of cameras that took no photograph: orbit, spiral, through poses, flight, file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerfxl.cameras import look_at
from nerfxl.documents import parsed, text_of

FORMAT, VERSION = "nerfxl-path", 1
TURN_WEIGHT = 1.0  # a turn of one radian takes as long as the way of that many mean steps
SMOOTH = 1.5  # cameras: how far a flight is smoothed along its way
SPIRAL_TURNS = 2
ALIKE = 0.7  # length of the mean of unit vectors; 1 = all the same

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Keyframe:
    """Where the camera is at a time. pose: [3, 4], camera-to-world. fov: vertical, degrees."""

    time: float
    pose: Array
    fov: float


@dataclass(frozen=True)
class CameraPath:
    """Keyframes in the order of their times (seconds), in source coordinates, and the film's form.

    loop: the last keyframe is followed by the first, after as long as the others are apart.
    """

    keyframes: tuple[Keyframe, ...]
    fps: float = 30.0
    loop: bool = False
    width: int = 1280
    height: int = 720

    @property
    def seconds(self) -> float:
        """How long it takes."""
        times = [frame.time for frame in self.keyframes]
        extra = (times[-1] - times[0]) / max(1, len(times) - 1) if self.loop else 0.0
        return times[-1] - times[0] + extra

    def frames(self, count: int | None = None) -> list[Keyframe]:
        """Evenly spaced in time: `count` of them, or as many as fps asks for.

        Positions and axes follow Catmull-Rom curves through the keyframes, axes made orthonormal.
        """
        count = max(1, round(self.seconds * self.fps)) if count is None else count
        times = np.array([frame.time for frame in self.keyframes])
        ends = np.linspace(times[0], times[0] + self.seconds, count, endpoint=not self.loop)
        poses = np.stack([frame.pose for frame in self.keyframes])
        fovs = np.array([frame.fov for frame in self.keyframes])
        if self.loop and len(times) > 1:
            times = np.append(times, times[0] + self.seconds)
            poses, fovs = np.concatenate([poses, poses[:1]]), np.append(fovs, fovs[0])
        flat = np.concatenate([poses.reshape(-1, 12), fovs[:, None]], axis=1)
        found = through(times, flat, ends, self.loop)
        made = orthonormal(found[:, :12].reshape(-1, 3, 4))
        pairs = zip(ends, made, found[:, 12], strict=True)
        return [Keyframe(float(t), pose, float(np.clip(fov, 1, 179))) for t, pose, fov in pairs]

    def to_json(self) -> str:
        """Write it; `from_json` gives back the same numbers to the last bit."""
        frames = [
            {"time": one.time, "pose": one.pose.tolist(), "fov": one.fov} for one in self.keyframes
        ]
        document = {
            "format": FORMAT,
            "version": VERSION,
            "coordinates": "source",
            "fps": self.fps,
            "loop": self.loop,
            "width": self.width,
            "height": self.height,
            "keyframes": frames,
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str, name: str) -> CameraPath:
        """Read `to_json`'s text; a UserError speaks of the file `name`."""
        return parsed(text, _decoded, name, "a camera path")

    @staticmethod
    def load(path: Path) -> CameraPath:
        """Read a file of `to_json`; UserError when it is missing or malformed."""
        return CameraPath.from_json(text_of(path, "a camera path"), str(path))


def orbit(
    centre: Sequence[float] | NDArray[np.float64], radius: float, height: float, count: int
) -> list[NDArray[np.float64]]:
    """Poses on a level circle whose cameras look at centre; the circle closes, z is up.

    Parameters
    ----------
    centre: [3], what is looked at. radius: of the circle. height: of the circle above centre.
    count: number of poses, evenly spaced, counter-clockwise seen from above, the first towards +x.

    Returns
    -------
    Poses [3, 4], in the coordinates of centre.
    """
    middle = np.asarray(centre, dtype=np.float64)
    turns = 2 * pi * np.arange(count) / count
    circle = np.stack(
        [radius * np.cos(turns), radius * np.sin(turns), np.full(count, float(height))], axis=1
    )
    return [look_at(eye, middle) for eye in middle + circle]


def spiral(poses: Array, count: int, depth: float) -> list[Array]:
    """A spiral about the mean of cameras that look the same way, all looking at one point.

    As light-field captures are shown (LLFF, Mildenhall et al. 2019): the camera circles twice while
    it goes forth and back, as far as nine tenths of the cameras do.

    Parameters
    ----------
    poses: [V, 3, 4]. depth: how far in front of the mean camera the point lies.

    Raises
    ------
    ValueError: the cameras look into different directions: the mean of their axes is shorter than
    `ALIKE`.
    """
    middle = poses[:, :, 3].mean(axis=0)
    forward = poses[:, :, 2].mean(axis=0)
    if np.linalg.norm(forward) < ALIKE:
        raise ValueError("the cameras look into different directions")
    mean = look_at(middle, middle + forward, -poses[:, :, 1].mean(axis=0))
    away = (poses[:, :, 3] - middle) @ mean[:, :3]
    reach = np.quantile(np.abs(away), 0.9, axis=0)
    turns = 2 * pi * np.arange(count) / count
    ways = np.stack(
        [
            np.cos(SPIRAL_TURNS * turns),
            np.sin(SPIRAL_TURNS * turns),
            np.sin(turns),
        ],
        axis=1,
    )
    eyes = middle + (ways * reach) @ mean[:, :3].T
    target = middle + depth * mean[:, 2]
    return [look_at(eye, target, -mean[:, 1]) for eye in eyes]


def interpolated(poses: Array, count: int, loop: bool = False) -> list[Array]:
    """Through poses [V, 3, 4], in their order, at an even pace: `count` poses."""
    ring = np.concatenate([poses, poses[:1]]) if loop else poses
    if len(ring) == 1:
        return [np.array(ring[0]) for _ in range(count)]
    ends = np.linspace(0, 1, count, endpoint=not loop)
    found = through(_pace(ring), ring.reshape(-1, 12), ends, loop)
    return list(orthonormal(found.reshape(-1, 3, 4)))


def flythrough(poses: Array, count: int) -> list[Array]:
    """Along cameras [V, 3, 4] in the order in which they stood, smoothed, at an even pace.

    Each camera is replaced by the mean of its neighbours, with Gaussian weights `SMOOTH` cameras
    wide: a hand-held walk or a drone's strips become a flight.
    """
    at = np.arange(len(poses))
    weights = np.exp(-(((at[:, None] - at) / SMOOTH) ** 2) / 2)
    weights /= weights.sum(axis=1, keepdims=True)
    smooth = np.einsum("uv,vij->uij", weights, poses)
    return interpolated(orthonormal(smooth), count)


def through(times: Array, values: Array, ends: Array, loop: bool = False) -> Array:
    """Catmull-Rom through values [V, C] at rising times [V]: at times `ends` [N], [N, C].

    The curve has one slope at each value, that of its neighbours, so it has no corner. loop: the
    first and the last value are the same, and so is the slope there.
    """
    if len(times) == 1:
        return np.repeat(values, len(ends), axis=0)
    steps = np.diff(times)[:, None]
    slopes = np.diff(values, axis=0) / steps  # [V - 1, C]
    inner = (slopes[:-1] * steps[1:] + slopes[1:] * steps[:-1]) / (steps[:-1] + steps[1:])
    first, last = slopes[:1], slopes[-1:]
    if loop:
        first = last = (slopes[:1] * steps[-1:] + slopes[-1:] * steps[:1]) / (steps[:1] + steps[-1])
    tangents = np.concatenate([first, inner, last])
    piece = np.clip(np.searchsorted(times, ends, side="right") - 1, 0, len(steps) - 1)
    step = steps[piece]
    u = (ends[:, None] - times[piece, None]) / step
    start, stop = values[piece], values[piece + 1]
    leave, arrive = tangents[piece] * step, tangents[piece + 1] * step
    return np.asarray(
        start * (1 + 2 * u) * (1 - u) ** 2
        + leave * u * (1 - u) ** 2
        + stop * u**2 * (3 - 2 * u)
        - arrive * u**2 * (1 - u)
    )


def orthonormal(poses: Array) -> Array:
    """Poses [N, 3, 4] with the nearest rotations for their axes (by singular values).

    Axes that cancel out, between cameras that look into opposite directions, become some rotation.
    """
    left, _, right = np.linalg.svd(poses[:, :, :3])
    flip = np.ones((len(poses), 3))
    flip[:, 2] = np.sign(np.linalg.det(left @ right))
    return np.concatenate([(left * flip[:, None]) @ right, poses[:, :, 3:]], axis=2)


def _pace(poses: Array) -> Array:
    """Times in [0, 1] at which poses [V, 3, 4] are passed, so that the way and the turns are even.

    A step takes its length over the mean length, and its turn in radians; at least a little.
    """
    moved = np.linalg.norm(np.diff(poses[:, :, 3], axis=0), axis=1)
    turned = np.einsum("vij,vij->v", poses[1:, :, :3], poses[:-1, :, :3])
    angle = np.arccos(np.clip((turned - 1) / 2, -1, 1))
    mean = moved.mean() or 1.0
    steps = np.maximum(moved / mean + TURN_WEIGHT * angle, 1e-3)
    times = np.append(0.0, np.cumsum(steps))
    return np.asarray(times / times[-1])


def _decoded(document: Any) -> CameraPath:
    if not isinstance(document, dict) or document["format"] != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    if document["version"] != VERSION:
        raise ValueError(f"its version is {document['version']!r}, not {VERSION}")
    if document["coordinates"] != "source":
        raise ValueError(f"its coordinates are {document['coordinates']!r}, not 'source'")
    frames = tuple(_keyframe(number, one) for number, one in enumerate(document["keyframes"]))
    times = [frame.time for frame in frames]
    if not frames:
        raise ValueError("it has no keyframes")
    if any(late <= early for early, late in pairwise(times)):
        raise ValueError("the times of its keyframes do not rise")
    fps, width, height = float(document["fps"]), int(document["width"]), int(document["height"])
    if not (0 < fps <= 1000 and 1 <= width <= 16384 and 1 <= height <= 16384):
        raise ValueError(f"{width} x {height} pixels at {fps:g} frames a second is no film")
    return CameraPath(frames, fps, bool(document["loop"]), width, height)


def _keyframe(number: int, entry: Any) -> Keyframe:
    pose, fov, time = np.array(entry["pose"], np.float64), float(entry["fov"]), float(entry["time"])
    if pose.shape != (3, 4) or not np.isfinite(pose).all():
        raise ValueError(f"the pose of keyframe {number} is not 3 x 4 finite numbers")
    axes = pose[:, :3]
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4) or np.linalg.det(axes) < 0:
        raise ValueError(f"the pose of keyframe {number} is no rotation")
    if not (1 <= fov <= 179 and np.isfinite(time)):
        raise ValueError(f"keyframe {number} has fov {fov:g} and time {time:g}")
    return Keyframe(time, pose, fov)
