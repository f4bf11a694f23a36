"""Exchange: any tiles on any ranks, by any exchange, give the loss and every gradient of one row.

The oracle knows nothing of ranks, routes or Segments: it sorts all samples of a ray and renders
them at once. The scene is a small one of its own, so that all that a NeRF may learn is in it, poses
and appearance too; the renderer itself is put to the same test in test_joint.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.exchange import Exchange, Gather, Owner, Samples, Shaded, choose, deal
from nerfxl.partition import Plan, octants, plan
from nerfxl.processes.cluster import joined
from nerfxl.processes.ranks import Ranks
from nerfxl.randomness import generator
from nerfxl.rays import Box, Crossings, Rays

SAMPLES, VIEWS, RAYS = 4, 3, 24
LARGEST = 4
FAR = 10.0
KINDS: dict[str, type[Exchange]] = {"gather": Gather, "owner": Owner, "samples": Samples}
SIZES = [(R, K) for R in (1, 2, 3, LARGEST) for K in (1, 2, 4, 5, 8) if R <= K]
CASES = [(kind, R, K) for kind, (R, K) in product(KINDS, SIZES)]


def random(*key: int) -> Callable[..., Tensor]:
    draw = generator(*key)
    return lambda *shape: torch.rand(shape, generator=draw, dtype=torch.float64) * 2 - 1


class Scene(NamedTuple):
    """K tiles, what they share, and the cameras: all leaves learn."""

    cut: Plan
    tiles: list[dict[str, Tensor]]
    shared: dict[str, Tensor]
    local: Tensor  # [N, 3], directions of the cameras' own
    centre: Tensor  # [N, 3]
    view: Tensor  # [N] int64
    target: Tensor  # [N, 3]

    @classmethod
    def of(cls, K: int) -> Scene:
        cut = plan(random(1)(300, 3).float(), Box((-1.0,) * 3, (1.0,) * 3), K, open=False)
        uniform = random(2)
        centre, aim = 1.6 * uniform(4 * RAYS, 3), uniform(4 * RAYS, 3)
        local = aim - centre
        # Along an axis, through a plane of the cut, inside of it, from inside, and past everything.
        local[:3] = torch.eye(3)
        for node in cut.nodes[:2]:
            along = 3 - node.axis - cut.nodes[0].axis if node.axis != cut.nodes[0].axis else 0
            centre[3] = torch.tensor(cut.cores[0].centre)
            centre[3, node.axis], local[3] = node.plane, -torch.eye(3)[along]
        centre[4], local[5] = torch.tensor([0.1, 0.2, -0.3]), centre[5]
        if K >= 4:  # the last tile is met by no ray
            ends = cut.intervals(Rays(centre, local), 0.0, FAR)[-1]
            seen = (ends[:, 0] >= ends[:, 1]).nonzero()[:, 0]
            centre, local = centre[seen], local[seen]
        centre, local = centre[:RAYS], local[:RAYS]
        local = local / local.norm(dim=1, keepdim=True)
        tiles = [
            {"wave": random(3, k)(3, 4), "density": random(4, k)(4), "paint": random(5, k)(4, 3)}
            for k in range(K)
        ]
        names = {"mixing": (3, 3), "appearance": (VIEWS, 3), "sky": (3, 3)}
        shared = {name: random(6, i)(*shape) for i, (name, shape) in enumerate(names.items())}
        shared["pose"] = torch.zeros(VIEWS, 6, dtype=torch.float64)  # a turn and a shift
        scene = cls(
            *(cut, tiles, shared, local, centre),
            torch.arange(RAYS) % VIEWS,
            random(7)(RAYS, 3).abs(),
        )
        for leaf in (*shared.values(), *(w for tile in tiles for w in tile.values())):
            leaf.requires_grad_()
        return scene

    def rays(self, number: Tensor) -> Rays:
        """Where the poses put the rays: differentiable."""
        some = Rays(self.centre[number], self.local[number])
        return placed(self.shared, some, self.view[number])

    def shade(
        self, tile: int, shared: dict[str, Tensor], points: Tensor, view: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Density [M] and colour [M, 3] of a tile at points [M, 3] of views [M]."""
        own = self.tiles[tile]
        feature = torch.sin(points @ own["wave"])
        density = torch.nn.functional.softplus(feature @ own["density"])
        hue = feature @ own["paint"] @ shared["mixing"] + shared["appearance"][view]
        return density, torch.sigmoid(hue)

    def background(self, shared: dict[str, Tensor], rays: Rays) -> Tensor:
        return torch.sigmoid(rays.directions @ shared["sky"])

    def loss(self, whole: Tensor, behind: Tensor, number: Tensor) -> Tensor:
        """Summed over these rays, as a part of the mean over all: whole [n, 6]."""
        pixel = whole[:, 3:] + torch.exp(-whole[:, :1]) * behind
        error = (pixel - self.target[number]).square().sum()
        return (error + 0.1 * whole[:, 2].sum() + 0.05 * whole[:, 1].square().sum()) / RAYS


