"""nerfxl pose, as a user meets it: photographs in, a capture that plan reads out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from nerfxl.captures import load_image, read_capture
from nerfxl.posing import conduct
from nerfxl.posing.ask import Ask
from nerfxl.posing.stages import Tick
from nerfxl.progress import Speaker
from tests.conftest import Here
from tests.posing.made import (
    EARTH,
    FRAMES,
    ORIGIN,
    degrees_apart,
    on_its_side,
    poses_of,
    truth,
    write_frames,
    write_gps,
)

BLANK, SPACED = "blank.jpg", FRAMES[2].replace("_", " ")
PRODUCTS = ("sparse/0/images.bin", "sparse/0/cameras.bin", "sparse/0/points3D.bin")


class Posed(NamedTuple):
    """Photographs, their capture, and its report."""

    photos: Path
    out: Path
    report: dict[str, Any]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photographs with GPS, one of it far off, one on its side, and one that shows nothing."""
    folder = write_frames(tmp_path_factory.mktemp("posing") / "photos")
    on_its_side(folder / FRAMES[4])
    (folder / FRAMES[2]).rename(folder / SPACED)
    Image.new("RGB", (480, 270), (90, 90, 90)).save(folder / BLANK)
    (folder / "notes.txt").write_text("a sunny day")
    places = truth(FRAMES)[:, :, 3]
    places[7] += (60, -40, 5)  # below trees
    rows = dict(zip(FRAMES, places, strict=True))
    rows[SPACED] = rows.pop(FRAMES[2])
    write_gps(folder / "gps.csv", rows)
    return folder


@pytest.fixture(scope="module")
def posed(photos: Path) -> Posed:
    """Posed once, for all tests that look at it."""
    out = photos.parent / "capture"
    asked = Ask(
        photos, out, None, "auto", "auto", 1600, "RADIAL", focal=None, up="auto", seed=42, threads=2
    )
    report = conduct.pose(asked, Speaker(quiet=True))
    return Posed(photos, out, report)


def test_the_report_says_what_is_registered_and_why_not(posed: Posed) -> None:
    report = posed.report
    assert report == json.loads((posed.out / "report.json").read_text())
    assert (report["photographs"], report["registered"]) == (10, 9)
    (missing,) = report["not_registered"]
    assert missing["name"] == BLANK
    assert "too few features, 0" in missing["reason"]
    assert report["matching"]["kind"] == "exhaustive"
    assert report["reprojection_error_px"] < 0.6
    assert report["points"] > 500


def test_cameras_stand_where_they_stood_in_metres(posed: Posed) -> None:
    """The origin aside, nothing is aligned here: GPS gave scale, heading and place."""
    found = poses_of(posed.out / "sparse" / "0")
    names = [name if name != FRAMES[2] else SPACED.replace(" ", "_") for name in FRAMES]
    places = np.array([found[name][:, 3] for name in names])
    true = truth(FRAMES)
    origin = posed.report["frame"]["origin"]
    at = (origin["latitude"], origin["longitude"], origin["altitude"])
    degrees = EARTH.enu_to_ellipsoid(places, *at)
    metres = EARTH.ellipsoid_to_enu(degrees, *ORIGIN)
    assert np.linalg.norm(metres - true[:, :, 3], axis=1).max() < 0.25
    pairs = zip(names, true, strict=True)
    turns = [degrees_apart(found[name][:, :3], pose[:, :3]) for name, pose in pairs]
    assert np.median(turns) < 1.5
    assert posed.report["frame"]["residual_horizontal_median_m"] < 0.1
    assert 60 < posed.report["frame"]["residual_horizontal_max_m"] < 85  # the one below trees


def test_a_photograph_on_its_side_is_stored_upright(posed: Posed) -> None:
    (camera,) = posed.report["cameras"]
    assert (camera["width"], camera["height"], camera["photographs"]) == (480, 270, 9)
    with Image.open(posed.out / "images" / FRAMES[4]) as image:
        assert image.size == (480, 270)
        assert 0x0112 not in image.getexif()


