"""From a scene file to what all ranks read: bounds, plan, and a run folder that says it all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nerfxl.errors import UserError
from nerfxl.prepare import (
    NEAR_OPEN,
    Prepared,
    near_plane,
    photographs,
    prepare,
    read_back,
    some_rays,
    write,
)
from nerfxl.runs import RunFolder
from nerfxl.scene.file import load_scene

WriteScene = Callable[..., Path]


def prepared(scene: Path, *overrides: str) -> Prepared:
    return prepare(load_scene(scene, device="cpu", overrides=overrides))


@pytest.fixture
def run(scene_file: WriteScene, tmp_path: Path) -> RunFolder:
    made = RunFolder.create(tmp_path / "runs", "cube")
    write(prepared(scene_file()), made)
    return made


def test_tiles_share_the_points_evenly(scene_file: WriteScene) -> None:
    made = prepared(scene_file())
    assert len(made.points) == 98
    tiles = made.plan.tile_of(made.points)
    assert torch.bincount(tiles, minlength=4).min() >= 10
    assert made.plan.open  # cameras stand around the cube, inside their own box


def test_points_and_cameras_are_moved_alike(scene_file: WriteScene) -> None:
    made = prepared(scene_file())
    back = made.world.inverse()
    source = back.points(made.points.double().numpy())
    np.testing.assert_allclose(np.abs(source).max(axis=1), 0.5, atol=1e-5)
    cameras = made.world.points(made.capture.poses()[:, :, 3])
    assert np.abs(cameras).max() <= 1  # the box holds them


def test_given_bounds_are_taken(scene_file: WriteScene) -> None:
    box = [[-1, -1, -0.5], [1, 1, 0.5]]
    made = prepared(scene_file(bounds={"box": box, "outside": "empty"}))
    assert not made.plan.open
    assert made.world.scale == pytest.approx(1)
    assert made.plan.root.high == (1.0, 1.0, 0.5)
    assert near_plane(made.scene.spec, made.world, is_open=False) == 0


def test_the_near_plane_is_given_in_source_units(scene_file: WriteScene) -> None:
    made = prepared(scene_file(sampling={"near": 0.5}))
    assert near_plane(made.scene.spec, made.world, True) == pytest.approx(0.5 * made.world.scale)
    auto = prepared(scene_file())
    assert near_plane(auto.scene.spec, auto.world, is_open=True) == NEAR_OPEN


def test_without_points_tiles_are_cut_where_rays_pass(
    scene_file: WriteScene, own_capture: Path
) -> None:
    file = own_capture / "transforms.json"
    document = json.loads(file.read_text())
    del document["ply_file_path"]
    file.write_text(json.dumps(document))
    scene = scene_file(folder=own_capture)
    made = prepared(scene)
    assert len(made.points) > 1000
    low, high = (torch.tensor(side) for side in (made.plan.root.low, made.plan.root.high))
    assert ((made.points >= low - 1e-5) & (made.points <= high + 1e-5)).all()
    shares = torch.bincount(made.plan.tile_of(made.points), minlength=4) / len(made.points)
    assert shares.min() > 0.15
    assert prepared(scene).plan == made.plan  # drawn from the seed


def test_planning_rays_are_the_training_views(scene_file: WriteScene) -> None:
    made = prepared(scene_file())
    rays = some_rays(made.capture, made.world, 500, seed=1)
    torch.testing.assert_close(rays.directions.norm(dim=1), torch.ones(500))
    centres = made.world.points(np.stack([view.pose[:, 3] for view in made.capture.train]))
    away = rays.origins.double()[:, None] - torch.from_numpy(centres)
    assert away.norm(dim=-1).amin(1).max() < 1e-6


def test_a_run_reads_back_what_was_decided(
    run: RunFolder, scene_file: WriteScene, tmp_path: Path
) -> None:
    made = prepared(scene_file())
    found = read_back(run)
    assert found.plan == made.plan
    assert found.world.to_json() == made.world.to_json()
    assert found.near == NEAR_OPEN
    assert found.spec.model_dump(exclude={"capture"}) == made.scene.spec.model_dump(
        exclude={"capture"}
    )
    for shot, view in zip(found.shots, made.capture.views, strict=True):
        assert (shot.name, shot.camera, shot.test) == (view.name, view.camera, view.test)
        assert (shot.pose == view.pose).all()
    # Moved elsewhere, it is still read, and the photographs are still found.
    shutil.move(run.path, tmp_path / "elsewhere")
    moved = RunFolder(tmp_path / "elsewhere")
    again = photographs(moved, read_back(moved).spec, read_back(moved).shots)
    assert [view.test for view in again.views] == [view.test for view in made.capture.views]


def test_a_run_keeps_its_split_when_photographs_come_and_go(
    scene_file: WriteScene, own_capture: Path, tmp_path: Path
) -> None:
    made = RunFolder.create(tmp_path / "runs", "cube")
    write(prepared(scene_file(folder=own_capture)), made)
    before = {shot.name: shot.test for shot in read_back(made).shots}
    (own_capture / "images" / "1.png").unlink()
    scene = read_back(made)
    found = {view.name: view for view in photographs(made, scene.spec, scene.shots).views}
    assert set(before) - set(found) == {"images/1.png"}
    assert all(view.test == before[name] for name, view in found.items())


@pytest.mark.parametrize(
    "name", ["scene.yaml", "plan.json", "scene_transform.json", "cameras.json"]
)
@pytest.mark.parametrize("damage", ["missing", "cut short", "of something else"])
def test_a_damaged_run_is_named(run: RunFolder, name: str, damage: str) -> None:
    file = run.path / name
    if damage == "missing":
        file.unlink()
    elif damage == "cut short":
        file.write_text(file.read_text()[: file.stat().st_size // 2])
    else:
        file.write_text("{}")
    with pytest.raises(UserError) as caught:
        read_back(run)
    assert str(run.path) in str(caught.value)


def test_no_photograph_is_needed_to_read_a_run(
    scene_file: WriteScene, own_capture: Path, tmp_path: Path
) -> None:
    made = RunFolder.create(tmp_path / "runs", "cube")
    write(prepared(scene_file(folder=own_capture)), made)
    shutil.rmtree(own_capture)
    assert len(read_back(made).shots) == 6
