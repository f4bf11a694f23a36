"""Where the scene lies: the similarity into scene coordinates, and the box that is modelled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nerfxl.documents import parsed, text_of
from nerfxl.errors import UserError
from nerfxl.rays import Box

FORMAT, VERSION = "nerfxl scene transform", 1

Array = NDArray[np.float64]
Outside = Literal["contract", "empty"]

_DOWN = 0.5  # sine of 30 degrees: cameras of a flight look at least this far below the horizon
_MANY = 0.9  # of the cameras, or of their sight lines, before they decide
_REACH = 4.0  # heights above ground; a sight line that goes farther sees the horizon
_FLAT = 0.05  # of the longest edge; no edge of a box is shorter
_SAMPLE = 20_000  # points and a tenth of it cameras say where the near ones end
_AT_ONCE = 1 << 20  # distances from points to cameras


@dataclass(frozen=True, eq=False)
class WorldTransform:
    """scene = scale * (rotation @ source) + translation; rotation [3, 3], translation [3].

    Source coordinates are those of the capture's files. In scene coordinates the root box is
    centred at 0 and its longest edge is 2.
    """

    scale: float
    rotation: Array
    translation: Array

    def points(self, points: Array) -> Array:
        """Source to scene: [..., 3] -> [..., 3]."""
        return np.asarray(self.scale * (points @ self.rotation.T) + self.translation)

    def poses(self, poses: Array) -> Array:
        """Camera-to-world, source to scene: [..., 3, 4] -> [..., 3, 4]; rotations stay so."""
        axes = self.rotation @ poses[..., :3]
        return np.concatenate([axes, self.points(poses[..., 3])[..., None]], axis=-1)

    def inverse(self) -> WorldTransform:
        """Scene to source."""
        back = self.rotation.T
        return WorldTransform(1 / self.scale, back, -(back @ self.translation) / self.scale)

    def compose(self, first: WorldTransform) -> WorldTransform:
        """Return what `first`, then this transform does."""
        return WorldTransform(
            self.scale * first.scale,
            self.rotation @ first.rotation,
            self.points(first.translation),
        )

    def to_json(self) -> str:
        """Write it as JSON; `from_json` gives back the same numbers to the last bit."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "scale": float(self.scale),
            "rotation": self.rotation.tolist(),
            "translation": self.translation.tolist(),
        }
        return json.dumps(document, allow_nan=False)

    @staticmethod
    def from_json(text: str, name: str) -> WorldTransform:
        """Read `to_json`'s text; a UserError speaks of the file `name`."""
        return parsed(text, _decode, name, "a scene transform")

    @staticmethod
    def load(path: Path) -> WorldTransform:
        """Read a file of `to_json`; UserError when it is missing or malformed."""
        return WorldTransform.from_json(text_of(path, "a scene transform"), str(path))


@dataclass(frozen=True)
class Bounds:
    """What is modelled, and why.

    box: source units, in the axes of `rotation` (see `estimate_bounds`). outside: 'contract' = the
    border tiles reach to infinity, 'empty' = nothing is there but the background. reason: one
    sentence with the numbers.
    """

    box: Box
    outside: Outside
    reason: str

    def transform(self, rotation: Array) -> WorldTransform:
        """Return the similarity that turns by `rotation` and brings the box into [-1, 1]^3."""
        scale = 2 / max(self.box.size)
        return WorldTransform(scale, rotation, -scale * np.array(self.box.centre))

    @property
    def scene_box(self) -> Box:
        """The box in scene coordinates: centred at 0, longest edge 2."""
        longest = max(self.box.size)
        x, y, z = (edge / longest for edge in self.box.size)
        return Box((-x, -y, -z), (x, y, z))


