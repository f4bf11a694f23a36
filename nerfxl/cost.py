"""What a step costs each of R ranks: seconds, bytes and memory, as a model of what is counted.

NeRF-XL (arXiv 2404.16221, sec. 4) exchanges results of tiles in place of samples, and names uneven
work as what then limits it. Both are counted here, on the plan at hand and random training rays
(`count`), and turned into seconds:

    T(R)  = W(R) + sum over messages, those that travel beside computing apart, of
            latency(R) + bytes / bandwidth
    W(R)  = o                           what a step takes however little there is to do
          + lambda S / (R s)            the field at S samples, by the rank that has most
          + k(R) P / p                  the optimiser, on the P parameters of k tiles
          + K (a + n / q)               n rays taken through all K tiles

    lambda = samples of the busiest rank / their mean over ranks

The constants o, s, p, a, q are a `Machine`'s, latency and bandwidth a `Fabric`'s. n is all N rays
with `gather` and `samples`, where every rank draws and composes the whole batch, and N / R with
`owner`: what does not shrink with R is what keeps the first two from large R. Efficiency is the
seconds of one core or GPU that does the whole step, over those that R of them spend together.

A crossing is a ray that meets a tile. Of each, in float32:

    gather   4 bytes of the proposal's optical depth, then a Segment of 24, to every rank; nothing
             backward (NeRF-XL sec. 4.3)
    samples  4 bytes, then 24 of each of its samples, to every rank (NeRF-XL sec. 4.2)
    owner    to the rank that owns the tile: 56 that name, place and cut the ray, sent ahead while
             the step before computes; 4 back; 12, where its samples go; 24 back; 24, the gradient

without the 4 and 12 where no proposal says where samples go. With each come the gradients of what
all tiles share, a set a tile, summed in the order of tiles (a swap, then a gather), and the flags
by which ranks agree. Nothing that a rank would send to itself is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nerfxl.errors import UserError
from nerfxl.partition import Plan
from nerfxl.rays import SEGMENT_WIDTH, Rays

FLOAT = 4  # bytes
COPIES = 4  # of a parameter in training: its weight, its gradient and Adam's two moments
TAU_BYTES = FLOAT
SEGMENT_BYTES = SEGMENT_WIDTH * FLOAT
SAMPLE_BYTES = 6 * FLOAT  # optical depth, middle, width, colour
RAY_BYTES = 8 + 12 * FLOAT  # a key; origin, direction, first, span, enter, leave, two of jitter
PART_BYTES = 3 * FLOAT  # what lies in front of the tile, and its part of the ray's samples
FLAG_BYTES = 16
PAIR_BYTES = 112  # counted: cuts, order, shares of samples and Segments of one ray and tile
PAIRS_AT_ONCE = 2**22  # bounds the memory of counting to some 200 MiB

Exchange = Literal["gather", "owner", "samples"]
EXCHANGES: tuple[Exchange, ...] = ("gather", "owner", "samples")
FabricName = Literal["nvlink", "infiniband", "ethernet", "loopback"]
Shares = Sequence[Sequence[int]]  # the tiles of each rank


@dataclass(frozen=True, eq=False)
class Load:
    """What a batch of rays asks of each tile.

    crossings: [K] float64, how many of the rays meet it. samples: [K] float64, of the field in it.
    most: tiles on one ray, at most.
    """

    rays: int
    crossings: Tensor
    samples: Tensor
    most: int

    def of(self, rays: int) -> Load:
        """The same for another number of such rays."""
        factor = rays / self.rays
        return Load(rays, self.crossings * factor, self.samples * factor, self.most)


@dataclass(frozen=True)
class Work:
    """What a scene asks of a step, beside its rays.

    parameters, shared: of one tile, and of what all tiles share. images, libraries: bytes of the
    photographs, and of a process that does nothing. sample_bytes: of memory, a sample. proposal:
    whether samples go where proposals say.
    """

    parameters: int
    shared: int
    images: int
    sample_bytes: int
    libraries: int
    proposal: bool


@dataclass(frozen=True)
class Memory:
    """An estimate in bytes, of one rank in training; rays: of what it keeps a ray and tile."""

    parameters: int
    images: int
    samples: int
    libraries: int = 0
    rays: int = 0

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.parameters + self.images + self.samples + self.libraries + self.rays


@dataclass(frozen=True)
class Machine:
    """How fast one core or GPU computes.

    overhead: seconds of a step that do not shrink with its rays: drawing them, starting operations.
    samples: of the field a second, forward and backward, its share of a proposal's bins included.
    parameters: updated a second. pairs: of ray and tile a second, where a ray is taken through all
    tiles. tile_seconds: what each tile takes of that however few the rays. cores: those that all
    ranks share, None where each has its own. source: where the numbers come from.
    """

    name: str
    overhead: float
    samples: float
    parameters: float
    pairs: float
    tile_seconds: float
    cores: int | None
    source: str

    def at_once(self, ranks: int) -> int:
        """How many cores or GPUs R ranks use."""
        return ranks if self.cores is None else min(self.cores, ranks * self.threads(ranks))

    def threads(self, ranks: int) -> int:
        """How many of them each rank has to itself."""
        return 1 if self.cores is None else max(1, self.cores // ranks)


def cpu(cores: int | None) -> Machine:
    """A core of an AMD EPYC (Milan); cores: on the one machine that holds all ranks, or None.

    overhead, samples: scenes/university4.yaml, profile cpu, 200 steps as one process on one core:
    61.5 ms a step of 1,024 rays and 30.2 ms of 256, and the same with both cores at work; what is
    left at no rays, once the other terms are taken off, and 25,700 samples over the rest.
    parameters: the race `adam` of kernels/bench: 16.8 million in 39.5 ms of processor time.
    pairs, tile_seconds: intervals, order, shares and composing of 128 and 4,096 rays through 1,024
    tiles, in 0.18 and 1.63 s; of 4,096 rays through 256, in 0.19 s.
    """
    source = "measured on a core of an AMD EPYC"
    return Machine("cpu", 10e-3, 620e3, 400e6, 4e6, 100e-6, cores, source)


def cuda() -> Machine:
    """An H100-like GPU: an assumption, untried.

    overhead: some 300 operations that Python starts, at 10 microseconds. samples: half the speed of
    the floor by traffic of caches and memory, 0.65 ms a step of 2^18 samples of the default field.
    parameters: half of what 3.2 TB/s give at 32 bytes each. pairs: a few hundred bytes of traffic
    each, at the same half. tile_seconds: some 19 small kernels that the walk through the plan
    starts a tile, at 4 microseconds.
    """
    source = "ASSUMED, untried: half the speed of an H100's floors"
    return Machine("cuda", 3e-3, 200e6, 50e9, 5e9, 76e-6, None, source)


@dataclass(frozen=True)
class Link:
    """A way between two ranks. bandwidth: bytes a second into a rank. hop: seconds."""

    bandwidth: float
    hop: float


@dataclass(frozen=True)
class Fabric:
    """What connects the ranks.

    node: ranks on one machine. inside, between: links within a machine and from one to another.
    start: seconds before the first byte of any message. post: seconds for each other rank that a
    swap addresses. source: where the numbers come from.
    """

    name: str
    node: int
    inside: Link
    between: Link
    start: float
    post: float
    source: str

    def latency(self, kind: str, ranks: int) -> float:
        """Seconds of a message without content.

        A gather and a reduction go through a tree in each machine and one over the machines: log2
        steps, twice for a reduction, there and back. A swap speaks to every other rank itself.
        """
        n = min(self.node, ranks)
        machines = -(-ranks // n)
        if kind == "swap":
            farthest = self.between.hop if machines > 1 else self.inside.hop
            return self.start + farthest + self.post * (ranks - 1)
        steps = self.inside.hop * _log2(n) + self.between.hop * _log2(machines)
        return self.start + steps * (2 if kind == "reduce" else 1)

    def seconds(self, message: Message, ranks: int) -> float:
        """Seconds of a message; inside and between, bytes travel at the same time.

        What all ranks receive enters a machine once, over the links of all its ranks.
        """
        if ranks == 1:
            return 0.0
        n = min(self.node, ranks)
        foreign = message.received * (ranks - n) / (ranks - 1)
        if message.kind == "swap":
            within, wires = message.received - foreign, 1
        else:
            within, wires = message.received, n
        travel = max(within / self.inside.bandwidth, foreign / (wires * self.between.bandwidth))
        return self.latency(message.kind, ranks) + travel


def fabric(name: FabricName, node: int) -> Fabric:
    """A fabric by name; node: ranks on one machine.

    Bandwidths are those on the data sheets: NVLink 4, 450 GB/s each way; NDR InfiniBand, 400 Gb/s a
    GPU; PCIe 5.0 and 4.0 with 16 lanes, 50 and 25 GB/s as usually reached; Ethernet, 100 Gb/s a
    machine, shared by its ranks. Seconds a start, hop and post are assumed, in the range usual for
    NCCL: 10 to 20 microseconds for a small collective on one machine, about twice that on many.
    `loopback` was measured: gloo between processes of one machine, an AMD EPYC. Idle, 2 ranks
    gather in 0.48 ms, swap in 0.30 ms and receive 1 GB/s; within steps, 1.6 ms pass at each
    message until both have come and gone: that is what a step pays, so that counts.
    """
    sheets = "bandwidths of data sheets, latencies ASSUMED, untried"
    if name == "loopback":
        link = Link(1e9, 1.4e-3)
        return Fabric(name, 2**31, link, link, 200e-6, 0.0, "measured with gloo, within steps")
    if name == "nvlink":
        return Fabric(name, node, Link(450e9, 1.5e-6), Link(50e9, 5e-6), 8e-6, 0.5e-6, sheets)
    if name == "infiniband":
        return Fabric(name, node, Link(50e9, 3e-6), Link(50e9, 5e-6), 8e-6, 0.5e-6, sheets)
    shared = Link(12.5e9 / node, 20e-6)
    return Fabric(name, node, Link(25e9, 3e-6), shared, 20e-6, 2e-6, sheets)


def measured_fabric(latency: float, bandwidth: float) -> Fabric:
    """Make a fabric of what 2 ranks on one machine were seen to need.

    latency: seconds of a small gather. bandwidth: bytes a second into a rank.
    """
    link = Link(bandwidth, latency / 2)
    return Fabric("measured", 2**31, link, link, latency / 2, 0.0, "measured")


def calibrated(machine: Machine, step_seconds: float, load: Load, work: Work) -> Machine:
    """The machine whose samples a second make one core or GPU take as long as was measured.

    Raises
    ------
    UserError: the other terms alone take longer.
    """
    one = replace(machine, cores=1, samples=math.inf)
    alone = _computing(one, work, load, load.rays, [range(len(load.samples))]).total
    if step_seconds <= alone:
        raise UserError(
            f"--step-seconds {step_seconds:g} is too short: optimiser and rays alone take "
            f"{alone:.3g} s in this model; pass the seconds of a step of one process."
        )
    rate = float(load.samples.sum()) / (step_seconds - alone)
    return replace(machine, samples=rate, source=f"calibrated: one takes {step_seconds:g} s a step")


@dataclass(frozen=True)
class Message:
    """One collective of a step.

    kind: a `gather` brings every rank the same, a `swap` each its own, a `reduce` a sum. received:
    bytes, by the rank that receives most. ahead: it travels while the step before computes.
    """

    name: str
    kind: Literal["gather", "swap", "reduce"]
    received: float
    ahead: bool = False


@dataclass(frozen=True)
class Computing:
    """Seconds of W(R): overhead, the field at samples, the optimiser, rays through all tiles."""

    overhead: float
    field: float
    optimiser: float
    rays: float

    @property
    def total(self) -> float:
        """Of all four."""
        return self.overhead + self.field + self.optimiser + self.rays

    def over(self, cores: int) -> Computing:
        """The same, shared out evenly."""
        shared = (self.overhead, self.field, self.optimiser, self.rays)
        return Computing(*(seconds / cores for seconds in shared))


@dataclass(frozen=True)
class Cost:
    """What a step costs a rank.

    rays: that it loads. samples: the mean over ranks; imbalance: lambda. exchanging: seconds.
    efficiency: see the module.
    """

    exchange: Exchange
    ranks: int
    rays: float
    samples: float
    imbalance: float
    messages: tuple[Message, ...]
    computing: Computing
    exchanging: float
    efficiency: float
    memory: Memory

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.computing.total + self.exchanging

    @property
    def received(self) -> float:
        """Bytes, by the rank that receives most."""
        return sum(message.received for message in self.messages)

    @property
    def received_a_ray(self) -> float:
        """Bytes received for each ray that the rank loads, what tiles share apart."""
        of_rays = [m.received for m in self.messages if m.name not in ("shared", "flags")]
        return sum(of_rays) / self.rays


@torch.no_grad()
def count(
    plan: Plan, rays: Rays, near: float | Tensor, far: float, spacing: float, samples: int
) -> Load:
    """Count what N rays ask of each tile.

    Parameters
    ----------
    near, far: as for `Plan.intervals`.
    spacing: scene units, the c of t(m) = c sinh(s_0 + m s_1).
    samples: S of a ray, spread evenly over m: as before anything is learned. A face between two
        tiles makes one more, so that a ray through m tiles has S + m - 1.
    """
    K, most = len(plan), 0
    crossings, found = (torch.zeros(K, dtype=torch.float64) for _ in range(2))
    start = torch.as_tensor(near).to(rays.origins).expand(len(rays))
    step = max(1, PAIRS_AT_ONCE // K)
    for first in range(0, len(rays), step):
        some = slice(first, first + step)
        ends = plan.intervals(rays[some], start[some], far)  # [K, n, 2]
        met = ends[..., 0] < ends[..., 1]
        s = torch.asinh(ends.double() / spacing)
        begin = torch.where(met, s[..., 0], torch.inf).amin(0)  # [n]
        end = torch.where(met, s[..., 1], -torch.inf).amax(0)
        outer = (s[..., 0] == begin).double() + (s[..., 1] == end).double()
        share = (s[..., 1] - s[..., 0]) / (end - begin)
        found += torch.where(met, (samples + 1) * share + 1 - outer, 0).sum(1)
        crossings += met.sum(1)
        most = max(most, int(met.sum(0).max()))
    return Load(len(rays), crossings, found, most)


def imbalance(samples: Tensor, shares: Shares) -> float:
    """Lambda, the busiest rank's samples over their mean; samples: [K] by tile."""
    held = _held(samples, shares)
    return float(held.max() / held.mean().clamp(min=1e-30))


