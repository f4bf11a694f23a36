"""What training minimises, from composed pixels: the same on every rank."""

from __future__ import annotations

import torch
from torch import Tensor

from nerfxl.rays import Pixels, Truth
from nerfxl.scene.training import LossSpec

THIN = 1e-6  # optical depth below which rays are passed over: they met no sample
CERTAIN = 0.01  # in m: errors of depth up to here count by their square, larger ones by their size


def loss(pixels: Pixels, truth: Truth, spec: LossSpec, count: int) -> tuple[Tensor, Tensor]:
    """The part of a batch's loss that these n rays make, and their summed squared error: scalars.

    colour + distortion weight * composed distortion (mip-NeRF 360 eq. 15, as NeRF-XL eq. 7 composes
    it), each the mean over all `count` rays of the batch, + depth, sky and solid, where they are
    asked for: these are functions of composed Segments, too, and so do not depend on the cut.
    """
    colour, squared = pixels.colour, (pixels.colour - truth.colour).square().sum()
    if spec.colour == "smooth_l1":
        off = torch.nn.functional.smooth_l1_loss(colour, truth.colour, reduction="sum")
    else:
        off = squared
    total = off / (3 * count) + spec.distortion * pixels.distortion.sum() / count
    if spec.depth:
        total = total + spec.depth * depth(pixels, truth.distance) / (spec.depth_rays * count)
    if spec.sky:
        total = total + spec.sky * sky(pixels, truth.sky) / count
    if spec.solid:
        total = total + spec.solid * solid(pixels, ~truth.sky) / count
    return total, squared.detach()


def depth(pixels: Pixels, distance: Tensor) -> Tensor:
    """How far the mean m of rays' light is from that of their points, summed: smooth L1.

    m is logarithmic in the distance beyond `SPACING`, so that errors are relative to it; points
    that are wrong pull no harder than others. The sum is divided by the rays that are set aside for
    points, whether or not each found one: a number that every rank knows.

    distance: [n], scene units; where it is 0, or the ray starts behind it, nothing is known.
    """
    m = pixels.m(distance)
    wanted = torch.where(m > 0, m.clamp(max=1), pixels.mean.detach())
    return torch.nn.functional.smooth_l1_loss(pixels.mean, wanted, reduction="sum", beta=CERTAIN)


def sky(pixels: Pixels, seen: Tensor) -> Tensor:
    """log(1 + optical depth) of the rays that see the sky, [n] bool, summed.

    Between opacity, whose gradient is nothing where a ray is opaque, as all are at the start of an
    open scene, and optical depth, whose gradient has no bound where a mask is wrong: the gradient
    by the log of densities is tau / (1 + tau), a ray.
    """
    return (torch.log1p(pixels.tau) * seen).sum()


def solid(pixels: Pixels, seen: Tensor) -> Tensor:
    """-log(opacity) of the rays that end at something, [n] bool, summed.

    The likelihood that all their light ends inside. The gradient by the log of densities is
    -tau / (exp(tau) - 1), a ray: at most 1, and nothing where it is opaque. Without it a field
    whose background fits the mean colour of the ground may stay half transparent; with more of it
    than 0.001 or so, the first fog becomes the ground.
    """
    return -(torch.log(-torch.expm1(-pixels.tau.clamp(min=THIN))) * seen).sum()
