"""Small pictures that a page carries inside itself: the cut, and held-out views in their layers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nerfxl import plan_picture
from nerfxl.captures import View, load_image
from nerfxl.errors import UserError
from nerfxl.field import background_colour
from nerfxl.pictures import MAP, colourise, depth_range, error_map, file_name, load_depth
from nerfxl.pixels import opaque
from nerfxl.report.facts import Facts, Scores

MOST_VIEWS = 24  # with pictures
LONGEST = 640  # edge of a picture, pixels
PLAN_LONGEST = 900
QUALITY = 80
LAYERS = ("truth", "rendering", "error", "depth")

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Seen:
    """A held-out view: its scores, and its pictures by layer; missing: why some are not there."""

    name: str
    psnr: float
    ssim: float | None
    layers: dict[str, Thumbnail] = field(default_factory=dict)
    missing: str = ""


def chosen(views: Sequence[dict[str, Any]], most: int = MOST_VIEWS) -> list[dict[str, Any]]:
    """Views to show: spread evenly from the worst to the best, in the order of the capture.

    >>> views = [{"name": name, "psnr": psnr} for name, psnr in zip("abcde", (3, 1, 5, 2, 4))]
    >>> [one["name"] for one in chosen(views, 3)]  # 1, 3 and 5 dB
    ['a', 'b', 'c']
    """
    if len(views) <= most:
        return list(views)
    by_score = sorted(range(len(views)), key=lambda index: views[index]["psnr"])
    picked = np.linspace(0, len(views) - 1, most).round().astype(int)
    return [views[index] for index in sorted(by_score[rank] for rank in picked)]


def seen(facts: Facts, scores: Scores) -> list[Seen]:
    """The views that are shown, with what can be read of their pictures."""
    capture = facts.capture
    photographs = {view.name: view for view in capture.test} if capture else {}
    found = []
    for one in chosen(scores.views):
        layers, missing = _layers(facts, scores, photographs.get(one["name"]), one["name"])
        found.append(Seen(one["name"], one["psnr"], one["ssim"], layers, missing))
    return found


def plan(facts: Facts) -> Thumbnail | None:
    """The cut from above, with the capture's points where it is there; None without a plan."""
    scene, capture = facts.scene, facts.capture
    if scene is None:
        return None
    poses = np.stack([shot.pose for shot in scene.shots])
    points = capture.points if capture else np.empty((0, 3))
    colours = capture.point_colours if capture else np.empty((0, 3), np.uint8)
    drawn = plan_picture.drawn(
        scene.plan,
        scene.world.points(poses[:, :, 3]),
        scene.world.points(points),
        colours,
        scene.world.scale,
        PLAN_LONGEST,
    )
    return _encoded(np.asarray(drawn), PLAN_LONGEST * 2)


def _layers(
    facts: Facts, scores: Scores, view: View | None, name: str
) -> tuple[dict[str, Thumbnail], str]:
    """Pictures of one view by layer, and why some are missing."""
    found: dict[str, Bytes] = {}
    reasons = []
    file = scores.folder / file_name(name)
    try:
        with Image.open(file) as picture:
            found["rendering"] = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError) as error:
        reasons.append(f"the rendering {file} cannot be read ({error})")
    try:
        if view is not None and facts.scene is not None:
            truth = opaque(load_image(view), background_colour(facts.scene.spec.field))
            found["truth"] = truth
    except UserError as error:
        reasons.append(str(error))
    if view is None:
        reasons.append("the photograph is not there")
    if "truth" in found and "rendering" in found:
        if found["truth"].shape == found["rendering"].shape:
            found["error"] = error_map(found["truth"], found["rendering"])
        else:
            reasons.append("the photograph is not of the rendering's size")
    try:
        depth = load_depth(scores.folder / file_name(name, MAP))
        found["depth"] = colourise(depth, *depth_range(depth))
    except UserError:  # runs have not always kept it
        reasons.append("no depth was stored")
    encoded = {layer: _encoded(found[layer]) for layer in LAYERS if layer in found}
    return encoded, "; ".join(reasons)


def _encoded(picture: Bytes, longest: int = LONGEST) -> Thumbnail:
    """Reduce a picture [H, W, 3] to `longest` pixels and write it as a data URI."""
    image = Image.fromarray(picture)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY, method=4)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/webp;base64,{text}", *image.size)
