"""Hash encoding: numba equals the reference, and both equal the definition."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfxl_kernels.backend import Backend, use
from nerfxl_kernels.hash_encoding import hash_encoding, resolutions
from torch import Tensor

from tests.kernels.backends import BACKENDS, COUNTS, DTYPES, FAST, random

CELLS = (2, 4, 9, 16)  # 27 and 125 vertices are dense in 128 rows; 1,000 and 4,913 are hashed
ROWS = 128


def run(
    backend: Backend, points: Tensor, table: Tensor, grad: Tensor, buffer: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Features, and the gradient that autograd gives the table."""
    table = table.clone().requires_grad_()
    with use(backend):
        out = hash_encoding(points, table, CELLS, buffer)
    out.backward(grad)  # type: ignore[no-untyped-call]
    return out.detach(), table.grad


@COUNTS
@FAST
@pytest.mark.parametrize(
    ("features", "dtype"),
    [
        (1, torch.float32),
        (2, torch.float32),
        (3, torch.float64),
        (4, torch.float32),
        (8, torch.float32),
    ],
    ids=str,
)
@pytest.mark.usefixtures("poison")
def test_parity(backend: Backend, count: int, features: int, dtype: torch.dtype) -> None:
    points = random(count, 3, dtype=dtype) * 1.2 - 0.1  # some are outside
    points[:1] = torch.tensor([0.0, 1.0, 0.5])  # and one is on the border
    table = random(len(CELLS), ROWS, features, seed=1, dtype=dtype) - 0.5
    grad = random(count, len(CELLS) * features, seed=2, dtype=dtype) - 0.5
    # A position in cells, up to 16, is rounded: 16 eps of a cell. A row of the gradient sums up to
    # 1000 points, in another order.
    eps = torch.finfo(dtype).eps
    expected, expected_grad = run("reference", points, table, grad)
    out, grad_table = run(backend, points, table, grad)
    torch.testing.assert_close(out, expected, rtol=0, atol=32 * eps)
    torch.testing.assert_close(grad_table, expected_grad, rtol=0, atol=1000 * eps)

    buffers = [torch.ones_like(table) for _ in range(2)]
    for which, buffer in zip(("reference", backend), buffers, strict=True):
        out, none = run(which, points, table, grad, buffer)
        assert none is None
        torch.testing.assert_close(out, expected, rtol=0, atol=32 * eps)
    torch.testing.assert_close(buffers[1], buffers[0], rtol=0, atol=1000 * eps)
    torch.testing.assert_close(buffers[0] - 1, expected_grad, rtol=0, atol=1000 * eps)


@COUNTS
@FAST
@pytest.mark.usefixtures("poison")
def test_a_table_in_half_precision(backend: Backend, count: int) -> None:
    """Rounded once, when it was stored: what follows is the arithmetic of float32."""
    points = random(count, 3, dtype=torch.float32)
    table = (random(len(CELLS), ROWS, 2, seed=1) - 0.5).half()
    grad = random(count, len(CELLS) * 2, seed=2, dtype=torch.float32) - 0.5
    buffer = torch.zeros(len(CELLS), ROWS, 2)
    expected, expected_grad = run("reference", points, table.float(), grad)
    assert expected_grad is not None
    out, grad_table = run(backend, points, table, grad)
    torch.testing.assert_close(out, expected, rtol=0, atol=4e-6)
    assert grad_table is not None
    assert grad_table.dtype == torch.float16
    torch.testing.assert_close(grad_table, expected_grad.half(), rtol=2e-3, atol=1e-6)
    out, none = run(backend, points, table, grad, buffer)
    assert none is None
    torch.testing.assert_close(buffer, expected_grad, rtol=0, atol=1.2e-4)


def test_gradcheck() -> None:
    # Odd multiples of 1/64 lie inside the cells of 2 and 16, and none is a multiple of 1/9.
    points = (torch.floor(random(4, 3) * 31) * 2 + 1) / 64
    table = random(3, 32, 1, seed=1)  # one dense level and two hashed
    with use("reference"):
        inputs = (points.requires_grad_(), table.requires_grad_())
        assert torch.autograd.gradcheck(lambda p, t: hash_encoding(p, t, (2, 9, 16)), inputs)


@DTYPES
@COUNTS
@FAST
@pytest.mark.parametrize("features", [1, 4], ids=lambda n: f"F{n}")
@pytest.mark.usefixtures("poison")
def test_parity_of_the_gradient_of_points(
    backend: Backend, count: int, features: int, dtype: torch.dtype
) -> None:
    placed = random(count, 3, dtype=dtype) * 1.2 - 0.1  # some are outside
    placed[:1] = torch.tensor([0.0, 1.0, 0.5])  # the borders belong to the inside
    table = random(len(CELLS), ROWS, features, seed=1, dtype=dtype) - 0.5
    grad = random(count, len(CELLS) * features, seed=2, dtype=dtype) - 0.5
    grads = []
    for which in ("reference", backend):
        points = placed.clone().requires_grad_()
        with use(which):
            hash_encoding(points, table, CELLS).backward(grad)  # type: ignore[no-untyped-call]
        assert points.grad is not None
        grads.append(points.grad)
    # Slopes are up to 16 a feature and level, and 16 features are summed.
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=2048 * torch.finfo(dtype).eps)
    outside = (placed < 0) | (placed > 1)
    assert not grads[1][outside].any()
    assert count == 0 or grads[1][~outside].any()


