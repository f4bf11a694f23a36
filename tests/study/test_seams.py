"""The seam test, on planes whose distances are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nerfxl.partition import Node, Plan, plan
from nerfxl.rays import Box
from nerfxl.runs import RunFolder
from nerfxl.study import seams
from nerfxl.study.crops import most_of_the_band
from nerfxl.study.grid import Cell
from nerfxl.study.seams import REACH, Seen, parted

CUBE = Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
# Two tiles of an edge of 2, x < 0.25 and x >= 0.25: the band reaches 0.04 to either side of it.
HALVES = Plan(CUBE, True, (Node(0, 0.25, ~0, ~1),))
CLOSED = Plan(CUBE, False, HALVES.nodes)


def bands(cut: Plan, points: list[list[float]]) -> list[str]:
    """Where each point belongs; those with NaN are unknown."""
    where = torch.tensor(points)
    band, rest = parted(cut, where, where.isfinite().all(1))
    assert not (band & rest).any()
    return ["band" if b else "rest" if r else "none" for b, r in zip(band, rest, strict=True)]


def test_the_band_lies_to_either_side_of_a_face() -> None:
    points = [[x, 0.3, 0.3] for x in (0.2, 0.22, 0.25, 0.28, 0.3)]
    assert bands(HALVES, points) == ["rest", "band", "band", "band", "rest"]


def test_the_outer_faces_of_the_root_box_are_none() -> None:
    points = [[-0.99, 0.0, 0.0], [0.9, 0.99, 0.0]]
    assert bands(HALVES, points) == ["rest", "rest"]
    assert bands(CLOSED, points) == ["rest", "rest"]


def test_faces_go_on_to_infinity_where_tiles_do() -> None:
    assert bands(HALVES, [[0.26, 3.0, -5.0], [0.4, 3.0, -5.0]]) == ["band", "rest"]


def test_what_is_not_seen_belongs_nowhere() -> None:
    assert bands(HALVES, [[math.nan] * 3]) == ["none"]
    # A ray that leaves a closed root box without a surface is said to end on it.
    assert bands(CLOSED, [[0.25, 0.0, 1.0], [0.25, 0.0, 0.99], [2.0, 0, 0]]) == [
        *("none", "band", "none")
    ]


def test_a_face_ends_where_its_cut_does() -> None:
    # The lower half is cut once more at y = 0: that face does not reach into the upper half.
    cut = Plan(CUBE, True, (Node(0, 0.25, 1, ~2), Node(1, 0.0, ~0, ~1)))
    assert bands(cut, [[-0.5, 0.01, 0.0], [0.5, 0.01, 0.0]]) == ["band", "rest"]


@given(st.integers(2, 9), st.integers(0, 2**31))
def test_the_band_is_all_that_has_another_tile_within_reach(tiles: int, seed: int) -> None:
    """A point whose neighbourhood, looked at in all 26 directions, is in one tile is no band."""
    random = torch.Generator().manual_seed(seed)
    cut = plan(torch.rand(200, 3, generator=random) * 2 - 1, CUBE, tiles, True)
    points = torch.rand(64, 3, generator=random, dtype=torch.float64) * 2 - 1
    band, _ = parted(cut, points, torch.ones(64, dtype=torch.bool))
    steps = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3)
    steps = steps[steps.abs().sum(1) == 1] * REACH * 2  # along the axes: faces are square to them
    around = torch.stack([cut.tile_of(points + step) for step in steps * 1.0001])
    inside = torch.stack([cut.tile_of(points + step) for step in steps * 0.9999])
    own = cut.tile_of(points)
    assert bool(band[(inside != own).any(0)].all())
    assert not bool(band[(around == own).all(0)].any())


def test_error_is_counted_apart_and_surfaces_are_those_of_joint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four pixels a view: two of the band, one of the rest, one of the sky.
    band = np.array([[True, True], [False, False]])
    rest = np.array([[False, False], [True, False]])
    truth = np.zeros((2, 2, 3), np.uint8)
    joint, other, lonely, uncut = (
        Cell("overlap", mode, tiles, 1, seed)
        for mode, tiles, seed in (
            *(("joint", 4, 1), ("independent-3d:0", 4, 1)),
            *(("independent-3d:0", 4, 2), ("joint", 1, 1)),
        )
    )
    runs = {cell: RunFolder(tmp_path / cell.label) for cell in (uncut, joint, other, lonely)}
    asked = []

    def views(reference: RunFolder) -> list[Seen]:
        asked.append(reference)
        return [Seen("a", truth, band, rest)]

    def rendered(run: RunFolder, _: str) -> object:
        error = 0.1 if run is runs[joint] else 1.0
        return error * np.array([[1.0, 0.0], [0.1, 9.0]])[..., None].repeat(3, -1)

    monkeypatch.setattr(seams, "views", views)
    monkeypatch.setattr(seams, "rendered", rendered)
    found = seams.measured(runs)
    assert asked == [runs[joint]]
    assert set(found) == {joint, other, uncut}  # no joint fit of seed 2 says where surfaces are
    # Mean squared error of the band: (0.01 + 0) / 2; of the rest: 0.0001; the sky does not count.
    assert found[joint]["band_psnr"] == pytest.approx(-10 * math.log10(0.005))
    assert found[joint]["rest_psnr"] == pytest.approx(40)
    assert found[other]["rest_psnr"] == pytest.approx(20)
    assert found[joint]["band_share"] == pytest.approx(2 / 3)


def test_the_piece_that_is_shown_holds_most_of_the_band() -> None:
    band = np.zeros((30, 60), bool)
    band[12:20, 41:50] = True
    piece = most_of_the_band(Seen("a", np.zeros((30, 60, 3), np.uint8), band, ~band))
    # A third of the shorter edge: 10 x 10 pixels, that hold all 8 x 9.
    inside = band[piece.top : piece.top + 10, piece.left : piece.left + 10]
    assert (piece.side, int(inside.sum())) == (10, 72)
