"""Where the Triton kernels run in a test; fresh memory that cannot pass for a result."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run tests marked `gpu` on a GPU or in Triton's interpreter; skip them without either."""
    if request.node.get_closest_marker("gpu") is None or INTERPRETED:
        yield
    elif torch.cuda.is_available():
        with torch.device("cuda"):
            yield
    else:
        pytest.skip("no GPU, and TRITON_INTERPRET is not 1")


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill uninitialised tensors with NaN (integers: the least), so that unwritten outputs show."""

    def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def filled(*args: Any, **kwargs: Any) -> Tensor:
            out = make(*args, **kwargs)
            least = torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).min
            return out.fill_(least)

        return filled

    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch.Tensor, "new_empty"),
    ):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
