"""A coloured cloud of points: where rays end, spread evenly over the surfaces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nerfxl.exporting.ends import Ends

HALVINGS = 16  # of the interval in which the size of a cube is looked for: to 1 in 60,000
MOST_CUBES = 2**20  # along an edge: three such numbers fit into 64 bits


def thinned(ends: Ends, count: int, seed: int) -> Ends:
    """Leave `count` ends, or all if there are fewer: the surest one of each cube of space.

    Cubes are as large as they may be to leave that many; what they leave over is dropped at random.
    """
    if len(ends) <= count:
        return ends
    order = np.argsort(ends.blur, kind="stable")
    low, edge = ends.places.min(0), float(np.ptp(ends.places, axis=0).max())
    places = ends.places[order] - low
    finest, coarsest = max(edge, 1e-30) / (MOST_CUBES - 1), max(edge, 1e-30)
    kept = _first_of_each(places, finest)
    for _ in range(HALVINGS):
        size = (finest * coarsest) ** 0.5
        found = _first_of_each(places, size)
        if len(found) >= count:
            finest, kept = size, found
        else:
            coarsest = size
    if len(kept) < count:  # many at one place: any of them
        kept = np.arange(len(order))
    chosen = np.random.default_rng(seed).choice(kept, count, replace=False)
    return ends.only(np.sort(order[chosen]))


def _first_of_each(places: NDArray[np.float64], size: float) -> NDArray[np.int64]:
    """The first of the places [N, 3] in each cube of space."""
    x, y, z = (places / size).astype(np.int64).T
    return np.unique((x * MOST_CUBES + y) * MOST_CUBES + z, return_index=True)[1]
