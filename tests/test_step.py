"""A training step is the same by every backend: Triton's kernels against plain torch."""

from __future__ import annotations

import math

import pytest
import torch
from nerfxl_kernels.backend import Backend, use
from torch import Tensor

from nerfxl.model import Model
from nerfxl.optimiser import Optimiser, learning_rate
from nerfxl.partition import plan
from nerfxl.processes.ranks import Ranks
from nerfxl.rays import Batch, Box, Rays
from nerfxl.scene.spec import SceneSpec
from tests.conftest import TINY, merged
from tests.kernels.backends import FAST

RAYS = 24


def scene(method: str) -> SceneSpec:
    document = merged(TINY, {"capture": {"path": "x"}, "sampling": {"method": method}})
    return SceneSpec.model_validate(document)


def step(backend: Backend, spec: SceneSpec) -> dict[str, Tensor]:
    """Loss, pixels and gradients of one step of a new model, and its pixels after it, by name."""
    generator = torch.Generator("cpu").manual_seed(0)
    device = torch.get_default_device()
    with torch.device("cpu"):
        origins = torch.randn(RAYS, 3, generator=generator)
        origins = 2 * origins / origins.norm(dim=1, keepdim=True)
        aims = torch.rand(RAYS, 3, generator=generator) - 0.5
        directions = torch.nn.functional.normalize(aims - origins, dim=1)
        truth = torch.rand(RAYS, 3, generator=generator)
        shift = torch.rand(RAYS, 2, generator=generator)
        points = torch.rand(200, 3, generator=generator, dtype=torch.float64) - 0.5
        boxes = plan(points, Box((-1.0,) * 3, (1.0,) * 3), spec.partition.tiles, open=True)
        model = Model(spec, boxes, 0.05, Ranks(device=device))
    with torch.no_grad():  # dense enough for something to be hidden
        for tile in model.tiles:
            tile.bias = math.log(3.0)
    modules = {f"tile {tile.index}": tile for tile in model.tiles} | {"shared": model.shared}
    optimisers = [Optimiser(dict(one.named_parameters()), 1e-15) for one in modules.values()]
    rays = Rays(origins.to(device), directions.to(device))
    with use(backend):
        learns = spec.sampling.method == "proposal"
        batch = Batch.of(rays, shift.to(device))
        cast = model.renderer.depart(model.renderer.cast(batch))
        pixels, proposal = model.renderer(cast, 0.1, learn_proposal=learns)
        loss = ((pixels.colour - truth.to(device)) ** 2).mean() + 0.01 * pixels.distortion.mean()
        (loss + proposal).backward()  # type: ignore[no-untyped-call]
        found = {
            "loss": loss.detach(),
            "proposal": proposal.detach(),
            "colour": pixels.colour.detach(),
        }
        model.sum_gradients()
        for owner, module in modules.items():
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    found[f"gradient of {owner}.{name}"] = parameter.grad.clone()
        for optimiser in optimisers:
            optimiser.step(1, learning_rate(1, spec.train))
        found["colour after"] = model.renderer.still(batch, 0.1, 12).colour
    return found


@FAST
@pytest.mark.parametrize("method", ["proposal", "occupancy"])
def test_a_step_equals_the_reference(backend: Backend, method: str) -> None:
    spec = scene(method)
    expected, found = step("reference", spec), step(backend, spec)
    assert found.keys() == expected.keys()
    assert any(name.startswith("gradient of tile 3") for name in expected)
    # TF32, which a GPU's matrix products use, has 10 bits of mantissa.
    loose = torch.cuda.is_available() and backend == "gpu"
    for name, value in expected.items():
        # The first step of Adam has the size of the rate however small the gradient: where one
        # rounds to another sign, a parameter moves the other way.
        scale = float(value.abs().max().clamp(min=1e-8))
        atol = (0.05 if loose else 1e-4) * scale if name != "colour after" else 0.02
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)
