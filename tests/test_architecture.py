"""The house: what may import what, what nobody imports, and how fast the door opens."""

from __future__ import annotations

import ast
import graphlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"nerfxl": ROOT / "nerfxl", "nerfxl_kernels": ROOT / "kernels" / "nerfxl_kernels"}

# From the roof down: a module imports from rows below its own only. Many a name is a package's.
ROWS = {
    "the door": "__main__",
    "the command line": "cli",
    "its verbs, again and again; as functions": "study library",
    "its verbs": "commands posing viewing",
    "what is told of runs and machines": "report listing events doctor",
    "what they will cost": "planning",
    "who does it": "crew beside",
    "what a rank runs": "worker",
    "the loop": "train",
    "what is handed over": "exporting",
    "who learns; scores, findings": "learner evaluate balance inspection",
    "a run, open; the look of held-out images": "opened fitting",
    "pictures and films": "filming",
    "the NeRFs of a run": "ensemble",
    "a run, put together": "prepare model blend provenance",
    "the machine; its checkpoints": "render pixels storage plan_picture plan_report",
    "its parts": "field exchange optimiser losses pictures cost tally disturb regions",
    "space, photographs": "partition world captures views",
    "what is asked": "scene",
    "a run, and how far it is": "runs progress",
    "the processes of a run; files of ours": "processes documents",
    "words that all use": "errors rays cameras metrics history randomness version",
    "a library, kept quiet": "colmap",
}
LAYERS = {
    module: height for height, row in enumerate(reversed(ROWS.values())) for module in row.split()
}

# What a file of ours is free to do anywhere else, it must not do here.
FORBIDDEN_IMPORTS = {
    "pickle": "files from strangers must not run code",
    "cloudpickle": "files from strangers must not run code",
    "dill": "files from strangers must not run code",
    "joblib": "files from strangers must not run code",
    "marshal": "files from strangers must not run code",
    "shelve": "files from strangers must not run code",
    "ftplib": "a run never reaches for the network",
    "http": "a run never reaches for the network",
    "httpx": "a run never reaches for the network",
    "requests": "a run never reaches for the network",
    "urllib": "a run never reaches for the network",
}


