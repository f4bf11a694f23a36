"""A run that is opened in one process: its pictures, its field, its tables in pages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nerfxl import commands
from nerfxl.cameras import look_at, pinhole
from nerfxl.crew import Launching
from nerfxl.errors import UserError
from nerfxl.filming.shooting import Wish
from nerfxl.filming.stills import Picture
from nerfxl.opened import Opened, open_run
from nerfxl.progress import Speaker
from nerfxl.regions import Regions
from nerfxl.storage.paging import Paged
from tests.conftest import TINY, merged

GIB, K = 2**30, 4
TABLE = 4 * 4 * 2**9 * 2  # bytes of a tile's: levels, cells and features of TINY
LEARNING: dict[str, Any] = {
    "cameras": {"refine": "on", "warmup_steps": 1},
    "appearance": {"exposure": "on"},
}
CASES = {
    "joint": {"bounds": {"outside": "contract"}, **LEARNING},
    "closed": {"bounds": {"outside": "empty", "box": [[-1, -1, -1], [1, 1, 1]]}},
    "ddp": {"train": {"mode": "ddp"}},
    "independent-3d": {"train": {"mode": "independent-3d", "overlap": 0.3}},
    "independent-2d": {"train": {"mode": "independent-2d"}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, capture: Path) -> dict[str, Path]:
    """A short run of every case."""
    found = {}
    for case, changes in CASES.items():
        folder = tmp_path_factory.mktemp(case)
        document = merged(TINY, changes)
        document["capture"] = {"path": str(capture), **document["capture"]}
        (folder / "cube.yaml").write_text(json.dumps(document))
        asked = (folder / "cube.yaml", folder / "runs", "cpu", (), False)
        made = commands.fit(*asked, Speaker(quiet=True), Launching(1))
        found[case] = Path(made["run"])
    return found


def seen(run: Opened, like: str | None = None) -> Picture:
    shot = run.scene.shots[0]
    return run.render(shot.camera, shot.pose, like)


def test_a_look_does_not_move_the_camera(runs: dict[str, Path]) -> None:
    """Although that photograph's camera was moved while it was learned from."""
    run = open_run(runs["joint"])
    shot = next(shot for shot in run.shots() if not shot.test)
    before = next(one for one in run.scene.shots if one.name == shot.name)
    assert np.abs(shot.pose - before.pose).max() > 1e-4
    alike, plain = (run.render(shot.camera, shot.pose, like) for like in (shot.name, None))
    # The way there and back rounds to float32.
    torch.testing.assert_close(alike.depth, plain.depth, rtol=1e-4, atol=1e-5)
    assert (alike.colour - plain.colour).abs().max() > 1e-5


def test_rays_that_end_at_nothing_have_no_depth(runs: dict[str, Path]) -> None:
    """A camera that looks away from a closed scene sees its background."""
    run = open_run(runs["closed"])
    made = run.render(pinhole(8, 6, 50), look_at((0, -9, 0), (0, -99, 0)))
    assert (made.opacity == 0).all()
    assert made.depth.isnan().all()
    assert made.spread.isnan().all()
    assert made.colour.isfinite().all()


def values(made: Picture) -> list[Tensor]:
    return [made.colour, made.depth, made.opacity, made.spread]


