"""Adam over named parameters, its learning rate, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from nerfxl_kernels.adam import adam
from torch import Tensor

from nerfxl.scene.training import CamerasSpec, TrainSpec


def learning_rate(step: int, spec: TrainSpec) -> float:
    """Of a step, counted from 1: a linear warm-up, then a factor gamma at each milestone."""
    passed = sum(step > milestone * spec.steps for milestone in spec.schedule.milestones)
    warm = min(1.0, step / max(1, spec.warmup_steps))
    return spec.learning_rate * warm * spec.schedule.gamma**passed


def pose_rate(step: int, cameras: CamerasSpec, train: TrainSpec) -> float:
    """Of the corrections of poses, `step` steps after they began: falls to a hundredth."""
    steps = max(1, train.steps - cameras.warmup_steps)
    return float(cameras.learning_rate * 0.01 ** min(1.0, step / steps))


class Optimiser:
    """Adam with sparse semantics (see `nerfxl_kernels.adam`) for a set of named parameters."""

    def __init__(self, parameters: Mapping[str, Tensor], eps: float) -> None:
        self.parameters, self.eps = dict(parameters), eps
        self.moments = {
            name: (
                torch.zeros_like(p, requires_grad=False),
                torch.zeros_like(p, requires_grad=False),
            )
            for name, p in self.parameters.items()
        }

    def step(self, step: int, rate: float) -> None:
        """Update every parameter that has a gradient and clear the gradient."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                first, second = self.moments[name]
                adam(parameter.data, parameter.grad, first, second, step, rate, eps=self.eps)

    def state(self) -> dict[str, Tensor]:
        """The moments, as tensors to be stored beside the parameters."""
        stored = {}
        for name, (first, second) in self.moments.items():
            stored[f"optimiser.{name}.first"] = first
            stored[f"optimiser.{name}.second"] = second
        return stored

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, (first, second) in self.moments.items():
            first.copy_(stored[f"optimiser.{name}.first"])
            second.copy_(stored[f"optimiser.{name}.second"])
