"""Where marching happens: the path of a ray, and the domain of a tile's field."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Path(NamedTuple):
    """The geometry of P rays.

    origins, directions: [P, 3], scene units, directions of unit length. first, span: [P], the
    s_0 and s_1 of t(m) = c sinh(s_0 + m s_1). scale: c, scene units.

    math.inf as scale asks for steps of one length, t(m) = first + m span with both in scene units:
    what cone steps become as c grows and c s_0 and c s_1 stay as they are.
    """

    origins: Tensor
    directions: Tensor
    first: Tensor
    span: Tensor
    scale: float


class Domain(NamedTuple):
    """The cube in which a tile's field lives, and how space is mapped to it.

    With u = (x - centre) / half and n = max |u_a|: closed tiles use (u + 1) / 2. An open tile
    reaches to infinity; there u is contracted to u / n (2 - 1 / n) where n > 1 (mip-NeRF 360
    eq. 10 with the maximum norm, which suits boxes), and (u + 2) / 4 is used.
    """

    centre: tuple[float, float, float]
    half: float
    open: bool
