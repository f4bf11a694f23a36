"""What a window asks to see, as cameras that render it at any size, whole or row by row."""

from __future__ import annotations

from dataclasses import dataclass
from math import atan, radians, tan

import numpy as np
import torch
from numpy.typing import NDArray

from nerfxl.cameras import Camera, vertical_fov
from nerfxl.filming.stills import Picture
from nerfxl.world import WorldTransform

ROOM = 10.0  # units of the browser's room in a scene unit: its keys walk 2 of them a second
DEEPEST = 160.0  # room units: a little less than a browser's picture of depths can hold
FINE_DEPTH = 480  # pixels of a row of them
WIDEST = 2.0  # radians: no window shows more from top to bottom

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sight:
    """A window onto the scene.

    pose: [3, 4] camera-to-world, source coordinates, OpenCV's axes. fov: vertical, radians.
    width, height: of the window, pixels. like: the photograph whose look is taken; None = none.
    """

    pose: Array
    fov: float
    width: int
    height: int
    like: str | None = None

    def camera(self, width: int, height: int) -> Camera:
        """The window's camera at another number of pixels; it sees what the whole window sees."""
        focal = height / 2 / tan(self.fov / 2)
        across = focal * (width / height) / (self.width / self.height)
        return Camera("PINHOLE", width, height, (across, focal, width / 2, height / 2))


def room(world: WorldTransform) -> WorldTransform:
    """From source coordinates to the room in which a browser places cameras and boxes."""
    return WorldTransform(ROOM, np.eye(3), np.zeros(3)).compose(world)


def upward(poses: Array, turned: bool) -> tuple[float, float, float]:
    """Which way is up, for the mouse: +z, or where it is not known that z is, as cameras say.

    poses: [N, 3, 4], scene coordinates. turned: whether z was turned up. Cameras are held upright,
    or look down: where neither says that z is up, it is the axis along which they are held.
    """
    held, forward = -poses[:, :, 1].mean(axis=0), poses[:, :, 2].mean(axis=0)
    hint = held - forward
    axis = int(np.abs(held).argmax())
    if turned or hint[2] > np.abs(hint).max() / 2 or abs(held[axis]) < 0.5:
        return 0.0, 0.0, 1.0
    unit = np.sign(held) * (np.arange(3) == axis)
    return float(unit[0]), float(unit[1]), float(unit[2])


def field_of_view(camera: Camera) -> float:
    """Vertical angle that a camera sees, radians; `WIDEST` of lenses that see more."""
    return min(radians(vertical_fov(camera)), WIDEST)


def window_onto(camera: Camera, aspect: float) -> float:
    """The field of view of a window, width over height, that shows all that a camera sees."""
    fov, own = field_of_view(camera), camera.width / camera.height
    return fov if aspect >= own else min(2 * atan(tan(fov / 2) * own / aspect), WIDEST)


class Task:
    """A picture that is rendered a few rows at a time, so that it can be left at any moment."""

    def __init__(self, camera: Camera, pose: Array, like: str | None) -> None:
        self.camera, self.pose, self.like = camera, pose, like
        self._row = 0
        self._pieces: list[Picture] = []

    @property
    def share(self) -> float:
        """How much of it is done."""
        return self._row / self.camera.height

    def next(self, pixels: int) -> Camera:
        """The camera of the next rows, as many as have about so many pixels."""
        if self.camera.model == "EQUIRECTANGULAR":
            return self.camera
        rows = max(1, round(pixels / self.camera.width))
        return self.camera.rows(self._row, min(rows, self.camera.height - self._row))

    def add(self, piece: Picture) -> Picture | None:
        """Take the rows that `next` asked for; the whole picture when they were the last."""
        self._row += len(piece.depth)
        self._pieces.append(piece)
        if self._row < self.camera.height:
            return None
        names = ("colour", "depth", "opacity", "spread")
        stacks = ([getattr(one, name) for one in self._pieces] for name in names)
        return Picture(*(torch.cat(stack) for stack in stacks))


def hiding(picture: Picture, camera: Camera, scale: float) -> NDArray[np.float32]:
    """How far the scene is along the camera's axis, where it hides what stands behind it.

    scale: room units in a source unit. [h, w], room units, of every n-th pixel: finer edges
    would not be seen. Where there is no surface nothing is hidden.
    """
    every = max(1, -(-camera.width // FINE_DEPTH))
    some = np.s_[::every, ::every]
    depth = picture.depth.numpy()[some] * camera.directions()[some][..., 2] * scale
    return np.where(np.isnan(depth), DEEPEST, depth.clip(0, DEEPEST)).astype(np.float32)
