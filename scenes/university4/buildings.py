"""The four buildings; each stands behind its facade in the plane y = 0 of its own frame."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from facade import Opening, bays, gable, hip, ledge, quoins, row, wall
from mesh import Site


def old_hall(site: Site) -> None:
    """Add the red brick hall: pedimented portico, sash windows, clock tower with a dome."""
    for x in ((-25.0, -6.5), (6.5, 25.0)):
        at = bays(x, 6)
        windows = row(at, 1.4, (1.5, 3.8), bars=(2, 4))
        windows += row(at, 1.4, (5.7, 8.2), arch="round", bars=(2, 4))
        windows += row(at, 1.3, (9.7, 11.5), bars=(2, 2))
        wall(site, "brick", x, (0, 13), windows)
        site.box("trim", x, (-0.15, 0.1), (0, 0.9))
        site.box("trim", x, (-0.12, 0.1), (4.55, 4.85))
        site.box("trim", x, (-0.12, 0.1), (8.85, 9.1))
        quoins(site, x[0] + 0.3 if x[0] < 0 else x[0] + 0.4, 0.0, (0.9, 12.4))
        quoins(site, x[1] - 0.4 if x[1] < 0 else x[1] - 0.3, 0.0, (0.9, 12.4))
    for yaw, x, y in ((-90, -25, 5.5), (90, 25, 5.5)):
        side = site.at(x, y, 0, yaw)
        at = bays((-5.5, 5.5), 3)
        windows = row(at, 1.4, (1.5, 3.8), bars=(2, 4)) + row(at, 1.4, (5.7, 8.2), bars=(2, 4))
        wall(side, "brick", (-5.5, 5.5), (0, 13), windows)
    wall(site, "brick", (-25, 25), (0, 13), y=11)
    ledge(site, (-25, 25), (0, 11), (12.4, 12.75), 0.25)
    ledge(site, (-25, 25), (0, 11), (12.75, 13.1), 0.5)
    hip(site, "slate", (-25, 25), (0, 11), (13.1, 17.8))
    for x in (-19.0, -11.0, 11.0, 19.0):
        site.box("brick", (x - 0.6, x + 0.6), (4.8, 6.2), (15.5, 19.4))
        ledge(site, (x - 0.6, x + 0.6), (4.8, 6.2), (19.4, 19.7), 0.12)
    for x in (-21.0, -15.5, -10.0, 10.0, 15.5, 21.0):
        dormer = site.at(x, 1.4)
        wall(dormer, "white", (-0.9, 0.9), (13.2, 15.0), row([0.0], 1.1, (13.5, 14.8), trim=0.0))
        gable(dormer.at(0, 0, 0, 90), "slate", "white", (0.0, 3.0), (-0.9, 0.9), (15.0, 15.8), 0.2)
    _portico(site)
    _clock_tower(site.at(0, 5.5))


def _portico(site: Site) -> None:
    """Add the stone centre of the hall with its columns and pediment."""
    doors = [Opening((-1.2, 1.2), (0.9, 4.3), "round", 0.4, "wood", (2, 3), "iron", 0.3)]
    doors += row((-4.3, 4.3), 1.5, (1.8, 4.2), bars=(2, 4))
    doors += row((-4.3, 0.0, 4.3), 1.6, (5.7, 8.7), arch="round", bars=(2, 4))
    wall(site, "ashlar", (-6.5, 6.5), (0, 13.1), doors, y=-1.6)
    for x in (-6.5, 6.5):
        site.polygon("ashlar", [(x, -1.6, 0), (x, 0, 0), (x, 0, 13.1), (x, -1.6, 13.1)])
    for i in range(5):
        site.box("trim", (-7.2, 7.2), (-6.6 + 0.35 * i, -1.6), (0.18 * i, 0.18 * (i + 1)))
    for x in np.linspace(-5.7, 5.7, 6):
        column = [(0.55, 0.9), (0.55, 1.1), (0.43, 1.25), (0.42, 4.0), (0.35, 8.6), (0.52, 8.9)]
        site.lathe("trim", x, -4.4, column, 20)
        site.box("trim", (x - 0.55, x + 0.55), (-4.95, -3.85), (8.9, 9.15))
    ledge(site, (-6.3, 6.3), (-4.9, 0), (9.15, 10.1), 0.0)
    ledge(site, (-6.3, 6.3), (-4.9, 0), (10.1, 10.6), 0.3)
    roof = site.at(0, 0, 0, 90)  # its x runs into the building, its y to the left
    gable(roof, "slate", "cream", (-4.9, 4.0), (-6.4, 6.4), (10.6, 13.8), 0.35)
    disc = [(0.0, 11.9), *((0.85 * np.cos(a), 11.9 + 0.85 * np.sin(a)) for a in _turn(24))]
    site.triangles("glass", [_fan(disc, i, -4.95) for i in range(1, len(disc) - 1)])


def _turn(count: int) -> np.ndarray:
    """Return `count + 1` angles around a full turn."""
    return np.linspace(0, 2 * np.pi, count + 1)


def _fan(points: list[tuple[float, float]], i: int, y: float) -> list[tuple[float, float, float]]:
    """Return one triangle of a fan of points (x, z) in the plane y."""
    return [(p[0], y, p[1]) for p in (points[0], points[i], points[i + 1])]


def _clock_tower(site: Site) -> None:
    """Add the square brick stage with clocks, the open octagon and the copper dome."""
    for yaw in (0, 90, 180, 270):
        face = site.at(0, 0, 0, yaw)
        wall(face, "brick", (-3, 3), (13, 21.5), y=-3.0)
        for x in (-2.7, 2.7):
            face.box("trim", (x - 0.3, x + 0.3), (-3.15, -2.9), (13, 21.5))
        disc = [(0.0, 19.0), *((1.5 * np.cos(a), 19.0 + 1.5 * np.sin(a)) for a in _turn(32))]
        rim = [(1.16 * x, 19 + 1.16 * (z - 19)) for x, z in disc]
        face.triangles("trim", [_fan(rim, i, -3.08) for i in range(1, 33)])
        face.triangles("white", [_fan(disc, i, -3.12) for i in range(1, 33)])
        for hour in range(12):
            c, s = np.cos(hour * np.pi / 6), np.sin(hour * np.pi / 6)
            x, z = 1.25 * s, 19 + 1.25 * c
            face.box("iron", (x - 0.1, x + 0.1), (-3.2, -3.1), (z - 0.1, z + 0.1))
        for angle, length in ((0.9, 0.8), (4.9, 1.15)):
            s, c = np.sin(angle), np.cos(angle)
            tip, side = np.array([length * s, 0, length * c]), 0.09 * np.array([c, 0, -s])
            hub = np.array([0, -3.16, 19.0])
            face.polygon("iron", [hub - side, hub + tip - side, hub + tip + side, hub + side])
    ledge(site, (-3, 3), (-3, 3), (21.5, 22.1), 0.4)
    for k in range(8):
        face = site.at(0, 0, 0, 45.0 * k)
        half = 2.5 * np.tan(np.pi / 8)
        arch = Opening((-0.6, 0.6), (22.6, 25.2), "round", 0.3, "", trim=0.12, sill=False)
        wall(face, "white", (-half, half), (22.1, 26.0), [arch], y=-2.5)
    site.lathe("iron", 0, 0, [(1.4, 22.1), (1.4, 25.6)], 12)
    site.lathe("trim", 0, 0, [(2.7, 26.0), (3.0, 26.1), (3.0, 26.4), (2.6, 26.5)], 24)
    dome = [(2.6 * np.cos(a), 26.5 + 2.7 * np.sin(a)) for a in np.linspace(0, np.pi / 2 - 0.08, 9)]
    site.lathe("copper", 0, 0, dome, 24)
    site.lathe("copper", 0, 0, [(0.3, 29.1), (0.3, 30.0), (0.08, 30.3), (0.03, 32.0)], 8)


def library(site: Site) -> None:
    """Add the sandstone library: a deep arcade, tall arched windows, balustrade and rotunda."""
    x = (-23.0, 23.0)
    at = bays((-22, 22), 10)
    arches = row(at, 3.2, (0.0, 4.5), arch="round", depth=0.7, fill="", trim=0.28, sill=False)
    wall(site, "ashlar", x, (0, 5.2), arches)
    windows = row(at, 2.1, (6.3, 10.6), arch="round", bars=(3, 5), trim=0.28, frame="iron")
    wall(site, "ashlar", x, (5.2, 11.8), windows)
    doors = row(at[::2], 1.7, (0.15, 3.1), fill="wood", frame="iron", trim=0.2, sill=False)
    doors += row(at[1::2], 1.9, (1.0, 3.3), bars=(3, 3), frame="iron")
    wall(site, "cream", x, (0, 5.2), doors, y=3.8)
    site.polygon("cream", [(-23, 0, 5.0), (23, 0, 5.0), (23, 3.8, 5.0), (-23, 3.8, 5.0)])
    for end in x:
        site.box("ashlar", (end - 0.35, end + 0.35), (0.02, 14.0), (0, 11.8))
    for pier in np.linspace(-22, 22, 11):
        site.box("trim", (pier - 0.32, pier + 0.32), (-0.3, 0.05), (0, 0.8))
        site.box("ashlar", (pier - 0.26, pier + 0.26), (-0.22, 0.05), (0.8, 11.3))
        site.box("trim", (pier - 0.36, pier + 0.36), (-0.34, 0.05), (11.3, 11.8))
    ledge(site, x, (0, 14), (5.05, 5.4), 0.28)
    ledge(site, x, (0, 14), (11.8, 12.15), 0.35)
    ledge(site, x, (0, 14), (12.15, 12.45), 0.6)
    site.box("trim", x, (0.05, 0.45), (13.25, 13.5))
    for pier in np.linspace(-22, 22, 11):
        site.box("trim", (pier - 0.35, pier + 0.35), (0.0, 0.5), (12.45, 13.6))
        site.lathe("trim", pier, 0.25, [(0.12, 13.6), (0.34, 13.9), (0.2, 14.2), (0.0, 14.4)], 10)
    for baluster in np.arange(-21.6, 21.8, 0.55):
        profile = [(0.1, 12.45), (0.17, 12.7), (0.07, 13.1), (0.12, 13.25)]
        site.lathe("trim", baluster, 0.25, profile, 6)
    wall(site, "ashlar", x, (0, 11.8), y=14)
    _rotunda(site.at(0, 7.0))


def _rotunda(site: Site) -> None:
    """Add the drum with windows and the ribbed copper dome over the library."""
    half = 5.0 * np.tan(np.pi / 16)
    for k in range(16):
        face = site.at(0, 0, 0, 22.5 * k)
        pane = row([0.0], 1.0, (13.4, 16.0), arch="round", bars=(2, 3), trim=0.15, frame="iron")
        wall(face, "ashlar", (-half, half), (12.4, 17.0), pane, y=-5.0)
        face.box("trim", (-half - 0.16, -half + 0.16), (-5.2, -4.9), (12.4, 17.0))
    site.lathe("trim", 0, 0, [(5.1, 17.0), (5.6, 17.15), (5.6, 17.5), (4.9, 17.6)], 32)
    dome = [(4.9 * np.cos(a), 17.6 + 3.9 * np.sin(a)) for a in np.linspace(0, 1.38, 10)]
    site.lathe("copper", 0, 0, dome, 32)
    for k in range(16):
        angle = 2 * np.pi * k / 16
        points = [(r * np.cos(angle), r * np.sin(angle), z) for r, z in dome]
        for low, high in pairwise(points):
            site.tube("trim", (low, high), (0.12, 0.12))
    site.lathe("white", 0, 0, [(0.95, 21.2), (0.95, 22.8), (1.15, 22.9), (0.0, 23.9)], 12)


def chapel(site: Site) -> None:
    """Add the limestone chapel: buttressed nave with pointed windows, porch, battlement tower."""
    nave = (-19.0, 10.5)
    at = bays((-18.6, 10.4), 6)
    windows = row(
        at[[0, 1, 2, 4, 5]], 2.2, (2.3, 7.6), arch="pointed", depth=0.45, bars=(3, 4), frame="trim"
    )
    wall(site, "limestone", nave, (0, 9), windows)
    wall(site, "limestone", nave, (0, 9), y=12)
    site.box("trim", nave, (-0.2, 0.1), (0, 0.7))
    site.box("trim", nave, (-0.12, 0.1), (8.3, 8.6))
    for x in np.linspace(-18.6, 10.4, 7):
        site.box("limestone", (x - 0.45, x + 0.45), (-1.5, 0), (0, 4.2))
        site.box("limestone", (x - 0.45, x + 0.45), (-0.9, 0), (4.2, 7.4))
        for low, out, next_out in ((4.2, 1.5, 0.9), (7.4, 0.9, 0.0)):
            slope = [(x - 0.5, -out, low), (x + 0.5, -out, low)]
            top = [(x + 0.5, -next_out, low + 0.8), (x - 0.5, -next_out, low + 0.8)]
            site.polygon("trim", [*slope, *top])
            for s in (-0.5, 0.5):
                cheek = [(x + s, -out, low), (x + s, -next_out, low), (x + s, -next_out, low + 0.8)]
                site.polygon("trim", cheek)
    end = site.at(-19, 6, 0, -90)
    rose = row([0.0], 3.4, (3.0, 8.6), arch="pointed", depth=0.45, bars=(4, 4), frame="trim")
    wall(end, "limestone", (-6, 6), (0, 9), rose)
    gable(site, "tile", "limestone", nave, (0, 12), (9, 16.5))
    _porch(site.at(float(at[3]), 0))
    _gothic_tower(site.at(14.7, 3.0))


def _porch(site: Site) -> None:
    """Add the gabled porch in front of one bay of the nave."""
    door = [Opening((-1.3, 1.3), (0, 3.6), "pointed", 0.8, "wood", (4, 1), "iron", 0.3, sill=False)]
    wall(site, "limestone", (-2.1, 2.1), (0, 4.2), door, y=-2.4)
    for x in (-2.1, 2.1):
        site.polygon("limestone", [(x, -2.4, 0), (x, 0, 0), (x, 0, 4.2), (x, -2.4, 4.2)])
    gable(site.at(0, 0, 0, 90), "tile", "limestone", (-2.4, 0.0), (-2.1, 2.1), (4.2, 6.6), 0.25)
    upper = [Opening((-0.5, 0.5), (7.2, 8.2), "round", 0.3, trim=0.15, sill=False)]
    site.lathe("trim", 0, -2.4, [(0.08, 6.8), (0.08, 7.5)], 6)
    wall(site, "trim", (-0.8, 0.8), (7.0, 8.3), upper, y=-0.08)


def _gothic_tower(site: Site) -> None:
    """Add the square tower with belfry windows, battlements, pinnacles and a slate spire."""
    half = 4.2
    for yaw in (0, 90, 180, 270):
        face = site.at(0, 0, 0, yaw)
        lights = row((-1.5, 1.5), 1.5, (14.6, 19.0), arch="pointed", depth=0.5, bars=(1, 6))
        lights += row([0.0], 1.3, (8.8, 11.6), arch="pointed", depth=0.4, bars=(2, 3))
        lights += row([0.0], 1.9, (1.6, 6.2), arch="pointed", depth=0.4, bars=(2, 4))
        wall(face, "limestone", (-half, half), (0, 21), lights, y=-half)
        for low in (7.4, 13.2, 20.2):
            face.box("trim", (-half - 0.15, half + 0.15), (-half - 0.15, -half), (low, low + 0.35))
        for x in (-3.9, 3.9):
            face.box("limestone", (x - 0.5, x + 0.5), (-half - 0.7, -half), (0, 12.5))
            face.box("limestone", (x - 0.4, x + 0.4), (-half - 0.4, -half), (12.5, 18.5))
        face.box("limestone", (-half, half), (-half - 0.2, -half + 0.25), (21, 21.9))
        for x in np.linspace(-3.6, 3.6, 5):
            face.box("limestone", (x - 0.5, x + 0.5), (-half - 0.2, -half + 0.25), (21.9, 22.8))
            face.box("trim", (x - 0.58, x + 0.58), (-half - 0.28, -half + 0.33), (22.8, 22.95))
        pinnacle = [(0.55, 20.5), (0.55, 23.2), (0.7, 23.3), (0.4, 23.5), (0.03, 25.6)]
        face.lathe("trim", -half, -half, pinnacle, 8)
    site.lathe("slate", 0, 0, [(4.0, 21.3), (3.3, 22.3), (0.05, 31.0)], 8)
    site.lathe("iron", 0, 0, [(0.06, 31.0), (0.06, 32.3)], 6)


def laboratory(site: Site) -> None:
    """Add the modern laboratory: buff brick ends, banded curtain wall, fins, panels, canopy."""
    for x in ((-19.0, -12.0), (11.0, 19.0)):
        at = bays(x, 3)
        windows: list[Opening] = []
        for low in (1.0, 5.0, 9.0):
            windows += row(at, 1.3, (low, low + 2.2), bars=(1, 2), frame="iron", trim=0.0)
        wall(site, "buff", x, (0, 12.8), windows)
        site.box("concrete", x, (-0.12, 0.1), (12.4, 12.9))
    x0, x1 = -12.0, 11.0
    site.polygon("glass", [(x0, 0.8, 0), (x1, 0.8, 0), (x1, 0.8, 12), (x0, 0.8, 12)])
    for low in (0.0, 4.0, 8.0, 12.0):
        site.box("concrete", (x0, x1), (-0.35, 0.9), (low, low + (0.9 if low else 0.45)))
    for i, x in enumerate(np.linspace(x0, x1, 24)):
        site.box("white", (x - 0.05, x + 0.05), (0.62, 0.8), (0, 12))
        if i % 2 == 0:
            site.box("terracotta", (x - 0.11, x + 0.11), (-0.6, 0.7), (4.9, 12.4))
    panels = ("teal", "ochre", "cream")
    for k, (i, j) in enumerate(
        ((1, 1), (4, 2), (7, 1), (9, 2), (13, 1), (16, 2), (18, 1), (21, 2))
    ):
        low = x0 + i * (x1 - x0) / 23
        site.box(panels[k % 3], (low + 0.05, low + 0.95), (0.6, 0.78), (4 * j + 0.9, 4 * j + 4.0))
    for low in (2.4, 6.6, 10.6):
        site.box("white", (x0, x1), (0.66, 0.8), (low, low + 0.09))
    # The stair tower, with a slot of glass, and the canopy over the entrance.
    slot = [Opening((-15.9, -15.1), (1.0, 14.6), depth=0.4, bars=(1, 9), frame="iron", trim=0.0)]
    wall(site, "buff", (-17.6, -13.4), (0, 16), slot, y=-1.2)
    for x in (-17.6, -13.4):
        site.polygon("buff", [(x, -1.2, 0), (x, 4, 0), (x, 4, 16), (x, -1.2, 16)])
    ledge(site, (-17.6, -13.4), (-1.2, 4), (16, 16.35), 0.1, "concrete")
    site.box("white", (-4.5, 4.5), (-4.0, 0.0), (3.5, 3.85))
    site.box("terracotta", (-4.5, 4.5), (-4.05, -3.98), (3.5, 3.85))
    for x in (-4.0, 4.0):
        site.lathe("concrete", x, -3.6, [(0.16, 0), (0.16, 3.5)], 12)
    site.box("wood", (-1.6, 1.6), (0.55, 0.78), (0.1, 2.9))
    site.box("concrete", (-19, 19), (0.5, 13), (12.8, 12.9))
    site.box("white", (-8, 7), (4, 11), (12.9, 15.6))
    ledge(site, (-8, 7), (4, 11), (15.6, 15.9), 0.5, "concrete")
    for low in np.arange(13.3, 15.4, 0.5):
        site.box("terracotta", (-8.1, 7.1), (3.9, 4.0), (low, low + 0.18))
    for x in (-19.0, 19.0):
        site.polygon("buff", [(x, 0, 0), (x, 13, 0), (x, 13, 12.8), (x, 0, 12.8)])


def garden_walls(site: Site) -> None:
    """Add the brick walls and gateways that close the corners between the buildings."""
    corners = (
        (-27.5, 23.2, 0, 3.0), (27.5, 23.2, 0, 3.0), (-26.5, -23.2, 180, 4.0),
        (26.5, -23.2, 180, 4.0), (-30.4, 21.2, 90, 2.4), (30.4, 21.2, -90, 2.4),
        (-30.4, -21.2, 90, 2.4), (30.4, -21.2, -90, 2.4),
    )  # fmt: skip
    for x, y, yaw, half in corners:
        piece = site.at(x, y, 0, yaw)
        gate = Opening((-1.1, 1.1), (0, 2.7), "round", 0.5, "wood", (5, 1), "iron", 0.25)
        wall(piece, "brick", (-half, half), (0, 3.6), [gate])
        ledge(piece, (-half, half), (0, 0.5), (3.6, 3.85), 0.12)
        for end in (-half, half):
            piece.box("brick", (end - 0.4, end + 0.4), (-0.15, 0.65), (0, 4.1))
            ledge(piece, (end - 0.4, end + 0.4), (-0.15, 0.65), (4.1, 4.35), 0.12)
            ball = [(0.12, 4.35), (0.38, 4.7), (0.3, 5.0), (0.0, 5.1)]
            piece.lathe("trim", end, 0.25, ball, 10)


def all_buildings(site: Site) -> None:
    """Add everything built: hall north, library south, chapel west, laboratory east."""
    old_hall(site.at(0, 22.5, 0, 0))
    library(site.at(0, -22.5, 0, 180))
    chapel(site.at(-30, 0, 0, 90))
    laboratory(site.at(30, 0, 0, -90))
    garden_walls(site)
