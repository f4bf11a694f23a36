"""Procedural textures, linear reflectance in [0, 1]; every tile repeats without a seam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
PER_METRE = 64  # texels a metre of the tiles
QUAD = (96.0, 80.0)  # metres covered by the ground picture


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture [H, W, 3] that covers `size` (width, height) metres; row 0 is the lowest."""

    picture: Array
    size: tuple[float, float]


def noise(shape: tuple[int, int], scale: float, seed: int) -> Array:
    """Return periodic gaussian noise of unit variance, smooth over `scale` texels."""
    white = np.random.default_rng(seed).standard_normal(shape)
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    kernel = np.exp(-2 * (np.pi * scale) ** 2 * (fx**2 + fy**2))
    smooth = np.fft.irfft2(np.fft.rfft2(white) * kernel, shape)
    return (smooth - smooth.mean()) / smooth.std()


def mottle(shape: tuple[int, int], scales: ArrayLike, seed: int) -> Array:
    """Return the mean of noises at several scales, of unit variance."""
    total = sum(noise(shape, s, seed + i) for i, s in enumerate(np.atleast_1d(scales)))
    return np.asarray(total / np.std(total))


def tint(value: Array, colour: ArrayLike, contrast: float) -> Array:
    """Return a picture of one colour, its brightness varied by a noise."""
    return np.clip(np.asarray(colour) * (1 + contrast * value[..., None]), 0.01, 0.95)


def plain(colour: ArrayLike, contrast: float, scale: float, seed: int) -> Texture:
    """Return a plaster-like texture: one colour, soft spots of `scale` metres."""
    n = 8 * PER_METRE
    spots = mottle((n, n), np.array([1, 3]) * scale * PER_METRE, seed)
    return Texture(tint(spots, colour, contrast), (8.0, 8.0))


def courses(
    brick: tuple[float, float],
    grid: tuple[int, int],
    colour: ArrayLike,
    joint: ArrayLike,
    *,
    seed: int,
    gap: float = 0.025,
    spread: float = 0.12,
    hue: float = 0.03,
    shade: float = 0.0,
) -> Texture:
    """Return a running bond of bricks, stones, flags or tiles.

    Parameters
    ----------
    brick
        Length and height of one brick with its joint, metres.
    grid
        Bricks in a course (the tile's width) and courses (its height, even).
    colour, joint
        Mean linear reflectance of bricks and joints [3].
    seed
        Of the colours.
    gap
        Width of a joint, metres.
    spread, hue
        Variation of brightness and of red against blue from brick to brick, relative.
    shade
        Darkening towards the lower edge of each course, for overlapping roof tiles.
    """
    rng = np.random.default_rng(seed)
    size = (brick[0] * grid[0], brick[1] * grid[1])
    h, w = round(size[1] * PER_METRE), round(size[0] * PER_METRE)
    y = (np.arange(h) + 0.5) / h * grid[1]
    row = y.astype(int)
    x = ((np.arange(w)[None] + 0.5) / w * grid[0] + 0.5 * (row[:, None] % 2)) % grid[0]
    column = x.astype(int)
    light = rng.standard_normal((grid[1], grid[0]))[row[:, None], column]
    warm = rng.standard_normal((grid[1], grid[0]))[row[:, None], column]
    stain = mottle((h, w), np.array([0.25, 0.9]) * PER_METRE, seed + 1)
    picture = np.asarray(colour) * (1 + spread * light + 0.06 * stain)[..., None]
    picture *= 1 + hue * warm[..., None] * (1.0, 0.0, -1.0)
    level = (y - row)[:, None]
    picture *= 1 - shade * (1 - level[..., None]) ** 2
    edge_x = np.minimum(x - column, 1 - (x - column)) * brick[0]
    edge_y = np.minimum(level, 1 - level) * brick[1]
    soft = 1.0 / PER_METRE
    inside = np.clip((np.minimum(edge_x, edge_y) - gap / 2) / soft + 0.5, 0, 1)[..., None]
    mortar = np.asarray(joint) * (1 + 0.06 * stain[..., None])
    return Texture(np.clip(inside * picture + (1 - inside) * mortar, 0.01, 0.95), size)