def placed(shared: dict[str, Tensor], rays: Rays, view: Tensor) -> Rays:
    turn, shift = torch.split(shared["pose"][view], 3, 1)
    return Rays(rays.origins + shift, rays.directions + torch.linalg.cross(turn, rays.directions))


def middles(enter: Tensor, leave: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [P S] of samples in the middle of equal steps, and the steps [P S]."""
    step = (leave - enter) / SAMPLES
    t = enter[:, None] + step[:, None] * (torch.arange(SAMPLES) + 0.5)
    return t.flatten(), step.repeat_interleave(SAMPLES)


def crossings(scene: Scene, rays: Rays) -> tuple[Crossings, Tensor]:
    """Crossings, and their ends [P, 2], found ray by ray."""
    ends = scene.cut.intervals(Rays(rays.origins.detach(), rays.directions.detach()), 0.0, FAR)
    rows = []
    for ray, octant in enumerate(octants(rays.directions).tolist()):
        met = [k for k in scene.cut.order[octant].tolist() if ends[k, ray, 0] < ends[k, ray, 1]]
        rows += [(ray, tile, slot) for slot, tile in enumerate(met)]
    which, tiles, slots = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).unbind(1)
    depth = int(slots.max()) + 1 if len(slots) else 0
    return Crossings(len(rays), which, tiles, slots, depth), ends[tiles, which]


def part_of(number: Tensor, K: int) -> Tensor:
    """In which tile's name a ray is loaded."""
    return number * K // RAYS


def train_step(scene: Scene, exchange: Exchange) -> dict[str, Tensor]:
    """Loss and gradients as one rank sees them."""
    K = len(scene.tiles)
    number = torch.arange(RAYS)
    number = number[torch.isin(part_of(number, K), torch.tensor(exchange.loads))]
    view = scene.view[number]
    rays = Rays(scene.centre[number], scene.local[number])
    with torch.no_grad():
        crossing, ends = crossings(scene, placed(scene.shared, rays, view))
    route = exchange.route(crossing, number, RAYS)
    ray = crossing.ray
    columns = [rays.origins[ray], rays.directions[ray], ends, view[ray][:, None]]
    route.depart(torch.cat(columns, 1))

    twins = {
        tile: {name: leaf.detach().clone().requires_grad_() for name, leaf in scene.shared.items()}
        for tile in exchange.own
    }
    columns_here, rows = route.arrive()
    density, colour, places = [], [], [t.detach() for t in middles(*columns_here[:, 6:8].T)]
    cuts = torch.split(columns_here, rows)
    for tile, here in zip(exchange.own, cuts, strict=True):
        t, _ = middles(*here[:, 6:8].T)
        mine = here.repeat_interleave(SAMPLES, 0)
        some, of = Rays(mine[:, :3], mine[:, 3:6]), mine[:, 8].long()
        points = placed(twins[tile], some, of).at(t)
        said = scene.shade(tile, twins[tile], points, of)
        density.append(said[0])
        colour.append(said[1])
    offsets = torch.arange(sum(rows) + 1) * SAMPLES
    shaded = Shaded(
        *(torch.cat(density), torch.cat(colour), places[1], places[0], places[1], offsets)
    )
    whole, weights, tau = route.compose(shaded)
    behind = []
    for part in exchange.loads:
        own = part in twins
        with torch.set_grad_enabled(own):
            mask = part_of(number, K) == part
            shared = twins[part] if own else scene.shared
            behind.append(scene.background(shared, placed(shared, rays[mask], view[mask])))
    loss = scene.loss(whole, torch.cat(behind), number)
    loss.backward()  # type: ignore[no-untyped-call]

    found = {"loss": loss.detach(), "weights": weights.sum(), "tau": tau.sum()}
    found["rays"] = torch.tensor(len(number))
    zero = torch.zeros((), dtype=torch.float64)
    rows_of_sum = [
        torch.cat(
            [(zero if w.grad is None else w.grad).expand(w.shape).flatten() for w in twin.values()]
        )
        for twin in twins.values()
    ]
    total = exchange.sum_in_tile_order(torch.stack(rows_of_sum))
    parts = torch.split(total, [leaf.numel() for leaf in scene.shared.values()])
    for (name, leaf), summed in zip(scene.shared.items(), parts, strict=True):
        found[name] = summed.view(leaf.shape)
    for tile, own_weights in enumerate(scene.tiles):
        for name, leaf in own_weights.items():
            assert (leaf.grad is not None) == (tile in exchange.own)
            if leaf.grad is not None:
                found[f"{name}{tile}"] = leaf.grad
    return found


def oracle(K: int) -> dict[str, Tensor]:
    """All samples of a ray in one row, sorted by distance; the distortion is the O(n^2) sum."""
    scene = Scene.of(K)
    rays = scene.rays(torch.arange(RAYS))
    ends = scene.cut.intervals(Rays(rays.origins.detach(), rays.directions.detach()), 0.0, FAR)
    found = []
    for ray in range(RAYS):
        rows: list[tuple[Tensor, ...]] = []
        for tile in range(K):
            a, b = ends[tile, ray, :1], ends[tile, ray, 1:]
            if a < b:
                at, length = middles(a, b)
                points = rays.origins[ray] + at[:, None] * rays.directions[ray]
                view = scene.view[ray].expand(SAMPLES)
                density, colour = scene.shade(tile, scene.shared, points, view)
                rows.append((at, length, density, colour))
        if not rows:
            found.append(torch.zeros(6, dtype=torch.float64))
            continue
        t, *rest = (torch.cat(column) for column in zip(*rows, strict=True))
        middle, order = t.sort()
        width, density, colour = (column[order] for column in rest)
        depth = density * width
        w = torch.exp(depth - depth.cumsum(0)) * -torch.expm1(-depth)
        apart = (middle[:, None] - middle).abs()
        spread = w @ apart @ w + (w.square() * width).sum() / 3
        numbers = torch.stack([depth.sum(), w @ middle, spread])
        found.append(torch.cat([numbers, w @ colour]))
    behind = scene.background(scene.shared, rays)
    loss = scene.loss(torch.stack(found), behind, torch.arange(RAYS))
    loss.backward()  # type: ignore[no-untyped-call]
    out = {"loss": loss.detach()}
    leaves = dict(scene.shared)
    leaves |= {f"{name}{k}": w for k, tile in enumerate(scene.tiles) for name, w in tile.items()}
    for name, leaf in leaves.items():
        out[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return out


def work(folder: Path) -> None:
    """Be one process of the test: all cases of more than one rank, the smaller in subgroups."""
    found = {}
    with joined("cpu") as world:
        for size in sorted({R for R, _ in SIZES if R > 1}):
            group = torch.distributed.new_group(list(range(size)))
            if world.rank >= size:
                continue
            ranks = Ranks(world.rank, size, world.device, world.threads, group)
            for kind, _, K in filter(lambda case: case[1] == size, CASES):
                for name, value in train_step(Scene.of(K), KINDS[kind](ranks, K)).items():
                    found[f"{kind}/{size}/{K}/{name}"] = value.contiguous()
        save_file(found, folder / f"{world.rank}.safetensors")


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, as_ranks: Callable[[str, Path, int], None]
) -> list[dict[str, Tensor]]:
    """Collect what each of four gloo processes found."""
    folder = tmp_path_factory.mktemp("exchange")
    as_ranks(__file__, folder, LARGEST)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(LARGEST)]


