"""What posing found, for people and as report.json: what is registered, what is not, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nerfxl.errors import UserError
from nerfxl.posing.mapping import Attempt
from nerfxl.progress import Speaker

_MOST = 0.9  # of the photographs should be registered
LEAST_INLIERS = 15  # matches that agree with one geometry: pycolmap counts no pair with fewer
CONTRADICTED = (
    "part of a model that was linked to the rest by things that look alike, or by a turn alone"
)
STRAY = "mistaken for another place: its pose jumps away from those before and after it"
_FEW_FEATURES = 100
_SHOWN = 8  # photographs that are named in print; report.json names all
_LARGE_ERROR = 1.5  # pixels
_SHORT_TRACK = 2.5


def reasons(
    missing: Sequence[str],
    registered: Sequence[str],
    others: Sequence[Sequence[str]],
    keypoints: Mapping[str, int],
    inliers: Mapping[tuple[str, str], int],
) -> dict[str, str]:
    """Why each photograph is not registered.

    Parameters
    ----------
    missing, registered: names. others: the photographs of each smaller model. keypoints: features
    of each photograph. inliers: matches of each pair that agree with one geometry.
    """
    models = {name: len(names) for names in reversed(others) for name in names}
    held = set(registered)
    best: dict[str, int] = dict.fromkeys(missing, 0)
    among: dict[str, int] = dict.fromkeys(missing, 0)
    for pair, count in inliers.items():
        for name, other in (pair, pair[::-1]):
            if name in best:
                table = best if other in held else among
                table[name] = max(table[name], count)
    return {name: _reason(name, models, keypoints, best, among) for name in missing}


def _reason(
    name: str,
    models: Mapping[str, int],
    keypoints: Mapping[str, int],
    best: Mapping[str, int],
    among: Mapping[str, int],
) -> str:
    found = keypoints.get(name, 0)
    if found < _FEW_FEATURES:
        return f"too few features, {found}: blurred, dark or without texture"
    if max(best[name], among[name]) < LEAST_INLIERS:
        return "matches no other photograph: nothing in common with any that it was compared with"
    if name in models:
        return (
            f"belongs to a separate model of {models[name]} photographs, with no link to the rest"
        )
    if best[name] < LEAST_INLIERS:
        return "matches only photographs that are not registered either"
    return (
        f"too few matches that fit: {best[name]} with the best of the registered photographs, "
        "not enough of them on points of the model"
    )


def no_model(photographs: Path, counts: Mapping[str, int], pairs: int) -> UserError:
    """Why nothing could be posed. counts: features of each photograph. pairs: that see the same."""
    poor = sum(count < _FEW_FEATURES for count in counts.values())
    if poor > len(counts) / 2:
        why = (
            f"{poor} of {len(counts)} have fewer than {_FEW_FEATURES} features: they are blurred, "
        )
        why += "dark or without texture"
    elif not pairs:
        why = "no two of them see the same thing: take more, with an overlap of two thirds"
    else:
        why = f"{pairs} pairs see the same, but from no two places: step aside between photographs"
    return UserError(f"{photographs}: the photographs could not be posed; {why}.")


def warnings(found: Mapping[str, Any], attempts: Sequence[Attempt]) -> list[str]:
    """What the user should know before a fit, a sentence each. found: the rest of the report."""
    total, registered = found["photographs"], found["registered"]
    lines = []
    if registered < _MOST * total:
        lines.append(
            f"only {registered} of {total} photographs are registered: the rest will not be in "
            "the scene; take more between those that are listed and their neighbours"
        )
    best = attempts[0]
    apart = [len(names) for names in best.others if not set(names) <= set(best.names)]
    if apart:
        models = f"{len(apart)} models" if len(apart) > 1 else "a model"
        lines.append(
            f"{models} of {', '.join(map(str, apart))} photographs could not be linked to the "
            "largest one, and will not be in the scene"
        )
    if found["reprojection_error_px"] > _LARGE_ERROR:
        lines.append(
            f"the mean reprojection error, {found['reprojection_error_px']:.2f} pixels, is large: "
            "moving things, a rolling shutter, or the wrong --camera model"
        )
    if found["track_length"] < _SHORT_TRACK:
        lines.append(
            f"points are seen from {found['track_length']:.1f} photographs in the mean: overlap "
            "is small, and poses are weak"
        )
    return lines


def told(report: Mapping[str, Any], say: Speaker) -> None:
    """Print a report."""
    say(
        f"registered {report['registered']} of {report['photographs']} photographs, "
        f"{report['points']:,} points, each seen by {report['track_length']:.1f}, "
        f"reprojection error {report['reprojection_error_px']:.2f} px"
    )
    for camera in report["cameras"][:_SHOWN]:
        say(
            f"camera     {camera['model']}, {camera['width']} x {camera['height']}, focal length "
            f"{camera['focal_px']:.1f} px ({camera['focal_told']}), {camera['photographs']} "
            "photographs"
        )
    frame = report["frame"]
    say(f"world      {frame['frame']}; up from {frame['level_reason']}")
    if frame["metric"]:
        vertical = frame["residual_vertical_median_m"]
        height = "" if vertical is None else f", vertical {vertical:.1f} m"
        say(
            f"GPS        {frame['gps_photographs']} photographs, horizontal residual "
            f"{frame['residual_horizontal_median_m']:.2f} m in the median, at most "
            f"{frame['residual_horizontal_max_m']:.1f} m{height}"
        )
    missing = report["not_registered"]
    for one in missing[:_SHOWN]:
        say(f"left out   {one['name']}: {one['reason']}")
    if len(missing) > _SHOWN:
        say(f"           and {len(missing) - _SHOWN} more, see report.json")
    for line in report["warnings"]:
        say(f"warning    {line}")
    say(f"report     {report['out']}/report.json")
    say(f"next       {report['next']}")
