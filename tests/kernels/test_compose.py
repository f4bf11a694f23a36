"""The Segment product: a monoid, alike on all backends; and the light in front of each tile."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfxl_kernels.backend import Backend, use
from nerfxl_kernels.compose import compose, transmittance
from torch import Tensor

from tests.kernels.backends import BACKENDS, DTYPES, FAST, random

RAYS = pytest.mark.parametrize("rays", [0, 1, 63, 1000], ids=lambda n: f"N{n}")
WIDTHS = pytest.mark.parametrize(
    ("tiles", "channels"), [(0, 3), (1, 3), (7, 0), (7, 3), (2, 17)], ids=str
)


def tiles_and_order(
    tiles: int, rays: int, dtype: torch.dtype = torch.float64, channels: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, an order a ray, and a gradient; a third of the tiles are missed."""
    values = random(tiles, rays, 3 + channels)
    values[..., 0] *= 3
    values *= random(tiles, rays, 1, seed=1) > 1 / 3
    order = random(rays, tiles, seed=2).argsort(1)
    grad = random(rays, 3 + channels, seed=3) - 0.5
    return values.to(dtype), order, grad.to(dtype)


def gradient(values: Tensor, order: Tensor, grad: Tensor, own: list[int] | None = None) -> Tensor:
    leaf = values.clone().requires_grad_()
    out = compose(leaf, order, own=own)
    if out.requires_grad:  # of no tile at all, the reference's product is none
        out.backward(grad)  # type: ignore[no-untyped-call]
    return torch.zeros_like(values) if leaf.grad is None else leaf.grad


@DTYPES
@RAYS
@WIDTHS
@FAST
@pytest.mark.usefixtures("poison")
def test_parity(backend: Backend, tiles: int, channels: int, rays: int, dtype: torch.dtype) -> None:
    values, order, grad = tiles_and_order(tiles, rays, dtype, channels)
    own = list(range(0, tiles, 2))
    results = []
    for which in ("reference", backend):
        with use(which):
            results.append(
                {
                    "product": compose(values, order),
                    "values": gradient(values, order, grad),
                    "own values": gradient(values, order, grad, own),
                    "transmittance": transmittance(values[..., 0], order),
                }
            )
    # Sums of at most 7 terms of at most 7 units (tau reaches 21), and in a gradient of 20 a tile.
    atol = 64 * torch.finfo(dtype).eps
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
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


# Triton's interpreter takes milliseconds a kernel.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LAW = settings(max_examples=5 if INTERPRETED else 100, deadline=None)


@BACKENDS
@given(segments(0, 5), segments(0, 5), segments(0, 5))
@LAW
def test_associative(backend: Backend, x: Tensor, y: Tensor, z: Tensor) -> None:
    with use(backend):
        left, right = fold(fold(x, y), z), fold(x, fold(y, z))
        flat = fold(x, y, z)
    torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(left, flat, rtol=1e-13, atol=1e-13)


@BACKENDS
@given(segments(1, 1))
@LAW
def test_identity(backend: Backend, x: Tensor) -> None:
    nothing = torch.zeros_like(x)
    with use(backend):
        assert torch.equal(fold(nothing, x), x)
        assert torch.equal(fold(x, nothing), x)


@BACKENDS
@given(segments(1, 6), st.data())
@LAW
def test_only_the_order_along_the_ray_counts(
    backend: Backend, x: Tensor, drawn: st.DataObject
) -> None:
    stored = drawn.draw(st.permutations(range(len(x))))  # where the i-th along the ray is
    shuffled = torch.empty_like(x)
    shuffled[stored] = x
    with use(backend):
        assert torch.equal(compose(shuffled, torch.tensor([stored]))[None], fold(x))


@BACKENDS
@given(segments(1, 6), st.data())
@LAW
def test_own_tiles_learn_as_if_all_did(backend: Backend, x: Tensor, drawn: st.DataObject) -> None:
    tiles = range(len(x))
    order = torch.tensor([drawn.draw(st.permutations(tiles))])
    own = drawn.draw(st.lists(st.sampled_from(tiles), unique=True))
    others = [tile for tile in tiles if tile not in own]
    grad = torch.tensor([[1.0, -2, 3, 0.5, 1, -1]], dtype=torch.float64)
    with use(backend):
        whole, found = gradient(x, order, grad), gradient(x, order, grad, own)
    assert torch.equal(found[own], whole[own])
    assert not found[others].any()


@BACKENDS
@given(segments(0, 4), st.data())
@LAW
def test_transmittance_is_what_the_tiles_in_front_let_pass(
    backend: Backend, x: Tensor, drawn: st.DataObject
) -> None:
    place = drawn.draw(st.permutations(range(len(x))))
    order = torch.tensor([place], dtype=torch.int64).reshape(1, len(x))
    with use(backend):
        found = transmittance(x[..., 0], order)
        for i, tile in enumerate(place):
            front = compose(x[place[:i]], torch.arange(i)[None])
            torch.testing.assert_close(found[tile], torch.exp(-front[:, 0]), rtol=1e-13, atol=0)
        through = found * torch.exp(-x[..., 0])  # behind each tile: behind the last, behind all
        if place:
            whole = torch.exp(-compose(x, order)[:, 0])
            torch.testing.assert_close(through[place[-1]], whole, rtol=1e-13, atol=0)
    assert not found.requires_grad


@FAST
def test_a_hidden_tile_learns_by_what_little_is_seen(backend: Backend) -> None:
    """Behind tau = 20 a gradient is e^-20, and float32 knows it as well as float64."""
    values, order, grad = tiles_and_order(6, 1)
    values = values + 0.1
    values[order[0, 3], 0, 0] = 20
    grad[:, 0] = 0  # tau's own is the same for all
    with use(backend):
        fine = gradient(values, order, grad)
        coarse = gradient(values.float(), order, grad.float())
    assert 1e-12 < float(fine[order[0, 5]].abs().max()) < 1e-8
    # tau of some 25 is rounded to 2^-20, and so is e^-tau, in some terms.
    torch.testing.assert_close(coarse.double(), fine, rtol=2**-14, atol=0)


@pytest.mark.parametrize(
    ("values", "order", "own", "sentence"),
    [
        ((2, 3, 2), (3, 2), None, "compose: values (2, 3, 2) with order (3, 2)"),
        ((2, 3, 6), (2, 3), None, "compose: values (2, 3, 6) with order (2, 3)"),
        ((2, 3), (3, 2), None, "compose: values (2, 3) with order (3, 2)"),
        ((2, 3, 6), (3, 2), [0, 2], "compose: found own (0, 2), expected tiles of 0 to 1"),
        ((2, 3, 6), (3, 2), [-1], "compose: found own (-1,), expected tiles of 0 to 1"),
    ],
    ids=["width", "order", "flat", "own", "negative"],
)
def test_errors(
    values: tuple[int, ...], order: tuple[int, ...], own: list[int] | None, sentence: str
) -> None:
    with pytest.raises(ValueError, match="compose") as error:
        compose(torch.zeros(values), torch.zeros(order, dtype=torch.int64), own=own)
    assert str(error.value) == sentence


def test_errors_of_transmittance() -> None:
    with pytest.raises(ValueError, match="transmittance") as error:
        transmittance(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64))
    assert str(error.value) == "transmittance: tau (2, 3), order (2, 3)"
