"""`nerfxl export` as a user has it: of a real run, in the coordinates of a map."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import torch
import trimesh
from numpy.typing import NDArray

from nerfxl.captures import read_capture
from nerfxl.captures.ply import read_ply
from nerfxl.exporting.ends import Ends, Sieve, find_ends
from nerfxl.exporting.lattice import Lattice
from nerfxl.exporting.mesh import density_field, large_faces, seen_faces, usual_level
from nerfxl.exporting.points import thinned
from nerfxl.exporting.surface import Surface, find_surface
from nerfxl.opened import Opened, open_run
from nerfxl.prepare import prepare, write
from nerfxl.runs import RunFolder
from nerfxl.scene.file import load_scene
from nerfxl.worker import Job, work
from tests.conftest import TINY, Here, merged, write_capture

MAP = np.array([512_000.0, 5_403_000.0, 210.0])  # metres east, north and up of somewhere
EDGE = 1.6  # of the box, metres


def on_the_map(root: Path) -> None:
    """Move a capture, cameras and points."""
    document = json.loads((root / "transforms.json").read_text())
    for frame in document["frames"]:
        matrix = np.array(frame["transform_matrix"])
        matrix[:3, 3] += MAP
        frame["transform_matrix"] = matrix.tolist()
    (root / "transforms.json").write_text(json.dumps(document))
    points, _ = read_ply(root / "points.ply")
    header, mark, _ = (root / "points.ply").read_text().partition("end_header\n")
    rows = "\n".join(" ".join(map(repr, place)) for place in (points + MAP).tolist())
    (root / "points.ply").write_text(f"{header.replace('float', 'double')}{mark}{rows}\n")


def fitted(folder: Path, **changes: Any) -> RunFolder:
    """A run of a few steps: its field is no cube yet, but as rough as any, in four tiles."""
    root = folder / "capture"
    root.mkdir(parents=True)
    write_capture(root)
    on_the_map(root)
    box = [(MAP - EDGE / 2).tolist(), (MAP + EDGE / 2 - (0, 0, 0.6)).tolist()]
    bounds = {"box": box, "outside": "empty"}
    document = merged(TINY, {"bounds": bounds, "field": {"density_bias": 2.0}})
    document = merged(document, {"cameras": {"refine": "on", "warmup_steps": 2}})
    document = merged(document, changes)
    document["capture"] = {"path": str(root), **document["capture"]}
    (folder / "map.yaml").write_text(json.dumps(document))
    run = RunFolder.create(folder / "runs", "map")
    write(prepare(load_scene(folder / "map.yaml", device="cpu")), run)
    run.update(state="running")
    assert work(Job("fit", str(run.path), "cpu")) == 0
    return run


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Steps of so few rays are over before a second thread has woken."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fitted(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def opened(run: RunFolder) -> Opened:
    return open_run(run.path, device="cpu")


def lattice_of(opened: Opened, resolution: int) -> Lattice:
    return Lattice.over(opened.scene.plan.root, resolution)


def middle_level(opened: Opened, lattice: Lattice) -> float:
    """The density that half of the box has."""
    draw = np.random.default_rng(0).uniform(0, 1, (4000, 3)) * lattice.cells
    back = opened.scene.world.inverse()
    density, _ = opened.query(torch.from_numpy(back.points(lattice.places(draw))))
    return float(density.median())


def inside(places: NDArray[np.float64], more: float = 1e-9) -> bool:
    low, high = MAP - EDGE / 2 - more, MAP + EDGE / 2 - (0, 0, 0.6) + more
    return bool(((places >= low) & (places <= high)).all())


def test_the_mesh_of_four_tiles_is_that_of_one_block(opened: Opened) -> None:
    """Faces of tiles leave no trace: cut in bricks, asked in groups, or all at once."""
    lattice = lattice_of(opened, 24)
    field = density_field(opened, lattice, middle_level(opened, lattice))
    one = find_surface(lattice, field, 1, lambda _: None, edge=64)
    for edge in (5, 8):
        cut = find_surface(lattice, field, 1, lambda _: None, edge=edge)
        assert np.array_equal(cut.faces, one.faces)
        assert np.array_equal(cut.places, one.places)
    # it passes faces of tiles, and has no open edge but at the border of the lattice
    held = opened.scene.plan.tile_of(torch.from_numpy(lattice.places(one.places)))
    assert set(held.tolist()) == {0, 1, 2, 3}
    assert (held[torch.from_numpy(one.faces)].diff(dim=1) != 0).any()
    edges = np.sort(np.concatenate([one.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]), 1)
    edges, count = np.unique(edges, axis=0, return_counts=True)
    assert count.max() == 2
    ends = one.places[edges[count == 1]]
    border = (ends < 1e-9) | (ends > np.array(lattice.cells) - 1e-9)
    assert border.all(1).any(1).all()


def test_paged_tiles_give_the_same_mesh(run: RunFolder, opened: Opened) -> None:
    lattice = lattice_of(opened, 12)
    level = middle_level(opened, lattice)
    paged = open_run(run.path, device="cpu", memory=0)
    assert paged.ensemble.pager is not None
    one, other = (
        find_surface(lattice, density_field(who, lattice, level), 1, lambda _: None)
        for who in (opened, paged)
    )
    assert np.array_equal(one.faces, other.faces)
    assert np.array_equal(one.places, other.places)


def test_a_mesh_keeps_the_coordinates_of_the_capture(
    run: RunFolder, opened: Opened, here: Here, tmp_path: Path
) -> None:
    lattice = lattice_of(opened, 16)
    level = middle_level(opened, lattice)
    plain = ("--resolution", 16, "--level", level, "--keep-hidden", "--smallest", 0, "--smooth", 0)
    said = here("export", "mesh", run.path, *plain, "--json", "--to", tmp_path / "a.ply")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert (found["kind"], found["cells"], found["level"]) == ("mesh", list(lattice.cells), level)
    assert found["cell"] == pytest.approx(EDGE / 16, rel=1e-5)
    mesh: Any = trimesh.load(tmp_path / "a.ply", process=False)
    assert (len(mesh.vertices), len(mesh.faces)) == (found["vertices"], found["faces"])
    assert inside(mesh.vertices)
    assert np.ptp(mesh.vertices, axis=0).min() > 0.5
    # density at the vertices is about the level, which it would not be a thousandth off the map
    density, colour = opened.query(
        torch.from_numpy(np.asarray(mesh.vertices)), torch.from_numpy(-mesh.vertex_normals)
    )
    assert density.median().item() == pytest.approx(level, rel=0.05)
    stored = mesh.visual.vertex_colors[:, :3] / 255.0
    assert np.abs(stored - colour.numpy()).mean() < 0.01
    again = here("export", "mesh", run.path, *plain, "--quiet", "--to", tmp_path / "b.glb")
    assert (again.code, again.out) == (0, "")
    scene: Any = trimesh.load(tmp_path / "b.glb", process=False)
    assert np.abs(scene.bounds - mesh.bounds).max() < 1e-6


def test_points_are_where_rays_end_and_always_the_same(
    run: RunFolder, here: Here, tmp_path: Path
) -> None:
    loose = ("--min-opacity", 0.5, "--max-spread", 100)
    files = [tmp_path / "a.ply", tmp_path / "b.ply"]
    for file in files:
        said = here("export", "points", run.path, "--points", 50, *loose, "--to", file)
        assert said.code == 0, said.err
    assert files[0].read_bytes() == files[1].read_bytes()
    points, _ = read_ply(files[0])
    assert len(points) == 50
    assert inside(points)
    told = here("export", "points", run.path, *loose, "--normals")
    assert told.code == 0, told.err
    assert "not 1,000,000: no more rays end at something" in told.out.replace("\n", " ")
    every, _ = read_ply(run.path / "exports" / "points.ply")
    assert len(every) > 50
    refused = here("export", "points", run.path, *loose)
    assert refused.code == 2
    assert "points.ply is there already: replace it by --overwrite" in refused.err
    assert read_ply(run.path / "exports" / "points.ply")[0].tolist() == every.tolist()
    assert here("export", "points", run.path, *loose, "--overwrite", "--quiet").code == 0


def test_cameras_come_back_as_the_run_has_learned_them(
    run: RunFolder, opened: Opened, here: Here
) -> None:
    said = here("export", "cameras", "--output-dir", run.path.parent.parent, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    folder = Path(found["folder"])
    assert (found["cameras"], found["points"], found["refined"]) == (6, 98, True)
    learned = opened.shots()
    wanted = np.stack([shot.pose for shot in learned])
    given = np.stack([shot.pose for shot in opened.scene.shots])
    assert np.abs(wanted - given).max() > 1e-6  # or there would be nothing to see
    for form in ("transforms", "colmap"):
        capture = read_capture(folder, format=form)
        assert np.abs(capture.poses()[:, :, :3] - wanted[:, :, :3]).max() < 1e-9
        assert np.abs(capture.poses()[:, :, 3] - wanted[:, :, 3]).max() < 1e-8  # of 5 million
        assert len(capture.points) == 98
        assert all(view.image is not None and view.image.is_file() for view in capture.views)
    read = read_capture(folder, format="transforms")
    assert [view.test for view in read.views] == [shot.test for shot in learned]
    assert [view.camera for view in read.views] == [shot.camera for shot in learned]
    assert pycolmap.Reconstruction(folder / "sparse" / "0").num_images() == 6
    refused = here("export", "cameras", run.path)
    assert refused.code == 2
    assert "transforms.json is there already" in refused.err


def test_cameras_without_the_capture_say_what_is_missing(
    run: RunFolder, here: Here, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    text = (copy / "scene.yaml").read_text()
    (copy / "scene.yaml").write_text(
        text.replace("/capture", "/gone").replace("downscale: 1", "downscale: 2")
    )
    said = here("export", "cameras", copy, "--format", "transforms", "--to", tmp_path / "out")
    assert said.code == 0, said.err
    assert "without the capture" in said.out
    assert "no points, cameras of pictures at 1/2 of their size" in said.out.replace("\n", " ")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["transforms.json"]


def test_cameras_are_those_of_the_files_where_images_were_made_smaller(
    here: Here, tmp_path: Path
) -> None:
    run = fitted(tmp_path, capture={"downscale": 2}, cameras={"refine": "off"}, train={"steps": 1})
    assert here("export", "cameras", run.path, "--quiet").code == 0
    folder = run.path / "exports" / "cameras"
    whole = read_capture(folder, format="colmap")
    original = read_capture(tmp_path / "capture")
    assert [view.camera for view in whole.views] == [view.camera for view in original.views]
    assert np.abs(whole.poses() - original.poses()).max() < 1e-8


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("points nowhere", "nowhere is not a run folder"),
        ("mesh RUN --to OUT.stl", "the suffix is the format"),
        ("mesh RUN --to OUT.ply --resolution 9999999", "ask for 1 to"),
        ("points RUN --to OUT.ply --max-spread 1e-9", "none ends inside the box"),
        ("mesh RUN --to OUT.ply --level 1e9 --resolution 9", "no surface is left"),
        (
            "mesh RUN --to OUT.ply --level 1e9 --resolution 9 --keep-hidden --smallest 0",
            "give a lower --level, or a finer --resolution",
        ),
        ("cameras --output-dir empty", "empty holds no run"),
        ("points RUN --to OUT.ply --device abacus", "abacus"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    asked: str, sentence: str, run: RunFolder, here: Here, tmp_path: Path
) -> None:
    said = here(
        "export", *asked.replace("RUN", str(run.path)).replace("OUT", f"{tmp_path}/x").split()
    )
    assert said.code == 2
    assert sentence in said.err
    assert said.err.startswith("nerfxl: ")
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_no_training_view_sees_is_left_out(run: RunFolder, here: Here, tmp_path: Path) -> None:
    sizes = []
    for more in ((), ("--keep-hidden",)):
        asked = ("--resolution", 20, "--smallest", 0, "--json", "--to", tmp_path / "x.ply")
        said = here("export", "mesh", run.path, *asked, "--overwrite", *more)
        assert said.code == 0, said.err
        sizes.append(json.loads(said.out))
    assert 0 < sizes[0]["faces"] < sizes[1]["faces"]
    assert sizes[0]["level"] == sizes[1]["level"] > 0


def test_a_run_whose_pictures_are_blended_has_no_surface(here: Here, tmp_path: Path) -> None:
    run = fitted(
        tmp_path,
        train={"mode": "independent-2d", "steps": 1},
        cameras={"refine": "off"},
        partition={"tiles": 2},
        bounds={"outside": "contract"},
    )
    said = here("export", "mesh", run.path)
    assert said.code == 2
    assert "independent-2d" in said.err
    loose = ("--min-opacity", 0.5, "--max-spread", 100)
    said = here("export", "points", run.path, *loose, "--outside", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert [file.name for file in (run.path / "exports").iterdir()] == ["points.ply"]
    beyond, _ = read_ply(Path(found["file"]))
    assert not inside(beyond)
    assert 50 < len(beyond) == found["vertices"] < 1_000_000


def test_nerfs_that_were_trained_alone_have_one_surface(tmp_path: Path) -> None:
    """Blended in space, they are asked as tiles are; cut in any bricks, it is the same."""
    alone = {"mode": "independent-3d", "steps": 1}
    run = fitted(tmp_path, train=alone, cameras={"refine": "off"}, partition={"tiles": 2})
    opened = open_run(run.path, device="cpu")
    lattice = lattice_of(opened, 12)
    field = density_field(opened, lattice, middle_level(opened, lattice))
    one, cut = (find_surface(lattice, field, 1, lambda _: None, edge=edge) for edge in (64, 5))
    assert len(one.faces) > 100
    assert np.array_equal(one.faces, cut.faces)
    assert np.array_equal(one.places, cut.places)


def test_a_missing_extra_is_named(
    run: RunFolder, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    said = here("export", "mesh", run.path)
    assert said.code == 2
    assert "pip install 'nerfxl[export]'" in said.err


def ends_at(places: NDArray[np.float64], along: tuple[float, ...], blur: float = 0.0) -> Ends:
    count = len(places)
    row = np.tile(np.array(along, np.float32), (count, 1))
    gap = np.full(count, 0.05, np.float32)
    colours = np.zeros((count, 3), np.uint8)
    return Ends(places, row, -row, colours, gap, np.full(count, blur, np.float32))


def slab() -> Surface:
    """Two level squares of 2 x 2, one at z = 0 that faces up, one at z = -0.2 that faces down."""
    side = np.linspace(-1, 1, 21)
    x, y = (axis.ravel() for axis in np.meshgrid(side, side, indexing="ij"))
    top = np.stack([x, y, np.zeros_like(x)], 1)
    corner = np.arange(20)[:, None] * 21 + np.arange(20)
    a, b, c, d = (step + corner.ravel() for step in (0, 21, 22, 1))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    under = top - (0, 0, 0.2)
    return Surface(np.concatenate([top, under]), np.concatenate([faces, faces[:, ::-1] + 441]))


def test_what_a_ray_saw_from_outside_is_seen() -> None:
    """Rays from above end on the right half of the upper square."""
    surface = slab()
    draw = np.random.default_rng(0).uniform(-1, 1, (4000, 3)) * (0.5, 1, 0) + (0.5, 0, 0)
    seen = seen_faces(surface, ends_at(draw, (0, 0, -1)), cell=0.1)
    middle = surface.places[surface.faces].mean(1)
    assert seen[(middle[:, 0] > 0) & (middle[:, 2] == 0)].all()
    assert not seen[middle[:, 0] < -0.4].any()
    assert not seen[middle[:, 2] < 0].any()  # near enough, but it faces away from the rays
    assert not seen_faces(surface, ends_at(draw, (0, 0, 1)), cell=0.1)[middle[:, 2] == 0].any()


def test_small_pieces_are_told_by_their_size() -> None:
    surface = slab()
    small = Surface(surface.places[441:] * 0.1, surface.faces[800:] - 441)
    both = Surface(
        np.concatenate([surface.places, small.places + 5]),
        np.concatenate([surface.faces, small.faces + len(surface.places)]),
    )
    kept = large_faces(both, 1.0)
    assert kept.tolist() == [True] * 1600 + [False] * 800
    assert large_faces(both, 0.0).all()


def test_thinning_leaves_an_even_cloud_of_the_surest_ends() -> None:
    """Nine tenths of the ends crowd in a corner."""
    draw = np.random.default_rng(1)
    crowd, rest = draw.uniform(0, 1, (9000, 3)), draw.uniform(0, 10, (1000, 3))
    ends = ends_at(np.concatenate([crowd, rest]) + MAP, (0, 0, -1))
    ends = replace(ends, blur=draw.uniform(0, 1, 10_000).astype(np.float32))
    kept = thinned(ends, 500, seed=3)
    assert len(kept) == 500
    crowded = (kept.places - MAP < 1).all(1)
    assert crowded.mean() < 0.1  # of 10,000 ends it was 0.9
    assert kept.blur.mean() < 0.5 * ends.blur.mean() or crowded.sum() < 5
    assert np.array_equal(thinned(ends, 500, seed=3).places, kept.places)
    assert thinned(ends, 20_000, seed=3) is ends
    same = ends_at(np.zeros((100, 3)) + MAP, (0, 0, -1))
    assert len(thinned(same, 30, seed=0)) == 30


def test_the_usual_level_is_the_density_where_rays_end(opened: Opened) -> None:
    ends = find_ends(opened, 500, Sieve(0.5, 100.0, opened.scene.plan.root))
    density, _ = opened.query(torch.from_numpy(ends.places))
    assert usual_level(opened, ends) == density.median().item()
    # ends lie on their rays, at the depth of the picture
    shot = next(shot for shot in opened.shots() if not shot.test)
    made = opened.render(shot.camera, shot.pose)
    away = np.linalg.norm(ends.places - shot.pose[:, 3], axis=1)
    assert np.nanmin(np.abs(away[:, None] - made.depth.numpy().ravel())) < 1e-6
    assert np.allclose(np.linalg.norm(ends.along, axis=1), 1, atol=1e-5)
