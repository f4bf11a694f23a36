"""Sparse Adam: torch's where every entry is touched, and still where none is."""

from __future__ import annotations

import pytest
import torch
from nerfxl_kernels.adam import adam
from nerfxl_kernels.backend import Backend, use

from tests.kernels.backends import BACKENDS, DTYPES, FAST, normal

COUNTS = pytest.mark.parametrize("count", [0, 1, 63, 1000, 40_000], ids=lambda n: f"M{n}")


@DTYPES
@BACKENDS
@pytest.mark.parametrize("eps", [1e-15, 1e-8])
def test_equals_torch_where_every_entry_is_touched(
    backend: Backend, dtype: torch.dtype, eps: float
) -> None:
    expected = normal(7, 11, seed=0, dtype=dtype).requires_grad_()
    found = expected.detach().clone()
    moments = torch.zeros_like(found), torch.zeros_like(found)
    optimiser = torch.optim.Adam([expected], lr=0.01, betas=(0.9, 0.99), eps=eps)
    for step in range(1, 21):
        grad = normal(7, 11, seed=step, dtype=dtype)
        expected.grad = grad.clone()
        optimiser.step()
        with use(backend):
            adam(found, grad, moments[0], moments[1], step, 0.01, (0.9, 0.99), eps)
        assert not grad.any()
    # 20 moves of at most some 0.01, each rounded; entries of up to 3.
    atol = 20 * 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=atol)


@DTYPES
@COUNTS
@FAST
@pytest.mark.usefixtures("poison")
def test_parity(backend: Backend, count: int, dtype: torch.dtype) -> None:
    results = []
    for which in ("reference", backend):
        state = [normal(count, seed=i, dtype=dtype) for i in range(3)]
        state[2] = state[2].abs()
        for step in (5, 6):
            grad = normal(count, seed=9 + step, dtype=dtype)
            grad[::3] = 0
            grad[20_000:30_000] = 0  # whole blocks are not touched
            with use(which):
                adam(state[0], grad, state[1], state[2], step, 0.01)
            assert not grad.any()
        results.append(dict(zip(("parameter", "first", "second"), state, strict=True)))
    for name, expected in results[0].items():
        # A moment may cancel: absolute to entries of up to 4. A move is divided by a root.
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(results[1][name], expected, rtol=8 * eps, atol=8 * eps, msg=name)


@BACKENDS
def test_the_first_step_is_the_rate(backend: Backend) -> None:
    # m / (1 - b1) = g and sqrt(v / (1 - b2)) = |g|: a move of the rate, against the sign of g.
    parameter, grad = torch.zeros(3), torch.tensor([1e-6, -3.0, 1e4])
    with use(backend):
        adam(parameter, grad, torch.zeros(3), torch.zeros(3), 1, 0.5)
    torch.testing.assert_close(parameter, torch.tensor([-0.5, 0.5, -0.5]))


@BACKENDS
def test_an_untouched_entry_and_its_moments_stay(backend: Backend) -> None:
    state = [normal(5, seed=i).abs() for i in range(3)]
    before = [tensor.clone() for tensor in state]
    grad = torch.tensor([0.0, 1.0, -0.0, 0.0, 2.0], dtype=torch.float64)
    with use(backend):
        adam(state[0], grad, state[1], state[2], 3, 0.1)
    for now, then in zip(state, before, strict=True):
        assert (now == then).tolist() == [True, False, True, True, False]
    assert not grad.any()


@BACKENDS
def test_a_leaf_of_autograd_is_changed_in_place(backend: Backend) -> None:
    parameter = torch.zeros(2, 3, requires_grad=True)
    with use(backend):
        adam(parameter, torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), 1, 0.1)
    torch.testing.assert_close(parameter.detach(), torch.full((2, 3), -0.1))
    assert parameter.is_leaf


def test_errors() -> None:
    a, b = torch.zeros(2), torch.zeros(3)
    turned = torch.zeros(2, 3).T
    shapes = r"^adam: found shapes \[\(2,\), \(3,\), \(2,\), \(2,\)\], expected one$"
    with pytest.raises(ValueError, match=shapes):
        adam(a, b, a, a, 1, 0.1)
    with pytest.raises(ValueError, match=r"^adam: step 0, contiguous \[True, True, True, True\]$"):
        adam(a, a, a, a, 0, 0.1)
    with pytest.raises(ValueError, match=r"^adam: step 1, contiguous \[False, False, "):
        adam(turned, turned, turned, turned, 1, 0.1)
