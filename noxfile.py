"""What is done to this project: a session a verb, run in the environment that nox runs in."""

from __future__ import annotations

import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"  # torch once, not once a session
nox.options.sessions = ["lint", "types", "tests"]

# The tests share the cores out among themselves; what they call must not do so again.
ONE_THREAD_EACH = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
NO_TESTS = 5  # pytest's exit code where nothing bears the marker


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    _module(session, "ruff", "check")
    _module(session, "ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, of the tests too."""
    _module(session, "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, on two processes, and the Triton kernels' in Triton's interpreter.

    `nox -s tests -- -k name` picks some.
    """
    # A file stays on one process: what its tests share is made once.
    pytest = ("pytest", "-n", "2", "--dist", "loadfile", *session.posargs)
    codes = [0, NO_TESTS] if session.posargs else [0]
    _module(session, *pytest, env=ONE_THREAD_EACH, success_codes=codes)
    interpreted = ONE_THREAD_EACH | {"TRITON_INTERPRET": "1"}  # settled when kernels are defined
    _module(session, *pytest, "-m", "gpu and not long", env=interpreted, success_codes=codes)


@nox.session
def long(session: nox.Session) -> None:
    """Run the tests that take minutes."""
    _module(session, "pytest", "-m", "long", *session.posargs, success_codes=[0, NO_TESTS])


@nox.session
def gpu(session: nox.Session) -> None:
    """Run the tests that need a GPU; skipped without one."""
    import torch

    if not torch.cuda.is_available():
        session.skip(f"torch {torch.__version__} sees no GPU")
    _module(session, "pytest", "-m", "gpu", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Race the kernels against their peers; drjit takes part where the extra `bench` is there."""
    _module(session, "bench", *session.posargs)


@nox.session
def figures(session: nox.Session) -> None:
    """Compile the Triton kernels for three GPUs; write the tables of kernels/README.md."""
    _module(session, "bench.compiled")
    _module(session, "bench.report")


@nox.session
def schema(session: nox.Session) -> None:
    """Write scenes/schema.json and scenes/README.md anew from nerfxl/scene/spec.py."""
    _module(session, "nerfxl.scene.grammar")


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel into dist/, check what is in them, and start the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        _module(session, "hatchling", "build", "-d", folder)
        sdist = next(Path(folder).glob("*.tar.gz"))
        wheel = next(Path(folder).glob("*.whl"))
        _check_sdist(session, sdist)
        _check_wheel(session, wheel)
        installed = Path(folder) / "installed"
        _module(session, "pip", "install", "--no-deps", "--target", str(installed), str(wheel))
        command = str(installed / "bin" / "nerfxl")
        session.run(command, "--version", env={"PYTHONPATH": str(installed)})
        Path("dist").mkdir(exist_ok=True)
        for file in (sdist, wheel):
            (Path("dist") / file.name).write_bytes(file.read_bytes())


def _check_sdist(session: nox.Session, path: Path) -> None:
    """The repository, without what machines leave in it."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"noxfile.py", "README.md", "scenes/university4.yaml", "tests/test_readme.py"}
    _check(session, path, wanted - names, {name for name in names if _is_debris(name)})


def _check_wheel(session: nox.Session, path: Path) -> None:
    """Both packages, their marks of being typed, the licence, and nothing else."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    sources = {
        file.relative_to(root).as_posix()
        for root, package in (("", "nerfxl"), ("kernels", "nerfxl_kernels"))
        for file in (Path(root) / package).rglob("*")
        if file.suffix in (".py", ".typed", ".css", ".js")
    }
    others = {name for name in names if ".dist-info/" not in name}
    missing = sources - names
    if not any(name.endswith("licenses/LICENSE") for name in names):
        missing.add("LICENSE")
    _check(session, path, missing, others - sources)


def _check(session: nox.Session, path: Path, missing: set[str], strange: set[str]) -> None:
    if missing or strange:
        session.error(f"{path.name}: lacks {sorted(missing)}, should not hold {sorted(strange)}")


def _is_debris(name: str) -> bool:
    return name.startswith((".venv", "runs")) or "__pycache__" in name or "/." in name


def _module(
    session: nox.Session,
    *command: str,
    env: dict[str, str] | None = None,
    success_codes: list[int] | None = None,
) -> None:
    """Run a tool of this very environment, whether or not it is activated."""
    session.run(sys.executable, "-m", *command, env=env, success_codes=success_codes or [0])
