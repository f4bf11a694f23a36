"""Pictures hold what they were given, and are written whole."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nerfxl.errors import UserError
from nerfxl.pictures import (
    DEPTH_RAMP,
    ERROR_RAMP,
    NOTHING,
    SheetRow,
    colourise,
    depth_range,
    error_map,
    load_depth,
    save_depth,
    save_image,
    sheet,
    to_uint8,
)


@given(st.integers(0, 255))
def test_bytes_survive_the_way_through_floats(value: int) -> None:
    assert to_uint8(np.array([value / 255], np.float32))[0] == value
    assert to_uint8(np.array([value], np.uint8))[0] == value


def test_colours_that_are_none_do_not_wrap_round() -> None:
    image = np.array([-0.1, 1.1, math.nan, math.inf, -math.inf])
    assert to_uint8(image).tolist() == [0, 255, 0, 255, 0]


@pytest.mark.parametrize("table", [DEPTH_RAMP, ERROR_RAMP])
def test_ramps_rise_in_brightness(table: tuple[tuple[int, int, int], ...]) -> None:
    luminance = np.array(table) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) > 0).all()


def test_near_is_bright_and_far_is_dark() -> None:
    depth = np.array([[1.0, 5.0, -3.0, 9.0, math.inf, math.nan]])
    shown = [tuple(pixel) for pixel in colourise(depth, 1.0, 5.0)[0].tolist()]
    near, far = DEPTH_RAMP[-1], DEPTH_RAMP[0]
    assert shown == [near, far, near, far, NOTHING, NOTHING]


def test_a_far_sky_leaves_the_ramp_to_the_scene() -> None:
    # By inverse depth: 1/1 = 1 is near, 1/1000 is far, and 1/2 is half-way, as 1/1.999 is.
    depth = np.array([[2.0, 1.999]])
    middle = [(a + b) / 2 for a, b in zip(*DEPTH_RAMP[len(DEPTH_RAMP) // 2 - 1 :][:2], strict=True)]
    assert np.abs(colourise(depth, 1.0, 1000.0)[0] - np.array(middle)).max() < 16


def test_a_flat_depth_has_a_colour() -> None:
    assert colourise(np.full((2, 2), 3.0), 3.0, 3.0)[0, 0].tolist() == list(DEPTH_RAMP[-1])


def test_the_depth_range_leaves_out_what_is_not_finite() -> None:
    # 0 .. 100: the 2nd percentile of 101 even values is 2, the 98th is 98.
    assert depth_range(np.array([*range(101), math.inf, math.nan])) == (2.0, 98.0)
    assert depth_range(np.full((2, 2), math.inf)) == (0.0, 1.0)


def test_error_of_equal_images_is_black_and_of_opposite_ones_brightest() -> None:
    black, white = np.zeros((1, 2, 3)), np.full((1, 2, 3), 255, np.uint8)
    assert error_map(black, black)[0, 0].tolist() == list(ERROR_RAMP[0])
    assert error_map(black, white)[0, 1].tolist() == list(ERROR_RAMP[-1])


def test_an_image_comes_back_from_its_file(tmp_path: Path) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    save_image(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert (np.asarray(stored) == image).all()
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    save_image(np.zeros((4, 4, 4)), tmp_path / "b.JPG")
    with Image.open(tmp_path / "b.JPG") as stored:
        assert stored.format == "JPEG"


@pytest.mark.parametrize("name", ["a", "a.txt", "a.jsn"])
def test_a_suffix_must_name_a_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"has no suffix of a picture format: use \.png"):
        save_image(np.zeros((1, 1, 3)), tmp_path / name)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png could not be written"):
        save_image(np.zeros((1, 1, 3)), tmp_path / "nowhere" / "a.png")


def test_depth_is_stored_in_millimetres_and_never_false(tmp_path: Path) -> None:
    depth = np.array([[1.2345, 65.535, 65.536, math.inf], [math.nan, -1.0, 0.0, 1e300]], np.float64)
    save_depth(depth, tmp_path / "d.png")
    with Image.open(tmp_path / "d.png") as stored:
        # 1234.5 rounds to even; 65.536 m is one more than 16 bits hold.
        assert np.asarray(stored).tolist() == [[1234, 65535, 0, 0], [0, 0, 0, 0]]
        assert stored.info["scale"] == "1000"
    save_depth(np.array([[70.0]]), tmp_path / "d.png", scale=100)
    with Image.open(tmp_path / "d.png") as stored:
        assert np.asarray(stored).tolist() == [[7000]]


def test_a_depth_comes_back_from_its_file(tmp_path: Path) -> None:
    save_depth(np.array([[0.25, math.inf, 100.0]]), tmp_path / "d.png", scale=1000)
    found = load_depth(tmp_path / "d.png")[0]
    assert found[0] == 0.25
    assert np.isnan(found[1:]).all()  # infinite, and more than 16 bits hold
    save_image(np.zeros((2, 2, 3)), tmp_path / "none.png")
    for name in ("none.png", "missing.png"):
        with pytest.raises(UserError, match=f"{name} is no depth map that nerfxl has written"):
            load_depth(tmp_path / name)


def test_a_sheet_has_a_line_a_view(tmp_path: Path) -> None:
    wide, tall = np.full((60, 120, 3), 0.25), np.full((80, 40, 3), 200, np.uint8)
    depth = np.ones((60, 120), np.float32)
    rows = [
        SheetRow("wide.jpg", wide, wide, depth, 100.0),
        SheetRow("a/very/long/name/" * 9 + "tall.jpg", tall, tall, None, 12.345),
    ]
    sheet(rows, tmp_path / "sheet.png", width=160)
    with Image.open(tmp_path / "sheet.png") as drawn:
        # Four columns of 160, gaps of 10 around and 5 between; lines of 80 and 320 pixels.
        assert drawn.size == (4 * 160 + 2 * 10 + 3 * 5, 64 + 80 + 320 + 2 * (30 + 10) + 56)
        pixels = np.asarray(drawn)
    assert pixels[100, 50].tolist() == [64, 64, 64]
    assert pixels[100, 10 + 2 * 165 + 50].tolist() == list(ERROR_RAMP[0])
    assert pixels[100, 10 + 3 * 165 + 50].tolist() == list(DEPTH_RAMP[-1])
    assert pixels[300, 50].tolist() == [200, 200, 200]
    assert pixels[300, 10 + 3 * 165 + 50].tolist() == [255, 255, 255]


def test_a_sheet_without_views_is_a_sheet(tmp_path: Path) -> None:
    sheet([], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size == (4 * 400 + 2 * 25 + 3 * 12, 64 + 56)