def test_photographs_are_linked_and_stay_as_they_are(posed: Posed) -> None:
    linked = posed.out / "images" / FRAMES[0]
    assert linked.samefile(posed.photos / FRAMES[0])
    assert len(list(posed.photos.iterdir())) == 12
    assert not (posed.out / "images" / "notes.txt").exists()


def test_the_capture_is_read_the_same_in_both_formats(posed: Posed) -> None:
    colmap = read_capture(posed.out)
    transforms = read_capture(posed.out, format="transforms")
    assert (colmap.format, len(colmap.views)) == ("colmap", 9)
    assert np.abs(colmap.poses() - transforms.poses()).max() < 1e-9
    assert len(colmap.points) == posed.report["points"]
    assert colmap.point_colours.std() > 10
    pixel = np.array([[10.5, 20.5]])
    for one, other in zip(colmap.views, transforms.views, strict=True):
        rays = [view.camera.directions_at(pixel) for view in (one, other)]
        assert np.abs(rays[0] - rays[1]).max() < 1e-9
    assert load_image(colmap.views[4]).shape == (270, 480, 3)


def test_plan_reads_the_scene_file(posed: Posed, here: Here, tmp_path: Path) -> None:
    command = posed.report["next"].split()
    assert command[:2] == ["nerfxl", "plan"]
    said = here(*command[1:], "--device", "cpu", "--output-dir", tmp_path)
    assert said.code == 0, said.err
    assert "9 views of 480 x 270" in said.out


def test_the_same_command_again_does_nothing_and_says_so(posed: Posed, here: Here) -> None:
    before = {name: (posed.out / name).stat().st_mtime_ns for name in PRODUCTS}
    said = here("pose", posed.photos, "--out", posed.out, "--threads", 1)
    assert said.code == 0, said.err
    assert said.out.count("(done before)") == 5
    assert "registered 9 of 10 photographs" in said.out
    assert said.out.rstrip().endswith(f"nerfxl plan {posed.out}/scene.yaml")
    said = here("pose", posed.photos, "--out", posed.out, "--json")
    assert json.loads(said.out) == posed.report
    assert before == {name: (posed.out / name).stat().st_mtime_ns for name in PRODUCTS}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--max-size", 800], "was begun with --max-size 1600, now 800: ask as before, name"),
        (["--focal", 313], "was begun with --focal left out, now 313.0: ask as before, name"),
    ],
)
def test_other_settings_are_refused(
    posed: Posed, here: Here, options: list[object], sentence: str
) -> None:
    said = here("pose", posed.photos, "--out", posed.out, *options)
    assert (said.code, sentence in said.err) == (2, True), said.err


def test_other_photographs_are_refused(posed: Posed, here: Here, tmp_path: Path) -> None:
    other = shutil.copytree(posed.photos, tmp_path / "photos")
    assert here("pose", other, "--out", posed.out).code == 0  # the same ones in another place
    (other / FRAMES[8]).unlink()
    said = here("pose", other, "--out", posed.out)
    assert said.code == 2
    assert "was begun from other photographs than are there" in said.err


def test_interrupted_anywhere_it_goes_on_to_the_same_bits(
    posed: Posed, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of each stage, one after the other."""
    out = tmp_path / "capture"
    for stage in ("photographs", "features", "matches", "mapping"):
        with monkeypatch.context() as patched:
            patched.setattr(conduct, "shown", interrupting(stage))
            said = here("pose", posed.photos, "--out", out, "--threads", 1)
        assert said.code == 130
        assert "the same command goes on" in said.out
        assert not (out / "report.json").exists()
        assert not (out / "sparse").exists()
    said = here("pose", posed.photos, "--out", out, "--threads", 1)
    assert said.code == 0, said.err
    assert said.out.count("(done before)") == 3  # images, features, matches
    for name in PRODUCTS:
        assert (out / name).read_bytes() == (posed.out / name).read_bytes(), name


def interrupting(stage: str) -> Callable[..., Any]:
    """Ctrl-C at the third sign of progress in a stage."""

    @contextmanager
    def shown(say: Speaker, name: str, total: int) -> Iterator[Tick]:
        del say, total
        ticks = 0

        def tick(more: int) -> None:
            nonlocal ticks
            del more
            ticks += 1
            if name == stage and ticks == 2:
                raise KeyboardInterrupt

        yield tick

    return shown