@pytest.fixture(scope="module")
def expected() -> dict[int, dict[str, Tensor]]:
    return {K: oracle(K) for K in sorted({K for _, K in SIZES})}


@pytest.mark.parametrize(("kind", "R", "K"), CASES)
def test_any_tiles_on_any_ranks_are_one_process(
    kind: str,
    R: int,
    K: int,
    results: list[dict[str, Tensor]],
    expected: dict[int, dict[str, Tensor]],
) -> None:
    if R == 1:
        seen = [train_step(Scene.of(K), KINDS[kind](Ranks(), K))]
    else:
        prefix = f"{kind}/{R}/{K}/"
        seen = [
            {name.removeprefix(prefix): v for name, v in result.items() if name.startswith(prefix)}
            for result in results[:R]
        ]
    # Every tile's gradient is found on exactly one rank, what is shared on all of them.
    truth = expected[K]
    tiles = sorted(name for found in seen for name in found if name[-1].isdecimal())
    assert tiles == sorted(name for name in truth if name[-1].isdecimal())
    for found in seen:
        assert {"mixing", "appearance", "sky", "pose"} <= found.keys()
        for name in found.keys() & truth.keys() - {"loss"}:
            torch.testing.assert_close(found[name], truth[name], rtol=1e-10, atol=1e-13, msg=name)
    # Whoever loads rays has their part of the loss.
    losses = torch.stack([found["loss"] for found in seen])
    assert int(sum(found["rays"] for found in seen)) == RAYS * (1 if kind == "owner" else R)
    total = losses.sum() if kind == "owner" else losses.mean()
    torch.testing.assert_close(total, truth["loss"], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("kind", "K"), list(product(KINDS, (4, 5, 8))))
