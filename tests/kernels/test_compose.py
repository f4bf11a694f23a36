"""The Segment product: a monoid, alike in numba and in torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfxl_kernels.backend import Backend, use
from nerfxl_kernels.compose import compose
from torch import Tensor

BACKENDS = pytest.mark.parametrize("backend", ["reference", "cpu"])
RAYS = pytest.mark.parametrize("rays", [0, 1, 63, 1000], ids=lambda n: f"N{n}")
TILES = pytest.mark.parametrize("tiles", [0, 1, 2, 7], ids=lambda n: f"K{n}")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def tiles_and_order(
    tiles: int, rays: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, an order a ray, and a gradient; a third of the tiles are missed."""
    generator = torch.Generator().manual_seed(tiles * 7919 + rays)
    values = torch.rand(tiles, rays, 6, generator=generator, dtype=torch.float64)
    values[..., 0] *= 3
    values *= torch.rand(tiles, rays, 1, generator=generator) > 1 / 3
    order = torch.rand(rays, tiles, generator=generator).argsort(1)
    grad = torch.rand(rays, 6, generator=generator, dtype=torch.float64) - 0.5
    return values.to(dtype), order, grad.to(dtype)


@DTYPES
@RAYS
@TILES
@pytest.mark.usefixtures("poison")
def test_parity(tiles: int, rays: int, dtype: torch.dtype) -> None:
    values, order, grad = tiles_and_order(tiles, rays, dtype)
    results = []
    for backend in ("reference", "cpu"):
        leaf = values.clone().requires_grad_()
        with use(backend):
            out = compose(leaf, order)
        if out.requires_grad:
            out.backward(grad)  # type: ignore[no-untyped-call]
        results.append((out.detach(), leaf.grad if tiles else values))
    # Sums of at most 7 terms of at most 7 units: tau reaches 21.
    atol = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=atol, msg="product")
    torch.testing.assert_close(results[1][1], results[0][1], rtol=0, atol=atol, msg="values")


@BACKENDS
def test_gradcheck(backend: Backend) -> None:
    values, order, _ = tiles_and_order(4, 3)
    with use(backend):
        assert torch.autograd.gradcheck(lambda v: compose(v, order), values.requires_grad_())


@BACKENDS
def test_a_strided_gradient(backend: Backend) -> None:
    values, order, _ = tiles_and_order(3, 5)
    leaves = [values.clone().requires_grad_() for _ in range(2)]
    with use(backend):
        compose(leaves[0], order)[:, ::2].sum().backward()  # type: ignore[no-untyped-call]
        compose(leaves[1].permute(2, 1, 0).contiguous().permute(2, 1, 0), order).backward(  # type: ignore[no-untyped-call]
            torch.tensor([1.0, 0, 1, 0, 1, 0], dtype=torch.float64).expand(5, 6)
        )
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad, rtol=0, atol=0)


@BACKENDS
def test_two_tiles_by_hand(backend: Backend) -> None:
    # x: tau = ln 2 (T = 1/2, A = 1/2), D = 1/8, L = 1/16, C = (1/2, 0, 0)
    # y: tau = ln 4 (T = 1/4, A = 3/4), D = 1/2, L = 1/4, C = (0, 3/4, 0)
    # D = 1/8 + 1/2 * 1/2 = 3/8; C = (1/2, 3/8, 0)
    # L = 1/16 + 1/4 * 1/4 + 2 * 1/2 * (1/2 * 1/2 - 3/4 * 1/8) = 1/8 + 5/32 = 9/32
    x = torch.tensor([0.0, 1 / 8, 1 / 16, 1 / 2, 0, 0], dtype=torch.float64)
    y = torch.tensor([0.0, 1 / 2, 1 / 4, 0, 3 / 4, 0], dtype=torch.float64)
    x[0], y[0] = (torch.tensor(n, dtype=torch.float64).log() for n in (2, 4))
    expected = torch.tensor([[0.0, 3 / 8, 9 / 32, 1 / 2, 3 / 8, 0]], dtype=torch.float64)
    expected[0, 0] = x[0] + y[0]
    with use(backend):
        out = compose(torch.stack([y, x])[:, None], torch.tensor([[1, 0]]))  # x is tile 1
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-15)


@st.composite
def segments(draw: st.DrawFn, least: int, most: int) -> Tensor:
    """[K, 1, 6], each as of one stretch: tau up to opaque, the rest of any sign."""
    count = draw(st.integers(least, most))
    number = st.floats(-1, 1, allow_subnormal=False)
    one = st.tuples(st.floats(0, 40, allow_subnormal=False), *(number,) * 5)
    drawn = draw(st.lists(one, min_size=count, max_size=count))
    return torch.tensor(drawn, dtype=torch.float64).reshape(count, 1, 6)


def fold(*values: Tensor) -> Tensor:
    """[K, 1, 6] pieces in order -> [1, 1, 6]."""
    together = torch.cat(values)
    return compose(together, torch.arange(len(together))[None])[None]


LAW = settings(max_examples=100, deadline=None)


@given(segments(0, 5), segments(0, 5), segments(0, 5), st.sampled_from(["reference", "cpu"]))
@LAW
def test_associative(x: Tensor, y: Tensor, z: Tensor, backend: Backend) -> None:
    with use(backend):
        left, right = fold(fold(x, y), z), fold(x, fold(y, z))
        flat = fold(x, y, z)
    torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(left, flat, rtol=1e-13, atol=1e-13)


@given(segments(1, 1), st.sampled_from(["reference", "cpu"]))
@LAW
def test_identity(x: Tensor, backend: Backend) -> None:
    nothing = torch.zeros_like(x)
    with use(backend):
        assert torch.equal(fold(nothing, x), x)
        assert torch.equal(fold(x, nothing), x)


@given(segments(1, 6), st.randoms(use_true_random=False), st.sampled_from(["reference", "cpu"]))
@LAW
def test_only_the_order_along_the_ray_counts(x: Tensor, random: object, backend: Backend) -> None:
    stored = list(range(len(x)))
    random.shuffle(stored)  # type: ignore[attr-defined]  # where the i-th along the ray is stored
    shuffled = torch.empty_like(x)
    shuffled[stored] = x
    with use(backend):
        assert torch.equal(compose(shuffled, torch.tensor([stored]))[None], fold(x))


@pytest.mark.parametrize(
    ("values", "order", "sentence"),
    [
        ((2, 3, 5), (3, 2), "compose: values (2, 3, 5) with order (3, 2)"),
        ((2, 3, 6), (2, 3), "compose: values (2, 3, 6) with order (2, 3)"),
    ],
    ids=["width", "order"],
)
def test_errors(values: tuple[int, ...], order: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match="compose") as error:
        compose(torch.zeros(values), torch.zeros(order, dtype=torch.int64))
    assert str(error.value) == sentence
