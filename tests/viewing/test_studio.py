"""What windows share of a run: its checkpoints as they come, its cameras, its photographs."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nerfxl import commands
from nerfxl.crew import Launching
from nerfxl.opened import Opened, open_run
from nerfxl.pictures import Bytes, tile_colours
from nerfxl.prepare import read_back
from nerfxl.progress import Speaker
from nerfxl.runs import RunFolder
from nerfxl.viewing import scenery, verb
from nerfxl.viewing.canvas import Canvas, Easel, Frame
from nerfxl.viewing.following import POLL_SECONDS, Following
from nerfxl.viewing.photographs import Comparing, Comparison, Photographs, Thumbnails
from nerfxl.viewing.scenery import HELD_OUT, TRAIN
from nerfxl.viewing.shows import NAMES, Show, steady
from nerfxl.viewing.sight import ROOM, Sight, room
from nerfxl.viewing.studio import Studio
from tests.conftest import TINY, Here, merged


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, capture: Path) -> RunFolder:
    """Ten steps on the cube, with an exposure of each photograph."""
    folder = tmp_path_factory.mktemp("viewing")
    changes = {"capture": {"path": str(capture)}, "appearance": {"exposure": "on"}}
    (folder / "cube.yaml").write_text(json.dumps(merged(TINY, changes)))
    speaker = Speaker(quiet=True)
    found = commands.fit(folder / "cube.yaml", folder, "cpu", (), False, speaker, Launching(1))
    return RunFolder.open(Path(found["run"]))


@pytest.fixture(scope="module")
def opened(run: RunFolder) -> Opened:
    return open_run(run.path, device="cpu")


def whole(opened: Opened, size: tuple[int, int] = (32, 24), like: str | None = None) -> Frame:
    """A picture of the first held-out view, as a canvas makes it."""
    frames: list[Frame] = []
    easel = Easel()
    easel.opened = opened
    shot = next(shot for shot in opened.shots() if shot.test)
    canvas = Canvas(easel, frames.append)
    canvas.look(Sight(shot.pose, 0.7, *size, like), 0.0)
    while canvas.urgency(9.0) is not None:
        canvas.work(9.0)
    return frames[-1]


def test_a_canvas_shows_what_the_run_renders(opened: Opened) -> None:
    frame = whole(opened)
    assert (frame.camera.width, frame.camera.height, frame.whole) == (32, 24, True)
    assert frame.step == 10
    exact = opened.render(frame.camera, frame.pose)
    # A row's piece has its principal point moved, which rounds the rays of float32.
    np.testing.assert_allclose(frame.picture.colour, exact.colour, atol=1e-3)


def test_a_window_may_take_the_look_of_a_photograph(opened: Opened) -> None:
    name = next(shot.name for shot in opened.shots() if not shot.test)
    as_it, as_nobody = (whole(opened, like=like).picture.colour for like in (name, None))
    assert (as_it - as_nobody).abs().max() > 1e-5


def test_every_display_has_a_legend_that_says_how_much(opened: Opened) -> None:
    frame = whole(opened)
    show = Show(opened.scene)
    for name, kind in NAMES.items():
        show.kind = kind
        image, legend = show(frame)
        assert image.shape == (24, 32, 3), name
        assert image.dtype == np.uint8
        if kind == "colour":
            assert legend is None
        else:
            assert legend is not None
            assert legend.ramp or legend.marks
    show.kind = "tiles"
    legend = show(frame)[1]
    assert legend is not None
    assert [colour for colour, _ in legend.marks] == tile_colours(4)


def test_a_range_of_depths_is_kept_until_it_is_wrong(opened: Opened) -> None:
    show, frame = Show(opened.scene), whole(opened)
    show.kind = "depth"
    solid = replace(frame.picture, opacity=frame.picture.opacity * 0 + 1)
    near = replace(frame, picture=replace(solid, depth=solid.depth * 0 + 3))
    show(near)
    first = show.depths
    assert first[0] == pytest.approx(3)
    show(replace(near, picture=replace(solid, depth=solid.depth * 0 + 300)))
    assert show.depths != first
    show.limits = (1.0, 2.0)
    legend = show(near)[1]
    assert legend is not None
    assert (legend.low, legend.high) == ("1", "2 source units")


def test_a_steady_range_is_never_empty() -> None:
    assert steady(None, 5.0, 5.0) == (5.0, 5.0)
    low, high = steady((1.0, 2.0), 0.0, 0.0)
    assert low <= high


def test_cameras_stand_in_the_room_and_held_out_ones_apart(opened: Opened) -> None:
    found = scenery.stands(opened.scene, opened.shots())
    place = room(opened.scene.world)
    assert [stand.colour for stand in found] == [
        HELD_OUT if shot.test else TRAIN for shot in opened.shots()
    ]
    for stand, shot in zip(found, opened.shots(), strict=True):
        np.testing.assert_allclose(stand.pose[:, 3], place.points(shot.pose[:, 3]))
        assert stand.aspect == pytest.approx(24 / 18)
        # 18 pixels at a focal length of 26.
        assert stand.fov == pytest.approx(2 * np.arctan(9 / 26))
    assert 0 < scenery.size_of(found) < 0.1 * ROOM


def test_many_cameras_are_thinned_out_and_held_out_ones_kept(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenery, "MOST_CAMERAS", 4)
    found = scenery.stands(opened.scene, opened.shots())
    assert sum(stand.shot.test for stand in found) == 2
    assert len(found) == 4


def test_boxes_are_the_tiles_and_the_root(opened: Opened) -> None:
    *tiles, root = scenery.wires(opened.scene)
    plan = opened.scene.plan
    assert [wire.number for wire in tiles] == [0, 1, 2, 3]
    assert [wire.colour for wire in tiles] == tile_colours(4)
    assert root.number is None
    for wire, box in zip([*tiles, root], [*plan.cores, plan.root], strict=True):
        assert wire.lines.shape == (12, 2, 3)
        ends = wire.lines.reshape(-1, 3) / ROOM
        np.testing.assert_allclose(ends.min(0), box.low, atol=0.006)
        np.testing.assert_allclose(ends.max(0), box.high, atol=0.006)
        # An edge goes along one axis.
        assert (np.isclose(wire.lines[:, 0], wire.lines[:, 1]).sum(1) == 2).all()
    np.testing.assert_allclose(root.lines.max((0, 1)) / ROOM, plan.root.high)


def test_an_overview_sees_all_corners_of_all_boxes(opened: Opened) -> None:
    for up in ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0)):
        pose = scenery.overview(opened.scene, up)
        corners = np.concatenate([w.lines.reshape(-1, 3) for w in scenery.wires(opened.scene)])
        seen = (corners - pose[:, 3]) @ pose[:, :3]
        # The window's 50 degrees, upwards and sideways.
        assert (np.abs(seen[:, :2]) < np.tan(np.radians(25)) * seen[:, 2:]).all()
        assert pose[:, 1] @ np.array(up) < 0, "the picture's lower edge is below"


def test_a_view_is_compared_with_its_photograph(run: RunFolder, opened: Opened) -> None:
    told: list[Comparison] = []
    easel = Easel()
    easel.opened = opened
    job = Comparing(easel, Photographs(run, opened.scene), told.append)
    assert job.urgency(0.0) is None
    shot = next(shot for shot in opened.shots() if shot.test)
    job.compare(shot)
    while job.urgency(0.0) is not None:
        job.work(0.0)
    assert told[0].render is None, "the photograph is there first"
    assert told[0].truth is not None
    last = told[-1]
    scores = json.loads((run.eval / "step-000000010" / "metrics.json").read_text())
    exact = next(one["psnr"] for one in scores["per_image"] if one["name"] == shot.name)
    # The score that eval gave it: pieces of rows round some rays otherwise.
    assert last.psnr == pytest.approx(exact, abs=0.02)
    assert last.step == 10
    job.compare(None)
    assert job.urgency(0.0) is None


def test_photographs_that_are_gone_leave_cameras_without(
    run: RunFolder, opened: Opened, capture: Path, tmp_path: Path
) -> None:
    copied = RunFolder(Path(shutil.copytree(run.path, tmp_path / "run")))
    text = copied.scene.read_text()
    gone = text.replace(str(capture), str(tmp_path / "nowhere"))
    copied.scene.write_text(gone)
    found = Photographs(copied, read_back(copied))
    assert "nowhere" in found.missing
    name = opened.scene.shots[0].name
    assert name not in found
    assert found.load(name) is None
    easel = Easel()
    easel.opened = opened
    told: list[Comparison] = []
    job = Comparing(easel, found, told.append)
    job.compare(opened.scene.shots[0])
    while job.urgency(0.0) is not None:
        job.work(0.0)
    assert told[-1].psnr is None
    assert told[-1].render is not None


def test_thumbnails_are_made_at_leisure_and_once(run: RunFolder, opened: Opened) -> None:
    told: dict[str, Bytes] = {}
    found = Photographs(run, opened.scene)
    job = Thumbnails(found, told.__setitem__)
    names = [shot.name for shot in opened.scene.shots]
    job.want([*names, "never taken"])
    while job.urgency(0.0) is not None:
        job.work(0.0)
    assert list(told) == names
    assert told[names[0]].shape == (18, 24, 3)
    found.load = lambda name: pytest.fail(f"{name} is read again")  # type: ignore[method-assign]
    job.want(names)
    while job.urgency(0.0) is not None:
        job.work(0.0)


def test_a_run_is_followed_from_no_checkpoint_to_its_last(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = RunFolder(Path(shutil.copytree(run.path, tmp_path / "run")))
    kept = tmp_path / "kept"
    copied.checkpoints.rename(kept)
    copied.checkpoints.mkdir()
    copied.update(state="running", step=3, steps=10)
    easel, told = Easel(), list[bool]()
    scene = read_back(copied)
    job = Following(copied, scene, easel, lambda: open_run(copied.path, device="cpu"), told.append)
    assert job.urgency(0.0) is not None
    job.work(0.0)
    assert job.urgency(1.0) is None
    assert "no checkpoint yet; training, at step" in job.words
    assert "next checkpoint at" in job.words
    shutil.copytree(kept / "step-000000005", copied.checkpoints / "step-000000005")
    job.work(POLL_SECONDS)
    assert easel.opened is not None
    assert easel.opened.step == 5
    assert told == [False, True]
    damaged = shutil.copytree(kept / "step-000000010", copied.checkpoints / "step-000000010")
    shard = damaged / "tile-0001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    job.work(2 * POLL_SECONDS)
    assert easel.opened.step == 5, "a damaged one is passed over"
    assert "holds no whole" not in job.words
    capsys.readouterr()
    job.work(3 * POLL_SECONDS)
    assert capsys.readouterr().err == "", "and said once"
    shard.write_bytes(content)
    copied.update(state="completed", step=10)
    later = Following(
        copied, scene, easel, lambda: open_run(copied.path, device="cpu"), told.append
    )
    later.work(0.0)
    assert easel.opened.step == 10
    assert later.words == "step 10; the run is completed"


def test_a_studio_begins_at_a_view_that_was_learned_from(run: RunFolder) -> None:
    studio = Studio(run, lambda: open_run(run.path, device="cpu"))
    assert not studio.home.test
    assert len(studio.looks) == 4
    assert studio.up == (0.0, 0.0, 1.0)
    assert studio.shots == list(studio.scene.shots)


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert taken < verb.free_port("127.0.0.1", taken) <= taken + verb.TRIED
        assert verb.free_port("127.0.0.1", 0) == 0, "any"


def test_viewing_refuses_in_a_sentence(
    here: Here, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [
        ((tmp_path,), "is not a run folder"),
        (("--output-dir", tmp_path), "holds no run"),
        ((run.path, "--host", "no.such.host.invalid"), "--host no.such.host.invalid"),
        ((run.path, "--host", "203.0.113.7"), "nothing can listen there"),
        ((run.path, "--device", "quantum"), "device is 'quantum'"),
    ]
    for arguments, sentence in faults:
        said = here("view", *arguments)
        assert said.code == 2, arguments
        assert sentence in said.err
        assert len(said.err.splitlines()) == 1
    monkeypatch.setitem(sys.modules, "viser", None)
    for arguments in (("view", run.path), ("fit", tmp_path / "x.yaml", "--view")):
        said = here(*arguments)
        assert said.code == 2
        assert said.err == (
            "nerfxl: Viewing needs viser, which is not installed: pip install 'nerfxl[view]'.\n"
        )
