"""Pictures on disk: renders, coloured depth, errors, contact sheets; numpy and Pillow only."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from nerfxl.errors import UserError
from nerfxl.runs import write_atomic

# Both ramps rise evenly in OKLab lightness, so that equal steps look equal and the order survives
# in grey; hue turns at a constant rate, chroma is the largest that sRGB holds up to a limit.
DEPTH_RAMP = (
    (51, 2, 76), (54, 20, 101), (50, 40, 121), (41, 60, 137),
    (18, 80, 151), (9, 99, 149), (13, 117, 152), (16, 134, 155),
    (19, 151, 158), (22, 169, 159), (29, 187, 154), (88, 201, 146),
    (132, 213, 138), (172, 223, 132), (211, 232, 129), (248, 240, 132),
)  # fmt: skip
ERROR_RAMP = (
    (2, 0, 13), (13, 0, 35), (34, 1, 54), (59, 2, 70),
    (86, 4, 81), (116, 6, 86), (144, 20, 86), (169, 41, 82),
    (192, 63, 76), (213, 85, 68), (231, 109, 59), (246, 135, 49),
    (253, 164, 65), (254, 195, 102), (254, 222, 143), (255, 247, 198),
)  # fmt: skip
MAP = "map"  # what is shown of a view where it is stored as depth in 16 bits,
DEPTHS = "depth"  # in this folder beside the pictures
NOTHING = (24, 24, 27)  # where there is no depth
FULL_ERROR = 0.25  # the error that is drawn brightest: the same in every sheet, to compare them

INK, FAINT, PAPER = (32, 33, 36), (128, 131, 137), (255, 255, 255)

Colour = tuple[int, int, int]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]


def to_uint8(image: Floats | Bytes) -> Bytes:
    """Round colours in [0, 1] to bytes, any shape; what is outside is clipped, NaN is 0.

    >>> to_uint8(np.array([0.0, 0.5, 1.0, 2.0])).tolist()
    [0, 128, 255, 255]
    """
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    known = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(known.clip(0, 1) * 255).astype(np.uint8)


def colourise(depth: Floats, lo: float, hi: float) -> Bytes:
    """Colour a depth map by its inverse: near is bright, far is dark, and a far sky takes no room.

    Parameters
    ----------
    depth:
        [H, W], any unit. Values that are not finite come out nearly black.
    lo, hi:
        Depths above 0 that get the ends of the ramp; what is outside gets the end nearest to it.

    Returns
    -------
    [H, W, 3] bytes.

    """
    known = np.isfinite(depth)
    nearest, farthest = 1 / max(lo, 1e-30), 1 / max(hi, 1e-30)
    inverse = 1 / np.where(known, depth, lo).clip(max(lo, 1e-30), None)
    span = max(nearest - farthest, 1e-30)  # a flat depth is near everywhere
    away = ((nearest - inverse) / span).clip(0, 1)
    return np.where(known[..., None], ramp(DEPTH_RAMP, 1 - away), np.asarray(NOTHING, np.uint8))


def error_map(truth: Floats | Bytes, render: Floats | Bytes) -> Bytes:
    """Colour the absolute error, a mean over the channels: two [H, W, 3] -> [H, W, 3] bytes.

    Black is 0; `FULL_ERROR` of the colour range and more is brightest. Both are compared as the
    bytes that a picture file would hold.
    """
    difference = to_uint8(truth).astype(np.float32) - to_uint8(render).astype(np.float32)
    return ramp(ERROR_RAMP, np.abs(difference).mean(axis=-1) / 255 / FULL_ERROR)


def depth_range(depth: Floats) -> tuple[float, float]:
    """Return the 2 and 98 percentiles of the finite depths, for `colourise`; (0, 1) if none."""
    known = depth[np.isfinite(depth)]
    if known.size == 0:
        return 0.0, 1.0
    lo, hi = np.percentile(known, (2, 98))
    return float(lo), float(hi)


def save_image(image: Floats | Bytes, path: Path) -> None:
    """Write [H, W, 3 or 4] colours (or [H, W] grey) whole or not at all; the suffix is the format.

    Raises
    ------
    UserError
        If the suffix names no format, or the file cannot be written.

    """
    _write(Image.fromarray(to_uint8(image)), path)


def save_depth(depth: Floats, path: Path, scale: float = 1000.0) -> None:
    """Write depth [H, W] as a 16-bit PNG of round(depth * scale): millimetres, for metres and 1000.

    0 means unknown: not finite, not positive, or too large for 16 bits (65.535 m in
    millimetres): a pixel never holds a false depth. The file's text chunk "scale" tells scale.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.round(np.asarray(depth, np.float64) * scale)
        known = np.isfinite(scaled) & (scaled >= 1) & (scaled <= 65535)
    note = PngImagePlugin.PngInfo()
    note.add_text("scale", f"{scale:g}")
    _write(Image.fromarray(np.where(known, scaled, 0).astype(np.uint16)), path, pnginfo=note)


