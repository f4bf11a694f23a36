"""Marching: the lattice of bins on a ray, cut by a tile, and the placing of bins in space.

A ray is measured by m in [0, 1], from its entry into the root box (or the near plane) to its exit
(or the far plane):

    t(m) = c sinh(s_0 + m s_1)

which is linear in t near the camera (t < c) and logarithmic far from it, so that equal steps in m
are cone steps: dt = s_1 sqrt(t^2 + c^2) dm. With c = math.inf the steps are of one length, the
limit of that formula: t(m) = s_0 + m s_1, both in scene units. The lattice belongs to the ray, not
to the tile: a tile only cuts it at its faces, so a scene is sampled alike however many tiles it
has.
"""

from __future__ import annotations

from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.march import reference
from nerfxl_kernels.march.space import Domain, Path


def march(
    enter: Tensor,
    leave: Tensor,
    jitter: Tensor,
    bins: int,
    within: tuple[Path, Domain, Tensor] | None = None,
    transmittance: Tensor | None = None,
    opaque: float = 0.0,
    budget: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut each ray's lattice of bins to its stretch [enter, leave].

    Parameters
    ----------
    enter, leave: [P] in [0, 1], in m.
    jitter: [P] in [0, 1): the lattice's edges are at (b + jitter) / bins.
    bins: bins on the whole ray.
    within: paths, domain and occupied cells [R, R, R] (bool, x slowest): bins whose middle lies
        in an empty cell are left out. None keeps all.
    transmittance: [P], what share of a ray's light still passes at `enter`.
    opaque: rays whose transmittance is at most this get no bins.
    budget: M at most. Rays are served in order, each whole; from the first on that no longer fits,
        they get no bins.

    Returns
    -------
    offsets [P + 1] int64, and the bins' ends m0, m1 [M]. Neighbours share one number. No gradient
    passes: a face that moves with a pose does not move its samples.

    The first `(offsets < offsets[-1]).sum()` rays have been served. Those behind them are empty or
    did not fit: march them again. With a budget of bins + 1, the most that a ray can have, or
    more, a call that returns no bins leaves none to serve.

    Raises
    ------
    ValueError
        If bins < 1, budget < 0, or transmittance is not of enter's shape.

    Examples
    --------
    >>> import torch
    >>> half = torch.tensor([0.5])
    >>> march(half, torch.tensor([1.0]), 0 * half, 4)
    (tensor([0, 2]), tensor([0.5000, 0.7500]), tensor([0.7500, 1.0000]))
    """
    if bins < 1:
        raise ValueError(f"bins: found {bins}, expected at least 1")
    if budget is not None and budget < 0:
        raise ValueError(f"budget: found {budget}, expected at least 0")
    if transmittance is not None:
        if transmittance.shape != enter.shape:
            found, expected = tuple(transmittance.shape), tuple(enter.shape)
            raise ValueError(f"transmittance: found shape {found}, expected {expected}")
        leave = leave.where(transmittance > opaque, enter)
    kernels = backend.load("march", enter)
    cut: tuple[Tensor, Tensor, Tensor] = kernels.march(enter, leave, jitter, bins, within, budget)
    return cut


def place(
    m0: Tensor, m1: Tensor, offsets: Tensor, path: Path, domain: Domain
) -> tuple[Tensor, Tensor]:
    """Where bins lie: the field's coordinates of their middles, and their lengths.

    Parameters
    ----------
    m0, m1: [M], the bins' ends. offsets: [P + 1] int64. path: of the P rays.

    Returns
    -------
    points: [M, 3] in [0, 1], the tile's field coordinates at m = (m0 + m1) / 2.
    length: [M], t(m1) - t(m0), scene units.

    Differentiable in the path: in plain torch, whatever the backend, when the path learns.
    """
    learns = any(tensor.requires_grad for tensor in path[:4])
    kernels = reference if learns else backend.load("march", m0)
    placed: tuple[Tensor, Tensor] = kernels.place(m0, m1, offsets, path, domain)
    return placed
