"""PLY files: points or triangles, places in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nerfxl.exporting.geometry import Geometry

_COLUMNS = {"place": "x y z", "normal": "nx ny nz", "colour": "red green blue"}
_KINDS = {"place": ("<f8", "double"), "normal": ("<f4", "float"), "colour": ("u1", "uchar")}


def ply(shape: Geometry) -> list[bytes]:
    """Write binary little-endian PLY: double x y z, float nx ny nz, uchar red green blue, faces.

    Double, so that coordinates of a map, of seven digits before the point, keep their millimetres.

    >>> from nerfxl.exporting.geometry import Geometry
    >>> one = Geometry(np.zeros((1, 3)), np.zeros((1, 3), np.uint8))
    >>> ply(one)[0].decode().splitlines()[3:5]
    ['element vertex 1', 'property double x']
    """
    columns = {"place": shape.places, "normal": shape.normals, "colour": shape.colours}
    held = {name: values for name, values in columns.items() if values is not None}
    vertices = np.empty(len(shape.places), [(name, _KINDS[name][0], 3) for name in held])
    for name, values in held.items():
        vertices[name] = values
    lines = ["ply", "format binary_little_endian 1.0", "comment nerfxl, coordinates of the capture"]
    lines.append(f"element vertex {len(vertices)}")
    for name in held:
        lines += [f"property {_KINDS[name][1]} {column}" for column in _COLUMNS[name].split()]
    pieces = [vertices.tobytes()]
    if shape.faces is not None:
        lines += [f"element face {len(shape.faces)}", "property list uchar int vertex_indices"]
        pieces.append(_faces(shape.faces))
    header = "".join(f"{line}\n" for line in [*lines, "end_header"])
    return [header.encode(), *pieces]


def _faces(faces: NDArray[np.int64]) -> bytes:
    rows = np.empty(len(faces), [("count", "u1"), ("corners", "<i4", 3)])
    rows["count"], rows["corners"] = 3, faces
    return rows.tobytes()
