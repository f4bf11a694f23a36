"""What a photograph says of itself: how it was held, its lens, and where it was taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, isfinite
from typing import Any

from PIL import Image

# Tags of EXIF 2.32, by their numbers.
_MAKE, _MODEL, _ORIENTATION = 0x010F, 0x0110, 0x0112
_EXIF, _GPS = 0x8769, 0x8825
_FOCAL_MM, _FOCAL_35MM, _ZOOM, _LENS = 0x920A, 0xA405, 0xA404, 0xA434
_DIAGONAL_35MM = hypot(36, 24)


@dataclass(frozen=True)
class Exif:
    """size: (width, height) of the upright picture. turned: it is not stored upright.

    lens: words that are the same for photographs through the same lens at the same focal length.
    focal: pixels, or None. gps: degrees, degrees, metres or None; or None.
    """

    size: tuple[int, int]
    turned: bool
    lens: str
    focal: float | None
    gps: tuple[float, float, float | None] | None


def read_exif(image: Image.Image) -> Exif:
    """Read the EXIF block of an opened image; what is missing or makes no sense is left out.

    The focal length is taken from the 35 mm equivalent alone: a ratio, which stays true when a
    photograph is made smaller. Focal length and resolution of the sensor do not: editors keep them
    as they were, so that a quarter of a photograph would get four times its focal length.
    """
    top: Mapping[int, Any] = {}
    inner: Mapping[int, Any] = {}
    gps: Mapping[int, Any] = {}
    try:
        exif = image.getexif()
        top, inner, gps = exif, exif.get_ifd(_EXIF), exif.get_ifd(_GPS)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError):
        pass  # a damaged block says nothing; the picture was checked on its own
    turned = top.get(_ORIENTATION) in range(2, 9)
    sideways = top.get(_ORIENTATION) in range(5, 9)
    width, height = image.size
    equivalent, zoom = _number(inner.get(_FOCAL_35MM)), _number(inner.get(_ZOOM))
    focal = None
    if equivalent is not None and 5 <= equivalent <= 2000:
        # The equivalent is of the picture's diagonal (CIPA DCG-001).
        focal = equivalent * hypot(width, height) / _DIAGONAL_35MM
    words = (top.get(_MAKE), top.get(_MODEL), inner.get(_LENS))
    numbers = (_number(inner.get(_FOCAL_MM)), equivalent, zoom)
    lens = [str(word).strip(" \0") for word in words if word]
    lens += [f"{number:.4g}" for number in numbers if number is not None]
    size = (height, width) if sideways else (width, height)
    return Exif(size, turned, " ".join(lens), focal, _position(gps))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if isfinite(number) else None


def _position(gps: Mapping[int, Any]) -> tuple[float, float, float | None] | None:
    latitude = _degrees(gps.get(2), gps.get(1), "S")
    longitude = _degrees(gps.get(4), gps.get(3), "W")
    if latitude is None or longitude is None or not is_place(latitude, longitude):
        return None
    altitude = _number(gps.get(6))
    below = gps.get(5) in (1, b"\x01")
    return latitude, longitude, -altitude if altitude is not None and below else altitude


def is_place(latitude: float, longitude: float) -> bool:
    """Whether degrees are a place on Earth; (0, 0) is what receivers write that know none."""
    return abs(latitude) <= 90 and abs(longitude) <= 180 and (latitude, longitude) != (0, 0)


def _degrees(parts: Any, reference: Any, negative: str) -> float | None:
    try:
        numbers = [_number(part) for part in parts]
    except TypeError:
        return None
    known = [number for number in numbers if number is not None]
    if len(known) != 3:
        return None
    degrees = known[0] + known[1] / 60 + known[2] / 3600
    return -degrees if str(reference).strip(" \0").upper() == negative else degrees
