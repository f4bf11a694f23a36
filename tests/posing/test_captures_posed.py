"""Real captures posed from their photographs alone, held against models made with more care.

The models of reference are pycolmap's own, of the original photographs, with settings found by hand
(see the captures' README): what is compared is what a command without a manual makes of the small
ones. Their focal length is given where the motion leaves it open and the data sheet tells it.
"""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycolmap
import pytest

from nerfxl.scene.file import load_scene
from tests.conftest import Spawn, Spawned
from tests.posing.made import STAND_IN, degrees_apart, poses_of, write_frames

DATA = Path(__file__).parents[3] / "shared" / "data"


class Difference(NamedTuple):
    """Between two models after a similarity: metres and degrees, medians; metres of extent."""

    position: float
    worst: float
    rotation: float
    extent: float


def difference(found: Path, true: Path) -> Difference:
    """Compare all photographs of a model with another's."""
    ours, theirs = poses_of(found), poses_of(true)
    names = sorted(ours.keys() & theirs.keys())
    here, there = (np.array([poses[name][:, 3] for name in names]) for poses in (ours, theirs))
    align = pycolmap.estimate_sim3d(here, there)
    turn = align.rotation.matrix()
    away = np.linalg.norm(np.array([align * place for place in here]) - there, axis=1)
    angles = [degrees_apart(turn @ ours[name][:, :3], theirs[name][:, :3]) for name in names]
    extent = float(np.linalg.norm(np.ptp(there, axis=0)))
    return Difference(float(np.median(away)), float(away.max()), float(np.median(angles)), extent)


def needs(name: str) -> Path:
    root = DATA / name
    if not root.is_dir():
        pytest.skip(f"the photographs of {name} are not here: {root}")
    return root


