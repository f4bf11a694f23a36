"""The doctor tells the truth of this machine, and what to do where something is missing."""

from __future__ import annotations

import builtins
import json
import re
import shutil
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nerfxl import doctor, plan_report
from nerfxl.processes import rendezvous
from tests.conftest import Here, Said

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
NAME = re.compile(r"[A-Za-z0-9._-]+")
FOR_DEVELOPERS = {"bench", "browser", "dev", "test"}


def checks(said: Said) -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in json.loads(said.out)["checks"]}


def only(monkeypatch: pytest.MonkeyPatch, *about: str) -> None:
    """Look at a part alone."""
    looks = {name: doctor.LOOKS[name] for name in about}
    monkeypatch.setattr(doctor, "LOOKS", looks)


def test_a_fit_would_work_where_these_tests_do(here: Here, tmp_path: Path) -> None:
    said = here("doctor", "--output-dir", tmp_path / "runs", "--json")
    assert (said.code, said.err) == (0, "")
    found = checks(said)
    assert json.loads(said.out)["fault"] == ""
    assert found["torch"]["found"] == metadata.version("torch")
    assert found["numba"]["state"] == "ok"
    assert found["loopback"]["state"] == "ok"
    assert found["LPIPS"]["state"] == "missing"
    assert "untried on a GPU" in found["Triton"]["found"]
    assert found[str(tmp_path / "runs")]["found"] == f"can be made in {tmp_path}"
    assert not (tmp_path / "runs").exists()
    assert list(tmp_path.glob(".nerfxl*")) == []


def test_what_it_looks_for_is_what_the_project_asks_for() -> None:
    asked = {match[0] for one in PROJECT["dependencies"] if (match := NAME.match(one))}
    assert asked - {"triton"} == set(doctor.REQUIRED)
    extras = PROJECT["optional-dependencies"]
    for extra in extras.keys() - FOR_DEVELOPERS:
        names = {match[0] for one in extras[extra] if (match := NAME.match(one))}
        assert names == set(doctor.EXTRAS[extra][1]), extra


def test_what_is_not_installed_comes_with_its_command(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "features")

    def version(package: str) -> str:
        if package == "tensorboard":
            raise metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    said = here("doctor")
    assert said.code == 0
    assert (
        "- tensorboard    --tensorboard: tensorboard not installed; "
        "pip install 'nerfxl[tensorboard]'" in said.out
    )
    assert "  video          films, frames of a film as photographs: av 1.0" in said.out


def test_a_package_that_cannot_be_imported_is_a_fault(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "versions")

    def load(name: str) -> Any:
        if name == "roma":
            raise ImportError("libx.so.1: cannot open")
        return builtins.__import__(name)

    monkeypatch.setattr(doctor, "import_module", load)
    said = here("doctor")
    assert said.code == 2
    assert said.err == (
        "nerfxl: fit would not work here, roma: cannot be imported: libx.so.1: cannot open: "
        "pip install 'roma'.\n"
    )
    assert "! roma" in said.out


def test_no_room_for_runs_is_a_fault(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "folders")
    (tmp_path / "file").write_text("")
    said = here("doctor", "--output-dir", tmp_path / "file" / "runs", "--json")
    assert said.code == 2
    assert f"{tmp_path / 'file'} cannot be written to: Not a directory" in said.err
    usage = SimpleNamespace(free=2**20, total=2**40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    said = here("doctor", "--output-dir", tmp_path)
    assert said.code == 2
    assert "disk: 1.0 MiB free, 256.0 MiB needed for a small scene: make room" in said.err


def test_no_memory_and_no_loopback_are_faults(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "devices", "processes")

    def host(_: str) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(plan_report, "available_memory", lambda _: 2**20)
    monkeypatch.setattr(rendezvous, "host", host)
    said = here("doctor", "--json")
    assert said.code == 2
    assert "memory: 1.0 MiB free, 1.0 GiB needed" in said.err
    assert "(1 more above)" in said.err
    assert "Network is unreachable" in checks(said)["loopback"]["found"]


def test_gpus_are_told_with_what_they_need(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, without NCCL and with little shared memory."""
    only(monkeypatch, "devices", "processes")
    about = SimpleNamespace(name="GPU X", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**33))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setattr(doctor, "_driver", lambda: "570.1")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=2**26))
    found = checks(here("doctor", "--json"))
    assert found["GPU 1"]["found"] == "GPU X, 1.0 GiB of 8.0 GiB free, sm_90, driver 570.1"
    assert found["NCCL"]["state"] == "note"
    assert found["Triton"]["state"] == "note"
    assert found[str(doctor.SHARED_MEMORY)]["remedy"] == "start the container with --shm-size=1g"


def test_a_driver_without_a_build_for_it_is_told(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "devices")
    monkeypatch.setattr(doctor, "_driver", lambda: "570.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = checks(here("doctor", "--json"))["GPU"]
    assert "is a build without GPUs" in found["found"]
    assert found["remedy"] == "install the build of torch for your CUDA (pytorch.org)"


def test_what_breaks_while_looking_is_told(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> Any:
        raise RuntimeError("no locator available\nfor file x")

    monkeypatch.setattr(doctor, "LOOKS", {"kernels": broken})
    said = here("doctor")
    assert said.code == 2
    assert "kernels: RuntimeError: no locator available" in said.err
    assert said.err.count("\n") == 1
