"""Exchange: any tiles on any ranks give the loss and every gradient of one process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from nerfxl.cluster import joined
from nerfxl.errors import UserError
from nerfxl.exchange import Exchange, Gather, owner
from nerfxl.ranks import Ranks

RAYS, SAMPLES = 7, 4
LARGEST = 4
CASES = [(R, K) for R in (1, 2, 3, LARGEST) for K in (1, 2, 4, 5, 8) if R <= K]


class Scene(NamedTuple):
    """A toy scene of K tiles; the tiles of a ray are unit stretches, in an order of its own."""

    density: list[Tensor]  # K x [S], one a tile
    paint: list[Tensor]  # K x [S, 3], one a tile
    mixing: Tensor  # [3, 3], used in all tiles
    tint: Tensor  # [3], used in tile 0 only: elsewhere its gradient is None
    background: Tensor  # [3], used on the composed pixel
    feature: Tensor  # [N]
    target: Tensor  # [N, 3]

    @classmethod
    def of(cls, K: int) -> Scene:
        def leaf(seed: int, *shape: int) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            values = torch.rand(shape, generator=generator, dtype=torch.float64)
            return values.requires_grad_()

        return cls(
            density=[leaf(10 + k, SAMPLES) for k in range(K)],
            paint=[leaf(50 + k, SAMPLES, 3) for k in range(K)],
            mixing=leaf(1, 3, 3),
            tint=leaf(2, 3),
            background=leaf(3, 3),
            feature=leaf(4, RAYS).detach() + 0.5,
            target=leaf(5, RAYS, 3).detach(),
        )

    def place(self, tile: int) -> Tensor:
        """Which stretch of each ray the tile is: [N]; every other ray runs backward."""
        backward = torch.arange(RAYS) % 2 == 1
        return torch.where(backward, len(self.density) - 1 - tile, tile)

    def samples(self, tile: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Optical depth, length, middle [N, S] and colour [N, S, 3] of a tile's samples."""
        K = len(self.density)
        hit = (torch.arange(RAYS) + tile) % 5 != 0
        if K >= 4 and tile == K - 1:
            hit = torch.zeros(RAYS, dtype=torch.bool)  # the last tile is met by no ray
        middle = self.place(tile)[:, None] + (torch.arange(SAMPLES) + 0.5) / SAMPLES
        length = (hit[:, None] / SAMPLES).expand(RAYS, SAMPLES).double()
        depth = torch.nn.functional.softplus(self.density[tile] * self.feature[:, None]) * length
        colour = self.paint[tile] * self.feature[:, None, None] @ self.mixing
        if tile == 0:
            colour = colour + self.tint
        return depth, length, middle.double(), torch.sigmoid(colour)

    def loss(self, tau: Tensor, moment: Tensor, distortion: Tensor, colour: Tensor) -> Tensor:
        pixel = colour + torch.exp(-tau)[:, None] * self.background
        error = (pixel - self.target).square().mean()
        return error + 0.1 * distortion.mean() + 0.05 * moment.square().mean()


def render(depth: Tensor, length: Tensor, middle: Tensor, colour: Tensor) -> Tensor:
    """Textbook rendering of samples in order: [N, 6]; the distortion is the O(n^2) sum."""
    before = torch.cumsum(depth, 1) - depth
    weight = torch.exp(-before) * -torch.expm1(-depth)
    apart = (middle[:, :, None] - middle[:, None, :]).abs()
    distortion = torch.einsum("ni,nj,nij->n", weight, weight, apart)
    distortion = distortion + (weight.square() * length).sum(1) / 3
    columns = [depth.sum(1), (weight * middle).sum(1), distortion]
    return torch.cat([torch.stack(columns, 1), (weight[..., None] * colour).sum(1)], 1)


def compose(x: Tensor, y: Tensor) -> Tensor:
    """Put x in front of y: [N, 6] (eq. 7)."""
    T = torch.exp(-x[:, 0])
    (Ax, Ay), (Dx, Dy), (Lx, Ly) = (
        (-torch.expm1(-x[:, 0]), -torch.expm1(-y[:, 0])),
        (x[:, 1], y[:, 1]),
        (x[:, 2], y[:, 2]),
    )
    tau, D = x[:, 0] + y[:, 0], Dx + T * Dy
    L = Lx + T**2 * Ly + 2 * T * (Dy * Ax - Ay * Dx)
    return torch.cat([torch.stack([tau, D, L], 1), x[:, 3:] + T[:, None] * y[:, 3:]], 1)


def train_step(scene: Scene, exchange: Exchange) -> dict[str, Tensor]:
    """Loss and gradients as one rank sees them."""
    K = len(scene.density)
    own = torch.stack([render(*scene.samples(tile)) for tile in exchange.own])
    tiles = exchange(own)
    ordered = torch.empty_like(tiles)
    for tile in range(K):
        ordered = ordered.index_put((scene.place(tile), torch.arange(RAYS)), tiles[tile])
    whole = ordered[0]
    for segment in ordered[1:]:
        whole = compose(whole, segment)
    loss = scene.loss(whole[:, 0], whole[:, 1], whole[:, 2], whole[:, 3:])
    loss.backward()  # type: ignore[no-untyped-call]
    exchange.sum_shared_gradients([scene.mixing, scene.tint])
    assert scene.mixing.grad is not None
    assert scene.tint.grad is not None
    assert scene.background.grad is not None
    found = {
        "loss": loss.detach(),
        "mixing": scene.mixing.grad,
        "tint": scene.tint.grad,
        "background": scene.background.grad,
        "tau": exchange(own[..., :1].detach()),
    }
    for tile in exchange.own:
        for name, leaf in (("density", scene.density[tile]), ("paint", scene.paint[tile])):
            assert leaf.grad is not None
            found[f"{name}{tile}"] = leaf.grad
    for tile in set(range(K)) - set(exchange.own):
        assert scene.density[tile].grad is None
    return found


