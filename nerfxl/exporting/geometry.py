"""What is handed over: places with colours, and perhaps normals and triangles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Geometry:
    """Points, or with faces a mesh, in source coordinates.

    places: [V, 3] float64. colours: [V, 3], as photographs have them (sRGB). normals: [V, 3] unit,
    or None. faces: [F, 3] rows of places, against the clock seen from outside; None: points.
    """

    places: NDArray[np.float64]
    colours: NDArray[np.uint8]
    normals: NDArray[np.floating[Any]] | None = None
    faces: NDArray[np.int64] | None = None
