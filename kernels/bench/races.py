"""What is raced: each operation at real sizes, against the best that others offer for it.

A race names its contenders, ours first, and the floor: the least time in which the machine could
do it, from rates measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import nerfacc
import torch
from nerfxl_kernels import backend
from nerfxl_kernels.adam import adam
from nerfxl_kernels.compose import compose
from nerfxl_kernels.hash_encoding import hash_encoding, resolutions
from nerfxl_kernels.march import Domain, Path, march, place
from nerfxl_kernels.mlp import mlp
from nerfxl_kernels.resample import resample
from nerfxl_kernels.segment import segment
from torch import Tensor

from bench.floors import Rates
from bench.measure import OURS, Contender, Race
from bench.peers import DrJitEncoding, compiled_torch_encoding, torch_encoding
from bench.step import whole_step


def races(rates: Rates, device: torch.device) -> list[Callable[[], Race]]:
    """All races that this device can hold; made one at a time, for their memory."""
    on_cpu = device.type == "cpu"
    sizes = (
        [(18, 16, 19), (18, 8, 15), (16, 16, 19), (18, 16, 22)]
        if on_cpu
        else [(20, 16, 19), (20, 16, 22), (22, 16, 19)]
    )
    points = 18 if on_cpu else 20
    return [
        *(lambda size=size: _encoding(rates, device, *size) for size in sizes),
        lambda: _perceptron(rates, device, 2**points),
        lambda: _segment(rates, device, 2 ** (points - 6), 64),
        lambda: _compose(rates, device, 2 ** (points - 6), 8),
        lambda: _march(rates, device, 2 ** (points - 6), 64),
        lambda: _resample(rates, device, 2 ** (points - 6), 64, 32),
        lambda: _adam(rates, device, 16 * 2**19 * 2),
        lambda: whole_step(rates, device, 1024 if on_cpu else 4096, 64),
    ]


def _agree(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance)


def _encoding(rates: Rates, device: torch.device, log_points: int, levels: int, log_t: int) -> Race:
    count, shape = 2**log_points, torch.Size((levels, 2**log_t, 2))
    cells = resolutions(levels, 16, 2048 if levels > 8 else 512)
    points = torch.rand(count, 3, device=device)
    table = (torch.rand(shape, device=device) - 0.5).requires_grad_()
    grad = torch.rand(count, levels * 2, device=device) - 0.5
    buffer = torch.zeros(shape, device=device)

    def ours() -> None:
        hash_encoding(points, table, cells, buffer).backward(grad)  # type: ignore[no-untyped-call]

    def check_ours() -> None:
        part, weights = points[:512], grad[:512]
        exact = table.detach().double().requires_grad_()
        with backend.use("reference"):
            expected = hash_encoding(part.double(), exact, cells)
        expected.backward(weights.double())  # type: ignore[no-untyped-call]
        found = hash_encoding(part, table, cells, buffer.zero_())
        found.backward(weights)  # type: ignore[no-untyped-call]
        assert exact.grad is not None
        # 2048 cells an edge: a position is rounded by 2048 / 2^24 of a cell.
        _agree(found, expected, 1e-3)
        _agree(buffer, exact.grad, 1e-2)

    def torch_way(encode: Callable[..., Tensor]) -> Contender:
        def run() -> None:
            table.grad = None
            encode(points, table, cells).backward(grad)  # type: ignore[no-untyped-call]

        def check() -> None:
            with torch.no_grad():
                _agree(encode(points, table, cells), hash_encoding(points, table, cells), 1e-3)

        name = "torch.compile" if encode is not torch_encoding else "torch, all levels at once"
        return Contender(name, run, check)

    contenders = [Contender(OURS, ours, check_ours)]
    if device.type == "cpu" and find_spec("drjit"):
        expand = DrJitEncoding(points, grad, shape, cells, expand=True)
        atomics = DrJitEncoding(points, grad, shape, cells, expand=False)
        contenders += [
            Contender("drjit, expanded", expand, expand.check, expand.release),
            Contender("drjit, atomics", atomics, atomics.check, atomics.release),
        ]
    if log_points <= 16 or device.type != "cpu":
        contenders += [torch_way(torch_encoding), torch_way(compiled_torch_encoding())]
    # Neighbours along x share a line, unless the first is the last of its line.
    line = 64 if device.type == "cpu" else 32
    visits = count * levels * 4 * (1 + 8 / line)
    streamed = count * (levels * 2 * 4 * 2 + 3 * 4)
    floor = 2 * visits / rates.reads(2**log_t * 8) + streamed / rates.stream
    workload = f"2^{log_points} points, L={levels}, F=2, T=2^{log_t}, forward + backward"
    counted = "the cache lines of four edges a point and level, read once a pass"
    return Race("hash_encoding", workload, tuple(contenders), floor, counted)


def _perceptron(rates: Rates, device: torch.device, count: int) -> Race:
    widths = (32, 64, 64, 16)
    weights = [
        (torch.rand(a, b, device=device) - 0.5).requires_grad_() for a, b in pairwise(widths)
    ]
    x = torch.rand(count, 32, device=device, requires_grad=True)
    grad = torch.rand(count, 16, device=device)

    def plain(x: Tensor, *weights: Tensor) -> Tensor:
        for weight in weights[:-1]:
            x = (x @ weight).relu()
        return x @ weights[-1]

    def in_bfloat16(x: Tensor, *weights: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return plain(x, *weights).float()

    def contender(name: str, run: Callable[..., Tensor], tolerance: float = 1e-4) -> Contender:
        def timed() -> None:
            for leaf in (x, *weights):
                leaf.grad = None
            run(x, *weights).backward(grad)  # type: ignore[no-untyped-call]

        def check() -> None:
            with torch.no_grad():
                exact = plain(x[:99].double(), *(w.double() for w in weights))
                _agree(run(x, *weights)[:99], exact, 0.05 if device.type == "cuda" else tolerance)

        return Contender(name, timed, check)

    contenders = (
        contender(OURS, lambda x, *w: mlp(x, w)),
        contender("torch", plain),
        contender("torch, bfloat16", in_bfloat16, 0.1),
        contender("torch.compile", torch.compile(plain, dynamic=False)),
    )
    products = sum(a * b for a, b in pairwise(widths))
    floor = 3 * 2 * count * products / rates.flops
    workload = f"2^{count.bit_length() - 1} points, 32-64-64-16, forward + backward"
    return Race("mlp", workload, contenders, floor, "three matrix products a layer")


def _segment(rates: Rates, device: torch.device, rays: int, each: int) -> Race:
    m = torch.sort(torch.rand(rays, each + 1, device=device), dim=1).values
    start, end = m[:, :-1].contiguous(), m[:, 1:].contiguous()
    density = (torch.rand(rays, each, device=device) * 5).requires_grad_()
    colour = torch.rand(rays, each, 3, device=device, requires_grad=True)
    offsets = torch.arange(rays + 1, device=device) * each
    middle, width = ((start + end) / 2).reshape(-1), (end - start).reshape(-1)
    grad = torch.rand(rays, 3, device=device)

    def ours() -> Tensor:
        values, _ = segment(
            density.reshape(-1), colour.reshape(-1, 3), width, middle, width, offsets
        )
        return values[:, 3:]

    def nerfacc_way() -> Tensor:
        weights, *_ = nerfacc.render_weight_from_density(start, end, density)
        shade: Tensor = (weights[..., None] * colour).sum(1)
        return shade

    def exact() -> Tensor:
        tau = (density * (end - start)).double()
        before = tau.cumsum(1) - tau
        return (torch.exp(-before) * (1 - torch.exp(-tau)))[..., None].mul(colour).sum(1)

    contenders = tuple(
        _renderer(*one, (density, colour), grad, exact)
        for one in (
            (OURS, ours),
            ("nerfacc, batched", nerfacc_way),
            ("torch.compile", torch.compile(nerfacc_way, dynamic=False)),
        )
    )
    moved = rays * each * 4 * (7 + 2 + 9 + 4)
    workload = f"{rays} rays x {each} samples, forward + backward"
    return Race("segment", workload, contenders, moved / rates.stream, "each array once a pass")


def _renderer(
    name: str,
    run: Callable[[], Tensor],
    leaves: tuple[Tensor, ...],
    grad: Tensor,
    exact: Callable[[], Tensor],
) -> Contender:
    def timed() -> None:
        for leaf in leaves:
            leaf.grad = None
        run().backward(grad)  # type: ignore[no-untyped-call]

    def check() -> None:
        with torch.no_grad():
            _agree(run(), exact(), 1e-4)

    return Contender(name, timed, check)


def _compose(rates: Rates, device: torch.device, rays: int, tiles: int) -> Race:
    values = torch.rand(tiles, rays, 6, device=device, requires_grad=True)
    grad = torch.rand(rays, 6, device=device)

    def reference() -> Tensor:
        with backend.use("reference"):
            return compose(values)

    def exact() -> Tensor:
        with backend.use("reference"):
            return compose(values.double())

    contenders = tuple(
        _renderer(*one, (values,), grad, exact)
        for one in (
            (OURS, lambda: compose(values)),
            ("torch", reference),
        )
    )
    moved = tiles * rays * 3 * 6 * 4 + rays * 2 * 6 * 4
    workload = f"{tiles} tiles, {rays} rays, forward + backward"
    return Race("compose", workload, contenders, moved / rates.stream, "each array once a pass")


def _march(rates: Rates, device: torch.device, rays: int, bins: int) -> Race:
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, device=device), dim=1)
    first = torch.full((rays,), 0.1, device=device)
    path = Path(torch.zeros(rays, 3, device=device), directions, first, first + 3, 0.1)
    domain = Domain((0.0, 0.0, 0.0), 1.0, True)
    occupied = torch.rand(128, 128, 128, device=device) < 0.5
    zero, jitter = torch.zeros(rays, device=device), torch.rand(rays, device=device)

    def both() -> Tensor:
        offsets, m0, m1 = march(zero, zero + 1, jitter, bins, (path, domain, occupied))
        return place(m0, m1, offsets, path, domain)[0]

    def reference() -> Tensor:
        with backend.use("reference"):
            return both()

    def check() -> None:
        # A middle on the border of a cell may be judged either way.
        assert abs(len(both()) - len(reference())) <= 1e-4 * rays * bins

    contenders = (Contender(OURS, both, check), Contender("torch", reference, check))
    moved = rays * bins * (2 + 0.5 * 4 * (2 + 2 + 4))
    workload = f"{rays} rays x {bins} bins, half of them occupied, march + place"
    return Race("march", workload, contenders, moved / rates.stream, "cells and samples once")


def _resample(rates: Rates, device: torch.device, rays: int, bins: int, samples: int) -> Race:
    m = torch.linspace(0, 1, bins + 1, device=device)
    m0, m1 = m[:-1].repeat(rays), m[1:].repeat(rays)
    depth = torch.rand(rays * bins, device=device) * 0.2
    offsets = torch.arange(rays + 1, device=device) * bins
    one, jitter = torch.ones(rays, device=device), torch.rand(rays, device=device)
    whole = torch.stack([0 * one, one], 1)

    def ours() -> Tensor:
        return resample(m0, m1, depth, offsets, one, whole, jitter, samples, 0.01)[1]

    def reference() -> Tensor:
        with backend.use("reference"):
            return ours()

    def check() -> None:
        _agree(ours(), reference(), 1e-4)

    contenders = (Contender(OURS, ours, check), Contender("torch", reference, check))
    moved = rays * 4 * (bins * 3 + samples * 2)
    workload = f"{rays} rays, {bins} bins, {samples} samples"
    return Race("resample", workload, contenders, moved / rates.stream, "each array once")


def _adam(rates: Rates, device: torch.device, size: int) -> Race:
    start, pull = torch.rand(size, device=device), torch.randn(size, device=device)
    moments = torch.zeros_like(start), torch.zeros_like(start)
    mine, grad = start.clone(), pull.clone()
    steps = 0

    def ours() -> None:
        nonlocal steps
        steps += 1
        grad.copy_(pull)
        adam(mine, grad, *moments, steps, 0.01)

    def torch_way(**how: Any) -> Contender:
        parameter = start.clone().requires_grad_()
        parameter.grad = pull.clone()
        optimiser = torch.optim.Adam([parameter], lr=0.01, betas=(0.9, 0.99), eps=1e-15, **how)

        def run() -> None:
            assert parameter.grad is not None
            parameter.grad.copy_(pull)
            optimiser.step()
            parameter.grad.zero_()

        name = f"torch.optim.Adam{', fused' if how.get('fused') else ''}"
        return Contender(name, run, lambda: None)

    def check() -> None:
        parameter = start[:99].clone().requires_grad_()
        parameter.grad = pull[:99].clone()
        torch.optim.Adam([parameter], lr=0.01, betas=(0.9, 0.99), eps=1e-15).step()
        found, zeros = start[:99].clone(), torch.zeros(2, 99, device=device)
        adam(found, pull[:99].clone(), zeros[0], zeros[1], 1, 0.01)
        _agree(found, parameter.detach(), 1e-6)

    contenders = (Contender(OURS, ours, check), torch_way(fused=True), torch_way(foreach=True))
    workload = f"{size / 1e6:.1f} M entries, all touched, gradient written before and cleared after"
    floor = (8 + 32) * size / rates.stream
    return Race("adam", workload, contenders, floor, "five arrays read or written, eight times")
