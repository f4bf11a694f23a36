"""What stands in the room beside the scene: the cameras, the tiles, the root box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nerfxl.cameras import look_at
from nerfxl.pictures import Colour, tile_colours
from nerfxl.prepare import RunScene, Shot
from nerfxl.rays import Box
from nerfxl.viewing.sight import ROOM, Array, field_of_view, room

TRAIN: Colour = (74, 144, 226)
HELD_OUT: Colour = (255, 149, 0)
ROOT: Colour = (128, 131, 137)
SIZES = (0.004 * ROOM, 0.05 * ROOM)  # room units, of a drawn camera
MOST_CAMERAS = 600  # that are drawn; more are thinned out evenly
SPACING = 0.15  # size of a drawn camera, in distances to the next one

# The edges of a box: corners, numbered by their bits, that differ in one.
EDGES = [(a, a | 1 << axis) for a in range(8) for axis in range(3) if not a >> axis & 1]


@dataclass(frozen=True, eq=False)
class Stand:
    """A camera as it stands in the room. pose: [3, 4], room units. fov: vertical, radians."""

    shot: Shot
    pose: Array
    fov: float
    aspect: float

    @property
    def colour(self) -> Colour:
        """By what its photograph is for."""
        return HELD_OUT if self.shot.test else TRAIN


@dataclass(frozen=True, eq=False)
class Wire:
    """A box of lines. lines: [12, 2, 3], room units. centre: [3], where its number stands."""

    number: int | None
    lines: Array
    centre: Array
    colour: Colour


def stands(scene: RunScene, shots: list[Shot]) -> list[Stand]:
    """The cameras to draw, `MOST_CAMERAS` at most; held-out ones are left out last."""
    if len(shots) > MOST_CAMERAS:
        test = [shot for shot in shots if shot.test][:MOST_CAMERAS]
        train = [shot for shot in shots if not shot.test]
        chosen = np.linspace(0, len(train) - 1, MOST_CAMERAS - len(test)).round().astype(int)
        shots = [*test, *(train[k] for k in np.unique(chosen))]
    place = room(scene.world)
    return [
        Stand(
            shot,
            place.poses(shot.pose[None])[0],
            field_of_view(shot.camera),
            shot.camera.width / shot.camera.height,
        )
        for shot in shots
    ]


def size_of(found: list[Stand]) -> float:
    """How large to draw cameras, room units: so that neighbours stand apart."""
    places = np.stack([stand.pose[:, 3] for stand in found])
    if len(places) < 2:
        return 0.05 * ROOM
    some = places[:: max(1, len(places) // 200)]
    away = np.linalg.norm(some[:, None] - places[None], axis=2)
    away[away == 0] = np.inf
    return float(np.clip(SPACING * np.median(away.min(axis=1)), *SIZES))


def wires(scene: RunScene) -> list[Wire]:
    """The tiles, inside the root box, and the root box itself, last."""
    colours = tile_colours(len(scene.plan))
    tiles = [
        _wire(k, core, colour)
        for k, (core, colour) in enumerate(zip(scene.plan.cores, colours, strict=True))
    ]
    return [*tiles, _wire(None, scene.plan.root, ROOT)]


def overview(scene: RunScene, up: tuple[float, float, float]) -> Array:
    """A pose from which all boxes are seen, obliquely from above: [3, 4], room units."""
    above = np.array(up)
    side = np.roll(above, 1)
    away = 0.6 * side + 0.8 * np.cross(above, side) + 0.7 * above
    root = scene.plan.root
    centre, reach = np.array(root.centre), float(np.linalg.norm(root.size))
    return look_at(ROOM * (centre + reach * away), ROOM * centre, above)


def _wire(number: int | None, box: Box, colour: Colour) -> Wire:
    sides = (box.low, box.high)
    corners = np.array([[sides[k >> axis & 1][axis] for axis in range(3)] for k in range(8)])
    centre = np.array(box.centre)
    if number is not None:  # a little inside: the edges of neighbours would lie in one another
        corners = centre + 0.995 * (corners - centre)
    return Wire(number, ROOM * corners[EDGES], ROOM * centre, colour)
