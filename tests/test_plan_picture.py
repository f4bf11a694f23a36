"""The picture of a plan: every tile has its tint, whatever the points and cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nerfxl.partition import Node, Plan, plan
from nerfxl.plan_picture import _round_length, picture
from nerfxl.rays import Box

NONE = np.empty((0, 3))
NO_COLOURS = np.empty((0, 3), np.uint8)


def test_x_is_right_and_y_is_up(tmp_path: Path) -> None:
    made = Plan(Box((0.0, 0.0, 0.0), (2.0, 1.0, 1.0)), False, (Node(0, 0.5, ~0, ~1),))
    points = np.array([[1.75, 0.75, 0.5]])
    picture(made, NONE, points, np.array([[255, 0, 0]], np.uint8), tmp_path / "p.png", 1.0)
    with Image.open(tmp_path / "p.png") as image:
        pixels = np.asarray(image).astype(int)
    y, x = np.argwhere((pixels[..., 0] > 240) & (pixels[..., 1:] < 20).all(axis=-1)).mean(axis=0)
    # The drawing shows x in [-0.16, 2.16], 1200 pixels, from the corner (20, 56).
    unit = 1200 / 2.32
    assert x == pytest.approx(20 + (1.75 + 0.16) * unit, abs=4)
    assert y == pytest.approx(56 + (1.16 - 0.75) * unit, abs=4)


def test_an_open_plan_is_tinted_to_the_edge(tmp_path: Path) -> None:
    box = Box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    for is_open in (False, True):
        made = Plan(box, is_open, (Node(0, 0.5, ~0, ~1),))
        picture(made, NONE, NONE, NO_COLOURS, tmp_path / "p.png", 1.0)
        with Image.open(tmp_path / "p.png") as image:
            assert (image.getpixel((60, 90)) == (255, 255, 255)) != is_open


@pytest.mark.parametrize("size", [(2.0, 2.0, 2.0), (2.0, 0.01, 0.5), (0.01, 2.0, 0.5)])
@pytest.mark.parametrize("K", [1, 64])
def test_any_plan_can_be_drawn(tmp_path: Path, size: tuple[float, float, float], K: int) -> None:
    made = plan(torch.empty(0, 3), Box((0.0, 0.0, 0.0), size), K, True)
    points = np.array([[0.0, 0.0, 0.0], [np.nan, 0.0, 0.0], [1e30, -1e30, 0.0]])
    colours = np.zeros((3, 3), np.uint8)
    picture(made, np.array([[1.0, 1.0, 9.0]]), points, colours, tmp_path / "p.png", 1e-3)
    with Image.open(tmp_path / "p.png") as image:
        assert max(image.size[0] - 40, image.size[1] - 116) == 1200


def test_lengths_of_the_scale_bar_are_round() -> None:
    assert [_round_length(most) for most in (0.7, 1.0, 4.99, 5.0, 99.0)] == [0.5, 1, 2, 5, 50]
