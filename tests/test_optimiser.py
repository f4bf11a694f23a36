"""The optimiser: its learning rate step by step, Adam as torch has it, a state that comes back."""

from __future__ import annotations

import pytest
import torch

from nerfxl.optimiser import Optimiser, learning_rate
from nerfxl.scene.training import TrainSpec


def train(**changes: object) -> TrainSpec:
    document = {"steps": 10, "learning_rate": 0.1, "warmup_steps": 0, **changes}
    return TrainSpec.model_validate(document)


def test_the_rate_rises_to_the_warm_up_and_falls_after_each_milestone() -> None:
    schedule = {"milestones": [0.5, 0.8], "gamma": 0.5}
    spec = train(warmup_steps=4, schedule=schedule)
    rates = [learning_rate(step, spec) for step in range(1, 11)]
    # Steps 1 to 5 are the first half, 6 to 8 come before the second milestone.
    expected = [0.025, 0.05, 0.075, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025]
    assert rates == pytest.approx(expected)


def test_without_warm_up_and_milestones_the_rate_is_constant() -> None:
    spec = train(schedule={"milestones": []})
    assert {learning_rate(step, spec) for step in range(1, 11)} == {0.1}


def test_steps_are_those_of_torchs_adam() -> None:
    start = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    optimiser = Optimiser({"weight": ours}, eps=1e-8)
    reference = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    for step in range(1, 6):
        for parameter in (ours, theirs):
            (parameter**2 * step).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step(step, 0.1)
        reference.step()
        reference.zero_grad()
        assert ours.grad is not None
        assert not ours.grad.any()  # cleared in place: the buffer lives on
    torch.testing.assert_close(ours, theirs)


def test_a_parameter_without_gradient_stays() -> None:
    idle = torch.ones(2, requires_grad=True)
    Optimiser({"idle": idle}, eps=1e-8).step(1, 0.1)
    assert idle.tolist() == [1, 1]


def test_the_state_comes_back_by_name() -> None:
    first = torch.ones(2, requires_grad=True)
    optimiser = Optimiser({"a.b": first}, eps=1e-8)
    first.square().sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step(1, 0.1)
    stored = {name: tensor.clone() for name, tensor in optimiser.state().items()}
    assert sorted(stored) == ["optimiser.a.b.first", "optimiser.a.b.second"]
    second = first.detach().clone().requires_grad_()
    resumed = Optimiser({"a.b": second}, eps=1e-8)
    resumed.load(stored)
    for parameter, one in ((first, optimiser), (second, resumed)):
        parameter.pow(3).sum().backward()  # type: ignore[no-untyped-call]
        one.step(2, 0.1)
    assert second.equal(first)


def test_a_state_of_other_parameters_is_refused() -> None:
    with pytest.raises(KeyError):
        Optimiser({"a": torch.ones(1)}, eps=1e-8).load({})
