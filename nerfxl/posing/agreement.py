"""Whether poses agree with the matches: a part of a model that was linked wrongly is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerfxl.posing.matching import Seen, verified

Array = NDArray[np.float64]
Pair = tuple[str, str]

_NEAR = 4.0  # pixels from the epipolar line: pycolmap's own limit when it verified the matches
_ADRIFT = 100.0  # times as far from the middle as half of all: no capture is spread like that
_AGREE = 0.3  # of a pair's matches; of a pair that was linked wrongly nearly none are near


def agreeing(model: Any, database: Path) -> list[str]:
    """Names of the photographs of the largest part of a model that its own matches agree with."""
    images = [model.image(number) for number in model.reg_image_ids()]
    places = np.array([image.projection_center() for image in images])
    names = [image.name for image, lost in zip(images, adrift(places), strict=True) if not lost]
    ties = ties_of(model, verified(database, set(names)))
    return sorted(largest_part(names, ties))


def adrift(places: Array) -> NDArray[np.bool_]:
    """Which places [N, 3] lie so far from the others that nothing can have fixed how far.

    A part that is linked by a turn on the spot alone may have any size.

    >>> adrift(np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [9e4, 0, 0.0]]))
    array([False, False, False, False,  True])
    """
    away = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    return np.asarray(away > _ADRIFT * np.median(away))


def largest_part(names: Sequence[str], ties: Mapping[Pair, tuple[int, float]]) -> set[str]:
    """Return the largest part of a model that its matches agree with.

    The pairs of most matches are heard first: one that agrees with the poses joins two parts, one
    that does not keeps them apart for good. Two parts of a scene that were put together by things
    that look alike are also tied by what they truly share, and that is more. That many weaker ties
    agree says nothing: poses were made of them, and one wall that looks like another gives many.

    ties: of each pair the number of its matches, and the share of them that agrees. What no tie
    holds stays with the largest part.

    >>> ties = {("a", "b"): (90, 1.0), ("b", "c"): (50, 0.0), ("a", "c"): (40, 1.0)}
    >>> sorted(largest_part("abc", ties))
    ['a', 'b']
    """
    part = {name: name for name in names}
    apart: dict[str, set[str]] = {name: set() for name in names}  # of the first of each part
    heard = sorted(ties.items(), key=lambda tie: (-tie[1][0], tie[1][1] < _AGREE))
    for (one, other), (_, share) in heard:
        a, b = _root(part, one), _root(part, other)
        if a == b:
            continue
        if share < _AGREE:
            apart[a].add(b)
            apart[b].add(a)
        elif b not in apart[a]:
            part[b] = a
            apart[a] |= apart[b]
            for third in apart[b]:
                apart[third].add(a)
    tied = {name for pair in ties for name in pair}
    roots = [_root(part, name) for name in names if name in tied]
    most = max(sorted(set(roots)), key=roots.count, default="")
    return {name for name in names if name not in tied or _root(part, name) == most}


def _root(parents: dict[str, str], name: str) -> str:
    while parents[name] != name:
        parents[name] = parents[parents[name]]
        name = parents[name]
    return name


def ties_of(model: Any, pairs: Sequence[Seen]) -> dict[Pair, tuple[int, float]]:
    """Return the matches of each pair, and the share that lies near its epipolar line."""
    images = {image.name: image for image in map(model.image, model.reg_image_ids())}
    found = {}
    for pair in pairs:
        one, other = images[pair.one], images[pair.other]
        lens = model.cameras[one.camera_id]
        rays = _plane(lens, pair.here), _plane(model.cameras[other.camera_id], pair.there)
        step = other.cam_from_world() * one.cam_from_world().inverse()
        away = epipolar_distance(step.rotation.matrix(), step.translation, *rays)
        share = float((away * lens.mean_focal_length() < _NEAR).mean())
        found[pair.one, pair.other] = len(pair.here), share
    return found


def epipolar_distance(turn: Array, shift: Array, here: Array, there: Array) -> Array:
    """Distance of matches [N, 3], at depth 1, from where a step of the camera expects them: [N].

    Sampson's, to first order in both pictures; NaN where a point has no ray.
    """
    x, y, z = shift / max(float(np.linalg.norm(shift)), 1e-12)
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ turn
    line, back = here @ essential.T, there @ essential
    slope = np.hypot(np.hypot(line[:, 0], line[:, 1]), np.hypot(back[:, 0], back[:, 1]))
    return np.asarray(np.abs((there * line).sum(axis=1)) / np.maximum(slope, 1e-12))


def _plane(camera: Any, pixels: Array) -> Array:
    """Points of the picture [N, 2] on the plane at depth 1: [N, 3]."""
    flat = np.asarray(camera.cam_from_img(pixels), dtype=np.float64)
    return np.column_stack([flat, np.ones(len(flat))])
