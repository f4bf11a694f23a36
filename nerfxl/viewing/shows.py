"""What a window shows of its pictures: a quantity in colours, and a legend that says how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

import numpy as np

from nerfxl.filming.displays import FULL_SPREAD, Kind, display
from nerfxl.pictures import DEPTH_RAMP, ERROR_RAMP, Bytes, Colour, depth_range, tile_colours
from nerfxl.prepare import RunScene
from nerfxl.viewing.canvas import Frame

NAMES: dict[str, Kind] = {
    "Colour": "colour",
    "Depth": "depth",
    "Opacity": "opacity",
    "Normals": "normals",
    "Tiles": "tiles",
    "Uncertainty": "spread",
}
STEADY = 0.2  # of its width, by which a range must be off before it moves
MARKED = 32  # tiles that a legend names
AXES = (((255, 128, 128), "x"), ((128, 255, 128), "y"), ((128, 128, 255), "z"))
GREYS = ((0, 0, 0), (255, 255, 255))

Range = tuple[float, float]


@dataclass(frozen=True)
class Legend:
    """How to read what is shown.

    ramp: colours from low to high, empty where there is none. marks: a colour and its words each.
    """

    title: str
    low: str = ""
    high: str = ""
    ramp: Sequence[Colour] = ()
    marks: Sequence[tuple[Colour, str]] = ()


class Show:
    """What one window shows.

    limits: of the depths, source units, as the user has set them; None: as each picture has them,
    kept while they are about right, so that colours do not flicker as the camera moves.
    """

    def __init__(self, scene: RunScene) -> None:
        self.kind: Kind = "colour"
        self.limits: Range | None = None
        self.depths: Range = (0.0, 1.0)  # that were shown last
        self._scene = scene
        self._steady: Range | None = None

    def __call__(self, frame: Frame) -> tuple[Bytes, Legend | None]:
        """Pixels [H, W, 3] of a frame, and how to read them."""
        if self.kind == "depth":
            self._settle(frame)
        shown = display(
            self.kind, frame.picture, frame.camera, frame.pose, self._scene, self.depths
        )
        return shown, self._legend()

    def _settle(self, frame: Frame) -> None:
        if self.limits is not None:
            self.depths = self.limits
            return
        depth = frame.picture.depth.numpy()
        if np.isfinite(depth).any():
            self._steady = self.depths = steady(self._steady, *depth_range(depth))

    def _legend(self) -> Legend | None:
        if self.kind == "depth":
            near, far = self.depths
            ends = f"{near:g}", f"{far:g} source units"
            return Legend("Distance from the camera", *ends, DEPTH_RAMP[::-1])
        if self.kind == "opacity":
            return Legend("Opacity", "0, empty", "1, solid", GREYS)
        if self.kind == "spread":
            ends = "0, certain", f"{FULL_SPREAD:.0%} of the depth and more"
            return Legend("Uncertainty of the depth", *ends, ERROR_RAMP)
        if self.kind == "normals":
            return Legend("Which way surfaces face, axes of the capture", marks=AXES)
        if self.kind == "tiles":
            colours = tile_colours(len(self._scene.plan))
            named = [(colour, str(k)) for k, colour in enumerate(colours[:MARKED])]
            return Legend("Tile that the light comes from", marks=named)
        return None


def steady(before: Range | None, low: float, high: float) -> Range:
    """The range before, unless it is off by a fifth of itself; else the new one, in two digits.

    >>> steady(None, 1.234, 9.87)
    (1.2, 9.9)
    >>> steady((1.2, 9.9), 1.5, 9.0)
    (1.2, 9.9)
    >>> steady((1.2, 9.9), 1.5, 19.0)
    (1.5, 19.0)
    """
    if before is not None:
        room = STEADY * (before[1] - before[0])
        if abs(low - before[0]) <= room and abs(high - before[1]) <= room:
            return before
    near, far = _two_digits(low), _two_digits(high)
    return (near, far) if far > near else (low, high)


def _two_digits(value: float) -> float:
    return 0.0 if value == 0 else round(value, 1 - floor(log10(abs(value))))