def orientation(how: str, poses: Array, points: Array) -> Array:
    """Rotation from the axes of the source to those of the scene.

    Parameters
    ----------
    how: 'keep' = none. 'pca' = principal axes of the points (where there are none, of the camera
    positions, which say less: a flight that climbs tilts them), z being the axis of least variance,
    upwards as the cameras have it: their upper edges point up, or they look down. 'up' = the mean
    upper edge of the cameras turned to z by the shortest way (not for cameras that look straight
    down). poses: [N, 3, 4]. points: [P, 3].

    Returns
    -------
    [3, 3], a proper rotation; its rows are the new axes.

    Raises
    ------
    UserError: 'up', and the cameras have no common up.
    ValueError: another word.
    """
    if how == "keep":
        return np.eye(3)
    if how == "up":
        return turn_to_z(-poses[:, :, 1].mean(axis=0))
    if how != "pca":
        raise ValueError(f"orientation {how!r} is not one of keep, pca, up")
    cloud = points
    if len(points) > 3:  # the inner part: a few far points would otherwise choose the axes
        low, high = np.quantile(points, [0.1, 0.9], axis=0)
        cloud = points[((points >= low) & (points <= high)).all(axis=1)]
    cloud = cloud if len(cloud) > 3 else poses[:, :, 3]
    away = cloud - cloud.mean(axis=0)
    axes = np.linalg.eigh(away.T @ away)[1].T  # rows, least variance first
    z, x = axes[0], axes[2]
    upwards = -poses[:, :, 1].mean(axis=0) - poses[:, :, 2].mean(axis=0)
    z = z if z @ upwards >= 0 else -z
    x = x if x[np.abs(x).argmax()] > 0 else -x  # either sign would do: the same on every machine
    return np.stack([x, np.cross(z, x), z])


def estimate_bounds(
    points: Array,
    poses: Array,
    *,
    sights: Array | None = None,
    rotation: Array | None = None,
    quantile: float = 0.01,
    margin: float = 0.1,
    box: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None,
    outside: Outside | Literal["auto"] = "auto",
    isolated: bool = False,
) -> Bounds:
    """Choose the root box and what lies beyond it.

    A flight, whose cameras look down on all points from above, gets the box of the points and of
    the ground that the sight lines meet, with nothing outside. Any other capture gets the box of
    its cameras and of the points near them, contracted outside: points may lie very far away. Where
    there are no points, places along the cameras' axes stand in for them; an isolated object gets
    the box that all cameras see, with nothing outside.

    Parameters
    ----------
    points: [P, 3], may be empty. poses: [N, 3, 4]. sights: [N, S, 3] rays over each picture, from
    corner to corner; all source coordinates. rotation: [3, 3] from `orientation`. quantile: share
    of the points dropped at each end of each axis. margin: added at each side, a fraction of the
    edge (in a flight, of the height of the cameras over the box, if that is more). box: opposite
    corners in source coordinates; taken as it is. outside: 'auto' = as above. isolated: nothing but
    one object is in the images.

    Raises
    ------
    UserError: the box has no extent.
    """
    turn = np.eye(3) if rotation is None else rotation
    points, poses = points @ turn.T, turn @ poses
    sights = None if sights is None else sights @ turn.T
    found = _flight(points, poses, sights, quantile, margin)
    if found is None and isolated and not len(points):
        found = _object(poses, sights, margin)
    if found is None:
        found = _surroundings(points, poses, quantile, margin)
    low, high, chosen, reason = found
    if box is not None:
        corners = np.array(box, dtype=np.float64)
        if not (corners[0] < corners[1]).all():
            raise UserError(f"bounds.box {box} is no box: each low must be below its high.")
        grid = np.stack(np.meshgrid(*corners.T), axis=-1).reshape(8, 3) @ turn.T
        low, high = grid.min(axis=0), grid.max(axis=0)
        reason = f"the box is bounds.box; of the outside: {reason}"
    if outside != "auto" and outside != chosen:
        reason = f"{outside} outside, by bounds.outside; of itself: {reason}"
        chosen = outside
    return Bounds(_box(low, high), chosen, reason)


_Found = tuple[Array, Array, Outside, str]


