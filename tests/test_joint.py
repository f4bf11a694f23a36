"""Joint training: on any number of ranks, by any exchange, one step is that of one process.

Real processes over gloo, float64, and the model itself: plan, fields, renderer, losses, exchange.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nerfxl.losses import loss
from nerfxl.model import Model
from nerfxl.partition import plan
from nerfxl.processes.cluster import joined
from nerfxl.processes.ranks import Ranks
from nerfxl.randomness import generator
from nerfxl.rays import Batch, Box, Rays, Truth
from nerfxl.scene.spec import SceneSpec

K, LARGEST = 4, 4
N, VIEWS = 41, 5
NEAR = 0.01


class Case(NamedTuple):
    """One way to render."""

    method: str
    open: bool
    learn_proposal: bool = True
    exchange: str = "gather"

    def __str__(self) -> str:
        reach = "open" if self.open else "closed"
        frozen = "" if self.learn_proposal else "-frozen"
        return f"{self.method}-{reach}{frozen}-{self.exchange}"


ALONE = [
    Case("proposal", open=True),
    Case("proposal", open=False),
    Case("proposal", open=True, learn_proposal=False),
    Case("occupancy", open=True, learn_proposal=False),
    Case("occupancy", open=False, learn_proposal=False),
]
CASES = [case._replace(exchange=kind) for case in ALONE for kind in ("gather", "owner", "samples")]


def spec(method: str, exchange: str = "gather") -> SceneSpec:
    table = {"levels": 3, "log2_table": 8, "base_resolution": 3, "max_resolution": 12}
    widths = {"density_hidden": 8, "geometry_features": 5, "colour_hidden": 8}
    proposal = {"samples": 24, "levels": 2, "log2_table": 8, "max_resolution": 6, "weight": 0.5}
    occupancy = {"samples": 48, "resolution": 8}
    document: dict[str, Any] = {
        "capture": {"path": "nowhere"},
        "field": {**table, **widths},
        "sampling": {
            "method": method,
            "samples": 12,
            "proposal": proposal,
            "occupancy": occupancy,
        },
        "train": {"losses": {"distortion": 0.1, "depth": 0.3, "sky": 0.2}},
        "exchange": exchange,
        "cameras": {"refine": "on"},
        "appearance": {"embedding": "on", "size": 3, "exposure": "on"},
    }
    return SceneSpec.model_validate(document)


def rays() -> Rays:
    """Random rays in and around the box, some along an axis, one inside a plane of the cut."""
    draw = generator(3)
    origins = torch.rand(N, 3, generator=draw, dtype=torch.float64) * 3 - 1.5
    directions = torch.randn(N, 3, generator=draw, dtype=torch.float64)
    directions[:3] = torch.eye(3, dtype=torch.float64)
    origins[3], directions[3] = torch.tensor([-1.4, 0.0, 0.1]), torch.tensor([1.0, 0.0, 0.0])
    return Rays(origins, directions / directions.norm(dim=1, keepdim=True))


def model(case: Case, ranks: Ranks) -> Model:
    """Fields far from their even start, each tile's the same wherever it lies."""
    points = torch.rand(500, 3, generator=generator(1)) * 2 - 1
    cut = plan(points, Box((-1, -1, -1), (1, 1, 1)), K, case.open)
    made = Model(spec(case.method, case.exchange), cut, NEAR, ranks, torch.float64, VIEWS)
    with torch.no_grad():
        for index, rows in enumerate(made.shared.views.parameters()):
            draw = torch.rand(rows.shape, generator=generator(6, index), dtype=torch.float64)
            rows.copy_(0.2 * draw - 0.1)
    for tile in made.tiles:
        with torch.no_grad():
            tile.table.mul_(1e4)
            if tile.proposal:
                tile.proposal.table.mul_(1e4)
        if tile.occupancy:
            draw = torch.rand(8, 8, 8, generator=generator(2, tile.index))
            tile.occupancy.cells.copy_(draw < 0.7)
    return made


