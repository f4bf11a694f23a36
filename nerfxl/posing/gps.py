"""Where photographs were taken, by GPS: tables of places, and metres around an origin."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerfxl.errors import UserError
from nerfxl.posing.exif import is_place
from nerfxl.posing.photographs import Photograph

TABLE = "gps.csv"
Array = NDArray[np.float64]
Place = tuple[float, float, float | None]  # latitude, longitude, altitude

_COLUMNS = {  # what the header of a table may call them, before any unit (lat_deg, alt_m)
    "name": ("image", "name", "file", "filename", "photo", "photograph"),
    "latitude": ("lat", "latitude"),
    "longitude": ("lon", "lng", "long", "longitude"),
    "altitude": ("alt", "altitude", "height", "elevation"),
}


def table_beside(photographs: Path) -> Path | None:
    """Return the gps.csv in the folder of photographs (or video), or beside it."""
    folders = [photographs, photographs.parent] if photographs.is_dir() else [photographs.parent]
    return next((one / TABLE for one in folders if (one / TABLE).is_file()), None)


def read_table(path: Path) -> dict[str, Place]:
    """Read a table of places: a line a photograph, after a header that names the columns.

    Columns are image, lat (degrees), lon (degrees) and, where it is known, alt (metres); `lat_deg`
    and `latitude` are understood, too.

    Raises
    ------
    UserError: a column is missing, or a line is no place on Earth; it names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table of places: {error}.") from error
    columns = _columns(rows[0] if rows else [], path)
    places = {}
    for number, row in enumerate(rows[1:], start=2):
        if any(cell.strip() for cell in row):
            name, place = _place(row, columns, f"{path}, line {number}")
            places[name] = place
    return places


def located(photographs: Sequence[Photograph], table: Mapping[str, Place]) -> list[Place | None]:
    """Return the place of each photograph, by the table where it names it, or by its EXIF."""
    found: list[Place | None] = []
    for one in photographs:
        found.append(next((table[key] for key in names_of(one) if key in table), one.gps))
    return found


def names_of(photograph: Photograph) -> tuple[str, ...]:
    """Names by which a table may call a photograph."""
    source = PurePosixPath(photograph.source)
    return str(source), source.name, source.stem, photograph.name


def origin_of(places: Sequence[Place]) -> tuple[float, float, float | None]:
    """Return the median latitude, longitude and altitude of places."""
    altitudes = [place[2] for place in places if place[2] is not None]
    latitude, longitude = np.median([place[:2] for place in places], axis=0)
    return float(latitude), float(longitude), float(np.median(altitudes)) if altitudes else None


def metres(places: Sequence[Place], origin: Place) -> Array:
    """Turn places into metres east, north and up of an origin: [N, 3]; up NaN where unknown."""
    from nerfxl.colmap import pycolmap

    base = origin[2] or 0.0
    degrees = [[place[0], place[1], base if place[2] is None else place[2]] for place in places]
    earth = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
    found = np.array(earth.ellipsoid_to_enu(np.array(degrees), origin[0], origin[1], base))
    found[[place[2] is None for place in places], 2] = np.nan
    return found


def plane(places: Sequence[Place | None]) -> Array | None:
    """Metres east and north [N, 2], NaN where there is no GPS; None where nothing has any."""
    known = [place for place in places if place is not None]
    if not known:
        return None
    found = np.full((len(places), 2), np.nan)
    rows = [row for row, place in enumerate(places) if place is not None]
    found[rows] = metres(known, origin_of(known))[:, :2]
    return found


def _columns(header: Sequence[str], path: Path) -> dict[str, int]:
    words = [cell.strip().lower().partition("_")[0].partition(" ")[0] for cell in header]
    whole = [cell.strip().lower() for cell in header]
    columns = {
        meaning: index
        for meaning, known in _COLUMNS.items()
        for index in reversed(range(len(header)))
        if words[index] in known or whole[index] in known
    }
    missing = [name for name in ("name", "latitude", "longitude") if name not in columns]
    if missing:
        raise UserError(
            f"{path}, line 1: no column for the {missing[0]}; name the columns "
            "image,lat_deg,lon_deg,alt_m."
        )
    return columns


def _place(row: Sequence[str], columns: Mapping[str, int], where: str) -> tuple[str, Place]:
    cells = {key: row[at].strip() if at < len(row) else "" for key, at in columns.items()}
    numbers: dict[str, Any] = {}
    for key, cell in cells.items():
        if key == "name" or (key == "altitude" and not cell):
            continue
        try:
            numbers[key] = float(cell)
        except ValueError:
            numbers[key] = float("nan")
        if not isfinite(numbers[key]):
            raise UserError(f"{where}: {cell!r} is no {key}; write it in digits.")
    place = (numbers["latitude"], numbers["longitude"], numbers.get("altitude"))
    if not is_place(place[0], place[1]):
        raise UserError(
            f"{where}: latitude {place[0]:g}, longitude {place[1]:g} is no place; correct the "
            "line or remove it."
        )
    return cells["name"], place
