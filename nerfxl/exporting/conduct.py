"""The verb `export`: from a run's folder to a file, in the order in which a user sees it happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nerfxl.exporting import cameras, files, mesh
from nerfxl.exporting.ends import Ends, Sieve, find_ends
from nerfxl.exporting.geometry import Geometry
from nerfxl.exporting.lattice import Lattice
from nerfxl.exporting.points import thinned
from nerfxl.exporting.surface import EDGE, Surface, find_surface, smoothed
from nerfxl.opened import Opened, learned_shots, open_run
from nerfxl.prepare import read_back
from nerfxl.progress import Speaker, counting, spoken
from nerfxl.runs import RunFolder

RAYS_A_POINT = 3  # of the ends that are found, a third or so is left when they are even
MESH_RAYS = 1_000_000  # that say what was seen, and how dense surfaces are


@dataclass(frozen=True)
class Wish:
    """What all exports share.

    run: its folder; None: the newest. to: file or folder; None: inside the run's folder. memory:
    GiB for hash tables (see `open_run`).
    """

    run: Path | None
    output_dir: Path
    to: Path | None
    overwrite: bool
    device: str
    memory: float | None


@dataclass(frozen=True)
class MeshWish:
    """What is asked of a mesh.

    resolution: cells along the longest edge of the root box. level: density, 1 / source unit; None:
    chosen, and said. smooth: rounds. smallest: pieces smaller than this share of that edge are left
    out. keep_hidden: so is what no training view sees, unless it is kept.
    """

    resolution: int
    level: float | None
    smooth: int
    smallest: float
    keep_hidden: bool


def export_points(
    wish: Wish, count: int, sieve: tuple[float, float], outside: bool, normals: bool, say: Speaker
) -> dict[str, Any]:
    """Write a cloud of `count` points, or of as many as there are.

    sieve: least opacity, largest spread. outside: those beyond the root box, too.

    Raises
    ------
    UserError: see `find_ends` and `files.target`.
    """
    run, start = _run(wish, say), time.monotonic()
    path = files.target(run, "points.ply", wish.to, wish.overwrite)
    opened = _opened(run, wish)
    box = None if outside else opened.scene.plan.root
    ends = _ends(opened, RAYS_A_POINT * count, Sieve(*sieve, box), say)
    cloud = thinned(ends, count, opened.scene.spec.seed)
    found = f"{len(cloud):,} of {len(ends):,} ends of rays"
    if len(cloud) < count:
        found += f", not {count:,}: no more rays end at something (--min-opacity, --max-spread)"
    say(f"points     {found}")
    shape = Geometry(cloud.places, cloud.colours, cloud.normals if normals else None)
    files.store(shape, path)
    return _told(opened, "points", path, shape, start, say)


def export_mesh(wish: Wish, asked: MeshWish, say: Speaker) -> dict[str, Any]:
    """Write the surface at which density passes the level.

    Raises
    ------
    UserError: there is no density in space, or no surface; see also `find_ends`.
    """
    mesh.check_marching()
    run, start = _run(wish, say), time.monotonic()
    path = files.target(run, "mesh.ply", wish.to, wish.overwrite)
    opened = _opened(run, wish)
    mesh.check_density(opened)
    box, world = opened.scene.plan.root, opened.scene.world
    lattice = Lattice.over(box, asked.resolution)
    cell = lattice.step / world.scale
    ends, level, how = None, asked.level, "as asked for"
    if level is None or not asked.keep_hidden:
        ends = _ends(opened, MESH_RAYS, Sieve(mesh.OPACITY, mesh.SPREAD, box), say)
        if level is None:
            level, how = mesh.usual_level(opened, ends), "the density where rays end, in the median"
    assert level is not None
    say(f"level      {level:.4g} per unit: {how}")
    say(f"lattice    {' x '.join(f'{n:,}' for n in lattice.cells)} cells of {cell:.4g} units")
    surface = _surface(opened, lattice, level, None if asked.keep_hidden else ends, say)
    surface = smoothed(surface, asked.smooth)
    if ends is not None and not asked.keep_hidden:
        seen = mesh.seen_faces(surface, ends, cell)
        say(f"seen       {seen.sum():,} of {len(seen):,} faces: the rest no training view saw")
        surface = surface.only(seen)
    large = mesh.large_faces(surface, asked.smallest * max(box.size) / world.scale)
    say(f"pieces     {large.sum():,} of {len(large):,} faces are of large ones")
    surface = surface.only(large)
    mesh.check_surface(surface, level, cell, asked.keep_hidden and not asked.smallest)
    shape = mesh.coloured(surface, opened)
    files.store(shape, path)
    found = _told(opened, "mesh", path, shape, start, say)
    return {**found, "level": level, "cell": cell, "cells": list(lattice.cells)}


def export_cameras(wish: Wish, form: cameras.Format, say: Speaker) -> dict[str, Any]:
    """Write the cameras as the run has learned them.

    Raises
    ------
    UserError: see `cameras.store`.
    """
    run, start = _run(wish, say), time.monotonic()
    folder = run.path / files.FOLDER / "cameras" if wish.to is None else wish.to
    cameras.check_free(folder, form, wish.overwrite)
    scene = read_back(run)
    rig = cameras.gather(run, scene, learned_shots(run, scene))
    if rig.note:
        say(f"capture    {rig.note}")
    written = cameras.store(rig, folder, form)
    say(f"cameras    {len(rig.shots)}, and {len(rig.points):,} points of the capture")
    for file in written:
        say(f"written    {file}")
    return {
        "run": str(run.path),
        "kind": "cameras",
        "folder": str(folder),
        "files": [str(file) for file in written],
        "cameras": len(rig.shots),
        "points": len(rig.points),
        "refined": scene.spec.cameras.refine != "off",
        "note": rig.note,
        "seconds": round(time.monotonic() - start, 3),
    }


def _run(wish: Wish, say: Speaker) -> RunFolder:
    newest = wish.run is None
    run = RunFolder.newest(wish.output_dir) if wish.run is None else RunFolder.open(wish.run)
    say(f"run        {run.path}{', the newest' if newest else ''}")
    return run


def _opened(run: RunFolder, wish: Wish) -> Opened:
    return open_run(run.path, device=wish.device, memory=wish.memory)


def _ends(opened: Opened, rays: int, sieve: Sieve, say: Speaker) -> Ends:
    """See `find_ends`, with its progress."""
    views = sum(not shot.test for shot in opened.scene.shots)
    tell, showing = _counted(views, "view", say)
    with showing:
        return find_ends(opened, rays, sieve, tell)


def _surface(
    opened: Opened, lattice: Lattice, level: float, ends: Ends | None, say: Speaker
) -> Surface:
    """The surface in source coordinates; with ends, of the bricks in which rays end."""
    within = None if ends is None else mesh.bricks_of(ends, opened, lattice, EDGE)
    bricks = int(np.prod(lattice.bricks(EDGE)) if within is None else within.sum())
    tell, showing = _counted(bricks, "brick", say)
    field = mesh.density_field(opened, lattice, level)
    with showing:
        found = find_surface(lattice, field, opened.scene.spec.seed, tell, within)
    back = opened.scene.world.inverse()
    return Surface(back.points(lattice.places(found.places)), found.faces)


def _counted(
    total: int, what: str, say: Speaker
) -> tuple[Callable[[int], None], AbstractContextManager[None]]:
    """A place to say how many are done, and who shows it."""
    done = [0]

    def tell(count: int) -> None:
        done[0] = count

    return tell, counting(lambda: done[0], total, what, say.console, say.quiet)


def _told(
    opened: Opened, kind: str, path: Path, shape: Geometry, start: float, say: Speaker
) -> dict[str, Any]:
    """Say what was written, and return it."""
    low, high = shape.places.min(0), shape.places.max(0)
    seconds = time.monotonic() - start
    count = f"{len(shape.places):,} points"
    if shape.faces is not None:
        count = f"{len(shape.places):,} vertices, {len(shape.faces):,} faces"
    size = " x ".join(f"{edge:.4g}" for edge in high - low)
    say(f"extent     {size} units, from {_row(low)} to {_row(high)}, as the capture has them")
    say(f"written    {path}, {count}, in {spoken(seconds)}")
    return {
        "run": str(opened.run.path),
        "step": opened.step,
        "kind": kind,
        "file": str(path),
        "vertices": len(shape.places),
        "faces": 0 if shape.faces is None else len(shape.faces),
        "low": low.tolist(),
        "high": high.tolist(),
        "seconds": round(seconds, 3),
    }


def _row(place: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    return "(" + ", ".join(f"{value:.7g}" for value in place) + ")"
