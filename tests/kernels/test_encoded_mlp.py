"""Encoding and perceptron in one equal the two, one after the other."""

from __future__ import annotations

import pytest
import torch
from nerfxl_kernels.backend import Backend, use
from nerfxl_kernels.encoded_mlp import encoded_mlp
from nerfxl_kernels.hash_encoding import hash_encoding
from nerfxl_kernels.mlp import mlp
from torch import Tensor

from tests.kernels.backends import BACKENDS, COUNTS, normal, random

CELLS = (2, 4, 9, 16, 33)  # the first two are dense in 128 rows
ROWS = 128


def field(
    features: int, dtype: torch.dtype, table_dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    wide = len(CELLS) * features
    table = normal(len(CELLS), ROWS, features, seed=1).to(table_dtype)
    first, last = normal(wide, 20, seed=2, dtype=dtype), normal(20, 7, seed=3, dtype=dtype)
    return table, [first / wide**0.5, last / 20**0.5]


@pytest.mark.parametrize("features", [1, 2, 3, 8], ids=lambda n: f"F{n}")
@pytest.mark.parametrize(
    ("dtype", "table_dtype"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.float32, torch.float16),
    ],
    ids=["float32", "float64", "half table"],
)
@COUNTS
@BACKENDS
@pytest.mark.usefixtures("poison")
def test_parity(
    backend: Backend,
    count: int,
    features: int,
    dtype: torch.dtype,
    table_dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nerfxl_kernels.encoded_mlp.cpu._CHUNK", 400)
    points = random(count, 3, dtype=dtype) * 1.2 - 0.1  # some are outside
    table, weights = field(features, dtype, table_dtype)
    with use("reference"):
        expected = mlp(hash_encoding(points, table, CELLS), weights)
    with use(backend):
        found = encoded_mlp(points, table, CELLS, weights)
    # Positions of 33 cells are rounded to 33 eps, values of some units are sums of 40 products.
    # Tensor cores take operands of ten bits of mantissa.
    on_tensor_cores = backend == "gpu" and points.is_cuda and dtype == torch.float32
    limit = 0.02 if on_tensor_cores else 200 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=0, atol=limit)


@BACKENDS
def test_strided_points_and_weights(backend: Backend) -> None:
    points, (table, weights) = random(70, 3), field(2, torch.float64, torch.float64)
    points, table, weights = points.float(), table.float(), [w.float() for w in weights]
    turned = [w.T.contiguous().T for w in weights]
    with use(backend):
        plain = encoded_mlp(points, table, CELLS, weights)
        strided = encoded_mlp(points.T.contiguous().T, table.mT.contiguous().mT, CELLS, turned)
    # The same products; a library may sum them in another order where strides differ.
    torch.testing.assert_close(strided, plain, rtol=0, atol=1e-5)


@BACKENDS
def test_a_gradient_is_refused(backend: Backend) -> None:
    points, (table, weights) = random(5, 3).float(), field(2, torch.float32, torch.float32)
    table.requires_grad_()
    with use(backend):
        with pytest.raises(ValueError, match=r"no gradient: use it under torch.no_grad\(\)"):
            encoded_mlp(points, table, CELLS, weights)
        with torch.no_grad():
            out = encoded_mlp(points, table, CELLS, weights)
    assert not out.requires_grad


def test_shapes_are_checked() -> None:
    points, (table, weights) = torch.zeros(2, 3), field(2, torch.float32, torch.float32)
    with pytest.raises(ValueError, match=r"^points: found shape \(2, 2\), expected \[M, 3\]$"):
        encoded_mlp(points[:, :2], table, CELLS, weights)
    with pytest.raises(ValueError, match=r"^mlp: input of width 10, weights \[\(20, 7\)\]$"):
        encoded_mlp(points, table, CELLS, weights[1:])
    with pytest.raises(ValueError, match=r"^points are torch.float64, table is torch.float32"):
        encoded_mlp(points.double(), table, CELLS, weights)