def ladder(ranks: int) -> list[int]:
    """1, 2, 4, ... and at last R itself.

    >>> ladder(6)
    [1, 2, 4, 6]
    """
    return [2**power for power in range((ranks - 1).bit_length())] + [ranks]


def cost(
    exchange: Exchange, shares: Shares, load: Load, work: Work, machine: Machine, fabric: Fabric
) -> Cost:
    """What a step of `load` costs ranks that hold these shares of its tiles."""
    R, K = len(shares), len(load.samples)
    rays = load.rays / R if exchange == "owner" else float(load.rays)
    messages = tuple(_messages(exchange, shares, load, work)) if R > 1 else ()
    computing = _computing(machine, work, load, rays, shares)
    # Where ranks share cores, one that is not running cannot answer.
    late = 1.0 if machine.cores is None else max(1.0, R / machine.cores)
    waited = (fabric.seconds(message, R) for message in messages if not message.ahead)
    exchanging = late * sum(waited)
    alone = _computing(replace(machine, cores=1), work, load, load.rays, [range(K)]).total
    held = _held(load.samples, shares)
    images = work.images / R if exchange == "owner" else work.images
    memory = Memory(
        parameters=(_most(shares) * work.parameters + work.shared) * FLOAT * COPIES,
        images=math.ceil(images),
        samples=math.ceil(float(held.max()) * work.sample_bytes),
        libraries=work.libraries,
        rays=math.ceil(rays * K * PAIR_BYTES),
    )
    return Cost(
        exchange=exchange,
        ranks=R,
        rays=rays,
        samples=float(held.mean()),
        imbalance=imbalance(load.samples, shares),
        messages=messages,
        computing=computing,
        exchanging=exchanging,
        efficiency=alone / ((computing.total + exchanging) * machine.at_once(R)),
        memory=memory,
    )