def _flight(
    points: Array, poses: Array, sights: Array | None, quantile: float, margin: float
) -> _Found | None:
    """Bounds of a flight; None where the cameras do not look down on all points from above."""
    if not len(points):
        return None
    places, forward = poses[:, :, 3], poses[:, :, 2]
    low, high = np.quantile(points, [quantile, 1 - quantile], axis=0)
    down = float(np.median(-forward[:, 2]))
    grown = 0.2 * (high - low)
    over = ((places > low - grown) & (places < high + grown))[:, :2].all(axis=1).mean()
    if (places[:, 2] > high[2]).mean() < _MANY or down < _DOWN or over < 0.5:
        return None
    clearance = float(np.median(places[:, 2]) - high[2])
    # towers have few points: the vertical range drops ten times fewer
    low[2], high[2] = np.quantile(points[:, 2], [quantile / 10, 1 - quantile / 10])
    edge = high - low
    edge[2] = max(edge[2], clearance)
    low, high = low - margin * edge, high + margin * edge
    seen, total = _ground(places, sights, float(np.median(points[:, 2])))
    if len(seen):
        ends = np.quantile(seen, [quantile, 1 - quantile], axis=0)
        low[:2], high[:2] = np.minimum(low[:2], ends[0]), np.maximum(high[:2], ends[1])
    inside = ((seen >= low[:2]) & (seen <= high[:2])).all(axis=1).sum() / max(total, 1)
    closed = not total or inside >= _MANY
    lines = f", {inside:.0%} of their sight lines meet the ground inside the box" if total else ""
    return (
        low,
        high,
        "empty" if closed else "contract",
        f"{'empty' if closed else 'contract'} outside: {len(places)} cameras look down, by "
        f"{np.degrees(np.arcsin(min(down, 1.0))):.0f} degrees, from {clearance:.4g} above the "
        f"{len(points)} points{lines}.",
    )


def _ground(places: Array, sights: Array | None, height: float) -> tuple[Array, int]:
    """Where sight lines meet the level ground, [M, 2], and how many lines there are."""
    if sights is None:
        return np.empty((0, 2)), 0
    origins = np.broadcast_to(places[:, None], sights.shape)[np.isfinite(sights).all(axis=-1)]
    rays = sights[np.isfinite(sights).all(axis=-1)]
    above = origins[:, 2] - height
    near = (above > 0) & (-rays[:, 2] * _REACH > 1)  # distance = above / -z < reach * above
    distance = above[near] / -rays[near, 2]
    return (origins[near] + distance[:, None] * rays[near])[:, :2], len(rays)