def load_depth(path: Path) -> NDArray[np.float32]:
    """Read what `save_depth` wrote: [H, W], in the unit it was given; NaN where it is unknown.

    Raises
    ------
    UserError
        If the file is missing, or is no such picture.

    """
    try:
        with Image.open(path) as image:
            scale, stored = float(image.info["scale"]), np.asarray(image, np.float32)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no depth map that nerfxl has written: {error}.") from error
    return np.where(stored > 0, stored / np.float32(scale), np.float32(np.nan))


def file_name(view: str, show: str = "colour") -> str:
    """A flat PNG name for a view's name, which may hold folders, and what is shown of it.

    >>> file_name("left/img_1.jpg"), file_name("img_1.jpg", "depth"), file_name("img_1.jpg", MAP)
    ('left_img_1.png', 'img_1.depth.png', 'depth/img_1.png')
    """
    plain = str(Path(view).with_suffix("")).replace("/", "_")
    if show == MAP:
        return f"{DEPTHS}/{plain}.png"
    return f"{plain}.png" if show == "colour" else f"{plain}.{show}.png"


class SheetRow(NamedTuple):
    """One line of a contact sheet.

    label: the view's name. truth, render: [H, W, 3]. depth: [H, W] or None. psnr: dB.
    """

    label: str
    truth: Floats | Bytes
    render: Floats | Bytes
    depth: Floats | None
    psnr: float


def sheet(rows: Sequence[SheetRow], path: Path, width: int = 400) -> None:
    """Write a contact sheet, a line a view: truth, render, error, depth, and the PSNR.

    Pictures are scaled to `width` pixels. Each depth map has its own range, told in its caption.
    """
    gap, caption, head, foot = width // 16, 30, 64, 56
    heights = [round(width * len(row.truth) / row.truth.shape[1]) for row in rows]
    columns = [gap + i * (width + gap // 2) for i in range(4)]
    size = (columns[3] + width + gap, head + sum(heights) + len(rows) * (caption + gap) + foot)
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for x, title in zip(columns, ("truth", "render", "error", "depth"), strict=True):
        draw.text((x, head - 14), title, INK, font(20), anchor="ls")
    y = head
    for row, height in zip(rows, heights, strict=True):
        shown = [to_uint8(row.truth), to_uint8(row.render), error_map(row.truth, row.render)]
        draw.text((columns[0], y + height + 21), _shorten(row.label, width), INK, font(14), "ls")
        draw.text((columns[1], y + height + 21), f"{row.psnr:.2f} dB", INK, font(14), "ls")
        if row.depth is not None:
            lo, hi = depth_range(row.depth)
            shown.append(colourise(row.depth, lo, hi))
            said = f"{lo:.3g} to {hi:.3g}"
            draw.text((columns[3], y + height + 21), said, INK, font(14), "ls")
        for x, picture in zip(columns, shown, strict=False):
            small = Image.fromarray(picture).convert("RGB")
            canvas.paste(small.resize((width, height), Image.Resampling.LANCZOS), (x, y))
        y += height + caption + gap
    _legend(canvas, (columns[2], y), width, ERROR_RAMP, ("0", f"{FULL_ERROR:g} and more"))
    _legend(canvas, (columns[3], y), width, DEPTH_RAMP[::-1], ("near", "far"))
    _write(canvas, path)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own typeface at a size in pixels: the same on every machine."""
    return ImageFont.load_default(size)


def tile_colours(count: int) -> list[Colour]:
    """Hues a golden angle apart: any two tiles that are near in number are far in hue."""
    colours = []
    for index in range(count):
        rgb = colorsys.hls_to_rgb((0.58 + index * 0.618034) % 1, 0.42, 0.62)
        colours.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return colours


def ramp(table: Sequence[tuple[int, int, int]], share: Floats) -> Bytes:
    """Interpolate a table of colours: share [...] in [0, 1], clipped -> [..., 3]."""
    place = share.clip(0, 1) * (len(table) - 1)
    colours, steps = np.asarray(table), np.arange(len(table))
    channels = [np.interp(place, steps, channel) for channel in colours.T]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def _legend(
    canvas: Image.Image,
    corner: tuple[int, int],
    width: int,
    table: Sequence[tuple[int, int, int]],
    ends: tuple[str, str],
) -> None:
    """Draw a strip of a ramp with words at its ends."""
    strip = ramp(table, np.linspace(0, 1, width))[None].repeat(8, axis=0)
    canvas.paste(Image.fromarray(strip), corner)
    draw = ImageDraw.Draw(canvas)
    x, y = corner
    draw.text((x, y + 26), ends[0], FAINT, font(13), "ls")
    draw.text((x + width, y + 26), ends[1], FAINT, font(13), "rs")


def _shorten(text: str, room: int) -> str:
    """Cut the front of a name that is wider than `room` pixels: the end tells views apart."""
    if font(14).getlength(text) <= room:
        return text
    while text and font(14).getlength("…" + text) > room:
        text = text[1:]
    return "…" + text


def _write(image: Image.Image, path: Path, **options: Any) -> None:
    form = Image.registered_extensions().get(path.suffix.lower())
    if form not in Image.SAVE:
        raise UserError(f"{path} has no suffix of a picture format: use .png, .jpg or .webp.")
    if form == "JPEG":
        image, options = image.convert("RGB"), {"quality": 92, **options}
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    write_atomic(path, buffer.getvalue())
