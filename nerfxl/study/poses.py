"""How far disturbed cameras are from the truth, before and after correction, and among tiles."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from nerfxl.prepare import read_back
from nerfxl.runs import RunFolder
from nerfxl.storage.checkpoint import Origin, latest, read
from nerfxl.views import corrected, rotation

Array = NDArray[np.float64]

JOINT, INDEPENDENT = "views.pose", "shared.views.pose"  # names of tensors in checkpoints


@dataclass(frozen=True)
class Error:
    """Mean errors of cameras. rotation: degrees. translation: as a share of the box."""

    rotation: float
    translation: float


@dataclass(frozen=True)
class Views:
    """The views whose true pose is known, camera-to-world in scene coordinates, [V, 3, 4] each.

    rows: [V], where they stand among all views. edge: of the root box, its longest.
    """

    given: Array
    true: Array
    rows: NDArray[np.int64]
    edge: float


def measured(run: RunFolder) -> dict[str, float]:
    """Pose errors of a run by name; what cannot be said is left out.

    before_*: as the poses were given. after_*: as they were corrected; of independent tiles, the
    mean over each camera and each tile that corrected it. *_aligned: after the similarity that
    brings the cameras (of each tile) nearest to the truth, which no picture could tell from none.
    apart_*: between two tiles' corrections of the same camera.
    """
    views = _views(run)
    if not len(views.rows):
        return {}
    found = _said("before", error(views.given, views.true, views.edge))
    aligned = align(views.given, views.true)
    found |= _said("before", error(aligned, views.true, views.edge), "_aligned")
    corrections = _corrections(run)
    if not corrections:
        return found
    after, after_aligned, weights = [], [], []
    for correction in corrections:
        own = correction[views.rows]
        moved = np.abs(own).max(1) > 0  # a tile never touches the cameras that do not see it
        if not moved.any():
            continue
        posed, true = corrected(views.given[moved], own[moved]), views.true[moved]
        after.append(error(posed, true, views.edge))
        after_aligned.append(error(align(posed, true), true, views.edge))
        weights.append(int(moved.sum()))
    if after:
        found |= _said("after", _mean(after, weights))
        found |= _said("after", _mean(after_aligned, weights), "_aligned")
    found |= apart(np.stack(corrections)[:, views.rows], views.edge)
    return found


def error(poses: Array, true: Array, edge: float) -> Error:
    """Mean distance of two sets of poses, [V, 3, 4] each."""
    turned = poses[:, :, :3] @ true[:, :, :3].transpose(0, 2, 1)
    moved = np.linalg.norm(poses[:, :, 3] - true[:, :, 3], axis=1)
    return Error(float(np.degrees(angle(turned)).mean()), float(moved.mean() / edge))


def align(poses: Array, true: Array) -> Array:
    """Poses after the similarity that brings them nearest to the true ones, [V, 3, 4] each.

    A camera stands for four points: its centre, and the ends of its axes, which are as long as the
    centres are far apart. So the turn is known for cameras on one line, too. The scale is that of
    the centres alone.
    """
    centre, goal = poses[:, :, 3].mean(0), true[:, :, 3].mean(0)
    own, other = poses[:, :, 3] - centre, true[:, :, 3] - goal
    length = float((other**2).sum(1).mean()) or 1.0
    axes = np.einsum("vij,vkj->ik", true[:, :, :3], poses[:, :, :3])
    left, _, right = np.linalg.svd(other.T @ own + length * axes)
    turn = left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
    turned = own @ turn.T
    size = float((turned**2).sum())
    scale = float((other * turned).sum()) / size if size else 1.0
    placed = scale * turned + goal
    return np.concatenate([turn @ poses[:, :, :3], placed[..., None]], axis=-1)


def apart(corrections: Array, edge: float) -> dict[str, float]:
    """How much tiles disagree on a camera: corrections [K, V, 6], zero where a tile has none.

    Means over the cameras that two tiles or more have corrected, of the mean over pairs of these.
    """
    rotations, translations = [], []
    for camera in corrections.transpose(1, 0, 2):  # [K, 6]
        own = camera[np.abs(camera).max(1) > 0]
        pairs = list(combinations(range(len(own)), 2))
        if pairs:
            a, b = (own[list(side)] for side in zip(*pairs, strict=True))
            turn = rotation(a[:, :3]) @ rotation(b[:, :3]).transpose(0, 2, 1)
            rotations.append(float(np.degrees(angle(turn)).mean()))
            translations.append(float(np.linalg.norm(a[:, 3:] - b[:, 3:], axis=1).mean()) / edge)
    if not rotations:
        return {}
    return {"apart_rotation": fmean(rotations), "apart_translation": fmean(translations)}


def angle(turns: Array) -> Array:
    """Angles [V] of rotations [V, 3, 3], radians; exact for small ones, too."""
    skew = turns - turns.transpose(0, 2, 1)
    sine = np.sqrt(skew[:, 2, 1] ** 2 + skew[:, 0, 2] ** 2 + skew[:, 1, 0] ** 2) / 2
    return np.asarray(np.arctan2(sine, (np.trace(turns, axis1=1, axis2=2) - 1) / 2))


def _views(run: RunFolder) -> Views:
    """The views of a run that were disturbed."""
    scene = read_back(run)
    views = json.loads(run.cameras.read_text())["views"]
    rows = [row for row, view in enumerate(views) if view.get("true_pose") is not None]
    given, true = (
        scene.world.poses(np.array([views[row][key] for row in rows]).reshape(-1, 3, 4))
        for key in ("pose", "true_pose")
    )
    return Views(given, true, np.array(rows, np.int64), max(scene.plan.root.size))


def _corrections(run: RunFolder) -> list[Array]:
    """What was learned of the cameras: once, [V, 6], or of each tile."""
    scene = read_back(run)
    origin = Origin.of(run, scene.spec.name, scene.plan)
    folder = latest(run.checkpoints, origin)
    shared = read(folder, origin, ()).shared
    if JOINT in shared:
        return [shared[JOINT].double().numpy()]
    # A tile at a time: all of them may be more than fits.
    tiles = (read(folder, origin, (tile,)).tiles[tile] for tile in range(len(scene.plan)))
    return [held[INDEPENDENT].double().numpy() for held in tiles if INDEPENDENT in held]


def _mean(errors: list[Error], weights: list[int]) -> Error:
    rotation, translation = (
        float(np.average([getattr(one, name) for one in errors], weights=weights))
        for name in ("rotation", "translation")
    )
    return Error(rotation, translation)


def _said(when: str, found: Error, how: str = "") -> dict[str, float]:
    return {f"{when}_rotation{how}": found.rotation, f"{when}_translation{how}": found.translation}
