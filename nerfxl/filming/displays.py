"""What can be seen of a picture: colour, depth, opacity, normals, tiles, spread; as bytes."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nerfxl.cameras import Camera
from nerfxl.filming.stills import Picture, normals, tile_index
from nerfxl.pictures import ERROR_RAMP, NOTHING, Bytes, colourise, ramp, tile_colours, to_uint8
from nerfxl.prepare import RunScene

Kind = Literal["colour", "depth", "opacity", "normals", "tiles", "spread"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FULL_SPREAD = 0.2  # of the depth: drawn brightest, in every picture, to compare them


def display(
    kind: Kind,
    made: Picture,
    camera: Camera,
    pose: NDArray[np.float64],
    scene: RunScene,
    range_: tuple[float, float],
) -> Bytes:
    """One aspect of a picture: [H, W, 3].

    depth: near is bright; range_: the depths, source units, that get the ends of the ramp. opacity:
    black is empty. normals: (n + 1) / 2 in the source's axes. tiles: the colours of the plan's
    picture, shaded by the picture's own light. spread: black is certain, `FULL_SPREAD` of the depth
    and more is brightest. Where nothing is seen, all but colour and opacity are nearly black.

    Parameters
    ----------
    camera, pose: of the picture; [3, 4], camera-to-world, source coordinates.
    """
    if kind == "colour":
        return to_uint8(made.colour.numpy())
    if kind == "depth":
        return colourise(made.depth.numpy(), *range_)
    if kind == "opacity":
        return to_uint8(made.opacity.numpy())[..., None].repeat(3, -1)
    if kind == "normals":
        found = normals(made, camera, pose)
        return _where(np.isfinite(found[..., 0]), to_uint8((found + 1) / 2))
    if kind == "tiles":
        index = tile_index(made, camera, pose, scene)
        colours = np.array(tile_colours(len(scene.plan)))[index.clip(0)]
        light = 0.4 + 0.6 * made.colour.numpy().mean(-1, keepdims=True)
        return _where(index >= 0, to_uint8(colours / 255 * light))
    spread = made.spread.numpy()
    return _where(np.isfinite(spread), ramp(ERROR_RAMP, np.nan_to_num(spread) / FULL_SPREAD))


def _where(known: NDArray[np.bool_], shown: Bytes) -> Bytes:
    return np.where(known[..., None], shown, np.asarray(NOTHING, np.uint8))
