"""What faces between tiles look like: the same pieces of held-out views, of every fit."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nerfxl.pictures import FAINT, INK, PAPER, font, save_image, to_uint8
from nerfxl.runs import RunFolder
from nerfxl.study.book import Book
from nerfxl.study.grid import Cell
from nerfxl.study.seams import Seen, rendered, views

FILE = "faces.jpg"
ROWS = 3
SHARE = 3  # a piece is this part of a view's shorter edge
SIDE = 168  # pixels of a piece, as drawn
GAP, HEAD, FOOT = 8, 30, 26
FADED = 0.25  # of the colour left where the band is not


class Piece(NamedTuple):
    """A square of a held-out view."""

    seen: Seen
    top: int
    left: int
    side: int

    def cut(self, image: NDArray[np.uint8]) -> Image.Image:
        """Cut it out of a picture of the view, at the size at which it is drawn."""
        part = image[self.top : self.top + self.side, self.left : self.left + self.side]
        return Image.fromarray(part).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def draw(runs: Mapping[Cell, RunFolder], book: Book) -> list[str]:
    """Draw pieces of a few views beside what each fit made of them; the names of the files.

    The pieces are those that hold most of the band, of the views that have most of it: not those
    that look worst. Of the first seed.
    """
    cut = {cell: run for cell, run in runs.items() if not cell.uncut}
    joint = next((cell for cell in cut if cell.mode == "joint"), None)
    if joint is None:
        return []
    chosen = {cell.mode: run for cell, run in cut.items() if cell.seed == joint.seed}
    best = [seen for seen in nlargest(ROWS, views(runs[joint]), key=_held) if _held(seen)]
    if not best:
        return []
    titles = ["photograph", "the band", *chosen]
    width = len(titles) * (SIDE + GAP) + GAP
    canvas = Image.new("RGB", (width, HEAD + len(best) * (SIDE + FOOT)), PAPER)
    pen = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        pen.text((GAP + column * (SIDE + GAP), HEAD - 10), title, INK, font(14), anchor="ls")
    for line, seen in enumerate(best):
        piece, y = most_of_the_band(seen), HEAD + line * (SIDE + FOOT)
        faded = np.where(seen.band[..., None], seen.truth, FADED * seen.truth + (1 - FADED) * 255)
        shown = [seen.truth, to_uint8(faded / 255)]
        shown += [to_uint8(rendered(run, seen.name)) for run in chosen.values()]
        for column, image in enumerate(shown):
            canvas.paste(piece.cut(image), (GAP + column * (SIDE + GAP), y))
        pen.text((GAP, y + SIDE + 15), seen.name, FAINT, font(12), anchor="ls")
    save_image(np.asarray(canvas), book.path / FILE)
    return [FILE]


def _held(seen: Seen) -> int:
    """How many pixels of a view are of the band."""
    return int(seen.band.sum())


def most_of_the_band(seen: Seen) -> Piece:
    """The square of a view that holds the most pixels of the band."""
    height, width = seen.band.shape
    side = max(1, min(height, width) // SHARE)
    sums = np.pad(seen.band.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    held = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(held.argmax()), held.shape)
    return Piece(seen, int(top), int(left), side)
