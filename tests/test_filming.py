"""`nerfxl render`: its files, and what becomes of a rendering that was stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nerfxl import commands
from nerfxl.crew import Launching
from nerfxl.filming.paths import CameraPath, Keyframe
from nerfxl.filming.shooting import SHOWS
from nerfxl.opened import open_run
from nerfxl.pictures import file_name, load_depth
from nerfxl.progress import Speaker
from tests.conftest import TINY, Here, Spawn, WriteScene, merged

ORBIT = ("--path", "orbit", "--nproc", 1, "--size", "24x18")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, capture: Path) -> Path:
    folder = tmp_path_factory.mktemp("filming")
    scene = folder / "cube.yaml"
    scene.write_text(json.dumps(merged(TINY, {"capture": {"path": str(capture)}})))
    quiet = Speaker(quiet=True)
    made = commands.fit(scene, folder / "runs", "cpu", (), False, quiet, Launching(1))
    return Path(made["run"])


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_all_that_can_be_seen_is_written(run: Path, here: Here) -> None:
    pytest.importorskip("av", reason="films need PyAV: pip install 'nerfxl[video]'")
    shown = ("--show", ",".join(SHOWS), "--video", "--fps", 10, "--frames", 2, "--json")
    said = here("render", run, *ORBIT, *shown)
    assert said.code == 0, said.err
    found = json.loads(said.out)
    folder = run / "renders" / "orbit"
    assert (found["folder"], found["pictures"]) == (str(folder), 2)
    kinds = [show for show in SHOWS if show != "map"]
    assert sorted(found["films"]) == sorted(str(folder / f"{kind}.mp4") for kind in kinds)
    names = [f"orbit_000{at}" for at in (0, 1)]
    pictures = {f"{name}.{kind}.png" for name in names for kind in kinds if kind != "colour"}
    pictures |= {f"{name}.png" for name in names} | {f"depth/{name}.png" for name in names}
    films = {f"{kind}.mp4" for kind in kinds}
    assert files(folder) == pictures | films | {"shooting.json", "rendered.json"}


def test_a_map_holds_the_distances_in_source_units(run: Path, here: Here) -> None:
    assert here("render", run, "--nproc", 1, "--show", "map", "--quiet").code == 0
    opened = open_run(run)
    shot = next(shot for shot in opened.scene.shots if shot.test)
    depth = opened.render(shot.camera, shot.pose).depth.numpy()
    stored = load_depth(run / "renders" / "test" / "depth" / "images_0.png")
    step = 8 / opened.scene.world.scale / 65535
    known = np.isfinite(stored)
    assert known.any()
    np.testing.assert_allclose(stored[known], depth[known], atol=step)
    assert (depth[~known] > 7.9 / opened.scene.world.scale).all()


def test_a_rendering_that_was_stopped_goes_on(run: Path, here: Here) -> None:
    asked = ("render", run, *ORBIT, "--frames", 5, "--fov", 41, "--quiet")
    folder = run / "renders" / "orbit"
    assert here(*asked).code == 0
    whole = {file.name: file.read_bytes() for file in folder.glob("*.png")}
    for lost in ("orbit_0001.png", "orbit_0003.depth.png", "orbit_0004.png"):
        (folder / lost).unlink()
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.png")}
    assert here(*asked).code == 0
    assert {file.name: file.read_bytes() for file in folder.glob("*.png")} == whole
    kept = {f"orbit_000{at}{kind}.png" for at in (0, 2) for kind in ("", ".depth")}
    for name in kept:
        assert (folder / name).stat().st_mtime_ns == before[name], f"{name} was there"


def test_another_rendering_does_not_mix_with_the_one_before(run: Path, here: Here) -> None:
    folder = run / "renders" / "orbit"
    assert here("render", run, *ORBIT, "--frames", 6, "--quiet").code == 0
    mine = folder / "my notes.png"
    Image.new("RGB", (2, 2)).save(mine)
    assert here("render", run, *ORBIT, "--frames", 2, "--show", "depth", "--quiet").code == 0
    names = {"orbit_0000.depth.png", "orbit_0001.depth.png", "my notes.png"}
    assert files(folder) == names | {"shooting.json", "rendered.json"}
    old = folder / "orbit_0000.depth.png"
    old.write_bytes(b"of an earlier step")
    rendered = json.loads((folder / "rendered.json").read_text())
    (folder / "rendered.json").write_text(json.dumps(rendered | {"step": 5}))
    assert here("render", run, *ORBIT, "--frames", 2, "--show", "depth", "--quiet").code == 0
    with Image.open(old) as picture:
        picture.load()
    mine.unlink()


def test_ctrl_c_leaves_whole_pictures(
    run: Path, spawn: Spawn, until: Callable[[Callable[[], bool]], None]
) -> None:
    folder = run / "renders" / "flythrough"
    asked = ("render", run, "--path", "flythrough", "--frames", 20_000, "--nproc", 1)
    made = spawn(*asked, "--size", "24x18", "--device", "cpu")
    until(lambda: len(list(folder.glob("*.depth.png"))) >= 3)
    made.process.send_signal(signal.SIGINT)
    assert made.ended() == 130
    assert not list(folder.rglob("*.tmp"))
    for file in folder.glob("*.png"):
        with Image.open(file) as picture:
            picture.load()


def test_training_images_are_rendered_from_where_they_were_learned(
    scene_file: WriteScene, here: Here, tmp_path: Path
) -> None:
    """With their look, and with their pose corrected once."""
    scene = scene_file("posed", cameras={"refine": "on", "warmup_steps": 1, "learning_rate": 0.05})
    made = here("fit", scene, "--nproc", 1, "--output-dir", tmp_path, "--json")
    run = open_run(json.loads(made.out)["run"])
    said = here("render", run.run.path, "--split", "train", "--nproc", 1, "--quiet")
    assert said.code == 0, said.err
    shots = [shot for shot in run.shots() if not shot.test]
    for shot, given in zip(shots, (one for one in run.scene.shots if not one.test), strict=True):
        with Image.open(run.run.renders / "train" / file_name(shot.name)) as picture:
            found = np.asarray(picture).astype(int)
        colour = run.render(shot.camera, shot.pose, like=shot.name).colour.numpy()
        assert np.abs(found - 255 * colour).max() <= 1
        # Without appearance or exposure, a look is none: only the pose tells.
        plain = run.render(shot.camera, shot.pose).colour.numpy()
        np.testing.assert_allclose(colour, plain, atol=1e-4)
        elsewhere = run.render(shot.camera, given.pose).colour.numpy()
        assert np.abs(elsewhere - plain).max() > 0.002, "the correction is seen"


def test_a_path_that_was_saved_is_rendered(run: Path, here: Here, tmp_path: Path) -> None:
    shots = open_run(run).scene.shots
    keys = tuple(Keyframe(float(at), shot.pose, 40) for at, shot in enumerate(shots[:2]))
    file = tmp_path / "gate.json"
    file.write_text(CameraPath(keys, fps=3, width=30, height=20).to_json())
    assert here("render", run, "--path", file, "--nproc", 1, "--quiet").code == 0
    folder = run / "renders" / "gate"
    assert len(list(folder.glob("gate_000?.png"))) == 3
    with Image.open(folder / "gate_0000.png") as picture:
        assert picture.size == (30, 20)


def test_what_cannot_be_rendered_is_said_in_a_sentence(run: Path, here: Here) -> None:
    for options, words in (
        (("--size", "big"), "--size big: give width and height in pixels"),
        (("--fps", 3), "--fps is of a film: ask for one with --video"),
        (("--path", "loop"), "--path loop: give one of orbit"),
        (("--show", "x"), "--show x: 'x' is none of colour"),
        (("--look", "x.png"), "the run has no view 'x.png'"),
    ):
        said = here("render", run, *options, "--nproc", 1)
        assert said.code == 2
        assert words in said.err
        assert said.err.count("\n") == 1
