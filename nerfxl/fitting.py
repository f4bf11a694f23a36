"""The look of a held-out image, fitted on its left half so that the right one can be scored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nerfxl.ensemble import Member
from nerfxl.losses import loss
from nerfxl.optimiser import Optimiser
from nerfxl.randomness import generator
from nerfxl.rays import Batch, Rays, Truth
from nerfxl.scene.spec import SceneSpec

STEPS, RAYS, RATE = 64, 512, 0.05
LOOKS = ("views.appearance", "views.gain", "views.offset")
_STREAM = 2**34  # of random numbers; no tile has this index


def fit_look(member: Member, spec: SceneSpec, row: int, rays: Rays, truth: Tensor) -> None:
    """Learn one row of appearance and exposure, and nothing else; a collective of 'joint'.

    row: of the image. rays: [N], of its pixels that may be seen. truth: [N, 3], their colours.
    """
    model, renderer = member.model, member.model.renderer
    parameters = {n: p for n, p in model.shared.named_parameters() if n in LOOKS}
    if not parameters:
        return
    optimiser = Optimiser(parameters, spec.train.eps)
    exchange = model.exchange
    with _frozen(member):
        for step in range(1, STEPS + 1):
            draw = generator(spec.seed, _STREAM, row, step)
            number = torch.randint(len(rays), (min(RAYS, len(rays)),), generator=draw)
            number = number.to(truth.device)
            count = len(number)
            mine = exchange.mine(count)
            some = number[mine]
            # Exposure is learned in the name of one tile: once, where all ranks know all rays.
            batch = Batch(
                rays[some],
                torch.full((len(some), 2), 0.5, device=truth.device),
                torch.arange(count, device=truth.device)[mine],
                count,
                ((0 if len(some) == count else exchange.own[0], slice(len(some))),),
                torch.full((len(some),), row, device=truth.device),
            )
            cast = renderer.depart(renderer.cast(batch))
            pixels, _ = renderer(cast, spec.sampling.proposal.padding)
            total, _ = loss(pixels, Truth.of(truth[some]), spec.train.losses, count)
            total.backward()  # type: ignore[no-untyped-call]
            model.sum_gradients()
            for name, parameter in model.shared.named_parameters():
                if name not in parameters:
                    parameter.grad = None
            optimiser.step(step, RATE * (1 - (step - 1) / STEPS))


@contextmanager
def _frozen(member: Member) -> Iterator[None]:
    """No tile takes a gradient meanwhile."""
    held = [p for tile in member.model.tiles for p in tile.parameters() if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
