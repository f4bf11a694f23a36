"""Frames of a video: the sharp ones are taken, upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from nerfxl.errors import UserError
from nerfxl.posing import frames
from nerfxl.posing.photographs import Photograph
from tests.conftest import Here
from tests.posing.made import FRAMES, STAND_IN

av = pytest.importorskip("av", reason="PyAV, of the extra `video`, is not installed")

SHARP = (1, 5, 6, 10, 13)  # one in each stretch of three, as the hand shakes
RATE = 15


def film(path: Path, names: list[str] = FRAMES[:5]) -> Path:
    """Write a video, three frames a photograph, of which only those of SHARP are sharp."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 480, 270, "yuv420p"
        stream.bit_rate = 8_000_000
        for number in range(3 * len(names)):
            with Image.open(STAND_IN / "images" / names[number // 3]) as image:
                blur = 0 if number in SHARP else 2
                shown = image.filter(ImageFilter.GaussianBlur(blur))
            container.mux(stream.encode(av.VideoFrame.from_image(shown)))
        container.mux(stream.encode())
    return path


def chosen(found: list[Photograph]) -> list[int]:
    return [int(one.name[6:12]) - 1 for one in found]


def test_the_sharpest_frame_of_each_stretch_is_taken(tmp_path: Path) -> None:
    ticks: list[int] = []
    found = frames.selected(film(tmp_path / "walk.mp4"), 5, tmp_path, ticks.append)
    assert chosen(found.photographs) == list(SHARP)
    assert (found.frames, found.damage) == (15, "")
    assert sum(ticks) == 4  # the last stretch ends with the video
    with Image.open(tmp_path / found.photographs[0].name) as image:
        assert image.size == (480, 270)
        with Image.open(STAND_IN / "images" / FRAMES[0]) as true:
            error = np.asarray(image, np.float64) - np.asarray(true, np.float64)
    assert np.abs(error).mean() < 8  # the codec's


def test_more_frames_than_there_are(tmp_path: Path) -> None:
    found = frames.selected(film(tmp_path / "walk.mp4", FRAMES[:2]), 100, tmp_path, lambda _: None)
    assert chosen(found.photographs) == list(range(6))


def test_a_video_that_was_filmed_upright_is_upright(tmp_path: Path) -> None:
    """The track's matrix says that a player is to turn the picture by a quarter."""
    path = film(tmp_path / "walk.mp4", FRAMES[:2])
    whole = path.read_bytes()
    one, none = (1 << 16).to_bytes(4, "big"), bytes(4)
    identity = one + none * 3 + one + none * 3 + (1 << 30).to_bytes(4, "big")
    quarter = none + one + none + (-(1 << 16)).to_bytes(4, "big", signed=True) + none * 4
    header = whole.index(b"tkhd")
    at = whole.index(identity, header)
    turned = whole[:at] + quarter + identity[-4:] + whole[at + 36 :]
    path.write_bytes(turned)
    (first, *_) = frames.selected(path, 2, tmp_path, lambda _: None).photographs
    assert (first.width, first.height) == (270, 480)
    with (
        Image.open(tmp_path / first.name) as image,
        Image.open(STAND_IN / "images" / FRAMES[0]) as true,
    ):
        error = np.asarray(image, np.float64) - np.asarray(
            true.transpose(Image.Transpose.ROTATE_270), np.float64
        )
    assert np.abs(error).mean() < 10


def test_a_video_cut_short_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    path = film(tmp_path / "walk.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = frames.selected(path, 5, tmp_path, lambda _: None)
    assert 5 <= found.frames < 12
    assert "walk.mkv says that it lasts 1.0 s and ends after 0." in found.damage
    assert len(found.photographs) == 5


@pytest.mark.parametrize("content", [b"", b"not a film at all" * 100])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "walk.mp4").write_bytes(content)
    with pytest.raises(UserError, match="no folder, and no video that can be read"):
        frames.check(tmp_path / "walk.mp4")


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "walk.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="holds no pictures"):
        frames.check(path)


def test_a_video_becomes_a_capture(tmp_path: Path, here: Here) -> None:
    out = tmp_path / "capture"
    said = here("pose", film(tmp_path / "walk.mp4"), "--out", out, "--frames", 5, "--threads", 1)
    assert said.code == 0, said.err
    assert "5 of 15 frames, the sharpest of each stretch" in said.out
    assert "sequential" in said.out
    assert "registered 5 of 5" in said.out
    assert "scale and heading are arbitrary" in said.out