def sources(package: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module of a package, the package itself aside."""
    for path in sorted(PACKAGES[package].rglob("*.py")):
        parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            yield name, path


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all that a module imports, at its top, inside functions or for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def uses(path: Path, package: str, known: set[str]) -> set[str]:
    """The modules of a package that a file imports: "a.b.name" counts as the longest known part."""
    found = set()
    for name in imported(parsed(path)):
        parts = name.split(".")
        if parts[0] != package:
            continue
        lengths = range(len(parts), 1, -1)
        modules = (".".join(parts[1:length]) for length in lengths)
        module = next((module for module in modules if module in known), None)
        if module:
            found.add(module)
    return found


def room(module: str) -> str:
    """The entry of the table that a module belongs to.

    >>> room("captures.colmap")
    'captures'
    """
    return module.partition(".")[0]


def test_every_module_has_its_place() -> None:
    assert {room(name) for name, _ in sources("nerfxl")} == set(LAYERS)


def test_contributors_are_shown_the_same_table() -> None:
    table = "".join(f"| {name} | {modules} |\n" for name, modules in ROWS.items())
    assert table in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_no_import_runs_upward() -> None:
    known = {name for name, _ in sources("nerfxl")}
    upward = [
        f"{name} (row {LAYERS[room(name)]}) imports {other} (row {LAYERS[room(other)]})"
        for name, path in sources("nerfxl")
        for other in sorted(uses(path, "nerfxl", known))
        if room(other) != room(name) and LAYERS[room(other)] >= LAYERS[room(name)]
    ]
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_imports_run_in_a_circle(package: str) -> None:
    known = {name for name, _ in sources(package)}
    graph = {name: uses(path, package, known) - {name} for name, path in sources(package)}
    graphlib.TopologicalSorter(graph).prepare()


def test_the_kernels_do_not_know_nerfxl() -> None:
    for name, path in sources("nerfxl_kernels"):
        assert "nerfxl" not in {other.partition(".")[0] for other in imported(parsed(path))}, name


def test_an_operation_knows_only_itself_and_what_all_share() -> None:
    known = {name for name, _ in sources("nerfxl_kernels")}
    shared = {"backend", "gpu", "simd"}
    fused = {"encoded_mlp": {"hash_encoding", "mlp"}}  # two operations in one kernel
    for name, path in sources("nerfxl_kernels"):
        others = {room(other) for other in uses(path, "nerfxl_kernels", known)}
        assert others <= {room(name)} | shared | fused.get(room(name), set()), name


def test_operations_are_used_by_their_face() -> None:
    known = {name for name, _ in sources("nerfxl_kernels")}
    for name, path in sources("nerfxl"):
        inner = {other for other in uses(path, "nerfxl_kernels", known) if "." in other}
        assert not inner, f"{name} imports {inner}"


@pytest.mark.parametrize("module", ["field", "render", "partition", "losses", "optimiser"])
def test_the_mathematics_knows_nothing_of_ranks(module: str) -> None:
    names = set(imported(parsed(PACKAGES["nerfxl"] / f"{module}.py")))
    assert not {one for one in names if one.startswith(("torch.distributed", "nerfxl.processes"))}


def test_pycolmap_is_kept_from_signals() -> None:
    found = [name for name, path in sources("nerfxl") if "pycolmap" in imported(parsed(path))]
    assert found == ["colmap"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_pickle_and_no_network(package: str) -> None:
    for name, path in sources(package):
        tree = parsed(path)
        found = {other.partition(".")[0] for other in imported(tree)} & set(FORBIDDEN_IMPORTS)
        assert not found, f"{name} imports {found}: {[FORBIDDEN_IMPORTS[one] for one in found]}"
        assert not list(unpickling(tree)), name


# What pickles without an import that says so: names in full with all below them, and methods.
PICKLING = [
    *("torch.load", "torch.save", "torch.serialization", "torch.package", "torch.hub"),
    *("torch.multiprocessing", "torch.distributed.checkpoint", "torch.distributed.rpc"),
    *("multiprocessing", "concurrent.futures.ProcessPoolExecutor", "concurrent.futures.process"),
]
PICKLING_METHODS = {
    *("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"),
    *("send_object_list", "recv_object_list", "read_pickle", "to_pickle"),
}


def unpickling(tree: ast.AST) -> Iterator[str]:
    """Places that read or write pickles by another name."""
    written = (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    for name in {*imported(tree), *written}:
        whole = any(f"{name}.".startswith(f"{other}.") for other in PICKLING)
        if whole or name.rpartition(".")[2] in PICKLING_METHODS:
            yield name
    safe = {"allow_pickle": "False", "weights_only": "True"}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in safe:
            value = ast.unparse(node.value)
            if value != safe[node.arg]:
                yield f"{node.arg}={value}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("torch.load(path)", True),
        ("from torch import load", True),
        ("torch.save(tensor, path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("module.load(path, weights_only=asked)", True),
        ("np.load(path, allow_pickle=True)", True),
        ("np.load(path, allow_pickle=asked)", True),
        ("dist.all_gather_object(out, mine)", True),
        ("dist.broadcast_object_list(mine)", True),
        ("from torch.distributed import scatter_object_list", True),
        ("from multiprocessing import Queue", True),
        ("import multiprocessing.shared_memory", True),
        ("import torch.multiprocessing as mp", True),
        ("torch.multiprocessing.Queue()", True),
        ("from torch.distributed.checkpoint import save", True),
        ("from concurrent.futures import ProcessPoolExecutor", True),
        ("pandas.read_pickle(path)", True),
        ("np.load(path, allow_pickle=False)", False),
        ("safetensors.torch.load(data)", False),
        ("from concurrent.futures import ThreadPoolExecutor", False),
        ("from torch.distributed.elastic.multiprocessing import LogsSpecs", False),
        ("model.load(found)", False),
    ],
)
def test_pickles_are_recognised(line: str, found: bool) -> None:
    assert bool(list(unpickling(ast.parse(line)))) is found


def test_the_command_line_starts_without_anything_heavy() -> None:
    script = "import json, sys, nerfxl.cli; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(run.stdout)}
    heavy = {"torch", "numpy", "numba", "nerfacc", "PIL", "pycolmap", "pydantic", "rich", "triton"}
    assert not loaded & heavy


def test_help_answers_at_once() -> None:
    # 0.3 s of a core. The bound is 1 s of the processor's time, not of the clock's, and the best of
    # three counts, because other tests run beside this one; torch alone takes more than 2 s.
    command = [str(Path(sys.executable).with_name("nerfxl")), "--help"]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert said.startswith("Usage: nerfxl")
    assert min(seconds) < 1.0
