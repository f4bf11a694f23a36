"""The Segment product: a monoid, alike on all backends."""

from __future__ import annotations

import os
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfxl_kernels.backend import Backend, use
from nerfxl_kernels.compose import compose
from torch import Tensor

from tests.kernels.backends import BACKENDS, DTYPES, FAST, random

RAYS = pytest.mark.parametrize("rays", [0, 1, 63, 1000], ids=lambda n: f"N{n}")
WIDTHS = pytest.mark.parametrize(
    ("count", "channels"), [(0, 3), (1, 3), (7, 0), (7, 3), (2, 17)], ids=str
)


def segments_and_gradient(
    count: int, rays: int, dtype: torch.dtype = torch.float64, channels: int = 3
) -> tuple[Tensor, Tensor]:
    """Values, and a gradient of their product; a third of the Segments are none."""
    values = random(count, rays, 3 + channels)
    values[..., 0] *= 3
    values *= random(count, rays, 1, seed=1) > 1 / 3
    grad = random(rays, 3 + channels, seed=3) - 0.5
    return values.to(dtype), grad.to(dtype)


def gradient(values: Tensor, grad: Tensor) -> Tensor:
    leaf = values.clone().requires_grad_()
    compose(leaf).backward(grad)  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return leaf.grad


@DTYPES
@RAYS
@WIDTHS
@FAST
@pytest.mark.usefixtures("poison")
def test_parity(backend: Backend, count: int, channels: int, rays: int, dtype: torch.dtype) -> None:
    values, grad = segments_and_gradient(count, rays, dtype, channels)
    results = []
    for which in ("reference", backend):
        with use(which):
            results.append({"product": compose(values), "values": gradient(values, grad)})
    # Sums of at most 7 terms of at most 7 units (tau reaches 21), and in a gradient of 20 each.
    atol = 64 * torch.finfo(dtype).eps
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradcheck(backend: Backend) -> None:
    values, _ = segments_and_gradient(4, 3)
    with use(backend):
        assert torch.autograd.gradcheck(compose, values.requires_grad_())


@BACKENDS
def test_a_strided_gradient(backend: Backend) -> None:
    values, _ = segments_and_gradient(3, 5)
    leaves = [values.clone().requires_grad_() for _ in range(2)]
    with use(backend):
        compose(leaves[0])[:, ::2].sum().backward()  # type: ignore[no-untyped-call]
        compose(leaves[1].permute(2, 1, 0).contiguous().permute(2, 1, 0)).backward(  # type: ignore[no-untyped-call]
            torch.tensor([1.0, 0, 1, 0, 1, 0], dtype=torch.float64).expand(5, 6)
        )
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad, rtol=0, atol=0)


@BACKENDS
def test_two_by_hand(backend: Backend) -> None:
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
        out = compose(torch.stack([x, y])[:, None])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-15)


@st.composite
def segments(draw: st.DrawFn, least: int, most: int) -> Tensor:
    """[D, 1, 6], each as of one stretch: tau up to opaque, the rest of any sign."""
    count = draw(st.integers(least, most))
    number = st.floats(-1, 1, allow_subnormal=False)
    one = st.tuples(st.floats(0, 40, allow_subnormal=False), *(number,) * 5)
    drawn = draw(st.lists(one, min_size=count, max_size=count))
    return torch.tensor(drawn, dtype=torch.float64).reshape(count, 1, 6)


def fold(*values: Tensor) -> Tensor:
    """[D, 1, 6] pieces in order -> [1, 1, 6]."""
    return compose(torch.cat(values))[None]


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
@pytest.mark.parametrize("rays", [0, 2])
@pytest.mark.usefixtures("poison")
def test_the_product_of_none_is_the_identity(backend: Backend, rays: int) -> None:
    nothing = random(0, rays, 6)
    with use(backend):
        assert torch.equal(compose(nothing), random(rays, 6) * 0)
        assert gradient(nothing, random(rays, 6)).shape == (0, rays, 6)


@FAST
def test_a_hidden_segment_learns_by_what_little_is_seen(backend: Backend) -> None:
    """Behind tau = 20 a gradient is e^-20, and float32 knows it as well as float64."""
    values, grad = segments_and_gradient(6, 1)
    values = values + 0.1
    values[3, 0, 0] = 20
    grad[:, 0] = 0  # tau's own is the same for all
    with use(backend):
        fine = gradient(values, grad)
        coarse = gradient(values.float(), grad.float())
    assert 1e-12 < float(fine[5].abs().max()) < 1e-8
    # tau of some 25 is rounded to 2^-20, and so is e^-tau, in some terms.
    torch.testing.assert_close(coarse.double(), fine, rtol=2**-14, atol=0)


@pytest.mark.parametrize("shape", [(2, 3, 2), (3, 6), (1, 2, 3, 6)], ids=str)
def test_errors(shape: tuple[int, ...]) -> None:
    sentence = f"compose: found values {shape}, expected [D, N, 3 + C]"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        compose(torch.zeros(shape))