def _computing(machine: Machine, work: Work, load: Load, rays: float, shares: Shares) -> Computing:
    """Seconds of the busiest rank, or of all cores where ranks have to take turns on them."""
    R, K = len(shares), len(load.samples)
    held = _held(load.samples, shares)
    through = K * (machine.tile_seconds + rays / machine.pairs)
    own = work.parameters / machine.parameters
    field = held / machine.samples
    busiest = Computing(machine.overhead, float(field.max()), _most(shares) * own, through)
    together = Computing(R * machine.overhead, float(field.sum()), K * own, R * through)
    both = busiest.over(machine.threads(R)), together.over(machine.at_once(R))
    return max(both, key=lambda computing: computing.total)


def _messages(exchange: Exchange, shares: Shares, load: Load, work: Work) -> Iterator[Message]:
    R, K = len(shares), len(load.samples)
    crossings, samples = _held(load.crossings, shares), _held(load.samples, shares)
    # What a rank gets of the others' tiles, and as their owner of the others' rays.
    foreign = float(crossings.sum() - crossings.min())
    coming = float(crossings.max()) * (1 - 1 / R)
    if exchange == "owner":
        yield Message("rays", "swap", RAY_BYTES * coming, ahead=True)
        if work.proposal:
            yield Message("proposals", "swap", TAU_BYTES * foreign / R)
            yield Message("places", "swap", PART_BYTES * coming)
        yield Message("segments", "swap", SEGMENT_BYTES * foreign / R)
        yield Message("gradients", "swap", SEGMENT_BYTES * coming)
    else:
        if work.proposal:
            yield Message("proposals", "gather", TAU_BYTES * foreign)
        if exchange == "gather":
            yield Message("segments", "gather", SEGMENT_BYTES * foreign)
        else:
            others = float(samples.sum() - samples.min())
            yield Message("samples", "gather", SAMPLE_BYTES * others)
    fewest = min(len(tiles) for tiles in shares)
    yield Message("shared", "swap", FLOAT * work.shared * (K - fewest) / R)
    yield Message("shared", "gather", FLOAT * work.shared * (R - 1) / R)
    yield Message("flags", "reduce", FLAG_BYTES)


def _held(by_tile: Tensor, shares: Shares) -> Tensor:
    """Sum what each rank holds: [K] -> [R]."""
    return torch.stack([by_tile[list(tiles)].sum() for tiles in shares])


def _most(shares: Shares) -> int:
    return max(len(tiles) for tiles in shares)


def _log2(count: int) -> int:
    return (count - 1).bit_length()
