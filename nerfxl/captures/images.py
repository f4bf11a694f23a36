"""Pixels of a view: checked before they are decoded, made small while they are decoded."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from nerfxl.captures.capture import View
from nerfxl.errors import UserError

# Chosen by their first bytes and opened by class: `Image.open` would refuse legitimate aerial
# frames of 180 megapixels and more by a limit of the whole process. The limit here is the size
# that the camera says, which `read_capture` has checked.
_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"II*\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00*", TiffImagePlugin.TiffImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
)
_EIGHT_BITS = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of the pixels as stored, from the file's header alone.

    Raises
    ------
    UserError: the file is missing, empty, no image, or of a kind that is not read.
    """
    with opened(path) as image:
        return image.size


def load_image(view: View) -> NDArray[np.uint8]:
    """Decode the photograph of a view at the size of its camera.

    JPEGs are decoded at 1/2, 1/4 or 1/8 where the divisor allows; what remains is the mean over
    whole blocks of pixels, weighted by alpha where there is alpha. An EXIF orientation is not
    applied: poses refer to the pixels as they are stored.

    Returns
    -------
    [H, W, 3], or [H, W, 4] with straight alpha where the file has alpha.

    Raises
    ------
    UserError: the view has no image; the file is missing, broken, or not of the camera's size.
    """
    if view.image is None:
        raise UserError(f"view {view.name!r} has no image to load.")
    with opened(view.image) as image:
        _check_header(view, view.image, image)
        small = _decoded(view.image, image, view.divisor)
        return np.array(small, dtype=np.uint8)


def check_image(view: View) -> None:
    """Look at the photograph of a view as far as that is possible without decoding it.

    Raises
    ------
    UserError: as `load_image`, but for what is broken inside the file.
    """
    if view.image is not None:
        with opened(view.image) as image:
            _check_header(view, view.image, image)


def load_mask(view: View) -> NDArray[np.bool_] | None:
    """Decode the mask of a view at the size of its camera; None where it has none.

    Returns
    -------
    [H, W], True = use the pixel: all pixels of its block are above 0 in the file.

    Raises
    ------
    UserError: the file is missing, broken, not single-channel or not of the camera's size.
    """
    return None if view.mask is None else _whole_blocks(view, view.mask, "pixels are used")


def load_sky(view: View) -> NDArray[np.bool_] | None:
    """Decode the mask of the sky of a view at the size of its camera; None where it has none.

    Returns
    -------
    [H, W], True = the sky is seen: all pixels of its block are above 0 in the file.

    Raises
    ------
    UserError: as `load_mask`.
    """
    return None if view.sky is None else _whole_blocks(view, view.sky, "the sky is seen")


def _whole_blocks(view: View, path: Path, where: str) -> NDArray[np.bool_]:
    """Which blocks of a mask's pixels are above 0 throughout: [H, W]."""
    with opened(path) as image:
        _check_size(view, path, image.size)
        if image.mode not in ("1", "L", "I;16", "I"):
            raise UserError(
                f"{path}: the mask has pixels of kind {image.mode!r}; "
                f"store a single-channel image, above 0 where {where}."
            )
        try:
            marked = np.asarray(image) > 0
        except _BROKEN as error:
            raise _unreadable(path, error) from error
    width, height, d = view.camera.width, view.camera.height, view.divisor
    blocks = marked[: height * d, : width * d].reshape(height, d, width, d)
    return np.asarray(blocks.all(axis=(1, 3)))


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """`with opened(path) as image:` the header is read, and no pixel decoded.

    Raises
    ------
    UserError: the file is missing, empty, no image, or of a kind that is not read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: the file is missing.") from None
    except OSError as error:
        raise UserError(f"{path}: the file cannot be opened: {error.strerror}.") from error
    with file:
        start = file.read(8)
        if not start:
            raise UserError(f"{path}: the file is empty; copy the image again.")
        reader = next((kind for magic, kind in _READERS if start.startswith(magic)), None)
        if reader is None:
            raise UserError(f"{path}: this is not a JPEG, PNG, TIFF or WebP image.")
        file.seek(0)
        try:
            image = reader(file, str(path))
        except _BROKEN as error:
            raise _unreadable(path, error) from error
        with image:
            yield image


def _decoded(path: Path, image: ImageFile.ImageFile, divisor: int) -> Image.Image:
    width, height = (side // divisor for side in image.size)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        # only a fraction that divides the divisor keeps the blocks on whole pixels
        fraction = next(k for k in (8, 4, 2, 1) if divisor % k == 0)
        if fraction > 1:
            image.draft(None, (image.size[0] // fraction, image.size[1] // fraction))
            divisor //= fraction
    try:
        whole = image.convert(_colours(image))
    except _BROKEN as error:
        raise _unreadable(path, error) from error
    return whole.reduce(divisor, box=(0, 0, width * divisor, height * divisor))


def _colours(image: Image.Image) -> str:
    transparent = image.mode in ("LA", "RGBA") or (
        image.mode == "P" and "transparency" in image.info
    )
    return "RGBA" if transparent else "RGB"


def _check_header(view: View, path: Path, image: Image.Image) -> None:
    _check_size(view, path, image.size)
    if image.mode not in _EIGHT_BITS:
        raise UserError(
            f"{path}: pixels of kind {image.mode!r} are not read; "
            "store 8 bits a channel, RGB or RGBA."
        )


def _check_size(view: View, path: Path, found: tuple[int, int]) -> None:
    expected = view.stored
    if found == expected:
        return
    factor = found[0] / expected[0]
    remedy = "use the images that the cameras were made for."
    if abs(found[1] - expected[1] * factor) <= max(1.0, factor):
        if factor < 1:
            remedy = (
                f"it is the whole picture at {factor:.3g} of that size: put the original images "
                "there and set capture.downscale instead."
            )
        else:
            remedy = (
                f"it is the whole picture at {factor:.3g} times that size: shrink the images to "
                "the camera's size, or give the cameras at the size of the images."
            )
    raise UserError(
        f"{path}: the file is {found[0]} x {found[1]} pixels, the camera of {view.name!r} is for "
        f"{expected[0]} x {expected[1]}; {remedy}"
    )


def _unreadable(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: the image cannot be decoded ({error}); copy it again.")