def _surroundings(points: Array, poses: Array, quantile: float, margin: float) -> _Found:
    """Bounds of cameras that stand in their scene."""
    places, forward = poses[:, :, 3], poses[:, :, 2]
    low, high = places.min(axis=0), places.max(axis=0)
    extent = float(np.linalg.norm(high - low))
    if len(points):
        some = points[:: max(1, len(points) // _SAMPLE)]
        away = _nearest(some, places)
        usual = float(np.median(away))
        reach = min(2 * usual, max(extent, usual))
        near = some[away <= reach]
        told = (
            f"the {len(near) / len(some):.0%} of the {len(points)} points within {reach:.4g} of one"
        )
    else:
        focus = _focus(poses)
        depth = extent / 4 if focus is None else float(np.median(_norms(focus - places)))
        near = np.concatenate([places + part * depth * forward for part in (0.5, 1.0, 1.5)])
        told = f"places up to {1.5 * depth:.4g} before them, there being no points"
    if len(near):
        ends = np.quantile(near, [quantile, 1 - quantile], axis=0)
        low, high = np.minimum(low, ends[0]), np.maximum(high, ends[1])
    edge = high - low
    return (
        low - margin * edge,
        high + margin * edge,
        "contract",
        f"contract outside: the box holds the {len(places)} cameras and {told}.",
    )


def _object(poses: Array, sights: Array | None, margin: float) -> _Found | None:
    """Bounds of an object that all cameras look at; None where they do not."""
    focus = _focus(poses)
    if focus is None:
        return None
    distance = float(np.median(_norms(focus - poses[:, :, 3])))
    tangent = 0.5
    if sights is not None:
        own = np.abs(np.einsum("nsi,nij->nsj", sights, poses[:, :, :3]))
        tangent = float(np.nanmin(np.nanmax(own[..., :2] / own[..., 2:], axis=1)))
    # the largest ball in every view touches the nearer edges of the picture
    radius = distance * float(np.sin(np.arctan(tangent))) * (1 + 2 * margin)
    return (
        focus - radius,
        focus + radius,
        "empty",
        f"empty outside: {len(poses)} cameras look at one object from {distance:.4g} away, and the "
        f"box is what all of them see, {2 * radius:.4g} wide.",
    )


def _focus(poses: Array) -> Array | None:
    """Find where the optical axes meet; None where they do not meet before the cameras."""
    places, forward = poses[:, :, 3], poses[:, :, 2]
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]  # [N, 3, 3]
    system = across.mean(axis=0)
    if np.linalg.eigvalsh(system)[0] < 0.01:  # all axes parallel
        return None
    focus = np.linalg.solve(system, np.einsum("nij,nj->i", across, places) / len(places))
    towards = focus - places
    facing = np.einsum("ni,ni->n", towards, forward) > 0.8 * _norms(towards)
    return focus if facing.mean() >= _MANY else None


def _nearest(points: Array, places: Array) -> Array:
    """Distance of each point to the nearest camera: [P]."""
    places = places[:: max(1, len(places) // (_SAMPLE // 10))]  # many are dense
    rows = max(1, _AT_ONCE // len(places))
    found = [
        np.linalg.norm(points[start : start + rows, None] - places, axis=-1).min(axis=1)
        for start in range(0, len(points), rows)
    ]
    return np.concatenate(found)


def _norms(vectors: Array) -> Array:
    return np.asarray(np.linalg.norm(vectors, axis=-1))


def turn_to_z(up: Array) -> Array:
    """Return the shortest rotation that brings up to +z (Rodrigues)."""
    length = float(np.linalg.norm(up))
    if length < 0.1:
        raise UserError(
            "capture.orientation 'up': the cameras have no common up, the mean of theirs is only "
            f"{length:.2f} long; use 'pca' or 'keep'."
        )
    x, y, z = up / length
    across = x * x + y * y
    if across < 1e-30:  # within rounding of the axis
        return np.eye(3) if z > 0 else np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    factor = 1 / (1 + z) if z > 0 else (1 - z) / across  # the same, without cancelling near -z
    return np.asarray(np.eye(3) + cross + cross @ cross * factor)


def _box(low: Array, high: Array) -> Box:
    longest = float((high - low).max())
    if not np.isfinite(longest) or longest <= 0:
        raise UserError(
            "the cameras stand at one point and there are no points, so that no box can be found; "
            "give bounds.box."
        )
    middle, half = (low + high) / 2, np.maximum(high - low, _FLAT * longest) / 2
    (ax, ay, az), (bx, by, bz) = (middle - half).tolist(), (middle + half).tolist()
    return Box((ax, ay, az), (bx, by, bz))


def _decode(document: Any) -> WorldTransform:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'it has no "format": "{FORMAT}"')
    if document["version"] != VERSION:
        raise ValueError(f"it has version {document['version']}, expected {VERSION}")
    scale = float(document["scale"])
    rotation = np.array(document["rotation"], dtype=np.float64)
    translation = np.array(document["translation"], dtype=np.float64)
    if rotation.shape != (3, 3) or translation.shape != (3,):
        raise ValueError("rotation is not 3 x 3 or translation is not 3 numbers")
    if not (np.isfinite(scale) and scale > 0 and np.isfinite(translation).all()):
        raise ValueError("scale or translation is not finite, or scale is not above 0")
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6) or np.linalg.det(rotation) < 0:
        raise ValueError("rotation is not a rotation")
    return WorldTransform(scale, rotation, translation)
