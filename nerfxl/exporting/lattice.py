"""The points on which a mesh is looked for: rows along the edges of the root box, in bricks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerfxl.errors import UserError
from nerfxl.rays import Box

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

MARGIN = 1e-6  # of an edge
MOST_CELLS = 2**20  # along an edge: three such numbers and the axis of an edge fit into 64 bits


@dataclass(frozen=True)
class Lattice:
    """Cubes of one size that fill a box, and their corners, which are numbered from its low end.

    origin: [3], the corner (0, 0, 0). step: edge of a cube. cells: how many there are along each
    axis; there is one corner more.

    All bricks and all tiles take their corners from here: what two of them share is the same point.
    """

    origin: tuple[float, float, float]
    step: float
    cells: tuple[int, int, int]

    @staticmethod
    def over(box: Box, resolution: int) -> Lattice:
        """As many cubes as lie inside the box, `resolution` of them along its longest edge.

        What is left over on the shorter edges, less than a cube, is shared by both ends. So is a
        millionth of all edges: no corner lies on the box's faces, where rounding would decide
        whether it is inside.

        >>> Lattice.over(Box((0, 0, 0), (4, 2, 1.5)), 4).cells
        (4, 2, 1)

        Raises
        ------
        UserError: resolution is out of range.
        """
        if not 1 <= resolution <= MOST_CELLS:
            raise UserError(
                f"--resolution {resolution}: ask for 1 to {MOST_CELLS:,} cells along the box."
            )
        step = (1 - MARGIN) * max(box.size) / resolution
        x, y, z = (max(1, int(edge * (1 - MARGIN / 2) / step)) for edge in box.size)
        left = [edge - step * count for edge, count in zip(box.size, (x, y, z), strict=True)]
        a, b, c = (float(low + rest / 2) for low, rest in zip(box.low, left, strict=True))
        return Lattice((a, b, c), step, (x, y, z))

    def places(self, corners: Index | Floats) -> Floats:
        """Where corners [N, 3] lie, or places between them that are counted as they are."""
        return np.asarray(np.array(self.origin) + self.step * corners)

    def numbers(self, corners: Index) -> Index:
        """One number for each corner [N, 3] -> [N]; they rise along z first."""
        y, z = self.cells[1] + 1, self.cells[2] + 1
        return np.asarray((corners[:, 0] * y + corners[:, 1]) * z + corners[:, 2])

    def corners(self, numbers: Index) -> Index:
        """The inverse of `numbers`: [N] -> [N, 3]."""
        y, z = self.cells[1] + 1, self.cells[2] + 1
        return np.stack([numbers // (y * z), numbers // z % y, numbers % z], 1)

    def bricks(self, edge: int) -> tuple[int, int, int]:
        """How many bricks of edge^3 cells there are along each axis; the last may be smaller."""
        x, y, z = (-(-count // edge) for count in self.cells)
        return x, y, z