def _soft(distance: Array, width: float = 0.06) -> Array:
    """Return 1 inside (negative distance), 0 outside, with a soft edge of `width` metres."""
    return np.clip(0.5 - distance / width, 0, 1)


def ground(seed: int = 40) -> Texture:
    """Return the picture of lawn, paths and paving about the centre of the quad."""
    per = 20
    w, h = round(QUAD[0] * per), round(QUAD[1] * per)
    x = ((np.arange(w) + 0.5) / per - QUAD[0] / 2)[None]
    y = ((np.arange(h) + 0.5) / per - QUAD[1] / 2)[:, None]
    tufts = mottle((h, w), np.array([0.12, 0.35]) * per, seed)
    patches = mottle((h, w), np.array([1.5, 4.0]) * per, seed + 2)
    mown = np.tanh(3 * np.sin(2 * np.pi * (x + 0 * y) / 5.0))
    grass = tint(0.7 * tufts + 0.8 * patches + 0.6 * mown, (0.115, 0.185, 0.055), 0.14)
    grass *= 1 + 0.10 * patches[..., None] * (1.0, 0.1, -0.2)
    pebbles = mottle((h, w), np.array([0.10, 0.5, 2.0]) * per, seed + 5)
    gravel = tint(pebbles, (0.52, 0.42, 0.29), 0.09)
    flags = _flags(x, y, seed + 8) * (1 + 0.05 * pebbles[..., None])
    diagonal = np.minimum(np.abs(0.55 * x - y), np.abs(0.55 * x + y)) / np.hypot(0.55, 1)
    cross = np.minimum(np.abs(x) + 0 * y, np.abs(y) + 0 * x)
    centre = np.hypot(x, y) - 6.0
    paths = np.minimum(np.minimum(diagonal - 1.1, cross - 1.0), centre)
    lawn = np.maximum(np.abs(x) - 24.5, np.abs(y) - 17.5)
    picture = grass
    for shape, fill in ((paths, gravel), (-lawn, flags)):
        kerb = _soft(np.abs(shape) - 0.12)[..., None]
        mask = _soft(shape)[..., None]
        picture = picture * (1 - mask) + fill * mask
        picture = picture * (1 - kerb) + np.array((0.50, 0.47, 0.42)) * kerb
    outside = _soft(-np.maximum(np.abs(x) - 31.0, np.abs(y) - 24.5))[..., None]
    return Texture(np.clip(picture * (1 - outside) + grass * outside, 0.01, 0.95), QUAD)


def _flags(x: Array, y: Array, seed: int) -> Array:
    """Return paving of 1.5 x 1.0 m flags [H, W, 3] at the positions of the ground's texels."""
    rng = np.random.default_rng(seed)
    row = np.floor(y).astype(int)
    shifted = x / 1.5 + 0.5 * (row % 2)
    column = np.floor(shifted).astype(int)
    light = rng.standard_normal((97, 101))[row % 97, column % 101]
    edge_x = np.minimum(shifted - column, 1 - shifted + column) * 1.5
    edge = np.minimum(edge_x, np.minimum(y - row, 1 - y + row))
    joint = _soft(edge - 0.02)[..., None]
    flags = np.array((0.43, 0.40, 0.36)) * (1 + 0.10 * light[..., None])
    return flags * (1 - joint) + 0.26 * joint


