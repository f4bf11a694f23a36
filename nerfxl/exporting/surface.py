"""The surface between inside and outside: marching cubes, brick by brick, without a seam.

Every brick looks at the corners of its cells, which it shares with its neighbours. A vertex lies on
an edge between two corners, and is known by that edge: what two bricks find there is one vertex,
and the whole surface does not depend on how the lattice was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerfxl.exporting.lattice import Floats, Index, Lattice

Field = Callable[[Index], Floats]  # corners [N, 3] -> [N] in [-1, 1]; above 0 is inside
Told = Callable[[int], None]  # how many bricks are done, or not worth looking at

EDGE = 16  # cells along a brick
PROBE = 4  # cells along what one probe stands for
LEAST = 1e-3  # how near to 0 a value may be: keeps vertices off the corners, a thousandth of a cell
CORNERS_AT_ONCE = 1 << 21
INWARDS, OUTWARDS = 0.5, -0.53  # of the way to the middle of a vertex's neighbours


@dataclass(frozen=True)
class Surface:
    """Triangles. places: [V, 3], counted in cells of a lattice. faces: [F, 3] rows of them.

    Seen from outside, a face's corners go round against the clock.
    """

    places: Floats
    faces: Index

    def only(self, keep: NDArray[np.bool_]) -> Surface:
        """Some of the faces [F], and the vertices that they need."""
        faces = self.faces[keep]
        used = np.zeros(len(self.places), bool)
        used[faces] = True
        return Surface(self.places[used], (used.cumsum() - 1)[faces])


@dataclass(frozen=True)
class _Piece:
    """What one brick found. edges: [v], number of the lower corner * 3 + axis. along: [v]."""

    edges: Index
    along: Floats
    faces: Index


def find_surface(
    lattice: Lattice,
    field: Field,
    seed: int,
    told: Told,
    within: NDArray[np.bool_] | None = None,
    edge: int = EDGE,
) -> Surface:
    """March through all bricks that the surface may pass through.

    A probe in every few cells tells which bricks are neither full nor empty. From there the surface
    is followed: where it leaves a brick, the neighbour is looked at, too. So a thing is found whole
    if a single probe meets it.

    seed: of where in its cells a probe lies. within: the bricks that count; None: all. edge: cells
    along a brick.
    """
    counts = np.ones(lattice.bricks(edge), bool) if within is None else within
    awake = _probed(lattice, field, seed, counts, edge)
    done = np.zeros_like(awake)
    pieces: list[_Piece] = []
    while (todo := np.argwhere(awake & counts & ~done)).size:
        for some in _groups(todo, max(1, CORNERS_AT_ONCE // (edge + 1) ** 3)):
            for brick, low, volume in _asked(lattice, field, some, edge):
                done[tuple(brick)] = True
                _wake_neighbours(awake, brick, volume > 0)
                if volume.min() < 0 < volume.max():
                    pieces.append(_march(lattice, low, volume))
            told(int(counts.sum() - (awake & counts & ~done).sum()))
    return _welded(lattice, pieces)


def smoothed(surface: Surface, rounds: int) -> Surface:
    """Move vertices towards the middle of their neighbours, then almost as far back (Taubin 1995).

    That takes off what is as fine as the cells, and leaves the rest as large as it was.
    """
    if not len(surface.faces):
        return surface
    joined = _links(surface)
    joined.data[:] = 1  # an edge of two faces is one link
    count = np.asarray(joined.sum(1), np.float64).reshape(-1, 1)
    places = surface.places
    for step in (INWARDS, OUTWARDS) * rounds:
        places = places + step * (joined @ places / count - places)
    return Surface(places, surface.faces)


def pieces_of(surface: Surface) -> Index:
    """Number the connected pieces of a surface: [F] -> number of the piece of each face."""
    from scipy.sparse.csgraph import connected_components

    _, piece = connected_components(_links(surface), directed=False)
    return np.asarray(piece[surface.faces[:, 0]], np.int64)


def _links(surface: Surface) -> Any:
    """Which vertices [V, V] share an edge: a sparse matrix."""
    from scipy.sparse import csr_array

    a = surface.faces.ravel()
    b = surface.faces[:, [1, 2, 0]].ravel()
    both = (np.concatenate([a, b]), np.concatenate([b, a]))
    return csr_array((np.ones(len(both[0])), both), (len(surface.places),) * 2)


def normals_of(surface: Surface) -> Floats:
    """Unit normals [V, 3] that point outwards: of the faces around, weighted by their areas."""
    a, b, c = (surface.places[surface.faces[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    total = np.stack(
        [
            np.bincount(surface.faces.ravel(), np.repeat(across[:, i], 3), len(surface.places))
            for i in range(3)
        ],
        1,
    )
    return np.asarray(total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-30))


def _probed(
    lattice: Lattice, field: Field, seed: int, counts: NDArray[np.bool_], edge: int
) -> NDArray[np.bool_]:
    """Which of the bricks that count are not known to be full or empty."""
    shape = counts.shape
    draw = np.random.default_rng(seed)
    cells = np.array(list(product(range(0, edge, PROBE), repeat=3)))
    probes = np.minimum(cells + draw.integers(0, PROBE, cells.shape), edge - 1)
    most, least = np.full(shape, -1.0), np.full(shape, 1.0)
    for some in _groups(np.argwhere(counts), max(1, CORNERS_AT_ONCE // len(probes))):
        corners = (some[:, None] * edge + probes).clip(0, lattice.cells)
        values = field(corners.reshape(-1, 3)).reshape(len(some), -1)
        most[tuple(some.T)], least[tuple(some.T)] = values.max(1), values.min(1)
    filled, emptied = most > 0, least <= 0
    awake = filled & emptied
    for axis in range(3):  # a surface that passes exactly between a full and an empty brick
        lower, upper = _beside(axis)
        changes = counts[lower] & counts[upper] & (filled[lower] != filled[upper])
        awake[lower] |= changes
        awake[upper] |= changes
    return awake


def _beside(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All bricks that have an upper neighbour along an axis, and these neighbours."""
    lower, upper = [slice(None)] * 3, [slice(None)] * 3
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    return tuple(lower), tuple(upper)


