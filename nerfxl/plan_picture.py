"""A plan from above: tiles, cameras and points in one picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nerfxl.partition import Plan
from nerfxl.pictures import FAINT, INK, PAPER, Colour, font, save_image, tile_colours
from nerfxl.rays import Box

Points = NDArray[np.float64]

LONGEST = 1200  # edge of the drawing, pixels
NARROWEST = 0.5  # the other edge, of the longest: room for the words
FINER = 2  # drawn larger and reduced: smooth edges
MARGIN = 0.08  # around the root box, of its longer edge; what lies further out is not drawn
TINT = 0.14
CAMERA = (226, 62, 40)


class _View(NamedTuple):
    """The map from scene x, y to pixels of the drawing, y up."""

    left: float
    top: float
    pixels: float  # in a scene unit
    width: int
    height: int

    def place(self, xy: Points) -> Points:
        """[N, 2] scene -> [N, 2] pixels."""
        return (xy - (self.left, self.top)) * (self.pixels, -self.pixels)

    def corners(self, box: Box) -> tuple[float, float, float, float]:
        """Return a box in pixels, clipped to the picture: left, top, right, bottom."""
        size = (self.width, self.height)
        (x0, y1), (x1, y0) = self.place(np.array([box.low[:2], box.high[:2]])).clip(
            -9, np.add(size, 9)
        )
        return x0, y0, x1, y1


def picture(
    plan: Plan,
    camera_positions: Points,
    points: Points,
    point_colours: NDArray[np.uint8],
    path: Path,
    scale: float,
) -> None:
    """Write the plan as `drawn` shows it, 1200 pixels long."""
    canvas = drawn(plan, camera_positions, points, point_colours, scale)
    save_image(np.asarray(canvas), path)


def drawn(
    plan: Plan,
    camera_positions: Points,
    points: Points,
    point_colours: NDArray[np.uint8],
    scale: float,
    longest: int = LONGEST,
) -> Image.Image:
    """Draw the plan as seen from above, x to the right and y up.

    Parameters
    ----------
    plan:
        Tiles are tinted and numbered; those of an open plan reach the edge. The root box is
        outlined in grey.
    camera_positions, points, point_colours:
        [C, 3] and [P, 3] in scene coordinates, [P, 3] bytes. C and P may be 0.
    scale:
        Scene units in a source unit, for the scale bar.
    longest:
        The drawing's longer edge, pixels.

    """
    view = _view(plan, longest)
    colours = tile_colours(len(plan))
    canvas = Image.new("RGB", (view.width, view.height), PAPER)
    for tile, colour in zip(plan.tiles, colours, strict=True):
        _tint(canvas, view.corners(tile), colour)
    canvas = _with_points(canvas, view, points, point_colours)
    draw = ImageDraw.Draw(canvas)
    for tile, colour in zip(plan.tiles, colours, strict=True):
        draw.rectangle(view.corners(tile), outline=colour, width=2 * FINER)
    draw.rectangle(view.corners(plan.root), outline=FAINT, width=2 * FINER)
    _draw_cameras(draw, view, camera_positions)
    _draw_numbers(draw, view, plan, colours)
    canvas = canvas.resize((view.width // FINER, view.height // FINER), Image.Resampling.LANCZOS)
    return _framed(canvas, plan, len(camera_positions), view, scale)


def _view(plan: Plan, longest_edge: int) -> _View:
    (x0, y0, _), (x1, y1, _) = plan.root.low, plan.root.high
    longest = (1 + 2 * MARGIN) * max(x1 - x0, y1 - y0)
    margin = MARGIN * max(x1 - x0, y1 - y0)
    wide = max(x1 - x0 + 2 * margin, NARROWEST * longest)
    high = max(y1 - y0 + 2 * margin, NARROWEST * longest)
    pixels = longest_edge * FINER / longest
    return _View(
        left=(x0 + x1 - wide) / 2,
        top=(y0 + y1 + high) / 2,
        pixels=pixels,
        width=round(wide * pixels / FINER) * FINER,
        height=round(high * pixels / FINER) * FINER,
    )


def _with_points(
    canvas: Image.Image, view: _View, points: Points, colours: NDArray[np.uint8]
) -> Image.Image:
    """Paint points as small squares, the highest last: what is seen from above."""
    pixels = np.array(canvas)
    known = np.isfinite(points).all(axis=1)
    points, colours = points[known], colours[known]
    upward = np.argsort(points[:, 2], kind="stable")
    spots = np.floor(view.place(points[upward, :2])).clip(-9, 10**6).astype(np.int64)
    dot = FINER * (3 if len(points) < 30_000 else 1)
    for dx, dy in np.ndindex(dot, dot):
        x, y = spots[:, 0] + dx, spots[:, 1] + dy
        seen = (x >= 0) & (x < view.width) & (y >= 0) & (y < view.height)
        pixels[y[seen], x[seen]] = colours[upward][seen]
    return Image.fromarray(pixels)


def _tint(canvas: Image.Image, corners: tuple[float, float, float, float], colour: Colour) -> None:
    x0, y0, x1, y1 = (round(value) for value in corners)
    here = (max(x0, 0), max(y0, 0), min(x1, canvas.width), min(y1, canvas.height))
    part = canvas.crop(here)
    canvas.paste(Image.blend(part, Image.new("RGB", part.size, colour), TINT), here)


def _draw_cameras(draw: ImageDraw.ImageDraw, view: _View, positions: Points) -> None:
    radius = FINER * (5.5 if len(positions) < 500 else 2.5)
    for x, y in view.place(positions[:, :2]):
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            fill=CAMERA,
            outline=PAPER,
            width=FINER,
        )


def _draw_numbers(
    draw: ImageDraw.ImageDraw, view: _View, plan: Plan, colours: list[Colour]
) -> None:
    """Write each tile's number at its core's centre; tiles in a stack get theirs side by side."""
    letters = font(FINER * (22 if len(plan) <= 32 else 15))
    height = letters.getbbox("0")[3] * 1.35
    taken: list[tuple[float, float]] = []
    for index, (core, colour) in enumerate(zip(plan.cores, colours, strict=True)):
        width = max(height, letters.getlength(str(index)) + height / 2)
        x, y = view.place(np.array([core.centre[:2]]))[0]
        for step in range(2 * len(plan)):
            shifted = x + width * 1.06 * ((step + 1) // 2) * (-1) ** step
            if all(abs(shifted - a) > width or abs(y - b) > height for a, b in taken):
                break
        taken.append((shifted, y))
        chip = (shifted - width / 2, y - height / 2, shifted + width / 2, y + height / 2)
        draw.rounded_rectangle(chip, height / 2, fill=colour, outline=PAPER, width=FINER)
        draw.text((shifted, y), str(index), PAPER, letters, anchor="mm")


def _framed(
    canvas: Image.Image, plan: Plan, cameras: int, view: _View, scale: float
) -> Image.Image:
    """Add the title above and the scale bar below, outside the drawing."""
    head, foot, side = 56, 60, 20
    framed = Image.new("RGB", (canvas.width + 2 * side, canvas.height + head + foot), PAPER)
    framed.paste(canvas, (side, head))
    draw = ImageDraw.Draw(framed)
    draw.rectangle((side, head, side + canvas.width, head + canvas.height), outline=(218, 220, 224))
    tiles = f"{len(plan)} {'tile' if len(plan) == 1 else 'tiles'}"
    kind = "open to infinity" if plan.open else "closed"
    draw.text((side, head - 18), f"{tiles}, {kind}", INK, font(22), anchor="ls")
    right = side + canvas.width
    told = f"{cameras} {'camera' if cameras == 1 else 'cameras'}"
    draw.text((right, head - 18), told, INK, font(16), anchor="rs")
    x, y = right - font(16).getlength(told) - 14, head - 24
    draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=CAMERA)
    foot_line = head + canvas.height + 24
    draw.text((right, foot_line), "from above: x right, y up", FAINT, font(16), anchor="rm")
    unit = view.pixels / FINER * scale  # pixels in a source unit
    length = _round_length(canvas.width / 5 / unit)
    y, x0, x1 = foot_line, side, side + length * unit
    draw.line((x0, y, x1, y), INK, 3)
    for x in (x0, x1):
        draw.line((x, y - 6, x, y + 6), INK, 3)
    draw.text((x1 + 14, y), f"{length:g} source units", INK, font(16), anchor="lm")
    return framed


def _round_length(most: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is at most `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return power * max(step for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))