def test_bits_do_not_depend_on_the_number_of_ranks(
    kind: str, K: int, results: list[dict[str, Tensor]]
) -> None:
    """Of tiles and of what they share."""
    alone = train_step(Scene.of(K), KINDS[kind](Ranks(), K))
    for R, rank in ((2, 0), (2, 1), (4, 0), (4, 3)):
        prefix = f"{kind}/{R}/{K}/"
        for name, value in results[rank].items():
            name = name.removeprefix(prefix)
            if name in alone and name not in ("loss", "weights", "tau", "rays"):
                assert torch.equal(value, alone[name]), name


def test_the_cases_are_what_they_say(expected: dict[int, dict[str, Tensor]]) -> None:
    scene = Scene.of(4)
    ends = scene.cut.intervals(scene.rays(torch.arange(RAYS)), 0.0, FAR)
    met = ends[..., 0] < ends[..., 1]
    assert (met.sum(0) == 0).any(), "a ray misses everything"
    assert (ends[..., 0][met] == 0).any(), "a ray starts inside"
    node = scene.cut.nodes[1]
    in_plane = (scene.centre[:, node.axis] == node.plane) & (scene.local[:, node.axis] == 0)
    assert (met.any(0) & in_plane).any(), "a ray runs in a plane of the cut"
    assert not met[3].any(), "the last tile is met by no ray"
    assert not expected[4]["density3"].any()
    for name in ("density0", "mixing", "appearance", "sky", "pose"):
        assert expected[4][name].any(), name


@given(st.integers(1, 300), st.data())
def test_deal_shares_every_tile_once_and_evenly(K: int, data: st.DataObject) -> None:
    R = data.draw(st.integers(1, K))
    shares = deal(K, R)
    assert sorted(tile for share in shares for tile in share) == list(range(K))
    assert all(list(share) == sorted(share) for share in shares)
    assert len(shares) == R
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert min(map(len, shares)) >= 1


def test_neighbours_are_dealt_to_several_ranks() -> None:
    assert deal(4, 2) == ((0, 3), (1, 2))
    assert deal(5, 3) == ((0,), (1, 4), (2, 3))


def test_more_ranks_than_tiles_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        deal(4, 5)
    assert str(caught.value) == (
        "5 processes cannot share 4 tiles: every process owns at least one, so pass --nproc 4 or "
        "fewer, or plan more tiles."
    )


def test_the_default_gathers_while_ranks_are_few_and_near() -> None:
    def kind(asked: str, size: int, nodes: int = 1) -> str:
        return type(choose(asked, Ranks(0, size, nodes=nodes), 64)).__name__

    assert [kind("auto", size) for size in (1, 16, 17)] == ["Gather", "Gather", "Owner"]
    assert kind("auto", 4, nodes=2) == "Owner"
    assert [kind(name, 2) for name in KINDS] == ["Gather", "Owner", "Samples"]


def test_a_picture_is_shared_out_and_put_together() -> None:
    """Alone, all of it is this rank's."""
    for kind in KINDS.values():
        exchange = kind(Ranks(), 3)
        rows = torch.arange(7.0)[:, None][exchange.mine(7)]
        assert torch.equal(exchange.whole(rows, 7), torch.arange(7.0)[:, None])


if __name__ == "__main__":
    work(Path(sys.argv[1]))