def _groups(bricks: Index, size: int) -> Iterator[Index]:
    for first in range(0, len(bricks), size):
        yield bricks[first : first + size]


def _asked(
    lattice: Lattice, field: Field, bricks: Index, edge: int
) -> Iterator[tuple[Index, Index, Floats]]:
    """Bricks [b, 3] with their lowest corners, and their values [x, y, z], none of which is 0."""
    lows = bricks * edge
    highs = np.minimum(lows + edge, lattice.cells)
    corners = [_corners(*ends) for ends in zip(lows, highs, strict=True)]
    values = field(np.concatenate(corners))
    cuts = np.cumsum([len(one) for one in corners])[:-1]
    for brick, low, high, own in zip(bricks, lows, highs, np.split(values, cuts), strict=True):
        yield brick, low, _off_zero(own).reshape(high - low + 1)


def _corners(low: Index, high: Index) -> Index:
    """All corners from the lowest to the highest, which count: [N, 3]."""
    sides = [np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 3)


def _off_zero(values: Floats) -> Floats:
    """Values that are not 0, nor almost: the surface passes no corner."""
    return np.where(values > 0, values.clip(min=LEAST), values.clip(max=-LEAST))


def _wake_neighbours(awake: NDArray[np.bool_], brick: Index, inside: NDArray[np.bool_]) -> None:
    """See that those neighbours are looked at into which the surface goes on."""
    for axis, side in product(range(3), (0, -1)):
        layer = inside.take(side, axis)
        beside = brick.copy()
        beside[axis] += 1 if side else -1
        within = 0 <= beside[axis] < awake.shape[axis]
        if within and layer.any() and not layer.all():
            awake[tuple(beside)] = True


def _march(lattice: Lattice, low: Index, volume: Floats) -> _Piece:
    """Marching cubes in one brick, whose lowest corner is `low`."""
    from skimage.measure import marching_cubes

    # Lorensen's table: all its vertices lie on edges, and its triangles close on every face of a
    # cell whatever the corners are. The image processing kit gives their order; where a vertex
    # lies on its edge is computed here, in float64.
    found, faces, _, _ = marching_cubes(volume, 0.0, method="lorensen", gradient_direction="ascent")
    axis = np.abs(found - found.round()).argmax(1)
    corner = found.round().astype(np.int64)
    row = np.arange(len(found))
    corner[row, axis] = np.floor(found[row, axis]).astype(np.int64)
    beyond = corner.copy()
    beyond[row, axis] += 1
    start, end = volume[tuple(corner.T)], volume[tuple(beyond.T)]
    edges = lattice.numbers(corner + low) * 3 + axis
    return _Piece(edges, start / (start - end), faces.astype(np.int64))


def _welded(lattice: Lattice, pieces: Sequence[_Piece]) -> Surface:
    """One surface; vertices in the order of their edges, faces in the order of their vertices."""
    if not pieces:
        return Surface(np.empty((0, 3)), np.empty((0, 3), np.int64))
    edges = np.concatenate([piece.edges for piece in pieces])
    along = np.concatenate([piece.along for piece in pieces])
    starts = np.cumsum([0, *(len(piece.edges) for piece in pieces)])
    rows = [piece.faces + start for piece, start in zip(pieces, starts, strict=False)]
    edges, first, of = np.unique(edges, return_index=True, return_inverse=True)
    faces = of[np.concatenate(rows)]
    turn = (faces.argmin(1)[:, None] + np.arange(3)) % 3
    faces = np.take_along_axis(faces, turn, 1)
    faces = faces[np.lexsort(faces.T[::-1])]
    places = lattice.corners(edges // 3).astype(np.float64)
    places[np.arange(len(edges)), edges % 3] += along[first]
    return Surface(places, faces)
