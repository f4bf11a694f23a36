"""GLB files (binary glTF 2.0): points or triangles about an origin of their own."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerfxl.errors import UserError
from nerfxl.exporting.geometry import Geometry

LARGEST = 2**32 - 1  # bytes: lengths are stored in 32 bits
POINTS, TRIANGLES = 0, 4
FLOAT, UINT16, UINT32 = 5126, 5123, 5125
VERTICES, INDICES = 34962, 34963  # what a part of the buffer is for


def glb(shape: Geometry) -> list[bytes]:
    """Write a GLB: one node, whose translation is the middle of the scene in whole units.

    glTF knows float32 alone, which has seven digits. So positions are stored about that middle,
    and what stands before them, the digits of a map's grid, is in the node's translation, in
    decimals. Axes are the source's, whatever glTF calls up. Colours are stored as light, linear, as
    glTF has it, 16 bits each, and are shown as they are (KHR_materials_unlit): the light of the
    photographs is in them already.

    Raises
    ------
    UserError: it would be larger than such files may be.
    """
    middle = np.round((shape.places.min(0) + shape.places.max(0)) / 2)
    near = (shape.places - middle).astype("<f4")
    buffer = _Buffer()
    attributes = {"POSITION": buffer.add(near, FLOAT, "VEC3", VERTICES, ends=True)}
    if shape.normals is not None:
        attributes["NORMAL"] = buffer.add(shape.normals.astype("<f4"), FLOAT, "VEC3", VERTICES)
    attributes["COLOR_0"] = buffer.add(_linear(shape.colours), UINT16, "VEC4", VERTICES)
    drawn: dict[str, Any] = {"attributes": attributes, "mode": POINTS, "material": 0}
    if shape.faces is not None:
        corners = shape.faces.astype("<u4").reshape(-1)
        drawn |= {"indices": buffer.add(corners, UINT32, "SCALAR", INDICES), "mode": TRIANGLES}
    document = {
        "asset": {"version": "2.0", "generator": "nerfxl"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "translation": middle.tolist()}],
        "meshes": [{"primitives": [drawn]}],
        "materials": [{"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": buffer.size}],
    }
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    whole = 12 + 8 + len(text) + 8 + buffer.size
    if whole > LARGEST:
        raise UserError(
            f"a .glb of {len(near):,} points would take {whole / 2**30:.1f} GiB, and none may be "
            "larger than 4: write a .ply."
        )
    head = struct.pack("<4sII", b"glTF", 2, whole) + struct.pack("<I4s", len(text), b"JSON")
    return [head, text, struct.pack("<I4s", buffer.size, b"BIN\0"), *buffer.pieces]


class _Buffer:
    """The binary part, and what glTF says of each piece of it."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []
        self.size = 0

    def add(
        self, values: NDArray[Any], component: int, kind: str, target: int, ends: bool = False
    ) -> int:
        """Append an array whose rows are of a multiple of 4 bytes; its number."""
        raw = values.tobytes()
        view = {"buffer": 0, "byteOffset": self.size, "byteLength": len(raw), "target": target}
        accessor: dict[str, Any] = {"bufferView": len(self.views), "componentType": component}
        accessor |= {"type": kind, "count": len(values)}
        if component == UINT16:
            accessor["normalized"] = True
        if ends:
            accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        self.pieces.append(raw)
        self.views.append(view)
        self.accessors.append(accessor)
        self.size += len(raw)
        return len(self.accessors) - 1


def _linear(colours: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """SRGB bytes [V, 3] -> light [V, 4], 65535 being 1; the fourth is opacity."""
    share = np.arange(256) / 255
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    table = np.round(light * 65535).astype("<u2")
    whole = np.full((len(colours), 4), 65535, "<u2")
    whole[:, :3] = table[colours]
    return whole
