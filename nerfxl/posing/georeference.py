"""From the axes of a model to the world's: z up, and metres east and north where GPS tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerfxl.posing.gps import Place, metres, origin_of
from nerfxl.posing.level import How, level
from nerfxl.world import WorldTransform, turn_to_z

Array = NDArray[np.float64]

_LEAST = 3  # photographs with GPS
_LOOSE = 0.25  # of the cameras' extent; a fit that is worse says nothing
_TRIED = 500  # pairs of photographs from which the first guess is the best


@dataclass(frozen=True)
class Fit:
    """Metres = factor (x + iy) + shift, by GPS; residuals: [N] metres, horizontal."""

    factor: complex
    shift: complex
    residuals: Array


@dataclass(frozen=True)
class Georeference:
    """How a model comes into the world.

    transform: from the model's axes. told: what is known of it, as JSON: frame, level, and, with
    GPS, origin, residuals and the rest of georeference.json. warning: why GPS was not used, or "".
    """

    transform: WorldTransform
    told: dict[str, Any]
    warning: str


def georeference(
    poses: Array, points: Array, places: Sequence[Place | None], how: How, seed: int
) -> Georeference:
    """Find the similarity from a model to the world: level first, then by GPS where there is any.

    Parameters
    ----------
    poses: [N, 3, 4] camera-to-world of the model. points: [P, 3]. places: of the N cameras. how:
    what is level, see `level`. seed: of the pairs that are tried.
    """
    found = level(poses, points, how)
    turn = turn_to_z(found.up)
    eyes = poses[:, :, 3] @ turn.T
    told: dict[str, Any] = {"level": found.how, "level_reason": found.reason}
    rows = [row for row, place in enumerate(places) if place is not None]
    if not rows:
        return _arbitrary(turn, eyes, told, "")
    known = [place for place in places if place is not None]
    origin = origin_of(known)
    measured = metres(known, origin)
    refused = _refused(measured[:, :2])
    if refused:
        return _arbitrary(turn, eyes, told, refused)
    fit = fit_horizontal(eyes[rows, :2], measured[:, :2], seed)
    extent = _extent(measured[:, :2])
    if np.median(fit.residuals) > _LOOSE * extent:
        return _arbitrary(
            turn,
            eyes,
            told,
            f"GPS is {np.median(fit.residuals):.1f} m off in the median, and the photographs are "
            f"spread over {extent:.1f} m: it says neither scale nor heading",
        )
    return _metric(turn, eyes[rows], measured, fit, origin, told)


def fit_horizontal(model: Array, measured: Array, seed: int) -> Fit:
    """Fit scale, heading and shift that bring most places [N, 2] to where they were measured.

    Any two places tell all three; those two whose answer has the least median residual begin, and
    weights that fall off with the residual (Cauchy's) let the good places finish it.
    """
    here, there = (places[:, 0] + 1j * places[:, 1] for places in (model, measured))
    random = np.random.default_rng(seed)
    first, second = random.integers(0, len(here), (2, _TRIED))
    apart = np.abs(here[second] - here[first])
    far = apart > 0.2 * np.abs(here - here.mean()).max()
    first, second = first[far], second[far]
    factors = (there[second] - there[first]) / (here[second] - here[first])
    shifts = there[first] - factors * here[first]
    away = np.abs(factors[:, None] * here + shifts[:, None] - there)  # [tried, N]
    best = int(np.median(away, axis=1).argmin())
    factor, shift = factors[best], shifts[best]
    for _ in range(50):
        residuals = np.abs(factor * here + shift - there)
        weights = 1 / (1 + (residuals / max(2 * np.median(residuals), 1e-9)) ** 2)
        weights /= weights.sum()
        middle, target = weights @ here, weights @ there
        lever = weights * (here - middle).conj()
        factor = (lever @ (there - target)) / (lever @ (here - middle))
        shift = target - factor * middle
    return Fit(complex(factor), complex(shift), np.abs(factor * here + shift - there))


def _refused(measured: Array) -> str:
    """Why places [N, 2] cannot tell scale and heading; "" if they can."""
    if len(measured) < _LEAST:
        return f"only {len(measured)} registered photographs have GPS, {_LEAST} are needed"
    if len(np.unique(measured.round(1), axis=0)) < _LEAST:
        return "GPS gives nearly all photographs the same place"
    return ""


def _extent(places: Array) -> float:
    return float(2 * np.sqrt(((places - places.mean(axis=0)) ** 2).sum(axis=1).mean()))


def _arbitrary(turn: Array, eyes: Array, told: dict[str, Any], warning: str) -> Georeference:
    """Level, around the middle of the cameras, at the model's own scale."""
    middle = np.median(eyes, axis=0)
    told |= {"frame": "z up; scale and heading are arbitrary", "metric": False}
    return Georeference(WorldTransform(1.0, turn, -middle), told, warning)


def _metric(
    turn: Array, eyes: Array, measured: Array, fit: Fit, origin: Place, told: dict[str, Any]
) -> Georeference:
    scale = abs(fit.factor)
    c, s = fit.factor.real / scale, fit.factor.imag / scale
    heading = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    rise = measured[:, 2] - scale * eyes[:, 2]  # NaN without an altitude
    known = np.isfinite(rise)
    up = float(np.median(rise[known])) if known.any() else -scale * float(np.median(eyes[:, 2]))
    shift = np.array([fit.shift.real, fit.shift.imag, up])
    off = fit.residuals
    told |= {
        "frame": "ENU metres: x east, y north, z up",
        "metric": True,
        "origin": {"latitude": origin[0], "longitude": origin[1], "altitude": origin[2]},
        "ellipsoid": "WGS84",
        "gps_photographs": len(off),
        "residual_horizontal_median_m": round(float(np.median(off)), 3),
        "residual_horizontal_90_m": round(float(np.quantile(off, 0.9)), 3),
        "residual_horizontal_max_m": round(float(off.max()), 3),
        "residual_vertical_median_m": round(float(np.median(np.abs(rise[known] - up))), 3)
        if known.any()
        else None,
        "extent_m": round(_extent(measured[:, :2]), 1),
    }
    return Georeference(WorldTransform(scale, heading @ turn, shift), told, "")
