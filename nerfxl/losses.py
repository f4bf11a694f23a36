"""What training minimises, from composed pixels: the same on every rank."""

from __future__ import annotations

import torch
from torch import Tensor

from nerfxl.rays import Pixels
from nerfxl.spec import LossSpec


def loss(pixels: Pixels, truth: Tensor, spec: LossSpec) -> tuple[Tensor, Tensor]:
    """The loss of a batch and the mean squared error of its colours, both scalars.

    colour + distortion weight * mean over rays of the composed distortion (mip-NeRF 360 eq. 15,
    as NeRF-XL eq. 7 composes it). truth: [N, 3] in [0, 1].
    """
    error = torch.nn.functional.mse_loss(pixels.colour, truth)
    colour = error
    if spec.colour == "smooth_l1":
        colour = torch.nn.functional.smooth_l1_loss(pixels.colour, truth)
    total = colour + spec.distortion * pixels.distortion.mean()
    return total, error.detach()
