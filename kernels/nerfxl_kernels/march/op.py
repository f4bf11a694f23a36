"""Marching: the lattice of bins on a ray, cut by a tile, and the placing of bins in space.

A ray is measured by m in [0, 1], from its entry into the root box (or the near plane) to its exit
(or the far plane):

    t(m) = c sinh(s_0 + m s_1)

which is linear in t near the camera (t < c) and logarithmic far from it, so that equal steps in m
are cone steps: dt = s_1 sqrt(t^2 + c^2) dm. The lattice belongs to the ray, not to the tile: a
tile only cuts it at its faces, so a scene is sampled alike however many tiles it has.
"""

from __future__ import annotations

from torch import Tensor

from nerfxl_kernels import backend
from nerfxl_kernels.march import cpu, reference
from nerfxl_kernels.march.space import Domain, Path


def march(
    enter: Tensor,
    leave: Tensor,
    jitter: Tensor,
    bins: int,
    within: tuple[Path, Domain, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut each ray's lattice of bins to its stretch [enter, leave].

    Parameters
    ----------
    enter, leave: [P] in [0, 1], in m.
    jitter: [P] in [0, 1): the lattice's edges are at (b + jitter) / bins.
    bins: bins on the whole ray.
    within: paths, domain and occupied cells [R, R, R] (bool, x slowest): bins whose middle lies
        in an empty cell are left out. None keeps all.

    Returns
    -------
    offsets [P + 1] int64, and the bins' ends m0, m1 [M]. Neighbours share one number. No gradient
    passes: a face that moves with a pose does not move its samples.

    Raises
    ------
    ValueError
        If bins < 1.

    Examples
    --------
    >>> import torch
    >>> half = torch.tensor([0.5])
    >>> march(half, torch.tensor([1.0]), 0 * half, 4)
    (tensor([0, 2]), tensor([0.5000, 0.7500]), tensor([0.7500, 1.0000]))
    """
    if bins < 1:
        raise ValueError(f"bins: found {bins}, expected at least 1")
    run = reference.march if backend.choose(enter) == "reference" else cpu.march
    return run(enter, leave, jitter, bins, within)


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
    if backend.choose(m0) == "reference" or any(tensor.requires_grad for tensor in path[:4]):
        return reference.place(m0, m1, offsets, path, domain)
    return cpu.place(m0, m1, offsets, path, domain)