def oracle(K: int) -> dict[str, Tensor]:
    """All samples of all tiles sorted along each ray, rendered at once."""
    scene = Scene.of(K)
    samples = [scene.samples(tile) for tile in range(K)]
    depth, length, middle, colour = (torch.cat([s[i] for s in samples], 1) for i in range(4))
    order = middle.argsort(1)
    depth, length, middle = (values.gather(1, order) for values in (depth, length, middle))
    colour = colour.gather(1, order[..., None].expand(-1, -1, 3))
    whole = render(depth, length, middle, colour)
    loss = scene.loss(whole[:, 0], whole[:, 1], whole[:, 2], whole[:, 3:])
    loss.backward()  # type: ignore[no-untyped-call]
    found = {"loss": loss.detach()}
    for name in ("mixing", "tint", "background"):
        found[name] = getattr(scene, name).grad
    found["tau"] = torch.stack([s[0].detach().sum(1, keepdim=True) for s in samples])
    for tile in range(K):
        for name, leaf in (("density", scene.density[tile]), ("paint", scene.paint[tile])):
            assert leaf.grad is not None
            found[f"{name}{tile}"] = leaf.grad
    return found


def work(folder: Path) -> None:
    """Be one process of the test: all cases, the smaller ones in subgroups."""
    found = {}
    with joined("cpu") as world:
        for size in {R for R, _ in CASES if R > 1}:
            group = torch.distributed.new_group(list(range(size)))
            if world.rank >= size:
                continue
            ranks = Ranks(world.rank, size, world.device, world.threads, group)
            for _, K in filter(lambda case: case[0] == size, CASES):
                for name, value in train_step(Scene.of(K), Gather(ranks, K)).items():
                    found[f"{size}/{K}/{name}"] = value.contiguous()
        save_file(found, folder / f"{world.rank}.safetensors")


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, as_ranks: Callable[[str, Path, int], None]
) -> list[dict[str, Tensor]]:
    """Collect what each of four gloo processes found in the cases of more than one rank."""
    folder = tmp_path_factory.mktemp("exchange")
    as_ranks(__file__, folder, LARGEST)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(LARGEST)]


@pytest.mark.parametrize(("R", "K"), CASES)
def test_any_tiles_on_any_ranks_are_one_process(
    R: int, K: int, results: list[dict[str, Tensor]]
) -> None:
    expected = oracle(K)
    if R == 1:
        seen = [train_step(Scene.of(K), Gather(Ranks(), K))]
    else:
        prefix = f"{R}/{K}/"
        seen = [
            {name.removeprefix(prefix): v for name, v in result.items() if name.startswith(prefix)}
            for result in results[:R]
        ]
    # Every tile's gradient is found on exactly one rank, the rest on all of them.
    tiles = sorted(name for found in seen for name in found if name[-1].isdecimal())
    assert tiles == sorted(name for name in expected if name[-1].isdecimal())
    for found in seen:
        assert {"loss", "mixing", "tint", "background", "tau"} <= found.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-14, msg=name)
        assert torch.equal(found["loss"], seen[0]["loss"])


def test_the_last_tile_is_met_by_no_ray_and_gets_zero_gradient() -> None:
    assert not oracle(4)["density3"].any()
    assert oracle(4)["density0"].any()


def test_one_rank_keeps_what_it_has() -> None:
    own = torch.ones(3, 2, 6, requires_grad=True)
    assert Gather(Ranks(), 3)(own) is own


def test_a_missing_shared_gradient_becomes_zeros_on_one_rank_too() -> None:
    parameter = torch.ones(2, requires_grad=True)
    Gather(Ranks(), 3).sum_shared_gradients([parameter])
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [0, 0]


@given(st.integers(1, 300), st.data())
def test_owner_shares_every_tile_once_and_evenly(K: int, data: st.DataObject) -> None:
    R = data.draw(st.integers(1, K))
    shares = owner(K, R)
    assert sorted(tile for share in shares for tile in share) == list(range(K))
    assert all(list(share) == sorted(share) for share in shares)
    assert len(shares) == R
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert min(map(len, shares)) >= 1


def test_neighbours_are_dealt_to_several_ranks() -> None:
    assert owner(4, 2) == ((0, 3), (1, 2))
    assert owner(5, 3) == ((0,), (1, 4), (2, 3))


def test_more_ranks_than_tiles_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        owner(4, 5)
    assert str(caught.value) == (
        "5 processes cannot share 4 tiles: every process owns at least one, so pass --nproc 4 or "
        "fewer, or plan more tiles."
    )


if __name__ == "__main__":
    work(Path(sys.argv[1]))
