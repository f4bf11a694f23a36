"""A mesh of the surface at which the density of space passes a level."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from nerfxl.errors import UserError
from nerfxl.exporting.ends import Ends
from nerfxl.exporting.geometry import Geometry
from nerfxl.exporting.lattice import Floats, Index, Lattice
from nerfxl.exporting.surface import Field, Surface, normals_of, pieces_of
from nerfxl.opened import Opened
from nerfxl.pictures import to_uint8

OPACITY, SPREAD = 0.9, 0.1  # of rays that say where surfaces are
NEIGHBOURS = 4  # ends of rays that are asked whether they saw a vertex
FARTHEST = 4  # cells that an uncertain end may be away, at most
AT_ONCE = 1 << 18


def check_marching() -> None:
    """See that surfaces can be found.

    Raises
    ------
    UserError: scikit-image is not installed.
    """
    try:
        import skimage  # noqa: F401
    except ImportError as error:
        raise UserError(
            "a mesh needs scikit-image, which is not installed: pip install 'nerfxl[export]'."
        ) from error


def check_density(opened: Opened) -> None:
    """See that there is a density in space.

    Raises
    ------
    UserError: the run's NeRFs are blended in pictures (independent-2d).
    """
    opened.query(torch.zeros(1, 3, dtype=torch.float64))


def check_surface(surface: Surface, level: float, cell: float, all_kept: bool) -> None:
    """See that something is left to be written.

    Parameters
    ----------
    cell: its edge, source units. all_kept: whether neither what is hidden nor small was left out.

    Raises
    ------
    UserError: there are no faces.
    """
    if not len(surface.faces):
        raise UserError(
            f"no surface: density passes {level:.4g} per unit at no corner of a cell, {cell:.4g} "
            "wide; give a lower --level, or a finer --resolution."
            if all_kept
            else f"no surface is left: inside the box density does not pass {level:.4g} per unit "
            "where training views see it, or in small pieces only; give another --level, or "
            "--keep-hidden, or --smallest 0."
        )


def usual_level(opened: Opened, ends: Ends) -> float:
    """The density where rays end, in the median: 1 / source unit."""
    density, _ = opened.query(torch.from_numpy(ends.places))
    return float(density.median())


def density_field(opened: Opened, lattice: Lattice, level: float) -> Field:
    """How far the density at a corner is above (to 1) or below (to -1) the level.

    What stops half of the light over some length counts 0, what stops none -1 and what stops all 1:
    density itself grows by orders of magnitude within a cell, and a surface drawn between such
    values would cling to the corners outside.
    """
    back = opened.scene.world.inverse()

    def field(corners: Index) -> Floats:
        density, _ = opened.query(torch.from_numpy(back.points(lattice.places(corners))))
        return np.asarray(1 - 2 * np.exp2(-density.double().numpy() / level))

    return field


def bricks_of(ends: Ends, opened: Opened, lattice: Lattice, edge: int) -> NDArray[np.bool_]:
    """The bricks in which rays end, or nearly."""
    reach = _reach(ends, lattice.step / opened.scene.world.scale) * opened.scene.world.scale
    middle = (opened.scene.world.points(ends.places) - lattice.origin) / lattice.step
    found = np.zeros(lattice.bricks(edge), bool)
    last = np.array(found.shape) - 1
    for corner in np.ndindex(3, 3, 3):
        moved = middle + (np.array(corner) - 1) * (reach / lattice.step)[:, None]
        brick = np.floor(moved / edge).astype(np.int64).clip(0, last)
        found[tuple(brick.T)] = True
    return found


def seen_faces(surface: Surface, ends: Ends, cell: float) -> NDArray[np.bool_]:
    """Which faces [F] of a surface, in source coordinates, the training views saw.

    A corner of such a face lies near the end of a ray that came from outside. Near: no farther
    than a cell, the gap to the next ray and the blur of its end.
    """
    from scipy.spatial import cKDTree

    tree, reach = cKDTree(ends.places), _reach(ends, cell)
    outwards = normals_of(surface)
    seen = np.zeros(len(surface.places), bool)
    for first in range(0, len(seen), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        away, who = tree.query(
            surface.places[some],
            k=min(NEIGHBOURS, len(ends)),
            distance_upper_bound=float(reach.max()),
            workers=-1,
        )
        away, who = away.reshape(len(away), -1), who.reshape(len(away), -1)
        known = who < len(ends)
        who = np.where(known, who, 0)
        against = np.einsum("nki,ni->nk", ends.along[who], outwards[some]) < 0
        seen[some] = (known & against & (away <= reach[who])).any(1)
    return np.asarray(seen[surface.faces].any(1))


def large_faces(surface: Surface, least: float) -> NDArray[np.bool_]:
    """Which faces [F] belong to connected pieces whose box has a diagonal of `least` or more."""
    if not len(surface.faces):
        return np.zeros(0, bool)
    piece = pieces_of(surface)
    count = int(piece.max()) + 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    corners = surface.places[surface.faces]
    np.minimum.at(low, piece, corners.min(1))
    np.maximum.at(high, piece, corners.max(1))
    with np.errstate(invalid="ignore"):  # a number without faces: inf - inf
        size = np.linalg.norm(high - low, axis=1)
    return np.asarray((size >= least)[piece])


def coloured(surface: Surface, opened: Opened) -> Geometry:
    """A surface in source coordinates with the colours that are seen straight on."""
    outwards = normals_of(surface)
    pair = (torch.from_numpy(surface.places), torch.from_numpy(-outwards))
    _, colour = opened.query(*pair)
    return Geometry(surface.places, to_uint8(colour.numpy()), outwards, surface.faces)


def _reach(ends: Ends, cell: float) -> Floats:
    """How far from its end a ray may have seen a surface: [N], source units."""
    uncertain = ends.gap.astype(np.float64) + ends.blur
    return np.asarray(1.5 * cell + uncertain.clip(max=FARTHEST * cell))
