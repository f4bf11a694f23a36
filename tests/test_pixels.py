"""The pool of pixels: each drawn ray is that of its pixel, and looks at its colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nerfxl.cameras import Camera, look_at
from nerfxl.captures import View
from nerfxl.pixels import PixelPool, camera_rays, dealt, jitter, opaque
from nerfxl.world import WorldTransform

CPU = torch.device("cpu")
WIDE = Camera("PINHOLE", 4, 3, (4.0, 4.0, 2.0, 1.5))
SMALL = Camera("PINHOLE", 2, 2, (2.0, 2.0, 1.0, 1.0))
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
WORLD = WorldTransform(0.5, TURN, np.array([0.1, 0.2, 0.3]))


def view(index: int, camera: Camera) -> View:
    pose = look_at((2.0 + index, index, 1.0), (0.0, 0.0, 0.0))
    return View(f"{index}.png", camera, pose, Path("none"), None, test=False)


def numbered(index: int, camera: Camera) -> NDArray[np.uint8]:
    """An image whose colours say where they are: (view, row, column)."""
    row, column = np.mgrid[: camera.height, : camera.width]
    return np.stack([np.full_like(row, index), row, column], -1).astype(np.uint8)


CAMERAS = (WIDE, SMALL, WIDE)
VIEWS = [view(index, camera) for index, camera in enumerate(CAMERAS)]


def pool(masks: Sequence[NDArray[np.bool_] | None] = (None, None, None)) -> PixelPool:
    images = [numbered(index, one.camera) for index, one in enumerate(VIEWS)]
    return PixelPool([(0, one) for one in VIEWS], images, masks, WORLD, None, CPU)


def test_every_ray_leaves_through_its_own_pixel() -> None:
    made = pool()
    assert len(made) == 12 + 4 + 12
    batch, truth = made.batch(1, 1, 400)
    rays = batch.rays
    places = (truth.colour * 255).round().long().tolist()
    assert {tuple(place) for place in places} == {
        (index, row, column)
        for index, one in enumerate(VIEWS)
        for row in range(one.camera.height)
        for column in range(one.camera.width)
    }
    pictures = [camera_rays(v.camera, WORLD.poses(v.pose[None])[0], CPU) for v in VIEWS]
    for ray, (index, row, column) in enumerate(places):
        pixel = row * VIEWS[index].camera.width + column
        torch.testing.assert_close(rays.directions[ray], pictures[index].directions[pixel])
        torch.testing.assert_close(rays.origins[ray], pictures[index].origins[pixel])


def test_a_ray_is_placed_in_the_scene_by_hand() -> None:
    """The middle of the picture looks at the target, which the world transform moves."""
    odd = Camera("PINHOLE", 3, 3, (4.0, 4.0, 1.5, 1.5))
    pose = look_at((2.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    rays = camera_rays(odd, WORLD.poses(pose[None])[0], CPU)
    # (2, 0, 0) turns to (0, 2, 0), is halved and moved; the direction (-1, 0, 0) turns alone.
    torch.testing.assert_close(rays.origins, torch.tensor([[0.1, 1.2, 0.3]]).expand(9, 3))
    torch.testing.assert_close(rays.directions[4], torch.tensor([0.0, -1.0, 0.0]))
    # Pixel 5 is one to the right: x = 1 / 4 before normalisation. Right of -x, z up, is +y;
    # turned, that is -x.
    expected = torch.tensor([-0.25, -1.0, 0.0])
    torch.testing.assert_close(rays.directions[5], expected / expected.norm())
    torch.testing.assert_close(rays.directions.norm(dim=1), torch.ones(9))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, truth = pool().batch(1, 5, 50)
    torch.rand(3)
    again, same = pool().batch(1, 5, 50)
    assert first.rays.directions.equal(again.rays.directions)
    assert truth.colour.equal(same.colour)
    for seed, step in ((2, 5), (1, 6)):
        assert not pool().batch(seed, step, 50)[1].colour.equal(truth.colour)


def test_a_batch_does_not_depend_on_who_loads_what() -> None:
    """Four parts of unlike sizes, one of them empty, loaded by one rank, by two, by four."""
    K, count = 4, 57
    images = {one.name: numbered(index, one.camera) for index, one in enumerate(VIEWS)}

    def loaded(*parts: int) -> PixelPool:
        views = dealt(VIEWS, K, parts)
        none = [None] * len(views)
        made = PixelPool(views, (images[v.name] for _, v in views), none, WORLD, None, CPU)
        made.agree([12, 4, 12, 0])
        return made

    assert loaded(*range(K)).held(K) == [12, 4, 12, 0]
    assert loaded(1, 3).held(K) == [0, 4, 0, 0]
    whole, truth = loaded(*range(K)).batch(1, 5, count)
    assert whole.number.tolist() == list(range(count))
    # 57 * 12 / 28 = 24.4, 57 * 16 / 28 = 32.6
    assert [part for part, _ in whole.parts] == [0, 1, 2]
    assert [rows.stop for _, rows in whole.parts] == [24, 32, 57]
    for shares in ([(0, 3), (1, 2)], [(0,), (1,), (2,), (3,)]):
        seen = []
        for share in shares:
            batch, found = loaded(*share).batch(1, 5, count)
            assert batch.count == count
            assert truth.colour[batch.number].equal(found.colour)
            assert whole.rays.directions[batch.number].equal(batch.rays.directions)
            assert whole.jitter[batch.number].equal(batch.jitter)
            for part, rows in batch.parts:
                before = dict(whole.parts)[part]
                assert batch.number[rows].tolist() == list(range(before.start, before.stop))
            seen += batch.number.tolist()
        assert sorted(seen) == list(range(count))


def test_masked_pixels_are_never_drawn() -> None:
    keep = np.zeros((3, 4), np.bool_)
    keep[1, 2] = True
    made = pool([keep, None, np.zeros((3, 4), np.bool_)])
    assert len(made) == 1 + 4
    _, truth = made.batch(1, 1, 200)
    places = {tuple(place) for place in (truth.colour * 255).round().long().tolist()}
    assert places == {(0, 1, 2), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)}


def test_pixels_without_a_ray_are_never_drawn_and_look_ahead_in_pictures() -> None:
    # A fisheye that sees half the sphere at 90 degrees from its middle: its corners see nothing.
    fisheye = Camera("SIMPLE_FISHEYE", 9, 9, (1.0, 4.5, 4.5))
    blind = ~np.isfinite(fisheye.directions().reshape(-1, 3)[:, 0])
    assert 0 < blind.sum() < 81
    one = view(0, fisheye)
    made = PixelPool([(0, one)], [numbered(0, fisheye)], [None], WORLD, None, CPU)
    assert len(made) == 81 - blind.sum()
    batch, truth = made.batch(1, 1, 2000)
    assert batch.rays.directions.isfinite().all()
    drawn = (truth.colour * 255).round().long()
    assert not blind[(drawn[:, 1] * 9 + drawn[:, 2]).numpy()].any()
    picture = camera_rays(fisheye, one.pose, CPU)
    ahead = torch.from_numpy(one.pose[:, 2]).float()
    torch.testing.assert_close(
        picture.directions[torch.from_numpy(blind)], ahead.expand(int(blind.sum()), 3)
    )


def test_jitter_is_even_and_of_its_own_stream() -> None:
    shift = jitter(1, 2, 4000, CPU)
    assert shift.shape == (4000, 2)
    assert 0 <= float(shift.min()) <= float(shift.max()) < 1
    assert float(shift.mean()) == pytest.approx(0.5, abs=0.02)
    assert shift.equal(jitter(1, 2, 4000, CPU))
    assert not shift.equal(jitter(1, 3, 4000, CPU))
    # The first rays of a longer batch keep their jitter.
    assert jitter(1, 2, 10, CPU).equal(shift[:10])


def test_alpha_is_blended_over_a_constant_background_only() -> None:
    image = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    # 51 / 255 = 1/5: 200 / 5 + 255 * 4 / 5 = 244, 224, 204.
    white = opaque(image, (1.0, 1.0, 1.0))
    assert white.tolist() == [[[200, 100, 0], [255, 255, 255], [244, 224, 204]]]
    sky = opaque(image, None)
    assert sky.tolist() == [[[200, 100, 0]] * 3]
    assert opaque(image[..., :3], (1.0, 1.0, 1.0)).tolist() == sky.tolist()
