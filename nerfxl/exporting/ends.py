"""Where the rays of the training views end: what the photographs saw of the scene's surfaces."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nerfxl.cameras import Camera
from nerfxl.errors import UserError
from nerfxl.filming.stills import Picture, normals, surface
from nerfxl.opened import Opened
from nerfxl.pictures import to_uint8
from nerfxl.prepare import Shot
from nerfxl.rays import Box

Floats = NDArray[np.float64]

LEAST_EDGE = 8  # pixels of a view: below that a picture says nothing of the scene's shape


@dataclass(frozen=True)
class Sieve:
    """Which rays end at something.

    opacity: at least. spread: at most, of the depth, as a share of it (see `Picture`). box: scene
    coordinates, in which they end; None: anywhere.
    """

    opacity: float
    spread: float
    box: Box | None


@dataclass(frozen=True, eq=False)
class Ends:
    """N ends of rays, source coordinates.

    places: [N, 3] float64. along: [N, 3], unit, how the ray goes. normals: [N, 3], unit, towards
    the camera. colours: [N, 3]. gap: [N], how far apart neighbouring rays end, across. blur: [N],
    how far apart two draws of where the light ends are, along the ray.
    """

    places: Floats
    along: NDArray[np.float32]
    normals: NDArray[np.float32]
    colours: NDArray[np.uint8]
    gap: NDArray[np.float32]
    blur: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.places)

    def only(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> Ends:
        """Some of them, by a mask or by rows."""
        return Ends(*(getattr(self, field.name)[keep] for field in fields(self)))


def find_ends(
    opened: Opened, rays: int, sieve: Sieve, told: Callable[[int], None] = lambda _: None
) -> Ends:
    """Render the training views, about as many rays in all, and keep those that end at something.

    Views are rendered smaller for that, as by nobody, so that the exposures of photographs leave
    no seams. told: hears how many views are done.

    Raises
    ------
    UserError: no ray passes the sieve.
    """
    shots = [shot for shot in opened.shots() if not shot.test]
    divisor = _divisor([shot.camera for shot in shots], rays)
    found = []
    for count, shot in enumerate(shots, start=1):
        edge = min(shot.camera.width, shot.camera.height)
        camera = shot.camera.reduced(max(1, min(divisor, edge // LEAST_EDGE)))
        made = opened.render(camera, shot.pose)
        found.append(_of_view(opened, made, camera, shot, sieve))
        told(count)
    whole = Ends(*(np.concatenate([getattr(e, f.name) for e in found]) for f in fields(Ends)))
    if not len(whole):
        raise UserError(
            f"{opened.run.path}: of the rays of its {len(shots)} training views none ends inside "
            f"the box with an opacity of {sieve.opacity:g} or more and a spread of "
            f"{sieve.spread:g} or less; train it for longer, or ask for less (of a mesh, by "
            "--keep-hidden with a --level)."
        )
    return whole


def _divisor(cameras: Sequence[Camera], rays: int) -> int:
    """By how much views are made smaller to have so many pixels in all, or somewhat more."""
    pixels = sum(camera.width * camera.height for camera in cameras)
    return max(1, math.isqrt(max(1, pixels // rays)))


def _of_view(opened: Opened, made: Picture, camera: Camera, shot: Shot, sieve: Sieve) -> Ends:
    places = surface(made, camera, shot.pose)
    facing = normals(made, camera, shot.pose)
    opacity, spread, depth = (
        part.numpy().astype(np.float64) for part in (made.opacity, made.spread, made.depth)
    )
    keep = (opacity >= sieve.opacity) & (spread <= sieve.spread) & np.isfinite(facing).all(-1)
    rows = np.flatnonzero(keep)
    places = places.reshape(-1, 3)[rows]
    if sieve.box is not None:
        placed = opened.scene.world.points(places)
        inside = ((placed > sieve.box.low) & (placed < sieve.box.high)).all(1)
        rows, places = rows[inside], places[inside]
    sights = camera.directions().reshape(-1, 3)
    between = np.linalg.norm(np.diff(camera.directions()[camera.height // 2], axis=0), axis=1)
    away = depth.reshape(-1)[rows]
    return Ends(
        places,
        (sights[rows] @ shot.pose[:, :3].T).astype(np.float32),
        facing.reshape(-1, 3)[rows].astype(np.float32),
        to_uint8(made.colour.numpy()).reshape(-1, 3)[rows],
        (np.nanmedian(between) * away).astype(np.float32),
        (spread.reshape(-1)[rows] * away).astype(np.float32),
    )
