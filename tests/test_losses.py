"""The loss of a batch, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nerfxl_kernels.march import Path

from nerfxl.losses import loss
from nerfxl.rays import Pixels, Truth
from nerfxl.scene.training import LossSpec

COLOUR = torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 2.0]])
WANTED = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
TRUTH = Truth(WANTED, torch.zeros(2), torch.zeros(2, dtype=torch.bool))
DISTORTION = torch.tensor([1.0, 3.0])
PATH = Path(torch.zeros(2, 3), torch.eye(3)[:2], torch.zeros(2), torch.ones(2), 0.1)


def pixels() -> Pixels:
    colour, distortion = COLOUR.clone().requires_grad_(), DISTORTION.clone().requires_grad_()
    return Pixels(colour, 0, distortion, torch.ones(2), torch.zeros(2), PATH)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mse", (0.25 + 4) / 6),
        ("smooth_l1", (0.5 * 0.25 + (2 - 0.5)) / 6),  # half the square below 1, |x| - 1/2 above
    ],
)
def test_colour_and_distortion_add_up(name: str, expected: float) -> None:
    spec = LossSpec.model_validate({"colour": name, "distortion": 0.1})
    total, error = loss(pixels(), TRUTH, spec, 2)
    assert total.item() == pytest.approx(expected + 0.1 * 2)
    assert error.item() == pytest.approx(0.25 + 4)  # what PSNR is made of, whatever the loss
    assert not error.requires_grad


def test_the_parts_of_a_batch_add_up_to_its_loss() -> None:
    """Whoever computes some of its rays divides by the rays of all."""
    spec = LossSpec.model_validate({"distortion": 0.1})
    whole = torch.stack(loss(pixels(), TRUTH, spec, 2))
    parts = []
    for ray in (slice(0, 1), slice(1, 2)):
        seen = pixels()
        some = replace(seen, colour=seen.colour[ray], distortion=seen.distortion[ray])
        truth = replace(TRUTH, colour=WANTED[ray])
        parts.append(torch.stack(loss(some, truth, spec, 2)))
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_both_parts_have_a_gradient() -> None:
    seen = pixels()
    spec = LossSpec.model_validate({"colour": "mse", "distortion": 0.1})
    total, _ = loss(seen, TRUTH, spec, 2)
    total.backward()  # type: ignore[no-untyped-call]
    assert seen.colour.grad is not None
    assert seen.distortion.grad is not None
    torch.testing.assert_close(seen.colour.grad, (COLOUR - WANTED) / 3)  # 2 (x - y) / 6
    torch.testing.assert_close(seen.distortion.grad, torch.tensor([0.05, 0.05]))
