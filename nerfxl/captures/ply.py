"""Points of a PLY file: x, y, z and, where it has them, red, green, blue."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nerfxl.errors import UserError

_KINDS = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "<i2",
    "int16": "<i2",
    "ushort": "<u2",
    "uint16": "<u2",
    "int": "<i4",
    "int32": "<i4",
    "uint": "<u4",
    "uint32": "<u4",
    "float": "<f4",
    "float32": "<f4",
    "double": "<f8",
    "float64": "<f8",
}
_FORMATS = ("ascii", "binary_little_endian")
_HEADER_LINES = 1000


def read_ply(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Read the vertices of an ascii or binary_little_endian PLY file.

    Returns
    -------
    Points [P, 3] and colours [P, 3], black where the file has none. Other properties are skipped.

    Raises
    ------
    UserError: the file is missing, no PLY, of another format, or ends too early.
    """
    try:
        with path.open("rb") as file:
            form, count, record = _header(file, path)
            table = (_ascii if form == "ascii" else _binary)(file, count, record, path)
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read: {error.strerror}.") from error
    points = np.stack([table[axis] for axis in "xyz"], axis=1).astype(np.float64)
    colours = np.zeros((count, 3), dtype=np.uint8)
    for column, name in enumerate(("red", "green", "blue")):
        if record.names and name in record.names and record[name] == np.uint8:
            colours[:, column] = table[name]
    return points, colours


def _header(file: BinaryIO, path: Path) -> tuple[str, int, np.dtype[np.void]]:
    """Format, number of vertices and what each of them is made of."""
    if file.readline(16).strip() != b"ply":
        raise UserError(f"{path}: this is no PLY file; its first line is not 'ply'.")
    form, count, properties, element = "", -1, list[tuple[str, str]](), ""
    for _ in range(_HEADER_LINES):
        words = file.readline(4096).decode("ascii", "replace").split()
        match words:
            case ["format", name, *_]:
                form = name
            case ["element", "vertex", number] if not element and number.isdecimal():
                element, count = "vertex", int(number)
            case ["element", name, *_]:
                element = element and name
            case ["property", kind, name] if element == "vertex" and kind in _KINDS:
                properties.append((name, _KINDS[kind]))
            case ["property", *_] if element == "vertex":
                raise UserError(f"{path}: the vertex property {' '.join(words[1:])!r} is not read.")
            case ["end_header"]:
                break
    names = [name for name, _ in properties]
    if form not in _FORMATS:
        raise UserError(
            f"{path}: the PLY format {form!r} is not read; store it as {' or '.join(_FORMATS)}."
        )
    if count < 0 or not {"x", "y", "z"} <= set(names) or len(set(names)) < len(names):
        raise UserError(
            f"{path}: the PLY header must start with a vertex element of distinct properties "
            "with x, y and z."
        )
    return form, count, np.dtype(properties)


def _ascii(file: BinaryIO, count: int, record: np.dtype[np.void], path: Path) -> NDArray[np.void]:
    names = record.names or ()
    rows = []
    for index in range(count):
        words = file.readline().split()
        try:
            rows.append(tuple(float(word) for word in words[: len(names)]))
            if len(words) < len(names):
                raise ValueError
        except ValueError:
            raise UserError(
                f"{path}: vertex {index + 1} of {count} is not {len(names)} numbers; "
                "write the file again."
            ) from None
    # as float64, so that a decimal is read to its last digit whatever the header calls it
    wide = np.dtype([(name, "f8") for name in names])
    return np.array(rows, dtype=wide)


def _binary(file: BinaryIO, count: int, record: np.dtype[np.void], path: Path) -> NDArray[np.void]:
    # one read of what the file has, never of what its header claims
    data = file.read()
    if len(data) < count * record.itemsize:
        raise UserError(
            f"{path}: the file ends in the middle of vertex "
            f"{len(data) // record.itemsize + 1} of {count}; copy it again."
        )
    return np.frombuffer(data, dtype=record, count=count)
