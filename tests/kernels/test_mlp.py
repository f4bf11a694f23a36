"""The perceptron: chunks equal the whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from nerfxl_kernels.backend import Backend, use
from nerfxl_kernels.mlp import mlp
from torch import Tensor

COUNTS = pytest.mark.parametrize("count", [0, 1, 63, 1000, 4097], ids=lambda n: f"M{n}")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
LAYERS = pytest.mark.parametrize(
    "widths", [(5, 3), (8, 16, 3), (6, 16, 16, 4)], ids=lambda w: "-".join(map(str, w))
)


def network(
    count: int, widths: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    weights = [normal(a, b) / a**0.5 for a, b in pairwise(widths)]
    return normal(count, widths[0]), weights


def run(backend: Backend, x: Tensor, weights: list[Tensor]) -> dict[str, Tensor | None]:
    """The output, and the gradients of sum of cosines by name."""
    x, weights = x.clone().requires_grad_(), [w.clone().requires_grad_() for w in weights]
    with use(backend):
        out = mlp(x, weights)
    out.backward(torch.cos(torch.arange(out.numel(), dtype=out.dtype)).reshape(out.shape))  # type: ignore[no-untyped-call]
    return {"out": out.detach(), "x": x.grad, **{f"W{i}": w.grad for i, w in enumerate(weights)}}


@DTYPES
@COUNTS
@LAYERS
@pytest.mark.usefixtures("poison")
def test_parity(count: int, widths: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weights = network(count, widths, dtype)
    expected, found = run("reference", x, weights), run("cpu", x, weights)
    # Products and sums of a few units, over 16 hidden units or `count` rows, in another order. A
    # hidden unit within eps of zero would flip its mask: none of these does.
    eps = torch.finfo(dtype).eps
    for name, value in expected.items():
        rows = count if name.startswith("W") else 16
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=20 * eps * max(rows, 16) ** 0.5, msg=name
        )


@LAYERS
def test_gradcheck(widths: tuple[int, ...]) -> None:
    x, weights = network(5, widths)
    inputs = [tensor.requires_grad_() for tensor in (x, *weights)]
    for backend in ("reference", "cpu"):
        with use(backend):
            assert torch.autograd.gradcheck(lambda x, *w: mlp(x, w), inputs)


@pytest.mark.usefixtures("poison")
def test_strided_inputs_and_gradients() -> None:
    x, weights = network(8, (6, 16, 4))
    wide = torch.cat([x, x], 1)[:, :6].requires_grad_()  # rows are 12 apart
    turned = [w.T.contiguous().T.requires_grad_() for w in weights]
    mlp(wide, turned).sum().backward()  # type: ignore[no-untyped-call]  # expands one number
    with use("reference"):
        plain = [tensor.clone().requires_grad_() for tensor in (x, *weights)]
        mlp(plain[0], plain[1:]).sum().backward()  # type: ignore[no-untyped-call]
    for found, expected in zip((wide, *turned), plain, strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-13)


def test_an_input_without_gradient_gets_none() -> None:
    x, weights = network(8, (6, 16, 4))
    weights = [w.requires_grad_() for w in weights]
    mlp(x, weights).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is None
    assert all(w.grad is not None for w in weights)


def test_the_last_layer_is_linear() -> None:
    # relu(1 * 2) = 2, relu(1 * -3) = 0; 2 * -1 + 0 * 5 = -2
    hidden, last = torch.tensor([[2.0, -3.0]]), torch.tensor([[-1.0], [5.0]])
    assert mlp(torch.ones(1, 1), [hidden, last]).item() == -2


def test_widths_must_chain() -> None:
    with pytest.raises(ValueError, match="mlp") as error:
        mlp(torch.zeros(2, 3), [torch.zeros(3, 4), torch.zeros(5, 1)])
    assert str(error.value) == "mlp: input of width 3, weights [(3, 4), (5, 1)]"