@BACKENDS
def test_a_strided_gradient(backend: Backend) -> None:
    points, table = random(5, 3), random(len(CELLS), ROWS, 2, seed=1)
    whole = run(backend, points, table, torch.ones(5, 8, dtype=torch.float64))
    strided = run(backend, points, table, torch.ones(1, 1, dtype=torch.float64).expand(5, 8))
    torch.testing.assert_close(strided, whole, rtol=0, atol=0)


@BACKENDS
def test_a_vertex_of_a_dense_level_is_its_row(backend: Backend) -> None:
    n = 4
    table = torch.floor(random(1, ROWS, 2) * 1000)  # small integers: the arithmetic is exact
    k, j, i = torch.meshgrid(*(torch.arange(n + 1.0),) * 3, indexing="ij")
    vertices = torch.stack([i, j, k], -1).reshape(-1, 3).double() / n
    with use(backend):
        out = hash_encoding(vertices, table, (n,))
    assert torch.equal(out, table[0, : (n + 1) ** 3])  # x fastest


@BACKENDS
def test_a_vertex_of_a_fine_level_is_its_hashed_row(backend: Backend) -> None:
    n = 2**20  # exact in float64, and (n + 1)^3 > 2^60 vertices
    table = torch.floor(random(1, 64, 1) * 1000)
    vertices = torch.floor(random(50, 3, seed=1) * n).long()
    vertices[:2] = torch.tensor([[n, n, n], [0, n - 1, 1]])
    rows = [
        (i ^ j * 2654435761 ^ k * 805459861) % 64  # Python's integers do not overflow
        for i, j, k in vertices.tolist()
    ]
    with use(backend):
        out = hash_encoding(vertices.double() / n, table, (n,))
    assert torch.equal(out, table[0, rows])


@DTYPES
@FAST
def test_fine_levels_stay_in_the_table(backend: Backend, dtype: torch.dtype) -> None:
    cells = resolutions(4, 16, 1_000_000)
    points, table = random(200, 3, dtype=dtype), random(4, ROWS, 2, seed=1, dtype=dtype)
    outs = []
    for which in ("reference", backend):
        with use(which):
            outs.append(hash_encoding(points, table, cells))
    # A position of 1e6 cells is rounded to 1e6 eps: in float32 a sixteenth of a cell.
    atol = 4e6 * torch.finfo(dtype).eps
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=atol)


@BACKENDS
def test_linear_along_an_edge(backend: Backend) -> None:
    u = torch.linspace(0, 1, 5, dtype=torch.float64)
    y, z = torch.full_like(u, 0.5), torch.full_like(u, 0.25)
    points = torch.stack([(1 + u) / 4, y, z], -1)  # from vertex (1, 2, 1) to (2, 2, 1) of 4^3
    table = random(1, ROWS, 2)
    near, far = table[0, 1 + 5 * 2 + 25], table[0, 2 + 5 * 2 + 25]
    with use(backend):
        out = hash_encoding(points, table, (4,))
    torch.testing.assert_close(out, torch.lerp(near, far, u[:, None]), rtol=0, atol=1e-15)


@given(st.lists(st.floats(-2, 3), min_size=3, max_size=3), st.sampled_from(["reference", "cpu"]))
@settings(max_examples=50, deadline=None)
def test_weights_sum_to_one_and_outside_is_the_border(xyz: list[float], backend: Backend) -> None:
    point = torch.tensor([xyz], dtype=torch.float64)
    table = random(len(CELLS), ROWS, 2)
    with use(backend):
        ones = hash_encoding(point, torch.ones_like(table), CELLS)
        out = hash_encoding(point, table, CELLS)
        inside = hash_encoding(point.clamp(0, 1), table, CELLS)
    torch.testing.assert_close(ones, torch.ones_like(ones), rtol=0, atol=1e-15)
    assert torch.equal(out, inside)


@BACKENDS
def test_accumulate_into_adds_up_over_calls(backend: Backend) -> None:
    points, grad = random(7, 3), random(7, 8, seed=2)
    table = random(len(CELLS), ROWS, 2, seed=1)
    _, expected = run(backend, points, table, grad)
    assert expected is not None
    buffer = torch.zeros_like(table)
    for times in (1, 2, 3):
        run(backend, points, table, grad, buffer)
        torch.testing.assert_close(buffer, times * expected, rtol=1e-14, atol=1e-14)


