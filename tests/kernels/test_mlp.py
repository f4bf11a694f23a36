"""The perceptron: chunks and blocks equal the whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from nerfxl_kernels.backend import Backend, use
from nerfxl_kernels.mlp import mlp
from torch import Tensor

from tests.kernels.backends import BACKENDS, DTYPES, FAST, GPU, normal, random

# The last has several chunks on the CPU and several blocks a program on the GPU.
COUNTS = pytest.mark.parametrize("count", [0, 1, 63, 1000, 4097], ids=lambda n: f"M{n}")
LAYERS = pytest.mark.parametrize(
    "widths",
    [(5, 3), (8, 16, 3), (31, 64, 64, 3), (7, 20, 33, 18, 2), (3, 100, 1)],
    ids=lambda w: "-".join(map(str, w)),
)


def network(
    count: int, widths: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, list[Tensor]]:
    weights = [normal(a, b, seed=a + b, dtype=dtype) / a**0.5 for a, b in pairwise(widths)]
    return normal(count, widths[0], dtype=dtype), weights


def small_integers(
    count: int, widths: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """Of -1, 0 and 1, a third each; of the weights half are 0."""

    def drawn(*shape: int, seed: int, few: float) -> Tensor:
        uniform = random(*shape, seed=seed)
        return ((uniform > 1 - few / 2).double() - (uniform < few / 2).double()).to(dtype)

    weights = [drawn(a, b, seed=a + b, few=1 / 2) for a, b in pairwise(widths)]
    return drawn(count, widths[0], seed=0, few=2 / 3), weights


def run(backend: Backend, x: Tensor, weights: list[Tensor]) -> dict[str, Tensor]:
    """The output, and by name the gradients of its product with -1, 0 and 1 by turns."""
    inputs = [tensor.clone().requires_grad_() for tensor in (x, *weights)]
    with use(backend):
        out = mlp(inputs[0], inputs[1:])
    grads = torch.autograd.grad(
        out, inputs, torch.arange(out.numel(), dtype=out.dtype).reshape(out.shape) % 3 - 1
    )
    names = ["x", *(f"W{i}" for i in range(len(weights)))]
    return {"out": out.detach(), **dict(zip(names, grads, strict=True))}


@DTYPES
@COUNTS
@LAYERS
@FAST
@pytest.mark.usefixtures("poison")
def test_parity_on_small_integers(
    backend: Backend, count: int, widths: tuple[int, ...], dtype: torch.dtype
) -> None:
    # Inputs of layers stay below 2^11 and sums below 2^24: exact in float32 and in TF32.
    x, weights = small_integers(count, widths, dtype)
    expected, found = run("reference", x, weights), run(backend, x, weights)
    for name, value in expected.items():
        assert count <= 1 or value.any(), f"{name}: a test of zeros"
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


@DTYPES
@LAYERS
@FAST
def test_parity(backend: Backend, widths: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weights = network(1000, widths, dtype)
    expected, found = run("reference", x, weights), run(backend, x, weights)
    # Sums of 64 hidden units or 1000 rows, in another order; a hidden unit within eps of zero would
    # flip its mask, and none does. On tensor cores operands have ten bits of mantissa, and one
    # unit in a thousand flips: errors of some per cent.
    limit = 0.1 if x.is_cuda and dtype == torch.float32 else 64 * torch.finfo(dtype).eps
    for name, value in expected.items():
        assert (found[name] - value).norm() <= limit * value.norm(), name


@LAYERS
def test_gradcheck(widths: tuple[int, ...]) -> None:
    x, weights = network(3, widths)
    inputs = [tensor.requires_grad_() for tensor in (x, *weights)]
    with use("reference"):
        assert torch.autograd.gradcheck(lambda x, *w: mlp(x, w), inputs, fast_mode=True)


@FAST
@pytest.mark.usefixtures("poison")
def test_strided_inputs_and_gradients(backend: Backend) -> None:
    x, weights = small_integers(70, (6, 16, 4), torch.float32)
    turned = [w.T.contiguous().T.requires_grad_() for w in weights]
    with use("reference"):
        plain = [tensor.clone().requires_grad_() for tensor in (x, *weights)]
        mlp(plain[0], plain[1:]).sum().backward()  # type: ignore[no-untyped-call]
    for strided in (torch.cat([x, x], 1)[:, :6], x.T.contiguous().T):
        inputs = [strided.detach().requires_grad_(), *turned]
        with use(backend):
            out = mlp(inputs[0], inputs[1:]).sum()  # whose gradient is one number, expanded
        grads = torch.autograd.grad(out, inputs)
        for found, expected in zip(grads, plain, strict=True):
            torch.testing.assert_close(found, expected.grad, rtol=0, atol=0)
        assert grads[0].stride() == torch.empty_like(strided).stride()  # dense: the input's own


@BACKENDS
def test_an_input_without_gradient_gets_none(backend: Backend) -> None:
    x, weights = network(8, (6, 16, 4), torch.float32)
    weights = [w.requires_grad_() for w in weights]
    with use(backend):
        mlp(x, weights).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is None
    assert all(w.grad is not None for w in weights)


@FAST
def test_backward_repeats_to_the_last_bit(backend: Backend) -> None:
    x, weights = network(5000, (31, 64, 64, 3), torch.float32)
    first, second = run(backend, x, weights), run(backend, x, weights)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@BACKENDS
def test_the_last_layer_is_linear(backend: Backend) -> None:
    # relu(1 * 2) = 2, relu(1 * -3) = 0; 2 * -1 + 0 * 5 = -2
    hidden, last = torch.tensor([[2.0, -3.0]]), torch.tensor([[-1.0], [5.0]])
    with use(backend):
        assert mlp(torch.ones(1, 1), [hidden, last]).item() == -2


def test_widths_must_chain() -> None:
    with pytest.raises(ValueError, match="mlp") as error:
        mlp(torch.zeros(2, 3), [torch.zeros(3, 4), torch.zeros(5, 1)])
    assert str(error.value) == "mlp: input of width 3, weights [(3, 4), (5, 1)]"


@pytest.mark.parametrize("backend", [GPU])
def test_what_a_chip_cannot_hold_takes_the_reference(backend: Backend) -> None:
    x, weights = normal(5, 3), [normal(3, 129, seed=1), normal(129, 1, seed=2)]
    for dtype in (torch.float32, torch.float64):
        own = [w.to(dtype) for w in weights]
        with use(backend):
            found = mlp(x.to(dtype), own)
        with use("reference"):
            assert torch.equal(found, mlp(x.to(dtype), own))
