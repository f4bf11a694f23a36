"""The race of a whole training step: encoding, two networks, volume rendering, loss, Adam."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import nerfacc
import torch
from nerfxl_kernels.adam import adam
from nerfxl_kernels.hash_encoding import hash_encoding, resolutions
from nerfxl_kernels.mlp import mlp
from nerfxl_kernels.segment import segment
from torch import Tensor

from bench.floors import Rates
from bench.measure import OURS, Contender, Race
from bench.peers import DrJitStep, compiled_torch_encoding, torch_encoding


def whole_step(rates: Rates, device: torch.device, rays: int, each: int) -> Race:
    """A step of `rays` rays with `each` samples."""
    levels, rows, cells = 16, 2**19, resolutions(16, 16, 2048)
    count, length = rays * each, 1 / each
    points = torch.rand(count, 3, device=device)
    harmonics = torch.rand(count, 16, device=device)
    target = torch.rand(rays, 3, device=device)
    offsets = torch.arange(rays + 1, device=device) * each
    m = torch.arange(each, device=device).repeat(rays) * length
    width = torch.full_like(m, length)

    def networks() -> tuple[Tensor, list[Tensor], list[Tensor]]:
        def weight(a: int, b: int) -> Tensor:
            return ((torch.rand(a, b, device=device) - 0.5) * 0.2).requires_grad_()

        table = (torch.rand(levels, rows, 2, device=device) * 1e-4).requires_grad_()
        return (
            table,
            [weight(32, 64), weight(64, 16)],
            [weight(31, 64), weight(64, 64), weight(64, 3)],
        )

    def ours() -> Callable[[], Tensor]:
        table, dense, coloured = networks()
        buffer = torch.zeros_like(table)
        parameters = [table, *dense, *coloured]
        moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        done = 0

        def run() -> Tensor:
            nonlocal done
            done += 1
            for weight in (*dense, *coloured):
                weight.grad = None
            hidden = mlp(hash_encoding(points, table, cells, buffer), dense)
            density = hidden[:, 0].clamp(max=10).exp()
            colour = mlp(torch.cat([hidden[:, 1:], harmonics], 1), coloured).sigmoid()
            values, _ = segment(density, colour, width, m, width, offsets)
            loss = ((values[:, 3:] - target) ** 2).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter, (first, second) in zip(parameters, moments, strict=True):
                grad = buffer if parameter is table else parameter.grad
                assert grad is not None
                adam(parameter.data, grad.contiguous(), first, second, done, 0.01)
            return loss.detach()

        return run

    def torch_way(encode: Callable[..., Tensor]) -> Callable[[], Tensor]:
        table, dense, coloured = networks()
        optimiser = torch.optim.Adam([table, *dense, *coloured], lr=0.01, fused=True)
        start, end = (m + 0 * width).reshape(rays, each), (m + width).reshape(rays, each)

        def run() -> Tensor:
            optimiser.zero_grad(set_to_none=True)
            hidden = (encode(points, table, cells) @ dense[0]).relu() @ dense[1]
            density = hidden[:, 0].clamp(max=10).exp()
            x = (torch.cat([hidden[:, 1:], harmonics], 1) @ coloured[0]).relu()
            colour = ((x @ coloured[1]).relu() @ coloured[2]).sigmoid()
            weights, *_ = nerfacc.render_weight_from_density(
                start, end, density.reshape(rays, each)
            )
            shade: Tensor = (weights[..., None] * colour.reshape(rays, each, 3)).sum(1)
            loss = ((shade - target) ** 2).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            return loss.detach()

        return run

    def contender(name: str, run: Callable[[], Tensor]) -> Contender:
        def check() -> None:
            losses = [float(run()) for _ in range(4)]
            assert losses[-1] < losses[0], f"{name} does not learn: {losses}"

        return Contender(name, run, check)

    contenders = [contender(OURS, ours())]
    if device.type == "cpu" and find_spec("drjit"):
        shape = torch.Size((levels, rows, 2))
        theirs = DrJitStep(points, harmonics, target, length, shape, cells)
        contenders.append(Contender("drjit", theirs, theirs.check, theirs.encoding.release))
    contenders.append(contender("torch and nerfacc", torch_way(torch_encoding)))
    contenders.append(
        contender("the same, encoding by torch.compile", torch_way(compiled_torch_encoding()))
    )
    products = 32 * 64 + 64 * 16 + 31 * 64 + 64 * 64 + 64 * 3
    floor = (
        2 * count * levels * 4 * (9 / 8) / rates.reads(rows * 8)
        + 3 * 2 * count * products / rates.flops
        + (32 * levels * rows * 2 + count * (4 * levels * 2 * 2 + 22 * 4)) / rates.stream
    )
    workload = f"{rays} rays x {each} samples, L=16, T=2^19, two networks, Adam"
    return Race("whole step", workload, tuple(contenders), floor, "the sum of its parts' floors")