@BACKENDS
def test_accumulate_into_adds_once_a_backward(backend: Backend) -> None:
    buffer = torch.zeros(len(CELLS), ROWS, 2, dtype=torch.float64)
    table = random(len(CELLS), ROWS, 2, seed=1).requires_grad_()
    with use(backend):
        out = hash_encoding(random(7, 3), table, CELLS, buffer).sum()
    out.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    once = buffer.clone()
    out.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(buffer, 2 * once, rtol=1e-14, atol=1e-14)


@pytest.mark.long  # 12 GiB of addresses, of which few are touched
@FAST
def test_a_table_of_more_than_2_31_entries(backend: Backend) -> None:
    rows, cells = 2**28, (2**20,) * 3
    points = random(5, 3, dtype=torch.float32)
    zeros = np.zeros((3, rows, 4), np.float32)  # 3.2 * 10^9, not written by numpy
    buffer = torch.from_numpy(zeros).to(torch.get_default_device())
    with use(backend):
        learned = buffer.detach().requires_grad_()
        grad = random(5, 12, seed=1, dtype=torch.float32)
        hash_encoding(points, learned, cells, buffer).backward(grad)  # type: ignore[no-untyped-call]
        found = hash_encoding(points, buffer, cells)
    with use("reference"):
        expected = hash_encoding(points, buffer, cells)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # A cell's eight shares s sum to 1, so what comes back of g is g sum(s^2), at least g / 8.
    assert (found >= grad / 8 - 1e-5).all()


def test_resolutions() -> None:
    assert resolutions(1, 16, 4096) == (16,)
    assert resolutions(2, 16, 4096) == (16, 4096)
    fine = resolutions(16, 16, 4096)
    assert (fine[0], fine[-1], len(fine)) == (16, 4096, 16)
    assert list(fine) == sorted(fine)


@pytest.mark.parametrize(
    ("points", "table", "cells", "buffer", "sentence"),
    [
        ((4, 2), (1, 8, 2), (2,), None, r"points: found shape (4, 2), expected [M, 3]"),
        ((4, 3), (2, 8, 2), (2,), None, r"table: found shape (2, 8, 2), expected [1, T, F]"),
        ((4, 3), (1, 8), (2,), None, r"table: found shape (1, 8), expected [1, T, F]"),
        (
            (4, 3),
            (1, 9, 2),
            (2,),
            None,
            "table: found 9 rows a level, expected a power of two up to 2^31",
        ),
        (
            (4, 3),
            (1, 0, 2),
            (2,),
            None,
            "table: found 0 rows a level, expected a power of two up to 2^31",
        ),
        ((4, 3), (1, 8, 2), (0,), None, "cells: found (0,), expected 1 to 2^20 an edge"),
        ((4, 3), (1, 8, 2), (2**21,), None, "cells: found (2097152,), expected 1 to 2^20 an edge"),
        ((4, 3), (1, 8, 2), (2,), (1, 8, 1), "accumulate_into: found (1, 8, 1), expected table's"),
    ],
    ids=str,
)
def test_errors(
    points: tuple[int, ...],
    table: tuple[int, ...],
    cells: tuple[int, ...],
    buffer: tuple[int, ...] | None,
    sentence: str,
) -> None:
    into = None if buffer is None else torch.zeros(buffer)
    with pytest.raises(ValueError, match="found") as error:
        hash_encoding(torch.zeros(points), torch.zeros(table), cells, into)
    assert str(error.value) == sentence


@FAST
def test_what_is_not_a_number_stays_in_the_table(backend: Backend) -> None:
    points = torch.full((9, 3), torch.nan)
    table = random(len(CELLS), ROWS, 2, dtype=torch.float32)
    with use(backend):
        assert hash_encoding(points, table, CELLS).shape == (9, 8)
        assert hash_encoding(points, table, (2**20,) * 4).shape == (9, 8)


def test_a_buffer_must_be_what_it_accumulates() -> None:
    points, table = torch.zeros(1, 3), torch.zeros(1, 8, 2)
    half = "^accumulate_into: found torch.float16, strides (16, 2, 1), expected torch.float32, cont"
    with pytest.raises(ValueError, match=re.escape(half[1:])):
        hash_encoding(points, table, (2,), table.half())
    turned = torch.zeros(2, 8, 1).permute(2, 1, 0)
    with pytest.raises(
        ValueError, match=r"^accumulate_into: found torch.float32, strides \(1, 1, 8"
    ):
        hash_encoding(points, table, (2,), turned)


def test_dtypes_must_agree() -> None:
    sentence = "^points are torch.float64, table is torch.float32; expected the same$"
    with pytest.raises(ValueError, match=sentence):
        hash_encoding(torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, 8, 2), (2,))