def batch(loads: tuple[int, ...]) -> Batch:
    """The rays of the parts that are loaded, each part a stretch of their numbers."""
    starts = [N * k // K for k in range(K + 1)]
    number = torch.cat([torch.arange(starts[k], starts[k + 1]) for k in loads])
    shift = torch.rand(N, 2, generator=generator(4), dtype=torch.float64)
    parts, end = [], 0
    for k in loads:
        start, end = end, end + starts[k + 1] - starts[k]
        parts.append((k, slice(start, end)))
    return Batch(rays()[number], shift[number], number, N, tuple(parts), number % VIEWS)


def train_step(case: Case, ranks: Ranks) -> dict[str, Tensor]:
    """What one rank finds: of the rays that it loads, of the tiles that it owns, and all in all."""
    made = model(case, ranks)
    draw = torch.rand(N, 5, generator=generator(5), dtype=torch.float64)
    truth = Truth(draw[:, :3], (2 * draw[:, 3] - 1).clamp(min=0), draw[:, 4] < 0.3)
    some = batch(made.exchange.loads)
    cast = made.renderer.depart(made.renderer.cast(some))
    pixels, proposal_loss = made.renderer(cast, 0.05, learn_proposal=case.learn_proposal)
    own = Truth(*(column[some.number] for column in (truth.colour, truth.distance, truth.sky)))
    total, error = loss(pixels, own, spec(case.method).train.losses, N)
    (total + 0.5 * proposal_loss).backward()  # type: ignore[no-untyped-call]
    made.sum_gradients()
    everything = Batch.of(rays(), torch.full((N, 2), 0.5, dtype=torch.float64))
    mine = made.exchange.mine(N)
    piece = Batch(everything.rays[mine], everything.jitter[mine], everything.number[mine], N)
    still = made.renderer.still(piece, 0.05, 12)
    found = {
        "loss": total.detach(),
        "error": error,
        "number": some.number,
        "ray colour": pixels.colour.detach(),
        "ray depth": pixels.depth,
        "ray opacity": pixels.opacity,
        "ray distortion": pixels.distortion.detach(),
        "still colour": made.exchange.whole(still.colour, N),
        "still depth": made.exchange.whole(still.depth[:, None], N),
        "samples": torch.tensor(ranks.total(pixels.samples, still.samples)),
        "own proposal loss": proposal_loss.detach(),
    }
    modules = {"shared": made.shared} | {f"tile{tile.index}": tile for tile in made.tiles}
    for owner, module in modules.items():
        for name, parameter in module.named_parameters():
            gradient = parameter.grad
            found[f"{owner}.{name}"] = torch.zeros(0) if gradient is None else gradient
    return {name: value.clone().contiguous() for name, value in found.items()}


def work(folder: Path) -> None:
    """Be one of four processes: all cases on all four, then on the first two."""
    found = {}
    with joined("cpu") as world:
        for size in (2, LARGEST):
            group = torch.distributed.new_group(list(range(size)))
            if world.rank >= size:
                continue
            ranks = Ranks(world.rank, size, world.device, world.threads, group)
            for case in CASES:
                for name, value in train_step(case, ranks).items():
                    found[f"{size}/{case}/{name}"] = value
        save_file(found, folder / f"{world.rank}.safetensors")


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, as_ranks: Callable[[str, Path, int], None]
) -> list[dict[str, Tensor]]:
    """Collect what each of four gloo processes found."""
    folder = tmp_path_factory.mktemp("joint")
    as_ranks(__file__, folder, LARGEST)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(LARGEST)]


@pytest.fixture(scope="module")
def alone() -> dict[Case, dict[str, Tensor]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each rank has: a product of matrices may round as they are many
    found = {case: train_step(case, Ranks()) for case in ALONE}
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("R", [2, LARGEST])
def test_ranks_make_no_difference(
    R: int, case: Case, results: list[dict[str, Tensor]], alone: dict[Case, dict[str, Tensor]]
) -> None:
    expected, prefix = alone[case._replace(exchange="gather")], f"{R}/{case}/"
    seen = [
        {name.removeprefix(prefix): v for name, v in result.items() if name.startswith(prefix)}
        for result in results[:R]
    ]
    # A tile's gradients are known to its owner alone, what is shared to every rank.
    tiles = [name for found in seen for name in found if name.startswith("tile")]
    assert sorted(tiles) == sorted(name for name in expected if name.startswith("tile"))
    common = {name for name in expected if not name.startswith("tile")}
    numbers = torch.cat([found["number"] for found in seen]).sort().values
    loaded = torch.arange(N) if case.exchange == "owner" else torch.arange(N).repeat_interleave(R)
    assert numbers.equal(loaded)
    for found in seen:
        assert common <= found.keys()
        for name in found.keys() - {"number", "own proposal loss", "loss", "error"}:
            truth = expected[name]
            if name.startswith("ray "):
                truth = truth[found["number"]]
            torch.testing.assert_close(found[name], truth, rtol=1e-10, atol=1e-13, msg=name)
    # Each rank has the part of the loss that its rays make, and the proposals' of its own tiles.
    for name in ("loss", "error", "own proposal loss"):
        parts = torch.stack([found[name] for found in seen])
        whole = case.exchange == "owner" or name == "own proposal loss"
        total = parts.sum() if whole else parts.mean()
        torch.testing.assert_close(total, expected[name], rtol=1e-10, atol=0)


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_gathering_and_owning_agree_to_the_bit_on_any_number_of_ranks(
    case: Case, results: list[dict[str, Tensor]], alone: dict[Case, dict[str, Tensor]]
) -> None:
    """Every tile sees the same samples in the same order, and sums are in the tiles' order.

    A picture's background is asked for all rays that a rank loads at once, and a product of
    matrices may round as its size does: pictures are the same to the bit where all load all.
    """
    for exchange, R in product(("gather", "owner"), (2, LARGEST)):
        same = ("tile", "shared", "still") if exchange == "gather" else ("tile", "shared")
        prefix = f"{R}/{case._replace(exchange=exchange)}/"
        for result in results[:R]:
            found = {name.removeprefix(prefix): value for name, value in result.items()}
            for name in alone[case].keys() & found.keys():
                if name.startswith(same):
                    assert torch.equal(found[name], alone[case][name]), name


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_every_parameter_learns(case: Case, alone: dict[Case, dict[str, Tensor]]) -> None:
    """Equality would mean little if gradients were zero."""
    for name, value in alone[case].items():
        assert value.isfinite().all(), name
        idle = "proposal" in name and not case.learn_proposal
        if "." in name:
            assert bool(value.any()) != idle, name


if __name__ == "__main__":
    work(Path(sys.argv[1]))