def sky(width: int = 1024, seed: int = 60) -> Array:
    """Return the sky [width / 2, width, 3] by azimuth and angle from the zenith, without sun."""
    height = width // 2
    theta = (np.arange(height)[:, None] + 0.5) / height * np.pi
    phi = (np.arange(width)[None] + 0.5) / width * 2 * np.pi
    up = np.cos(theta) + 0 * phi
    rise = np.clip(up, 0, 1)[..., None]
    zenith, horizon = np.array((0.13, 0.27, 0.56)), np.array((0.50, 0.61, 0.72))
    picture = zenith + (horizon - zenith) * (1 - rise) ** 3.0
    # Clouds on a flat layer above the viewer: they shrink towards the horizon.
    spread = np.sin(theta) / (np.clip(up, 0, 1) + 0.35)
    n = 1024
    layer = 0.75 * noise((n, n), 52, seed) + 0.35 * noise((n, n), 20, seed + 1)
    column = np.round(200 * spread * np.cos(phi)).astype(int) % n
    row = np.round(200 * spread * np.sin(phi)).astype(int) % n
    cover = np.clip((layer[row, column] - 0.25) / 1.3, 0, 1)
    cover = (cover * cover * (3 - 2 * cover) * np.clip(up / 0.15, 0, 1))[..., None]
    picture = picture + 0.75 * cover * (np.array((0.67, 0.685, 0.70)) - picture)
    below = np.array((0.30, 0.33, 0.28))
    return np.where(up[..., None] < 0, below, picture)


def all_textures() -> dict[str, Texture]:
    """Return the texture of every material by name."""
    mortar = (0.42, 0.38, 0.33)
    return {
        "ground": ground(),
        "brick": courses((0.45, 0.15), (32, 64), (0.36, 0.125, 0.075), mortar, seed=1),
        "buff": courses((0.60, 0.20), (24, 48), (0.50, 0.36, 0.19), (0.36, 0.31, 0.25), seed=3),
        "ashlar": courses(
            (1.10, 0.50), (12, 24), (0.56, 0.43, 0.27), (0.34, 0.26, 0.18), seed=5, spread=0.09
        ),
        "limestone": courses(
            (0.70, 0.35), (20, 36), (0.50, 0.48, 0.42), (0.34, 0.32, 0.28), seed=7, spread=0.12
        ),
        "trim": plain((0.62, 0.57, 0.48), 0.05, 0.3, 9),
        "cream": plain((0.66, 0.60, 0.47), 0.04, 0.5, 11),
        "concrete": plain((0.50, 0.50, 0.48), 0.06, 0.4, 13),
        "slate": courses(
            (0.50, 0.32), (24, 36), (0.15, 0.17, 0.20), (0.07, 0.08, 0.09), seed=15, shade=0.25
        ),
        "tile": courses(
            (0.40, 0.36), (30, 32), (0.42, 0.17, 0.09), (0.16, 0.07, 0.05), seed=17, shade=0.30
        ),
        "copper": plain((0.20, 0.42, 0.33), 0.10, 0.4, 19),
        "wood": plain((0.22, 0.11, 0.05), 0.12, 0.2, 21),
        "terracotta": plain((0.55, 0.22, 0.09), 0.06, 0.4, 23),
        "teal": plain((0.07, 0.27, 0.30), 0.06, 0.4, 25),
        "ochre": plain((0.66, 0.42, 0.08), 0.06, 0.4, 27),
        "white": plain((0.72, 0.71, 0.67), 0.03, 0.4, 29),
        "iron": plain((0.035, 0.04, 0.04), 0.1, 0.3, 31),
        "bark": plain((0.16, 0.11, 0.07), 0.25, 0.10, 33),
        "oak": plain((0.10, 0.21, 0.035), 0.22, 0.12, 35),
        "lime": plain((0.19, 0.29, 0.05), 0.22, 0.12, 37),
        "fir": plain((0.045, 0.125, 0.05), 0.22, 0.12, 39),
        "blossom": plain((0.62, 0.34, 0.38), 0.16, 0.12, 41),
        "maple": plain((0.42, 0.13, 0.05), 0.20, 0.12, 43),
        "hedge": plain((0.06, 0.14, 0.035), 0.25, 0.15, 45),
        "flower": plain((0.60, 0.12, 0.14), 0.30, 0.12, 47),
        "water": plain((0.06, 0.14, 0.16), 0.08, 0.6, 49),
        "lantern": plain((0.85, 0.80, 0.65), 0.02, 0.5, 51),
    }