@pytest.mark.parametrize("case", CASES)
def test_pages_give_the_same_pictures_to_the_bit(case: str, runs: dict[str, Path]) -> None:
    whole, paged = open_run(runs[case], memory=1), open_run(runs[case], memory=0)
    pager, roomy = paged.ensemble.pager, whole.ensemble.pager
    assert pager is not None
    assert roomy is not None
    assert pager.crowded
    assert not roomy.crowded
    assert pager.reads == roomy.reads == 0, "nothing is read before it is asked"
    for one, other in zip(values(seen(whole)), values(seen(paged)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert pager.reads >= 2
    assert roomy.reads <= K, "each once at most"
    assert pager.held <= TABLE, "one table at a time"
    tiles = [tile for member in paged.ensemble.members for tile in member.model.tiles]
    assert {type(tile) for tile in tiles} == {Paged}
    assert not any(hasattr(tile, "table") for tile in tiles)


def test_tables_that_fit_are_read_once(runs: dict[str, Path]) -> None:
    run = open_run(runs["joint"], memory=(K - 1) * TABLE / GIB)
    pager = run.ensemble.pager
    assert pager is not None
    assert pager.total == K * TABLE
    points = torch.rand(100, 3) * 2 - 1
    tile = run.scene.plan.tile_of(torch.from_numpy(run.scene.world.points(points.numpy())))
    kept = [points[tile == k] for k in range(K)]
    assert all(len(some) for some in kept), "every tile holds a point"
    for k in (0, 1, 2, 0, 1, 2, 0):
        run.query(kept[k])
    assert pager.reads == K - 1
    run.query(kept[K - 1])  # takes the room of 1, which was asked longest ago
    run.query(kept[2])
    run.query(kept[0])
    assert pager.reads == K
    run.query(kept[1])
    assert pager.reads == K + 1
    assert pager.held == (K - 1) * TABLE


def test_a_paged_run_outlives_the_removal_of_its_checkpoint(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(runs["joint"], tmp_path / "run")
    run = open_run(tmp_path / "run", memory=0)
    before = seen(run)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    torch.testing.assert_close(seen(run).colour, before.colour, rtol=0, atol=0)
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        open_run(tmp_path / "run")


def test_a_shard_that_is_damaged_is_never_paged(runs: dict[str, Path], tmp_path: Path) -> None:
    """Its hash is verified before the first tile is asked; the checkpoint before it is taken."""
    shutil.copytree(runs["joint"], tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-000000010" / "tile-0001.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    assert open_run(tmp_path / "run", memory=0).step == 5


@pytest.mark.parametrize("case", [case for case in CASES if case != "independent-2d"])
def test_density_along_a_ray_gives_its_opacity(case: str, runs: dict[str, Path]) -> None:
    """Of Beer and Lambert, in source units: 1 - exp(-sum of density times length)."""
    run = open_run(runs[case])
    shot = run.scene.shots[0]
    camera = pinhole(6, 4, 40)
    made = run.render(camera, shot.pose)
    rays = camera.directions().reshape(-1, 3).astype(np.float64) @ shot.pose[:, :3].T
    near, far = run.scene.near / run.scene.world.scale, 200 / run.scene.world.scale
    ends = (
        np.geomspace(max(near, 1e-3), far, 3000) if run.scene.plan.open else np.linspace(0, 9, 4000)
    )
    middle, length = (ends[1:] + ends[:-1]) / 2, np.diff(ends)
    points = shot.pose[:, 3] + middle[None, :, None] * rays[:, None]
    density, colour = run.query(torch.from_numpy(points.reshape(-1, 3)))
    assert density.dtype == colour.dtype == torch.float32
    tau = density.reshape(len(rays), -1).double() @ torch.from_numpy(length)
    found = (1 - torch.exp(-tau)).reshape(4, 6)
    assert float(found.amax()) > 0.1, "something is there"
    torch.testing.assert_close(found.float(), made.opacity, rtol=0.03, atol=0.01)


def test_outside_of_a_closed_scene_nothing_is_there(runs: dict[str, Path]) -> None:
    run = open_run(runs["closed"])
    inside, outside = torch.rand(50, 3) * 1.9 - 0.95, torch.rand(50, 3) + 1.01
    density, _ = run.query(torch.cat([inside, outside, -outside]))
    assert (density[:50] > 0).all()
    assert not density[50:].any()


def test_independent_nerfs_are_mixed_where_they_overlap(runs: dict[str, Path]) -> None:
    run = open_run(runs["independent-3d"])
    points = torch.rand(500, 3) * 2 - 1
    placed = torch.from_numpy(run.scene.world.points(points.double().numpy())).float()
    weights = Regions(run.scene.plan, 0.3).weights(placed)
    assert ((weights > 0).sum(1) > 1).any()
    expected = torch.zeros(500)
    for k, member in enumerate(run.ensemble.members):
        view = torch.full((500,), len(run.scene.shots))
        alone, _ = member.model.renderer.query(placed, torch.ones(500, 3), view)
        expected += weights[:, k] * alone * run.scene.world.scale
    density, colour = run.query(points)
    torch.testing.assert_close(density, expected, rtol=1e-4, atol=1e-6)
    assert ((colour >= 0) & (colour <= 1)).all()


def test_nerfs_blended_in_pictures_have_no_density(runs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"independent-2d.*no point of space has one density"):
        open_run(runs["independent-2d"]).query(torch.zeros(1, 3))


def test_colour_depends_on_where_one_looks(runs: dict[str, Path]) -> None:
    run = open_run(runs["joint"])
    points = torch.rand(30, 3) - 0.5
    down, up = (torch.tensor([0.0, 0, z]).expand(30, 3) for z in (-1, 2))
    torch.testing.assert_close(run.query(points)[1], run.query(points, down)[1])
    assert not torch.equal(run.query(points, up)[1], run.query(points, down)[1])
    assert run.query(torch.zeros(0, 3))[0].shape == (0,)


def test_a_picture_can_take_the_look_of_a_photograph(runs: dict[str, Path]) -> None:
    run = open_run(runs["joint"])
    taken = next(shot.name for shot in run.scene.shots if not shot.test)
    assert not torch.equal(seen(run).colour, seen(run, taken).colour)
    torch.testing.assert_close(
        seen(run).opacity.mean(), seen(run, taken).opacity.mean(), rtol=0.1, atol=0.1
    )
    with pytest.raises(UserError, match=r"no view 'nobody.jpg'; it has 6, from 'images/0.png'"):
        seen(run, "nobody.jpg")


def test_views_are_those_that_the_run_has_learned(runs: dict[str, Path]) -> None:
    run = open_run(runs["joint"])
    for given, learned in zip(run.scene.shots, run.shots(), strict=True):
        assert (given.name, given.test) == (learned.name, learned.test)
        axes = learned.pose[:, :3]
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
        moved = np.abs(given.pose - learned.pose).max()
        assert moved == 0 if given.test else 0 < moved < 0.1
    alone = open_run(runs["independent-3d"])
    assert alone.shots() == list(alone.scene.shots)


def test_whoever_is_told_can_end_a_rendering(runs: dict[str, Path]) -> None:
    run, heard = open_run(runs["joint"]), list[float]()
    shot = run.scene.shots[0]
    run.render(shot.camera, shot.pose, told=heard.append)
    assert heard[-1] == 1
    assert heard == sorted(heard)

    def enough(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.render(shot.camera, shot.pose, told=enough)


def test_the_command_renders_in_pages_too(runs: dict[str, Path]) -> None:
    """Two processes, each of which keeps one table at a time."""
    run, wish = runs["joint"], Wish("test", shows="colour")
    asked = (None, "cpu", Speaker(quiet=True))
    made = commands.render(run, run.parent, wish, None, *asked)
    before = {file.name: file.read_bytes() for file in Path(made["folder"]).glob("*.png")}
    shutil.rmtree(made["folder"])
    commands.render(run, run.parent, wish, 0.0, 2, *asked[1:])
    after = {file.name: file.read_bytes() for file in Path(made["folder"]).glob("*.png")}
    assert len(before) == made["pictures"] == 2
    assert before.keys() == after.keys()
