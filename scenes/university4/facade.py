"""Walls with recessed, framed, arched openings, and the roofs above them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from mesh import Site
from numpy.typing import NDArray

Array = NDArray[np.float64]
Span = tuple[float, float]


@dataclass(frozen=True)
class Opening:
    """A window, a door or an arch in a wall: its bounding rectangle and how it is dressed.

    Parameters
    ----------
    x, z
        (low, high) along the wall and upwards, metres.
    arch
        `flat`, `round` or `pointed` head, inside the rectangle.
    depth
        Thickness of the wall that shows in the reveal, metres.
    fill
        Material at the back of the reveal; empty for a free arch.
    bars
        Panes across and up.
    frame
        Material of the bars.
    trim
        Width of the raised surround, metres; 0 for none.
    stone
        Material of surround, reveal and sill.
    sill
        Whether a sill projects below.
    """

    x: Span
    z: Span
    arch: str = "flat"
    depth: float = 0.3
    fill: str = "glass"
    bars: tuple[int, int] = (2, 3)
    frame: str = "white"
    trim: float = 0.2
    stone: str = "trim"
    sill: bool = True

    def outline(self) -> tuple[Array, Array]:
        """Return the edge from the lower left over the head [K, 2] and its outward offsets."""
        (x0, x1), (z0, z1), t = self.x, self.z, self.trim
        if self.arch == "flat":
            edge = np.array([(x0, z0), (x0, z1), (x1, z1), (x1, z0)])
            return edge, np.array([(-t, 0), (-t, t), (t, t), (t, 0)])
        width, middle = x1 - x0, (x0 + x1) / 2
        if self.arch == "round":
            angle = np.linspace(np.pi, 0, 17)
            head = np.stack([middle + np.cos(angle) * width / 2, np.sin(angle) * width / 2], -1)
        else:
            angle = np.linspace(np.pi, 2 * np.pi / 3, 9)
            left = np.stack([x1 + np.cos(angle) * width, np.sin(angle) * width], -1)
            right = np.stack([2 * middle - left[::-1, 0], left[::-1, 1]], -1)
            head = np.concatenate([left, right[1:]])
        away = head - (middle, 0.0)
        away *= t / np.linalg.norm(away, axis=-1, keepdims=True)
        head[:, 1] += z1 - head[:, 1].max()
        edge = np.concatenate([[(x0, z0)], head, [(x1, z0)]])
        return edge, np.concatenate([[(-t, 0)], away, [(t, 0)]])


def _lift(points: Array, y: float) -> Array:
    """Return points of a wall [K, 2] (x, z) as [K, 3] at depth y."""
    return np.stack([points[:, 0], np.full(len(points), y), points[:, 1]], -1)


def wall(
    site: Site,
    material: str,
    x: Span,
    z: Span,
    openings: Sequence[Opening] = (),
    y: float = 0.0,
) -> None:
    """Add a wall in the plane y with openings cut into it and dressed."""
    xs = sorted({*x, *(v for o in openings for v in o.x)})
    zs = sorted({*z, *(v for o in openings for v in o.z)})
    for x0, x1 in pairwise(xs):
        for z0, z1 in pairwise(zs):
            cx, cz = (x0 + x1) / 2, (z0 + z1) / 2
            if not any(o.x[0] < cx < o.x[1] and o.z[0] < cz < o.z[1] for o in openings):
                corners = np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1)])
                site.polygon(material, _lift(corners, y))
    for opening in openings:
        _dress(site, material, opening, y)


def _dress(site: Site, material: str, opening: Opening, y: float) -> None:
    """Add spandrels, reveal, surround, sill and filling of one opening."""
    edge, offset = opening.outline()
    (x0, x1), (z0, z1) = opening.x, opening.z
    if opening.arch != "flat":
        head = edge[1:-1]
        above = np.stack([head[:, 0], np.full(len(head), z1)], -1)
        site.strip(material, _lift(head, y), _lift(above, y))
    back = y + opening.depth
    site.strip(opening.stone, _lift(edge, y), _lift(edge, back))
    if opening.trim:
        front = y - 0.07
        site.strip(opening.stone, _lift(edge, front), _lift(edge + offset, front))
        site.strip(opening.stone, _lift(edge, front), _lift(edge, y))
        site.strip(opening.stone, _lift(edge + offset, front), _lift(edge + offset, y))
    if opening.sill:
        site.box(opening.stone, (x0 - 0.25, x1 + 0.25), (y - 0.16, back), (z0 - 0.16, z0))
    if opening.fill:
        corners = np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1)])
        site.polygon(opening.fill, _lift(corners, back))
        _bars(site, opening, back)


def _bars(site: Site, opening: Opening, back: float) -> None:
    """Add the outer frame and the glazing bars of one opening."""
    (x0, x1), (z0, z1), (nx, nz) = opening.x, opening.z, opening.bars
    depth = (back - 0.08, back - 0.01)
    for i in range(nx + 1):
        half = 0.035 if 0 < i < nx else 0.07
        at = x0 + (x1 - x0) * i / nx
        site.box(opening.frame, (max(at - half, x0), min(at + half, x1)), depth, (z0, z1))
    for j in range(nz + 1):
        half = 0.035 if 0 < j < nz else 0.07
        at = z0 + (z1 - z0) * j / nz
        site.box(opening.frame, (x0, x1), depth, (max(at - half, z0), min(at + half, z1)))
    if opening.arch != "flat":  # the head's frame follows the arch
        edge, offset = opening.outline()
        inner = edge - offset / max(opening.trim, 1e-6) * 0.09
        site.strip(opening.frame, _lift(edge, depth[0]), _lift(inner, depth[0]))


def bays(x: Span, count: int) -> Array:
    """Return the centres of `count` equal bays over a span."""
    return x[0] + (np.arange(count) + 0.5) * (x[1] - x[0]) / count


def row(centres: Sequence[float] | Array, width: float, z: Span, **dress: object) -> list[Opening]:
    """Return equal openings about the given centres."""
    return [
        Opening((float(c) - width / 2, float(c) + width / 2), z, **dress)  # type: ignore[arg-type]
        for c in centres
    ]


def hip(site: Site, material: str, x: Span, y: Span, z: Span, over: float = 0.5) -> None:
    """Add a hipped roof with its ridge along x, over a rectangle widened by `over`."""
    (x0, x1), (y0, y1), (z0, z1) = (x[0] - over, x[1] + over), (y[0] - over, y[1] + over), z
    run, ym = (y1 - y0) / 2, (y0 + y1) / 2
    a, b, c, d = (x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)
    e, f = (x0 + run, ym, z1), (x1 - run, ym, z1)
    for face in ((a, b, f, e), (c, d, e, f), (d, a, e), (b, c, f)):
        site.polygon(material, face)


def gable(site: Site, roof: str, end: str, x: Span, y: Span, z: Span, over: float = 0.4) -> None:
    """Add a gabled roof with its ridge along x and its two end walls, with thick verges."""
    (x0, x1), (y0, y1), (z0, z1) = x, y, z
    ym = (y0 + y1) / 2
    fall = (z1 - z0) / (ym - y0) * over
    for side, eaves in ((y0 - over, z0 - fall), (y1 + over, z0 - fall)):
        low = np.array([(x0 - over, side, eaves), (x1 + over, side, eaves)])
        high = np.array([(x0 - over, ym, z1), (x1 + over, ym, z1)])
        thick = np.array([0, 0, 0.22])
        site.strip(roof, low, high)
        site.strip(roof, low + thick, high + thick)
        site.strip("trim", low, low + thick)
        for k in (0, 1):
            verge = np.array([low[k], high[k]])
            site.strip("trim", verge, verge + thick)
    for at in x:
        site.polygon(end, [(at, y0, z0), (at, y1, z0), (at, ym, z1)])


def ledge(site: Site, x: Span, y: Span, z: Span, out: float, material: str = "trim") -> None:
    """Add a moulding around a block: a band that stands `out` metres proud of it."""
    site.box(material, (x[0] - out, x[1] + out), (y[0] - out, y[1] + out), z)


def quoins(site: Site, x: float, y: float, z: Span, material: str = "trim") -> None:
    """Add alternating long and short stones up the corner of a facade in the plane y."""
    for i, low in enumerate(np.arange(z[0], z[1] - 0.4, 0.5)):
        a, b = (0.60, 0.08) if i % 2 else (0.36, 0.08)
        site.box(material, (x - a, x + a), (y - b, y + b), (low, low + 0.44))
