"""What training minimises, from composed pixels: the same on every rank."""

from __future__ import annotations

import torch
from torch import Tensor

from nerfxl.rays import Pixels
from nerfxl.spec import LossSpec


def loss(pixels: Pixels, truth: Tensor, spec: LossSpec, count: int) -> tuple[Tensor, Tensor]:
    """The part of a batch's loss that these n rays make, and their summed squared error: scalars.

    colour + distortion weight * composed distortion (mip-NeRF 360 eq. 15, as NeRF-XL eq. 7 composes
    it), each the mean over all `count` rays of the batch. truth: [n, 3] in [0, 1].
    """
    colour, squared = pixels.colour, (pixels.colour - truth).square().sum()
    if spec.colour == "smooth_l1":
        off = torch.nn.functional.smooth_l1_loss(colour, truth, reduction="sum")
    else:
        off = squared
    total = off / (3 * count) + spec.distortion * pixels.distortion.sum() / count
    return total, squared.detach()
