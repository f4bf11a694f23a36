"""A surface does not depend on how space was cut to find it, and has no cracks."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nerfxl.errors import UserError
from nerfxl.exporting.lattice import MOST_CELLS, Lattice
from nerfxl.exporting.surface import (
    Surface,
    find_surface,
    normals_of,
    pieces_of,
    smoothed,
)
from nerfxl.rays import Box

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

LATTICE = Lattice.over(Box((-1, -0.8, -0.5), (1, 0.7, 0.3)), 37)  # 37 x 27 x 14 cells
WHOLE = 64  # cells along a brick that holds them all


class Drawn:
    """Random values at the corners, -1 at the border: as bad as a field can be, and closed."""

    def __init__(self, seed: int, lattice: Lattice = LATTICE) -> None:
        count = int(lattice.numbers(np.array([lattice.cells]))[0]) + 1
        self.values = np.random.default_rng(seed).uniform(-1, 1, count)
        self.lattice, self.asked = lattice, 0

    def __call__(self, corners: Index) -> Floats:
        assert (corners >= 0).all()
        assert (corners <= self.lattice.cells).all()
        self.asked += len(corners)
        border = ((corners == 0) | (corners == self.lattice.cells)).any(1)
        return np.where(border, -1.0, self.values[self.lattice.numbers(corners)])


def of_ball(corners: Index) -> Floats:
    """A ball of radius 0.31 about (0.1, 0, -0.1)."""
    away = np.linalg.norm(LATTICE.places(corners) - (0.1, 0.0, -0.1), axis=1)
    return np.asarray(((0.31 - away) * 20).clip(-1, 1))


def found(field: object, edge: int, within: NDArray[np.bool_] | None = None) -> Surface:
    return find_surface(LATTICE, field, 3, lambda _: None, within, edge)  # type: ignore[arg-type]


def as_mesh(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(LATTICE.places(surface.places), surface.faces, process=False)


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), edge=st.integers(2, 20))
def test_bricks_of_any_size_find_the_surface_that_one_block_finds(seed: int, edge: int) -> None:
    field = Drawn(seed)
    whole, cut = found(field, WHOLE), found(field, edge)
    assert np.array_equal(whole.places, cut.places)
    assert np.array_equal(whole.faces, cut.faces)


def test_the_surface_of_any_values_is_watertight() -> None:
    for seed in range(3):
        surface = found(Drawn(seed), 9)
        assert len(surface.faces) > 10_000
        mesh = as_mesh(surface)
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        edges = np.sort(np.concatenate([surface.faces[:, p] for p in ([0, 1], [1, 2], [2, 0])]), 1)
        _, faces = np.unique(edges, axis=0, return_counts=True)
        assert (faces == 2).all()


def test_a_ball_is_as_large_as_it_is_and_faces_outwards() -> None:
    surface = found(of_ball, 6)
    mesh = as_mesh(surface)
    # A polyhedron of chords loses about (cell / radius)^2 of the volume: 3 %.
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.31**3, rel=0.03)
    away = LATTICE.places(surface.places) - (0.1, 0.0, -0.1)
    # linear between corners: within a share of a cell from the ball
    assert np.abs(np.linalg.norm(away, axis=1) - 0.31).max() < 0.1 * LATTICE.step
    outwards = normals_of(surface)
    assert np.einsum("ni,ni->n", outwards, away).min() > 0.9 * 0.31


def test_most_of_empty_space_is_not_asked() -> None:
    class Asked:
        count = 0

        def __call__(self, corners: Index) -> Floats:
            self.count += len(corners)
            return of_ball(corners)

    field = Asked()
    surface = found(field, 4)
    assert np.array_equal(surface.faces, found(of_ball, WHOLE).faces)
    assert field.count < 0.5 * np.prod(LATTICE.cells)


class Glimpsed:
    """A rod one corner thick, of which the probes, who ask first, see a corner near its middle."""

    def __init__(self, edge: int) -> None:
        self.edge, self.asked = edge, 0

    def __call__(self, corners: Index) -> Floats:
        self.asked += 1
        across = (corners[:, 1:] == (13, 7)).all(1)
        values = np.where(across & (corners[:, 0] > 0) & (corners[:, 0] < 37), 1.0, -1.0)
        if self.asked == 1:
            there = (corners // self.edge == np.array([20, 13, 7]) // self.edge).all(1)
            values[:] = -1
            values[there.argmax()] = 1
        return values


def test_a_thing_is_followed_to_its_end_through_bricks_that_no_probe_met() -> None:
    whole = found(Glimpsed(WHOLE), WHOLE)
    assert len(whole.faces) == 4 * 2 * 35 + 2 * 4  # four sides of 35 cells, and two tips
    for edge in (4, 5):
        with_probes = Glimpsed(edge)
        cut = found(with_probes, edge)
        assert np.array_equal(cut.faces, whole.faces)
        assert np.array_equal(cut.places, whole.places)
        assert with_probes.asked > 3  # once and again, as the rod was followed


def test_a_wall_that_passes_exactly_between_two_bricks_is_found() -> None:
    def half(corners: Index) -> Floats:
        return np.where(corners[:, 0] < 16, 1.0, -1.0)

    cut = found(half, 4)
    assert np.array_equal(cut.faces, found(half, WHOLE).faces)
    assert cut.places[:, 0].tolist() == [15.5] * len(cut.places)


def test_only_bricks_that_count_are_marched() -> None:
    within = np.zeros(LATTICE.bricks(8), bool)
    within[2] = True  # corners 16 to 24 along x
    told: list[int] = []
    cut = find_surface(LATTICE, of_ball, 3, told.append, within, 8)
    whole = found(of_ball, WHOLE)
    x = cut.places[:, 0]
    assert x.min() >= 16
    assert x.max() <= 24
    kept = ((whole.places[:, 0] >= 16) & (whole.places[:, 0] <= 24)).sum()
    assert len(cut.places) == kept
    assert told[-1] == within.sum()


def test_nothing_is_found_where_nothing_is() -> None:
    surface = found(lambda corners: np.full(len(corners), -1.0), 8)
    assert surface.places.shape == surface.faces.shape == (0, 3)
    assert len(smoothed(surface, 3).faces) == 0


def test_values_at_the_level_make_no_crack() -> None:
    """Corners that lie exactly on the surface would give vertices that several edges share."""

    def level(corners: Index) -> Floats:
        return np.asarray(np.sign(Drawn(5)(corners)) * (corners.sum(1) % 3 > 0))

    assert as_mesh(found(level, 7)).is_watertight


def test_smoothing_takes_off_what_is_fine_and_keeps_the_size() -> None:
    rough = Surface(found(of_ball, 16).places, found(of_ball, 16).faces)
    noise = np.random.default_rng(0).normal(0, 0.2, rough.places.shape)
    bumpy = Surface(rough.places + noise, rough.faces)
    even = smoothed(bumpy, 10)
    away = np.linalg.norm(LATTICE.places(even.places) - (0.1, 0.0, -0.1), axis=1)
    before = np.linalg.norm(LATTICE.places(bumpy.places) - (0.1, 0.0, -0.1), axis=1)
    assert away.std() < 0.5 * before.std()
    assert as_mesh(even).volume == pytest.approx(as_mesh(rough).volume, rel=0.02)


def test_pieces_are_told_apart() -> None:
    def two(corners: Index) -> Floats:
        left = np.abs(corners - (8, 13, 7)).max(1) < 4
        right = np.abs(corners - (28, 13, 7)).max(1) < 3
        return np.where(left | right, 1.0, -1.0)

    surface = found(two, 5)
    pieces = pieces_of(surface)
    left = surface.places[surface.faces].mean(1)[:, 0] < 18
    assert len(np.unique(pieces)) == 2
    assert len(np.unique(pieces[left])) == len(np.unique(pieces[~left])) == 1
    smaller = surface.only(~left)
    assert as_mesh(smaller).is_watertight
    assert smaller.places[:, 0].min() > 18


@given(
    edges=st.tuples(*[st.floats(0.01, 50)] * 3),
    low=st.tuples(*[st.floats(-9, 9)] * 3),
    cells=st.integers(1, 3000),
)
def test_a_lattice_fills_its_box_and_keeps_off_its_faces(
    edges: tuple[float, float, float], low: tuple[float, float, float], cells: int
) -> None:
    x, y, z = (a + b for a, b in zip(low, edges, strict=True))
    box = Box(low, (x, y, z))
    lattice = Lattice.over(box, cells)
    first, last = lattice.places(np.array([[0, 0, 0], lattice.cells]))
    longest = int(np.argmax(box.size))
    assert lattice.cells[longest] == cells
    for axis in range(3):
        if lattice.cells[axis] > 1 or axis == longest:
            assert box.low[axis] < first[axis]
            assert last[axis] < box.high[axis]
            assert box.size[axis] - (last - first)[axis] < 1.001 * lattice.step
    corners = np.array([[0, 0, 0], lattice.cells, [0, lattice.cells[1], 0]])
    assert np.array_equal(lattice.corners(lattice.numbers(corners)), corners)


@pytest.mark.parametrize("resolution", [0, -3, MOST_CELLS + 1])
def test_a_resolution_out_of_range_is_refused(resolution: int) -> None:
    with pytest.raises(UserError, match="--resolution"):
        Lattice.over(Box((0, 0, 0), (1, 1, 1)), resolution)
