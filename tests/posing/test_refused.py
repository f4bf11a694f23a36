"""What cannot be posed is refused in one sentence, and leaves nothing behind."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Here
from tests.posing.made import FRAMES, write_frames

Harm = Callable[[Path], object]


def cut(name: str) -> Harm:
    """Cut a photograph in the middle."""

    def act(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return act


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def raw(folder: Path) -> None:
    emptied(folder)
    (folder / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic")


def video_alone(folder: Path) -> None:
    emptied(folder)
    (folder / "walk.mp4").write_bytes(b"\0")


def alone(folder: Path) -> None:
    emptied(folder)
    Image.new("RGB", (100, 100)).save(folder / "one.png")


def small(folder: Path) -> None:
    Image.new("RGB", (60, 60)).save(folder / "thumb.png")


def deep(folder: Path) -> None:
    Image.new("I;16", (100, 100)).save(folder / "deep.png")


def table(*lines: str) -> Harm:
    return lambda folder: (folder / "gps.csv").write_text("\n".join(lines))


def blank(folder: Path) -> None:
    emptied(folder)
    for number in range(3):
        Image.new("RGB", (100, 80), (number, 0, 0)).save(folder / f"{number}.png")


@pytest.mark.parametrize(
    ("harm", "options", "sentence"),
    [
        pytest.param(cut(FRAMES[0]), [], f"{FRAMES[0]}: the image cannot be decoded", id="cut"),
        pytest.param(
            lambda folder: [cut(name)(folder) for name in FRAMES[:3]],
            [],
            "copy it again, or take it out of the folder (2 more are like it).",
            id="several cut",
        ),
        pytest.param(emptied, [], "no photograph is there; looked for JPEG, PNG", id="empty"),
        pytest.param(raw, [], "the photographs are .HEIC, which is not read; convert", id="raw"),
        pytest.param(video_alone, [], "give the video itself: ", id="video in a folder"),
        pytest.param(alone, [], "a single photograph cannot be posed; take more", id="single"),
        pytest.param(small, [], "60 x 60 pixels are too few, at least 64", id="thumbnail"),
        pytest.param(deep, [], "pixels of kind 'I;16' are not read; store 8 bits", id="16 bits"),
        pytest.param(
            lambda folder: (folder / "sparse").mkdir(), [], "this is a posed capture", id="posed"
        ),
        pytest.param(
            table("name,lat", "a,1"),
            [],
            "gps.csv, line 1: no column for the longitude",
            id="column",
        ),
        pytest.param(
            table("image,lat,lon", f"{FRAMES[0]},55.7,east"),
            [],
            "gps.csv, line 2: 'east' is no longitude; write it in digits.",
            id="digits",
        ),
        pytest.param(
            table("image,lat,lon", f"{FRAMES[0]},0,0"),
            [],
            "gps.csv, line 2: latitude 0, longitude 0 is no place",
            id="null island",
        ),
        pytest.param(
            lambda _: 0, ["--camera", "BROWN"], "--camera BROWN: it is not one of", id="m"
        ),
        pytest.param(
            lambda _: 0, ["--matching", "spatial"], "--matching spatial needs GPS", id="no GPS"
        ),
        pytest.param(lambda _: 0, ["--frames", 9], "is a folder, of which all", id="frames"),
        pytest.param(
            table("image,lat,lon", "other.jpg,1,2"),
            [],
            f"none of its 1 lines is of one of the 3 photographs, such as {FRAMES[0]}",
            id="table of others",
        ),
        pytest.param(
            lambda folder: Image.new("RGB", (100, 90)).save(folder / "other.png"),
            ["--focal", 300],
            "--focal 300: the photographs are of 2 sizes",
            id="two sizes",
        ),
    ],
)
def test_it_is_refused(
    harm: Harm, options: list[object], sentence: str, tmp_path: Path, here: Here
) -> None:
    folder = write_frames(tmp_path / "photos", FRAMES[:3])
    harm(folder)
    before = sorted(file.name for file in folder.iterdir())
    said = here("pose", folder, "--out", tmp_path / "capture", "--quiet", *options)
    assert said.code == 2
    assert sentence in said.err
    assert said.err.startswith("nerfxl: ")
    assert said.err.count("\n") == 1
    assert sorted(file.name for file in folder.iterdir()) == before
    late = "such as" in sentence or any(one in ("--matching", "--focal") for one in options)
    assert (tmp_path / "capture").exists() == late  # known only when photographs are in place


def test_a_place_for_the_capture_that_is_taken(tmp_path: Path, here: Here) -> None:
    folder = write_frames(tmp_path / "photos", FRAMES[:2])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    for out, sentence in (
        (folder, "this is the photographs' own folder"),
        (tmp_path / "taken", "the folder holds other things; name one that is empty or new"),
        (tmp_path / "file", "this is a file; name a folder for the capture"),
    ):
        said = here("pose", folder, "--out", out)
        assert (said.code, sentence in said.err) == (2, True), said.err
    assert [file.name for file in (tmp_path / "taken").iterdir()] == ["letter.txt"]
    said = here("pose", tmp_path / "nowhere", "--out", tmp_path / "new")
    assert "no such folder or video" in said.err


def test_photographs_that_show_nothing(tmp_path: Path, here: Here) -> None:
    folder = write_frames(tmp_path / "photos", FRAMES[:2])
    blank(folder)
    said = here("pose", folder, "--out", tmp_path / "capture")
    assert said.code == 2
    assert "could not be posed; 3 of 3 have fewer than 100 features" in said.err
    assert not (tmp_path / "capture" / "sparse").exists()


def test_a_damaged_journal_is_not_taken_for_a_new_one(tmp_path: Path, here: Here) -> None:
    folder = write_frames(tmp_path / "photos", FRAMES[:2])
    (tmp_path / "capture" / "work").mkdir(parents=True)
    (tmp_path / "capture" / "work" / "journal.json").write_text('{"format": "nerfxl')
    said = here("pose", folder, "--out", tmp_path / "capture")
    assert (said.code, "journal.json is damaged" in said.err) == (2, True)


def test_a_video_without_pyav_says_what_to_install(
    tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "walk.mp4").write_bytes(b"\0")
    said = here("pose", tmp_path / "walk.mp4", "--out", tmp_path / "capture")
    assert (said.code, "pip install 'nerfxl[video]'" in said.err) == (2, True)
    assert not (tmp_path / "capture").exists()


def test_a_full_disk_is_seen_before_the_work(
    tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_frames(tmp_path / "photos", FRAMES[:3])
    full = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    said = here("pose", folder, "--out", tmp_path / "capture")
    assert (said.code, "and 0.0 GiB are free: make room" in said.err) == (2, True), said.err
