"""What is written is what other programs read: trimesh, and nerfxl itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from nerfxl.captures.ply import read_ply
from nerfxl.errors import UserError
from nerfxl.exporting import files, glb
from nerfxl.exporting.geometry import Geometry
from nerfxl.runs import RunFolder

UTM = np.array([512_000.25, 5_403_000.5, 210.0])  # where float32 knows half a unit, at best
DRAW = np.random.default_rng(4)
PLACES = UTM + DRAW.uniform(-40, 40, (500, 3))
COLOURS = DRAW.integers(0, 256, (500, 3)).astype(np.uint8)
NORMALS = PLACES - UTM
NORMALS /= np.linalg.norm(NORMALS, axis=1, keepdims=True)
FACES = DRAW.permuted(np.tile(np.arange(500), (40, 1)), axis=1)[:, :3].astype(np.int64)

CLOUD = Geometry(PLACES, COLOURS, NORMALS)
MESH = Geometry(PLACES, COLOURS, NORMALS, FACES)


def light(colours: Any) -> Any:
    """The curve of sRGB, inverted."""
    share = np.asarray(colours, np.float64) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("shape", [CLOUD, MESH], ids=["points", "mesh"])
def test_ply_keeps_the_coordinates_of_a_map_to_the_last_bit(
    shape: Geometry, tmp_path: Path
) -> None:
    files.store(shape, tmp_path / "deep" / "x.ply")
    points, colours = read_ply(tmp_path / "deep" / "x.ply")
    assert np.array_equal(points, PLACES)
    assert np.array_equal(colours, COLOURS)
    read: Any = trimesh.load(tmp_path / "deep" / "x.ply", process=False)
    assert np.array_equal(read.vertices, PLACES)
    if shape is MESH:
        assert np.array_equal(read.faces, FACES)
        assert np.array_equal(read.visual.vertex_colors[:, :3], COLOURS)
        assert np.allclose(read.vertex_normals, NORMALS, atol=1e-6)
    else:
        assert np.array_equal(read.colors[:, :3], COLOURS)


@pytest.mark.parametrize("shape", [CLOUD, MESH], ids=["points", "mesh"])
def test_glb_keeps_them_by_the_translation_of_its_node(shape: Geometry, tmp_path: Path) -> None:
    files.store(shape, tmp_path / "x.glb")
    scene: Any = trimesh.load(tmp_path / "x.glb", process=False)
    (name,) = scene.geometry
    matrix, _ = scene.graph[scene.graph.nodes_geometry[0]]
    assert np.array_equal(matrix[:3, :3], np.eye(3))  # axes are the source's
    assert np.array_equal(matrix[:3, 3], matrix[:3, 3].round())
    near = np.asarray(scene.geometry[name].vertices, np.float64)
    # float32 about the middle: 40 units to 2^-19
    assert np.abs(near + matrix[:3, 3] - PLACES).max() < 4e-6
    if shape is MESH:
        assert np.array_equal(scene.geometry[name].faces, FACES)


def test_glb_holds_light_where_ply_holds_what_pictures_hold(tmp_path: Path) -> None:
    files.store(MESH, tmp_path / "x.glb")
    raw = (tmp_path / "x.glb").read_bytes()
    assert raw[:4] == b"glTF"
    assert int.from_bytes(raw[8:12], "little") == len(raw)
    import json

    length = int.from_bytes(raw[12:16], "little")
    document = json.loads(raw[20 : 20 + length])
    assert "KHR_materials_unlit" in document["materials"][0]["extensions"]
    number = document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    accessor = document["accessors"][number]
    start = 28 + length + document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    stored = np.frombuffer(raw, "<u2", 4 * accessor["count"], start).reshape(-1, 4)
    # half of a 16-bit step, and every one of the 256 bytes is told from its neighbour
    assert np.abs(stored[:, :3] / 65535 - light(COLOURS)).max() < 1e-5
    assert (stored[:, 3] == 65535).all()


def test_a_point_without_normals_is_written_without(tmp_path: Path) -> None:
    for name in ("x.ply", "x.glb"):
        files.store(Geometry(PLACES, COLOURS), tmp_path / name)
        assert b"nx" not in (tmp_path / name).read_bytes()[:400]
        assert b"NORMAL" not in (tmp_path / name).read_bytes()[:2000]


def test_a_glb_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glb, "LARGEST", 9000)
    with pytest.raises(UserError, match=r"500 points would take .* write a \.ply"):
        glb.glb(CLOUD)


def test_targets_are_checked_before_work(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    usual = files.target(run, "mesh.ply", None, overwrite=False)
    assert usual == tmp_path / "exports" / "mesh.ply"
    with pytest.raises(UserError, match=r"--to .*x\.obj: the suffix is the format, \.ply or \.glb"):
        files.target(run, "mesh.ply", tmp_path / "x.obj", overwrite=False)
    (tmp_path / "there.ply").write_text("mine")
    with pytest.raises(UserError, match=r"there\.ply is there already: .*--overwrite"):
        files.target(run, "mesh.ply", tmp_path / "there.ply", overwrite=False)
    files.target(run, "mesh.ply", tmp_path / "there.ply", overwrite=True)
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(UserError, match="is a folder: name a file in it"):
        files.target(run, "mesh.ply", tmp_path / "folder.ply", overwrite=True)


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="could not be made"):
        files.store(CLOUD, tmp_path / "file" / "x.ply")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
