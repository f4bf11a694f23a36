"""Which implementation runs; and the examples in the kernels' docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import nerfxl_kernels
import pytest
import torch
from nerfxl_kernels import backend

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(nerfxl_kernels.__path__, f"{nerfxl_kernels.__name__}.")
)


def test_the_device_chooses() -> None:
    assert backend.choose(torch.zeros(1)) == "cpu"
    assert backend.choose(torch.zeros(1, device="meta")) == "reference"


def test_use_forces_inside_its_block_only() -> None:
    tensor = torch.zeros(1)
    with backend.use("reference"):
        with backend.use("cpu"):
            assert backend.choose(tensor) == "cpu"
        assert backend.choose(tensor) == "reference"
    assert backend.choose(tensor) == "cpu"


def test_use_ends_with_an_exception() -> None:
    with pytest.raises(KeyError), backend.use("reference"):
        raise KeyError
    assert backend.choose(torch.zeros(1)) == "cpu"


def test_an_unknown_backend_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"^backend: found 'cuda', expected one of \('reference', "),
        backend.use("cuda"),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.usefixtures("poison")
def test_the_poison_works() -> None:
    fresh = (torch.empty(3), torch.empty_like(torch.zeros(3)), torch.zeros(3).new_empty(3))
    assert all(tensor.isnan().all() for tensor in fresh)
    assert torch.zeros(1, dtype=torch.int64).new_empty(1).item() == -(2**63)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_examples_exist() -> None:
    modules = map(importlib.import_module, MODULES)
    asked = {m.__name__ for m in modules if doctest.testmod(m).attempted}
    assert "nerfxl_kernels.segment.op" in asked