def planned_and_fitted(out: Path, spawn: Spawn, folder: Path) -> None:
    """The next commands: plan, and a short fit."""
    options = ("--output-dir", folder / "runs", "--device", "cpu", "--nproc", 1)
    fewer = ("capture.downscale=2", "train.rays=128", "sampling.samples=8")
    sets = [word for one in fewer for word in ("--set", one)]
    for verb in (("plan",), ("fit", "--steps", 100, *sets)):
        process = spawn(*verb, out / "scene.yaml", *options)
        assert process.ended(500) == 0, process.err.read_text()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_flight(tmp_path: Path, spawn: Spawn) -> None:
    """18 photographs straight down, GPS of the drone in a table beside them."""
    root = needs("odm_brighton")
    out = tmp_path / "capture"
    process = spawn("pose", root / "images", "--out", out)
    assert process.ended(300) == 0, process.err.read_text()
    report = json.loads((out / "report.json").read_text())
    assert report["registered"] == 18
    assert report["reprojection_error_px"] < 0.3
    assert report["frame"]["level"] == "ground"
    assert report["frame"]["residual_horizontal_median_m"] < 0.5
    found = difference(out / "sparse" / "0", root / "sparse" / "0")
    assert found.position < 0.003 * found.extent
    assert found.rotation < 1.5  # a turn and a step look alike from above, all the same way
    assert load_scene(out / "scene.yaml", device="cpu").spec.train.losses.solid == 0.001
    planned_and_fitted(out, spawn, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("options", "position", "rotation"), [((), 0.005, 2.0), (("--focal", 738), 0.0015, 0.5)]
)
def test_a_street(
    options: tuple[object, ...], position: float, rotation: float, tmp_path: Path, spawn: Spawn
) -> None:
    """29 photographs along a street, of which the usual settings register few."""
    root = needs("opensfm_lund")
    out = tmp_path / "capture"
    process = spawn("pose", root / "images", "--out", out, *options)
    assert process.ended(500) == 0, process.err.read_text()
    report = json.loads((out / "report.json").read_text())
    assert report["registered"] == 29
    assert [one["settings"] for one in report["mapping"]] == ["forward", "usual"]
    assert report["reprojection_error_px"] < 0.8
    assert report["frame"]["residual_horizontal_median_m"] < 4
    doubts = [line for line in report["warnings"] if "the focal length is a guess" in line]
    assert len(doubts) == (not options)
    found = difference(out / "sparse" / "0", root / "sparse" / "0")
    assert found.position < position * found.extent
    assert found.rotation < rotation
    assert load_scene(out / "scene.yaml", device="cpu").spec.train.losses.solid == 0
    if options:
        planned_and_fitted(out, spawn, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_district(tmp_path: Path, spawn: Spawn) -> None:
    """76 photographs of a kite, light and dark, without GPS: their numbers tell the order."""
    root = needs("odm_ochota")
    out = tmp_path / "capture"
    process = spawn("pose", root / "images", "--out", out)
    assert process.ended(800) == 0, process.err.read_text()
    report = json.loads((out / "report.json").read_text())
    assert (report["registered"], report["matching"]["kind"]) == (76, "sequential")
    assert report["warnings"] == []
    found = difference(out / "sparse" / "0", root / "sparse" / "0")
    assert found.position < 0.002 * found.extent
    assert found.rotation < 0.3


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_walk_against_the_truth(tmp_path: Path, spawn: Spawn) -> None:
    """Every other frame of the rendered walk: the truth is known, focal length included.

    Its buildings share their windows, and it turns quickly twice: linked wrongly, a fifth of the
    frames would stand 25 m away.
    """
    names = sorted(path.name for path in (STAND_IN / "images").glob("*.jpg"))[::2]
    out = tmp_path / "capture"
    process = spawn("pose", write_frames(tmp_path / "photos", names), "--out", out)
    assert process.ended(800) == 0, process.err.read_text()
    report = json.loads((out / "report.json").read_text())
    assert report["matching"]["kind"] == "sequential"
    assert report["registered"] >= 0.75 * len(names)
    assert report["cameras"][0]["focal_px"] == pytest.approx(312.8, rel=0.01)
    found = difference(out / "sparse" / "0", STAND_IN / "sparse" / "0")
    assert found.position < 0.005 * found.extent
    assert found.worst < 0.05 * found.extent  # windows that look alike have moved none away
    assert found.rotation < 0.5


def rows(database: Path, table: str) -> int:
    """Rows of a table, while another process writes it."""
    if not database.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            found = connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()  # noqa: S608
    except sqlite3.OperationalError:  # it is being made
        return 0
    return int(found[0])


def says(process: Spawned, words: str) -> bool:
    return words in process.out.read_text()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_in_every_stage_it_goes_on(
    tmp_path: Path, spawn: Spawn, until: Callable[[Callable[[], bool]], None]
) -> None:
    """Kill -9 while features, matches and models are made; then Ctrl-C; then the same bits."""
    names = sorted(path.name for path in (STAND_IN / "images").glob("*.jpg"))[59:80]
    photos = write_frames(tmp_path / "photos", names)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert spawn("pose", photos, "--out", whole, "--threads", 2).ended(300) == 0
    database = broken / "work" / "database.db"
    mapping = broken / "work" / "mapping" / "usual.part"
    moments: list[tuple[Callable[[], bool], int]] = [
        (lambda: rows(database, "keypoints") > 2, signal.SIGKILL),
        (lambda: rows(database, "two_view_geometries") > 10, signal.SIGKILL),
        (mapping.exists, signal.SIGKILL),
        (mapping.exists, signal.SIGINT),
    ]
    for moment, death in moments:
        process = spawn("pose", photos, "--out", broken, "--threads", 1)
        if death == signal.SIGINT:  # what the one before left must not be taken for its own
            until(partial(says, process, "matches "))
        until(moment)
        process.process.send_signal(death)
        assert process.ended() == (-signal.SIGKILL if death == signal.SIGKILL else 130)
        assert not (broken / "sparse").exists()
        assert not (broken / "report.json").exists()
    process = spawn("pose", photos, "--out", broken, "--threads", 2)
    assert process.ended(300) == 0, process.err.read_text()
    assert process.out.read_text().count("(done before)") == 3
    for name in ("cameras", "images", "points3D"):
        one, other = (folder / "sparse" / "0" / f"{name}.bin" for folder in (whole, broken))
        assert one.read_bytes() == other.read_bytes(), name
