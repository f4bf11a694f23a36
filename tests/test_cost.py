"""The model counts by hand what can be counted by hand, and obeys the laws of its equations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nerfxl.cost import (
    EXCHANGES,
    Cost,
    Exchange,
    Fabric,
    FabricName,
    Link,
    Load,
    Machine,
    Message,
    Work,
    calibrated,
    cost,
    count,
    cpu,
    cuda,
    fabric,
    imbalance,
    ladder,
    measured_fabric,
)
from nerfxl.errors import UserError
from nerfxl.exchange import deal
from nerfxl.partition import Node, Plan, plan
from nerfxl.rays import Box, Rays

CUBE = Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
# Two tiles, x < 0 and x >= 0.
HALVES = Plan(CUBE, False, (Node(0, 0.0, ~0, ~1),))
# Along x through both tiles, along y through the upper one, and past the box.
RAYS = Rays(
    torch.tensor([[-3.0, 0, 0], [0.5, -3, 0], [0.0, 0, 5], [0.5, 3, 0]]),
    torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0]]),
)
# 100 rays: 100 crossings of the first tile, 60 of the second; 400 and 200 samples.
LOAD = Load(100, torch.tensor([100.0, 60.0]).double(), torch.tensor([400.0, 200.0]).double(), 2)
WORK = Work(parameters=1000, shared=10, images=5000, sample_bytes=30, libraries=7, proposal=True)
MACHINE = Machine("slow", 0.0, 100.0, 1000.0, 1000.0, 0.5, None, "by hand")
FREE = Fabric("free", 8, Link(math.inf, 0.0), Link(math.inf, 0.0), 0.0, 0.0, "by hand")


def of(exchange: Exchange, ranks: int = 2, work: Work = WORK, load: Load = LOAD) -> Cost:
    return cost(exchange, deal(len(load.samples), ranks), load, work, MACHINE, FREE)


def random_load(tiles: int, rays: int = 3000) -> tuple[Plan, Load]:
    draw = torch.Generator().manual_seed(tiles)
    cut = plan(torch.randn(5000, 3, generator=draw) / 3, CUBE, tiles, open=True)
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, generator=draw), dim=1)
    seen = Rays(torch.rand(rays, 3, generator=draw) - 0.5, directions)
    return cut, count(cut, seen, 0.02, 200.0, 0.1, 24)


def test_rays_are_counted_by_hand() -> None:
    found = count(HALVES, RAYS, 0.0, 10.0, 1e6, 8)
    # The third ray meets no tile. So long a spacing makes even steps: the first ray has 8 samples
    # and one more at the face, 4.5 on each side; the other two have 8 in the upper tile.
    assert (found.rays, found.most) == (4, 2)
    assert found.crossings.tolist() == [1, 3]
    assert found.samples.tolist() == pytest.approx([4.5, 20.5], rel=1e-4)


@pytest.mark.parametrize("tiles", [1, 37, 1024])
def test_a_ray_through_m_tiles_has_a_sample_more_for_each_face(tiles: int) -> None:
    _, load = random_load(tiles)
    assert load.crossings.shape == (tiles,)
    expected = 24 * load.rays + float(load.crossings.sum()) - load.rays
    assert float(load.samples.sum()) == pytest.approx(expected, rel=1e-9)


def test_rays_are_counted_alike_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = random_load(16, 100)
    monkeypatch.setattr("nerfxl.cost.PAIRS_AT_ONCE", 16 * 7)
    _, chunks = random_load(16, 100)
    assert torch.equal(whole.crossings, chunks.crossings)
    torch.testing.assert_close(whole.samples, chunks.samples)
    near = torch.zeros(4)
    near[0] = 3.5  # the first ray now starts in the upper tile
    assert count(HALVES, RAYS, near, 10.0, 0.1, 8).crossings.tolist() == [0, 3]


def test_lambda_is_the_busiest_over_the_mean() -> None:
    # Dealt out as 0 1 1 0: ranks hold 4 + 1 and 2 + 1 of 8 samples, 4 on average.
    assert imbalance(torch.tensor([4.0, 2, 1, 1]), deal(4, 2)) == pytest.approx(5 / 4)
    assert imbalance(torch.ones(8), deal(8, 4)) == 1


# By hand, two ranks with a tile each. A rank lacks 60 or 100 crossings: gather brings the second
# 100 of 4 + 24 bytes; samples brings it 100 of 4, and 400 samples of 24. With owner half of the
# crossings are at home: the first owns 50 of the other's rays (56, 12, 24 bytes), and the second
# lacks 50 of the crossings of its own rays (4, 24 bytes).
BY_HAND = {"gather": 2800.0, "samples": 10_000.0, "owner": 50 * 92 + 50 * 28.0}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_bytes_by_hand(exchange: Exchange) -> None:
    found = of(exchange)
    assert found.rays == (50 if exchange == "owner" else 100)
    assert found.received_a_ray == pytest.approx(BY_HAND[exchange] / found.rays)
    # Of the shared gradients, 10 floats a tile, a rank gets half of the other's, then the other
    # half of the sum; and 16 bytes of flags.
    assert found.received == pytest.approx(BY_HAND[exchange] + 20 + 20 + 16)
    assert len(found.messages) == (8 if exchange == "owner" else 5)


def test_the_owner_moves_120_bytes_a_crossing_in_all() -> None:
    # Many even tiles on as many ranks: almost every crossing is another rank's.
    even = Load(10_000, torch.full((1000,), 20.0).double(), torch.ones(1000).double(), 2)
    found = of("owner", 1000, load=even)
    crossings_a_ray = 2
    assert found.received_a_ray == pytest.approx(120 * crossings_a_ray, rel=2e-3)
    ways = {"there": 0.0, "back": 0.0}
    for message in found.messages[:5]:
        back = message.name in ("proposals", "segments")
        ways["back" if back else "there"] += message.received
    assert ways["back"] / ways["there"] == pytest.approx(28 / 92)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_without_proposals_nothing_is_said_of_them(exchange: Exchange) -> None:
    less = of(exchange).received - of(exchange, work=replace(WORK, proposal=False)).received
    # 4 bytes a crossing, and 12 more with owner.
    assert less == pytest.approx({"gather": 400, "samples": 400, "owner": 50 * 16}[exchange])


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_one_rank_sends_nothing_and_is_the_measure_of_efficiency(exchange: Exchange) -> None:
    found = of(exchange, 1)
    assert found.messages == ()
    assert (found.received, found.exchanging, found.imbalance) == (0, 0, 1)
    assert found.efficiency == pytest.approx(1)


def test_seconds_by_hand() -> None:
    found = of("gather").computing
    # 400 samples at 100 a second; a tile of 1,000 parameters at 1,000; two tiles at 0.5 s and
    # 100 rays of each at 1,000 a second.
    assert (found.field, found.optimiser, found.rays) == pytest.approx((4, 1, 1.2))
    assert of("owner").computing.rays == pytest.approx(1.1)  # half of the rays
    # Alone: 600 samples, two tiles, all rays: 6 + 2 + 1.2 s.
    assert of("gather").efficiency == pytest.approx(9.2 / (2 * 6.2))


def test_memory_by_hand() -> None:
    found = of("owner").memory
    assert found.parameters == 1010 * 16  # a tile and what is shared, four copies of four bytes
    assert (found.images, found.samples, found.libraries) == (2500, 400 * 30, 7)
    assert found.total == sum((found.parameters, 2500, 12_000, 7, found.rays))
    assert of("gather").memory.images == 5000  # every rank draws every ray


def test_ranks_that_share_cores_take_turns() -> None:
    _, load = random_load(8)

    def seconds(ranks: int, cores: int | None) -> float:
        machine = replace(MACHINE, cores=cores)
        return cost("owner", deal(8, ranks), load, WORK, machine, FREE).computing.total

    assert seconds(2, 2) == pytest.approx(seconds(2, None))
    assert seconds(1, 2) == pytest.approx(seconds(1, None) / 2)  # two threads
    assert seconds(4, 2) >= seconds(4, 4)
    # Work that does not grow with ranks takes no less on two cores however many share it.
    assert seconds(8, 2) >= seconds(1, 2) * (1 - 1e-12)


def test_efficiency_is_one_over_lambda_where_nothing_else_takes_time() -> None:
    _, load = random_load(64)
    for ranks in ladder(64):
        for exchange in EXCHANGES:
            field_only = replace(MACHINE, parameters=math.inf, pairs=math.inf, tile_seconds=0.0)
            bare = cost(exchange, deal(64, ranks), load, WORK, field_only, FREE)
            assert bare.efficiency == pytest.approx(1 / bare.imbalance)


def test_gather_grows_with_tiles_and_owner_does_not() -> None:
    # The law that the exchange by owner is for: bytes a ray and rank as R = K grows, lambda aside.
    def received(exchange: Exchange, tiles: int) -> float:
        crossings = torch.full((tiles,), 8192 * tiles * 3 / tiles).double()  # 3 tiles on a ray
        load = Load(8192 * tiles, crossings, crossings * 8, 3)
        return cost(exchange, deal(tiles, tiles), load, WORK, cuda(), FREE).received

    assert received("owner", 512) == pytest.approx(received("owner", 64), rel=0.02)
    assert received("gather", 512) == pytest.approx(8 * received("gather", 64), rel=0.02)
    assert received("samples", 512) > received("gather", 512)


NAMES: tuple[FabricName, ...] = ("nvlink", "infiniband", "ethernet", "loopback")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["gather", "swap", "reduce"])
def test_messages_take_longer_on_more_ranks_and_with_more_bytes(
    name: FabricName, kind: str
) -> None:
    wires = fabric(name, 8)
    assert kind in ("gather", "swap", "reduce")
    small = Message("x", kind, 16)  # type: ignore[arg-type]
    times = [wires.seconds(small, ranks) for ranks in ladder(1024)]
    assert times[0] == 0
    assert times == sorted(times)
    assert wires.seconds(replace(small, received=1e9), 64) > wires.seconds(small, 64)


def test_wires_by_hand() -> None:
    wires = Fabric("x", 4, Link(100.0, 1.0), Link(10.0, 10.0), 0.5, 0.25, "by hand")
    # 2 ranks: one step inside, 10 bytes at 100 a second; a reduction goes there and back.
    assert wires.seconds(Message("x", "gather", 10), 2) == pytest.approx(0.5 + 1 + 0.1)
    assert wires.seconds(Message("x", "reduce", 10), 2) == pytest.approx(0.5 + 2 + 0.1)
    # 8 ranks on 2 machines: 2 steps inside, 1 between; 4 of 7 other ranks are on the other one.
    # Those 400 of 700 bytes enter over 4 wires of 10, slower than 700 inside at 100.
    assert wires.seconds(Message("x", "gather", 700), 8) == pytest.approx(0.5 + 12 + 10)
    # A swap speaks to 7 others; each rank's 400 bytes come over its own wire.
    assert wires.seconds(Message("x", "swap", 700), 8) == pytest.approx(0.5 + 10 + 7 / 4 + 40)


def test_ethernet_is_shared_by_the_ranks_of_a_machine() -> None:
    message = Message("x", "swap", 1e9)
    alone, eight = (fabric("ethernet", node).seconds(message, 64) for node in (1, 8))
    assert eight > 6 * alone


def test_a_message_ahead_costs_no_time() -> None:
    found = cost("owner", deal(2, 2), LOAD, WORK, MACHINE, fabric("ethernet", 1))
    wires = fabric("ethernet", 1)
    rest = [message for message in found.messages if message.name != "rays"]
    assert found.exchanging == pytest.approx(sum(wires.seconds(m, 2) for m in rest))
    assert found.messages[0].ahead


def test_calibrated_at_one_rank_the_model_says_what_was_measured() -> None:
    _, load = random_load(4)
    work = replace(WORK, parameters=1_900_000)
    machine = calibrated(cpu(2), 0.25, load, work)
    one_core = replace(machine, cores=1)
    alone = cost("gather", [range(4)], load, work, one_core, FREE)
    assert alone.seconds == pytest.approx(0.25)
    # Where ranks share the work evenly, two take half of all but the overhead, and the messages.
    even = replace(load, samples=torch.full((4,), float(load.samples.mean())).double())
    wires = measured_fabric(latency=1e-3, bandwidth=1e9)
    two = cost("owner", deal(4, 2), even, work, calibrated(cpu(2), 0.25, even, work), wires)
    assert two.computing.total == pytest.approx(0.01 + 0.24 / 2, rel=0.01)
    sent = two.received - two.messages[0].received
    assert two.exchanging == pytest.approx(6 * 1e-3 + 1.5e-3 + sent / 1e9)


def test_a_step_too_short_for_the_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"--step-seconds 1e-06 is too short: .* take 3\.2 s"):
        calibrated(MACHINE, 1e-6, LOAD, WORK)


def test_what_is_assumed_says_so() -> None:
    assert "untried" in cuda().source
    assert "measured" in cpu(None).source
    assert all("untried" in fabric(name, 8).source for name in NAMES if name != "loopback")
