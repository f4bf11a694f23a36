"""What a picture says beside its colour: spread, normals, tiles; and how it is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nerfxl_kernels.march import Path
from numpy.typing import NDArray

from nerfxl.cameras import look_at, pinhole, vertical_fov
from nerfxl.filming.displays import FULL_SPREAD, KINDS, display
from nerfxl.filming.stills import Picture, normals, surface, tile_index
from nerfxl.partition import Plan, plan
from nerfxl.pictures import NOTHING, tile_colours
from nerfxl.prepare import RunScene
from nerfxl.rays import Box, Segment, Still
from nerfxl.scene.spec import SceneSpec
from nerfxl.world import WorldTransform

Array = NDArray[np.float64]
WIDTH, HEIGHT = 24, 16
CAMERA = pinhole(WIDTH, HEIGHT, 50)
POSE = look_at((1, -5, 2), (0.3, 0.2, 0.1))


def scene(tiles: int = 1) -> RunScene:
    """Source units are half of the scene's; the first tile is the lower half of space."""
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    cut: Plan = plan(points, Box((-1, -1, -1), (1, 1, 1)), tiles, open=True)
    world = WorldTransform(0.5, np.eye(3), np.zeros(3))
    return RunScene(SceneSpec.model_validate({"capture": {"path": "x"}}), cut, world, ())


def of_plane(normal: Array, offset: float, opacity: float = 1.0) -> Picture:
    """The picture of a plane normal . x = offset."""
    rays = CAMERA.directions().astype(np.float64) @ POSE[:, :3].T
    depth = torch.from_numpy((offset - normal @ POSE[:, 3]) / (rays @ normal))
    known = torch.full((HEIGHT, WIDTH), opacity, dtype=torch.float64)
    return Picture.of(torch.full((HEIGHT, WIDTH, 3), 0.5), depth, known, 0 * known)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 2)), min_size=1, max_size=6),
    st.floats(0.5, 4),
)
def test_spread_is_the_mean_distance_between_two_draws(
    samples: list[tuple[float, float]], span: float
) -> None:
    """Of where light ends: at samples, or at m = 1 where it passes all of them."""
    at = np.array(sorted(m for m, _ in samples))
    tau = np.array([depth for _, depth in samples])
    passed = np.exp(-np.concatenate([[0], np.cumsum(tau)]))
    weights = -np.diff(passed)
    ends, shares = np.append(at, 1.0), np.append(weights, passed[-1])
    drawn = (shares[:, None] * shares * np.abs(ends[:, None] - ends)).sum()
    # samples without width: only the first term of the distortion is left
    distortion = (weights[:, None] * weights * np.abs(at[:, None] - at)).sum()
    values = torch.tensor([[tau.sum(), (weights * at).sum(), distortion, 0, 0, 0]]).double()
    zero, c = torch.zeros(1, 3), 0.1
    path = Path(zero, zero, torch.zeros(1).double(), torch.full((1,), span, dtype=torch.float64), c)
    still = Still.of(Segment(values), path, zero, 0)
    depth = c * np.sinh(span * (shares * ends).sum())
    assert still.depth.item() == pytest.approx(depth)
    assert still.opacity.item() == pytest.approx(1 - passed[-1])
    # dt / t = dm span sqrt(t^2 + c^2) / t
    expected = drawn * span * np.sqrt(1 + (c / max(depth, c / 1e3)) ** 2)
    assert still.spread.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("normal", [(0, 0, 1), (0.6, -0.8, 0), (0.36, -0.48, 0.8)])
def test_normals_are_those_of_the_surface(normal: tuple[float, float, float]) -> None:
    wanted = np.array(normal)
    made = of_plane(wanted, -3.0)
    hit = np.isfinite(surface(made, CAMERA, POSE)).all(-1) & (made.depth.numpy() > 0)
    inner = hit & np.roll(hit, 1, 0) & np.roll(hit, -1, 0) & np.roll(hit, 1, 1)
    inner &= np.roll(hit, -1, 1)
    found = normals(made, CAMERA, POSE)
    assert inner.sum() > 20
    np.testing.assert_allclose(found[inner], np.broadcast_to(wanted, found.shape)[inner], atol=1e-4)


def test_where_nothing_is_seen_nothing_is_said() -> None:
    made = of_plane(np.array([0.0, 0, 1]), -3.0, opacity=0.4)
    assert np.isnan(normals(made, CAMERA, POSE)).all()
    assert (tile_index(made, CAMERA, POSE, scene()) == -1).all()
    for kind in set(KINDS) - {"colour", "opacity"}:
        shown = display(kind, made, CAMERA, POSE, scene(), (1, 9))
        assert (shown == np.array(NOTHING)).all()


def test_a_pixel_belongs_to_the_tile_where_its_light_ends() -> None:
    made, where = of_plane(np.array([0.0, 1, 0]), 0.2), scene(4)
    points = surface(made, CAMERA, POSE)
    np.testing.assert_allclose(points[..., 1], 0.2, atol=1e-6)
    found = tile_index(made, CAMERA, POSE, where)
    expected = where.plan.tile_of(torch.from_numpy(0.5 * points.reshape(-1, 3)).float())
    np.testing.assert_array_equal(found.reshape(-1), expected.numpy())
    assert len(np.unique(found)) > 1
    shown = display("tiles", made, CAMERA, POSE, where, (1, 9))
    colour = np.array(tile_colours(4))[found]
    np.testing.assert_allclose(shown, 0.7 * colour, atol=1)  # 0.4 + 0.6 * 0.5


def test_every_aspect_can_be_shown() -> None:
    made = of_plane(np.array([0.0, 0, 1]), -3.0)
    made.spread[:] = FULL_SPREAD / 2
    for kind in KINDS:
        shown = display(kind, made, CAMERA, POSE, scene(2), (1, 9))
        assert shown.shape == (HEIGHT, WIDTH, 3)
        assert shown.dtype == np.uint8
        assert shown.max() > 50, kind


@given(st.floats(5, 150), st.integers(2, 999), st.integers(2, 999))
def test_a_field_of_view_is_found_again(fov: float, width: int, height: int) -> None:
    assert vertical_fov(pinhole(width, height, fov)) == pytest.approx(fov, abs=1e-5)
