"""Cluster: who am I among the processes, and what is said where the variables are wrong."""

from __future__ import annotations

import pytest
import torch

from nerfxl.errors import UserError
from nerfxl.processes.cluster import choose_device, joined


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"RANK": "two", "WORLD_SIZE": "3"},
            "the environment variable RANK is 'two': it must be a whole number.",
        ),
        (
            {"RANK": "3", "WORLD_SIZE": "3"},
            "RANK is 3 and WORLD_SIZE is 3: start the run with torchrun.",
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1"},
            "WORLD_SIZE is 3, but MASTER_PORT is not set: start the run with torchrun, or unset "
            "RANK and WORLD_SIZE.",
        ),
    ],
)
def test_incomplete_variables_are_named(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NERFXL_LAUNCHER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught, joined("cpu"):
        pass
    assert str(caught.value) == sentence


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UserError, match="device is 'tpu': choose auto, cpu or cuda"):
        choose_device("tpu")


def test_a_missing_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="sees no GPU: use --device cpu"):
        choose_device("cuda")


def test_fewer_gpus_than_processes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes need 2 GPUs and 1 found"):
        choose_device("auto", local_rank=1, local_size=2)
