"""Cameras: from pixels to rays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import acos, degrees, isfinite, pi, radians, tan

import numpy as np
from numpy.typing import NDArray

# COLMAP's camera models, in the order of COLMAP's numbers, and how many parameters each has. Those
# of _ONE_FOCAL start with (f, cx, cy), EQUIRECTANGULAR is (w, h), all others start with
# (fx, fy, cx, cy).
MODELS = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
    "RAD_TAN_THIN_PRISM_FISHEYE": 16,
    "SIMPLE_DIVISION": 4,
    "DIVISION": 5,
    "SIMPLE_FISHEYE": 3,
    "FISHEYE": 4,
    "EUCM": 6,
    "EQUIRECTANGULAR": 2,
}
_ONE_FOCAL = {
    "SIMPLE_PINHOLE": "PINHOLE",
    "SIMPLE_RADIAL": "OPENCV",
    "RADIAL": "OPENCV",
    "SIMPLE_RADIAL_FISHEYE": "OPENCV_FISHEYE",
    "RADIAL_FISHEYE": "OPENCV_FISHEYE",
    "SIMPLE_DIVISION": "DIVISION",
    "SIMPLE_FISHEYE": "FISHEYE",
}
_ANGULAR = {
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
    "OPENCV_FISHEYE",
    "SIMPLE_FISHEYE",
    "FISHEYE",
}
_PIXELS_AT_ONCE = 1 << 20
_REPROJECTION = 0.1  # px; a ray that projects farther from its pixel is not that pixel's ray


@dataclass(frozen=True)
class Camera:
    """The inside of a camera, in COLMAP's terms.

    model: a name of MODELS. width, height: pixels. params: as COLMAP orders them, in pixels of
    this size, the centre of the first pixel lying at (0.5, 0.5). Camera axes: x right, y down,
    z forward.
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def scaled(self, width: int, height: int) -> Camera:
        """Return the same camera for the same picture resized to width x height pixels.

        A model with one focal length becomes its sibling with two where the two axes are not
        scaled alike.
        """
        return self._resized(width, height, width / self.width, height / self.height)

    def reduced(self, divisor: int) -> Camera:
        """Return the camera of the picture whose pixels are blocks of divisor x divisor pixels.

        Its size is floor(width / divisor) x floor(height / divisor): blocks that would reach over
        the right or lower edge are dropped, so that both axes are scaled by exactly 1 / divisor.
        """
        factor = 1 / divisor
        return self._resized(self.width // divisor, self.height // divisor, factor, factor)

    def rows(self, first: int, count: int) -> Camera:
        """Return the camera of some rows of the picture, whose rays are the same.

        Raises
        ------
        ValueError: the rows of a panorama are no panorama.
        """
        if self.model == "EQUIRECTANGULAR":
            raise ValueError("a panorama cannot be cut into rows")
        at = 2 if self.model in _ONE_FOCAL else 3
        params = (*self.params[:at], self.params[at] - first, *self.params[at + 1 :])
        return Camera(self.model, self.width, count, params)

    def enlarged(self, factor: int, width: int, height: int) -> Camera:
        """Undo `reduced`: the camera of the whole picture, of width x height pixels."""
        return self._resized(width, height, factor, factor)

    def directions(self) -> NDArray[np.float32]:
        """Rays through all pixel centres.

        Returns
        -------
        [height, width, 3]: unit vectors, camera axes. NaN where the distortion cannot be inverted
        (the pixel sees nothing that the model can explain): such pixels must not be used.
        """
        rays = np.empty((self.height * self.width, 3), dtype=np.float32)
        for start in range(0, len(rays), _PIXELS_AT_ONCE):
            index = np.arange(start, min(start + _PIXELS_AT_ONCE, len(rays)))
            pixels = np.stack([index % self.width, index // self.width], axis=1)
            rays[index] = self.directions_at(pixels.astype(np.float64) + 0.5)
        return rays.reshape(self.height, self.width, 3)

    def directions_at(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rays through any points of the picture.

        Pinhole models are inverted in closed form, fisheyes with radial distortion by the angle
        (so that they may see more than 180 degrees), all others by pycolmap. The prism fisheyes
        are limited to less than 90 degrees from the axis, beyond which pycolmap does not go.

        Parameters
        ----------
        pixels: [N, 2] = (x, y), the centre of the first pixel being (0.5, 0.5).

        Returns
        -------
        [N, 3]: unit vectors, camera axes; NaN where there is no ray.
        """
        if self.model in ("PINHOLE", "SIMPLE_PINHOLE"):
            plane = (pixels - self._centre) / self._focal  # [N, 2] at z = 1
            rays = np.concatenate([plane, np.ones_like(plane[:, :1])], axis=1)
            return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True), dtype=np.float64)
        if self.model in _ANGULAR:
            return self._fisheye(pixels)
        return self._by_pycolmap(pixels)

    def fan(self, count: int = 5) -> NDArray[np.float64]:
        """Rays through count x count points spread over the picture from corner to corner.

        Returns
        -------
        [count^2, 3]: unit vectors, camera axes; NaN where there is no ray.
        """
        x, y = np.meshgrid(np.linspace(0, self.width, count), np.linspace(0, self.height, count))
        return self.directions_at(np.stack([x.ravel(), y.ravel()], axis=1))

    @property
    def _focal(self) -> NDArray[np.float64]:
        return np.array([self.params[0], self.params[0 if self.model in _ONE_FOCAL else 1]])

    @property
    def _centre(self) -> NDArray[np.float64]:
        first = 1 if self.model in _ONE_FOCAL else 2
        return np.array(self.params[first : first + 2])

    def _resized(self, width: int, height: int, x: float, y: float) -> Camera:
        p = self.params
        if self.model == "EQUIRECTANGULAR":
            return Camera(self.model, width, height, (p[0] * x, p[1] * y))
        if self.model not in _ONE_FOCAL:
            return Camera(
                self.model, width, height, (p[0] * x, p[1] * y, p[2] * x, p[3] * y, *p[4:])
            )
        if x == y:
            return Camera(self.model, width, height, (p[0] * x, p[1] * x, p[2] * x, *p[3:]))
        sibling = _ONE_FOCAL[self.model]
        params = (p[0] * x, p[0] * y, p[1] * x, p[2] * y, *p[3:])
        padding = (0.0,) * (MODELS[sibling] - len(params))
        return Camera(sibling, width, height, params + padding)

    def _fisheye(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Invert radius = angle (1 + k1 angle^2 + k2 angle^4 + ...) as far as it grows."""
        extra = self.params[3 if self.model in _ONE_FOCAL else 4 :]
        polynomial = np.polynomial.Polynomial([0.0, 1.0, *(v for k in extra for v in (0.0, k))])
        slope = polynomial.deriv()
        angles = np.linspace(0, pi, 4097)
        falling = np.flatnonzero(slope(angles) <= 0)
        if len(falling):
            angles = angles[: falling[0]]
        plane = (pixels - self._centre) / self._focal  # [N, 2]
        radius = np.hypot(plane[:, 0], plane[:, 1])  # [N]
        angle = np.interp(radius, polynomial(angles), angles, right=np.nan)
        for _ in range(3):  # the table is good to 1e-3; Newton squares the error each time
            angle = angle - (polynomial(angle) - radius) / slope(angle)
        # sin(angle) / radius tends to 1 on the axis
        ratio = np.sin(angle) / np.where(radius > 0, radius, 1)
        ratio = np.where(radius > 0, ratio, 1)
        rays = np.concatenate([plane * ratio[:, None], np.cos(angle)[:, None]], axis=1)
        return np.asarray(rays, dtype=np.float64)

    def _by_pycolmap(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        from nerfxl.colmap import pycolmap  # heavy, and needed by cameras with distortion alone

        camera = pycolmap.Camera(
            model=self.model, width=self.width, height=self.height, params=list(self.params)
        )
        rays = np.array(camera.cam_ray_from_img(np.ascontiguousarray(pixels)), dtype=np.float64)
        # Where the iteration ends elsewhere pycolmap says so by NaN, or, for wide fisheyes, not
        # at all: only a ray that projects back to its pixel counts.
        known = np.isfinite(rays).all(axis=1)
        back = np.asarray(camera.img_from_cam(rays[known], False))
        rays[np.flatnonzero(known)[~(np.abs(back - pixels[known]).max(axis=1) < _REPROJECTION)]] = (
            np.nan
        )
        return rays


def pinhole(width: int, height: int, fov: float) -> Camera:
    """A camera without distortion, its axis through the middle; fov: vertical, degrees.

    >>> pinhole(400, 200, 90).params
    (100.0, 100.0, 200.0, 100.0)
    """
    focal = round(height / 2 / tan(radians(fov) / 2), 9)
    return Camera("PINHOLE", width, height, (focal, focal, width / 2, height / 2))


def vertical_fov(camera: Camera) -> float:
    """Degrees between the middles of a picture's upper and lower edge; 90 where there is no ray."""
    middle = camera.width / 2
    up, down = camera.directions_at(np.array([[middle, 0.0], [middle, camera.height]]))
    angle = degrees(acos(np.clip(up @ down, -1, 1)))
    return angle if isfinite(angle) else 90.0


def look_at(
    eye: Sequence[float] | NDArray[np.float64],
    target: Sequence[float] | NDArray[np.float64],
    up: Sequence[float] | NDArray[np.float64] = (0.0, 0.0, 1.0),
) -> NDArray[np.float64]:
    """Pose of a camera at eye that looks at target and holds its upper edge towards up.

    A camera that looks along up holds its upper edge towards +y instead.

    Returns
    -------
    [3, 4]: camera-to-world, x right, y down, z forward.

    Raises
    ------
    ValueError: eye and target are the same point.
    """
    origin = np.asarray(eye, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - origin
    length = np.linalg.norm(forward)
    if length == 0:
        raise ValueError("a camera cannot look at the point where it stands")
    forward = forward / length
    right = np.cross(forward, np.asarray(up, dtype=np.float64))
    if np.linalg.norm(right) < 1e-9:
        right = np.cross(forward, (0.0, 1.0, 0.0))
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward, origin], axis=1)
