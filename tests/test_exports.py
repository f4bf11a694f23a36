"""The public face: names others rely on, and the version told in one voice."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import tomllib
from pathlib import Path

import pytest

import nerfxl

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels" / "nerfxl_kernels"

OPERATIONS = {
    "adam": ["adam"],
    "compose": ["compose"],
    "encoded_mlp": ["encoded_mlp"],
    "hash_encoding": ["hash_encoding", "resolutions"],
    "march": ["Domain", "Path", "contract", "march", "place"],
    "mlp": ["mlp"],
    "resample": ["interlevel", "optical_depth", "resample"],
    "segment": ["segment"],
}


FACE = [
    *("Camera", "CameraPath", "Keyframe", "Opened", "Picture", "UserError", "__version__"),
    *("fit", "load_scene", "look_at", "normals", "open_run", "pinhole", "plan", "resume"),
    "surface",
]


def test_the_library_shows_these_names() -> None:
    assert nerfxl.__all__ == FACE
    assert set(FACE) <= set(dir(nerfxl))
    for name in set(FACE) - {"__version__"}:
        assert inspect.getdoc(getattr(nerfxl, name)), f"{name} explains itself"
    with pytest.raises(AttributeError, match=r"module 'nerfxl' has no attribute 'nothing'"):
        nerfxl.nothing  # noqa: B018


def test_every_operation_is_listed() -> None:
    assert {path.parent.name for path in KERNELS.glob("*/op.py")} == set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_shows_these_names(operation: str) -> None:
    face = importlib.import_module(f"nerfxl_kernels.{operation}")
    assert face.__all__ == OPERATIONS[operation]
    for name in face.__all__:
        assert inspect.getdoc(getattr(face, name)), f"{operation}.{name} explains itself"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_has_its_rooms(operation: str) -> None:
    rooms = {path.name for path in (KERNELS / operation).glob("*.py")}
    assert rooms >= {"__init__.py", "op.py", "reference.py", "cpu.py", "gpu.py"}


def test_the_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert nerfxl.__version__ == project["version"]
    assert importlib.metadata.version("nerfxl") == project["version"]


def test_both_packages_are_typed() -> None:
    assert (ROOT / "nerfxl" / "py.typed").is_file()
    assert (KERNELS / "py.typed").is_file()
