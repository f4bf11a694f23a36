"""Errors of known size, put into the poses that a scene is trained on: for experiments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import roma
import torch
from numpy.typing import NDArray

from nerfxl.captures import View
from nerfxl.randomness import generator
from nerfxl.scene.training import DisturbSpec

_STREAM = 2**33  # of random numbers; no tile has this index


def disturbed(
    views: Sequence[View], spec: DisturbSpec, edge: float, seed: int
) -> list[NDArray[np.float64]]:
    """Poses [3, 4] of all views: those of held-out ones as they are, the others with errors.

    A camera is turned about its own centre by a normal angle about a random axis, and moved along
    each axis by a normal distance. edge: the root box's longest, source units. The errors depend on
    (seed, place among the views) alone.
    """
    poses = []
    for index, view in enumerate(views):
        if view.test or not (spec.rotation or spec.translation):
            poses.append(view.pose)
            continue
        draw = torch.randn(7, generator=generator(seed, _STREAM, index), dtype=torch.float64)
        axis = draw[:3] / draw[:3].norm()
        turn = roma.rotvec_to_rotmat(np.deg2rad(spec.rotation) * draw[3] * axis).numpy()
        centre = view.pose[:, 3] + spec.translation * edge * draw[4:].numpy()
        poses.append(np.column_stack([turn @ view.pose[:, :3], centre]))
    return poses
