"""What `nerfxl render` is asked for: which views, along which path, of what size; and its film."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nerfxl.cameras import Camera, look_at, vertical_fov
from nerfxl.errors import UserError
from nerfxl.filming.film import write_film
from nerfxl.filming.paths import CameraPath, Keyframe
from nerfxl.filming.shooting import FRAMES, SHOOTING, SHOWS, Shooting, Wish, arranged
from nerfxl.partition import Plan
from nerfxl.prepare import RunScene, Shot
from nerfxl.rays import Box
from nerfxl.scene.spec import SceneSpec
from nerfxl.world import WorldTransform

LENS = Camera("OPENCV", 300, 201, (250.0, 251.0, 150.0, 100.0, 0.1, 0.0, 0.0, 0.0))
NAMES = ("b/one.jpg", "two.jpg", "three.jpg", "four.jpg", "five.jpg")


def shots() -> tuple[Shot, ...]:
    turns = 2 * np.pi * np.arange(5) / 5
    eyes = [(10 + 4 * np.cos(turn), 4 * np.sin(turn), 3) for turn in turns]
    poses = [look_at(eye, (10, 0, 0)) for eye in eyes]
    pairs = enumerate(zip(NAMES, poses, strict=True))
    return tuple(Shot(name, LENS, pose, test=row in (0, 3)) for row, (name, pose) in pairs)


def scene() -> RunScene:
    """The middle of the box lies at (10, 0, 0) of the source, whose unit is a quarter."""
    world = WorldTransform(0.25, np.eye(3), np.array([-2.5, 0, 0]))
    cut = Plan(Box((-1, -1, -1), (1, 1, 1)), True, ())
    return RunScene(SceneSpec.model_validate({"capture": {"path": "x"}}), cut, world, shots())


def asked(**wish: Any) -> Shooting:
    return arranged(Wish(**wish), scene(), shots())


def test_views_keep_their_cameras_and_training_images_their_look() -> None:
    found = asked(split="all")
    assert [frame.name for frame in found.frames] == list(NAMES)
    assert {frame.camera for frame in found.frames} == {LENS}
    assert [frame.like for frame in found.frames] == [None, 1, 2, None, 4]
    assert [frame.name for frame in asked(split="train").frames] == [
        "two.jpg",
        "three.jpg",
        "five.jpg",
    ]
    assert [frame.like for frame in asked(like="two.jpg").frames] == [1, 1]
    assert not found.path
    assert found.fps == 0
    assert asked(split="all", video=True, fps=12).fps == 12


def test_a_size_scales_the_lens_and_a_field_of_view_replaces_it() -> None:
    small = asked(size=(150, 100)).frames[0].camera
    assert (small.width, small.height, small.params[4]) == (150, 100, 0.1)
    wide = asked(size=(320, 180), fov=70).frames[0].camera
    assert (wide.model, wide.width, wide.height) == ("PINHOLE", 320, 180)
    assert vertical_fov(wide) == pytest.approx(70)


@pytest.mark.parametrize("path", ["orbit", "spiral", "interpolate", "flythrough"])
def test_paths_are_numbered_and_have_no_distortion(path: str) -> None:
    wish = {"path": path, "split": "all"}
    if path == "spiral":
        with pytest.raises(UserError, match=r"different directions; try orbit or flythrough"):
            asked(**wish)
        return
    found = asked(**wish)
    assert len(found.frames) == FRAMES
    assert found.path
    first = found.frames[0]
    assert (first.name, first.camera.model) == (f"{path}_0000.png", "PINHOLE")
    assert (first.camera.width, first.camera.height) == (300, 200), "films want even sides"
    assert vertical_fov(first.camera) == pytest.approx(vertical_fov(LENS))
    for frame in found.frames:
        away = frame.pose[:, 3] - (10, 0, 0)
        assert np.hypot(*away[:2]) < 4.5
        assert away[2] == pytest.approx(3, abs=1e-6), "all cameras are at this height"
    assert len(asked(**wish, frames=7, size=(64, 48)).frames) == 7


def test_a_path_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "gate.json"
    keys = [Keyframe(float(i), shot.pose, 40 + i) for i, shot in enumerate(shots()[:3])]
    file.write_text(CameraPath(tuple(keys), fps=5, width=640, height=360).to_json())
    wish = {"path": str(file), "video": True}
    found = asked(**wish)
    assert Wish(path=str(file)).name == "gate"
    assert len(found.frames) == 10
    assert found.fps == 5
    assert found.frames[0].name == "gate_0000.png"
    np.testing.assert_allclose(found.frames[-1].pose, keys[-1].pose, atol=1e-9)
    assert vertical_fov(found.frames[-1].camera) == pytest.approx(42)
    fixed = asked(**wish, frames=4, fov=90, size=(32, 32), fps=24)
    assert [vertical_fov(frame.camera) for frame in fixed.frames] == pytest.approx([90] * 4)
    assert fixed.fps == 24


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"shows": "colour,colr"}, r"--show colour,colr: 'colr' is none of colour, depth"),
        ({"like": "six.jpg"}, r"no view 'six.jpg'; it has 5, from 'b/one.jpg' to 'five.jpg'"),
        ({"frames": 3}, r"--frames says how many pictures a path has"),
        ({"size": (300, 300)}, r"--size 300x300: b/one.jpg is 300x201; ask for 300x201"),
        ({"path": "loop"}, r"--path loop: give one of orbit, .*, or a file, NAME.json"),
        ({"path": "lost.json"}, r"lost.json cannot be read as a camera path"),
    ],
)
def test_what_cannot_be_rendered_is_said(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        asked(**wish)


def test_a_split_without_views_is_said() -> None:
    bare = tuple(Shot(one.name, one.camera, one.pose, test=False) for one in shots())
    for path in (None, "interpolate"):
        with pytest.raises(UserError, match=r"--split test: the run has no such view"):
            arranged(Wish("test", path), scene(), bare)


def test_what_is_asked_survives_its_file(tmp_path: Path) -> None:
    found = asked(split="all", shows=",".join(SHOWS), video=True)
    (tmp_path / SHOOTING).write_text(found.to_json())
    back = Shooting.load(tmp_path)
    assert back.to_json() == found.to_json()
    assert back.frames[0].camera == LENS
    assert back.files(back.frames[0])[:2] == ["b_one.png", "b_one.depth.png"]
    assert back.files(back.frames[0])[-1] == "depth/b_one.png"
    assert len(set(back.files(back.frames[0]))) == len(SHOWS)


def pictures(folder: Path, size: tuple[int, int], count: int = 5) -> Iterator[Path]:
    for index in range(count):
        file = folder / f"{index}.png"
        Image.new("RGB", size, (40 * index, 100, 255 - 40 * index)).save(file)
        yield file


def test_a_film_shows_its_pictures_in_order_at_its_pace(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="films need PyAV: pip install 'nerfxl[video]'")
    write_film(list(pictures(tmp_path, (65, 48))), tmp_path / "film.mp4", 12.5)
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (64, 48), "an odd column is left out"
        assert stream.average_rate == Fraction(25, 2)
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
    assert len(shown) == 5
    for index, picture in enumerate(shown):
        np.testing.assert_allclose(
            picture.mean((0, 1)), (40 * index, 100, 255 - 40 * index), atol=6
        )
    assert not list(tmp_path.glob(".*"))


def test_a_film_that_fails_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="films need PyAV: pip install 'nerfxl[video]'")
    files = list(pictures(tmp_path, (64, 48)))
    files[3].write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"film.mp4 could not be written"):
        write_film(files, tmp_path / "film.mp4", 30)
    assert {file.name for file in tmp_path.iterdir()} == {f"{index}.png" for index in range(5)}


def test_without_pyav_a_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"needs PyAV.*pip install 'nerfxl\[video\]'"):
        write_film([], tmp_path / "film.mp4", 30)
