"""Resampling: a ray has the same samples however many tiles it is cut into."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfxl_kernels.backend import Backend, use
from nerfxl_kernels.march import march
from nerfxl_kernels.resample import interlevel, optical_depth, resample
from torch import Tensor

from tests.kernels.backends import BACKENDS, DTYPES, FAST, random

RAYS = pytest.mark.parametrize("rays", [0, 1, 63, 300], ids=lambda n: f"P{n}")


class Asked(NamedTuple):
    """`resample`'s tensors."""

    m0: Tensor
    m1: Tensor
    depth: Tensor
    offsets: Tensor
    before: Tensor
    stretch: Tensor
    jitter: Tensor


def asked_of(rays: int, dtype: torch.dtype = torch.float64, bins: int = 16) -> Asked:
    """Stretches of any rays, a third of them empty, with random depths, some of them zero."""
    enter, leave = random(rays, 2, seed=1, dtype=dtype).sort(1).values.unbind(1)
    leave = torch.where(torch.arange(rays) % 3 == 1, enter, leave)
    offsets, m0, m1 = march(enter, leave, random(rays, seed=2, dtype=dtype), bins)
    light = random(len(m0), seed=3) > 0.3
    depth = random(len(m0), seed=4, dtype=dtype) * light
    stretch = random(rays, 2, seed=5).sort(1).values
    stretch[::5, 0] = 0
    stretch[::7, 1] = 1
    before, jitter = random(rays, seed=6, dtype=dtype), random(rays, seed=7, dtype=dtype)
    return Asked(m0, m1, depth, offsets, before, stretch, jitter)


@DTYPES
@RAYS
@FAST
@pytest.mark.parametrize(("bins", "samples"), [(16, 1), (16, 20), (100, 70)], ids=str)
@pytest.mark.usefixtures("poison")
def test_parity(backend: Backend, rays: int, bins: int, samples: int, dtype: torch.dtype) -> None:
    asked = asked_of(rays, dtype, bins)
    with use("reference"):
        expected = resample(*asked, samples, 0.1)
    with use(backend):
        found = resample(*asked, samples, 0.1)
    assert found[0].dtype == torch.int64
    assert torch.equal(found[0], expected[0])
    # The cumulated p, up to 1.1, is rounded bin by bin, and dm = dp / p with p >= 0.1, the padding.
    atol = 2 * bins * torch.finfo(dtype).eps / 0.1
    for name, a, b in zip(("m0", "m1"), found[1:], expected[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol, msg=name)


@BACKENDS
def test_rays_without_any_bin(backend: Backend) -> None:
    nothing, zero = torch.zeros(0), torch.zeros(4)
    stretch, offsets = float64(0.2, 0.8).expand(4, 2), torch.zeros(5, dtype=torch.int64)
    with use(backend):
        offsets, m0, m1 = resample(
            *Asked(nothing, nothing, nothing, offsets, zero, stretch, zero), samples=8, padding=0.1
        )
    assert offsets.tolist() == [0] * 5
    assert m0.shape == m1.shape == (0,)


def float64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def one_tile(
    edges: list[float], depth: list[float], jitter: float, samples: int, padding: float
) -> list[float]:
    """The edges of the samples of a ray that lies in one tile."""
    m, one = float64(*edges), float64(1)
    bins = torch.tensor([0, len(depth)])
    stretch = float64(0, 1)[None]
    asked = Asked(m[:-1], m[1:], float64(*depth), bins, one, stretch, jitter * one)
    offsets, m0, m1 = resample(*asked, samples, padding)
    assert offsets.tolist() == [0, samples]
    assert torch.equal(m0[1:], m1[:-1])
    return [*m0[:1].tolist(), *m1.tolist()]


@BACKENDS
def test_without_light_samples_are_even(backend: Backend) -> None:
    # p is the padding: edge j at (j + 1/2) / 4.
    with use(backend):
        found = one_tile([0, 0.25, 1], [0, 0], 0.5, 3, 0.7)
    assert found == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=1e-15)


@BACKENDS
def test_samples_go_where_light_ends(backend: Backend) -> None:
    # Weights 1/2 and 1/2 - e^-50 on [0, 1/4] and [3/4, 1], next to no padding: the cumulated p is
    # (0, 1/2, 1/2, 1) at (0, 1/4, 3/4, 1). Shares 1/8, 3/8, 5/8, 7/8.
    with use(backend):
        found = one_tile([0, 0.25, 0.75, 1], [math.log(2), 0, 50], 0.5, 3, 1e-12)
    assert found == pytest.approx([1 / 16, 3 / 16, 13 / 16, 15 / 16], abs=1e-9)


class Cut(NamedTuple):
    """One ray cut into tiles, each a row of samples' edges; and the tiles' ends of shares."""

    edges: list[list[float]]
    ends: list[float]


def sample_tiles(
    edges: list[float],
    depth: list[float],
    cuts: list[int],
    jitter: float,
    samples: int,
    padding: float,
) -> Cut:
    """Cut a ray's bins before the bins `cuts`, share the samples out as a renderer does, draw.

    Each tile is a ray to `resample`. All a tile knows of the others is their tau and width.
    """
    ends = [0, *sorted(set(cuts)), len(depth)]
    m, tau_of_bin = float64(*edges), float64(*depth)
    offsets = torch.tensor(ends)
    tau = optical_depth(tau_of_bin, offsets)
    in_front = torch.nn.functional.pad(tau, (1, 0))[:-1].cumsum(0)
    before = torch.exp(-in_front)
    mass = before * -torch.expm1(-tau) + padding * (m[offsets[1:]] - m[offsets[:-1]])
    end = mass.cumsum(0) / mass.sum()
    end[-1] = 1
    stretch = torch.stack([torch.nn.functional.pad(end, (1, 0))[:-1], end], 1)
    shift = torch.full_like(before, jitter)
    asked = Asked(m[:-1], m[1:], tau_of_bin, offsets, before, stretch, shift)
    packed, m0, m1 = resample(*asked, samples, padding)
    rows = []
    for a, b in zip(packed.tolist(), packed.tolist()[1:], strict=False):
        assert torch.equal(m0[a + 1 : b], m1[a : b - 1] if b > a else m1[:0])
        rows.append([*m0[a:b].tolist()[:1], *m1[a:b].tolist()])
    return Cut(rows, end.tolist())


def distinct(edges: list[float]) -> list[float]:
    """Sorted, with those that differ by rounding only once."""
    out: list[float] = []
    for edge in sorted(edges):
        if not out or edge - out[-1] > 1e-9:
            out.append(edge)
    return out


@st.composite
def rays(draw: st.DrawFn) -> tuple[list[float], list[float], list[int]]:
    """Ends of bins in [0, 1], their depths, and where tiles begin."""
    count = draw(st.integers(1, 12))
    widths = draw(st.lists(st.integers(1, 100), min_size=count, max_size=count))
    edges = [sum(widths[:i]) / sum(widths) for i in range(count + 1)]
    depth = draw(st.lists(st.just(0.0) | st.floats(1e-6, 30), min_size=count, max_size=count))
    cuts = draw(st.lists(st.integers(1, count - 1), max_size=4)) if count > 1 else []
    return edges, depth, cuts


jitters = st.floats(0, 1, exclude_max=True)
paddings = st.sampled_from([0.01, 0.1, 1.0])
LAW = settings(max_examples=50, deadline=None)


@given(rays(), jitters, st.integers(1, 20), paddings)
@BACKENDS
@LAW
def test_tiles_add_their_faces_and_nothing_else(
    backend: Backend,
    ray: tuple[list[float], list[float], list[int]],
    jitter: float,
    samples: int,
    padding: float,
) -> None:
    edges, depth, cuts = ray
    with use(backend):
        (whole,) = sample_tiles(edges, depth, [], jitter, samples, padding).edges
        tiles = sample_tiles(edges, depth, cuts, jitter, samples, padding)
    assert len(whole) == samples + 1
    faces = [edges[cut] for cut in cuts if whole[0] < edges[cut] < whole[-1]]
    found = distinct([edge for tile in tiles.edges for edge in tile])
    # The cumulated p is rounded to some 1e-15, and dm = dp / p with p >= 0.01.
    assert found == pytest.approx(distinct([*whole, *faces]), abs=1e-11)


@given(rays(), jitters, st.integers(1, 20), paddings)
@BACKENDS
@LAW
def test_a_ray_has_one_sample_more_for_each_face_it_crosses(
    backend: Backend,
    ray: tuple[list[float], list[float], list[int]],
    jitter: float,
    samples: int,
    padding: float,
) -> None:
    edges, depth, cuts = ray
    with use(backend):
        tiles = sample_tiles(edges, depth, cuts, jitter, samples, padding)
    # Edges in front of each inner face: j with (j + jitter) / (N + 1) < share.
    passed = [math.ceil(end * (samples + 1) - jitter) for end in tiles.ends[:-1]]
    crossed = sum(0 < edges_in_front < samples + 1 for edges_in_front in passed)
    assert sum(max(len(tile) - 1, 0) for tile in tiles.edges) == samples + crossed


@given(rays(), jitters, st.integers(1, 20), paddings)
@BACKENDS
@LAW
def test_samples_ascend_within_their_tile_and_meet_at_faces(
    backend: Backend,
    ray: tuple[list[float], list[float], list[int]],
    jitter: float,
    samples: int,
    padding: float,
) -> None:
    edges, depth, cuts = ray
    with use(backend):
        tiles = sample_tiles(edges, depth, cuts, jitter, samples, padding).edges
    ends = [edges[i] for i in (0, *sorted(set(cuts)), len(depth))]
    for tile, low, high in zip(tiles, ends, ends[1:], strict=False):
        assert tile == sorted(tile)
        assert all(low <= edge <= high for edge in tile)
    drawn = [tile for tile in tiles if tile]
    for front, behind in pairwise(drawn):
        assert front[-1] == behind[0]  # bit for bit: the face is one number


@BACKENDS
@pytest.mark.parametrize(
    ("depth", "counts"),
    [
        ([0.0, 50.0, 1.0], [0, 8, 0]),  # empty; a wall; nothing is seen behind it
        ([50.0, 50.0, 50.0], [8, 0, 0]),
        ([math.log(2), 0.0, 50.0], [5, 1, 4]),  # half the light each, and one sample to join them
        ([0.0, 0.0, 50.0], [0, 0, 8]),
    ],
    ids=str,
)
def test_a_tile_that_no_light_reaches_has_no_samples(
    backend: Backend, depth: list[float], counts: list[int]
) -> None:
    # Faces at 1/3 and 2/3, no padding to speak of, 9 edges at shares (j + 1/2) / 9: the middle one
    # is at 1/2, and a padding of 1e-6 moves it to the front half.
    with use(backend):
        tiles = sample_tiles([0, 1 / 3, 2 / 3, 1], depth, [1, 2], 0.5 - 1e-3, 8, 1e-6).edges
    assert [max(len(tile) - 1, 0) for tile in tiles] == counts


def test_optical_depth_of_no_rays_and_of_empty_rays() -> None:
    nothing = torch.zeros(0)
    assert optical_depth(nothing, torch.tensor([0])).shape == (0,)
    assert optical_depth(nothing, torch.tensor([0, 0, 0])).tolist() == [0, 0]
    assert optical_depth(torch.ones(2), torch.tensor([0, 0, 2, 2])).tolist() == [0, 2, 0]


@pytest.mark.parametrize(("samples", "padding"), [(0, 0.1), (4, 0.0), (4, -1.0)])
def test_errors(samples: int, padding: float) -> None:
    asked = asked_of(1)
    sentence = f"^resample: samples {samples}, padding {padding}; expected positive$"
    with pytest.raises(ValueError, match=sentence):
        resample(*asked, samples, padding)


def learning(
    rays: int, dtype: torch.dtype = torch.float64, bins: int = 16, samples: int = 10
) -> list[Tensor]:
    """`interlevel`'s inputs, at random: some weights exceed their bound."""
    asked = asked_of(rays, dtype, bins)
    offsets, m0, m1 = resample(*asked, samples, 0.1)
    weights = random(len(m0), seed=8, dtype=dtype) * 4 / (samples + 2)
    exit_tau, scale = random(rays, seed=9, dtype=dtype), random(rays, seed=10, dtype=dtype)
    proposal = [asked.depth, asked.m0, asked.m1, asked.offsets]
    return [*proposal, weights, m0, m1, offsets, exit_tau, scale]


@DTYPES
@RAYS
@FAST
@pytest.mark.parametrize(("bins", "samples"), [(16, 10), (100, 70)], ids=str)
@pytest.mark.usefixtures("poison")
def test_parity_of_interlevel(
    backend: Backend, rays: int, bins: int, samples: int, dtype: torch.dtype
) -> None:
    depth, *constants = learning(rays, dtype, bins, samples)
    results = []
    for which in ("reference", backend):
        leaf = depth.clone().requires_grad_()
        with use(which):
            loss = interlevel(leaf, *constants)
        assert loss.shape == ()
        if loss.requires_grad:
            (3 * loss).backward()  # type: ignore[no-untyped-call]
        results.append((loss.detach(), leaf.grad if rays else depth))
    eps = torch.finfo(dtype).eps
    # A loss of each ray below 2, added up; a gradient sums all samples, each below 3 * 2.
    loss_atol = max(rays, 1) * 8 * eps
    grad_atol = 20 * samples * eps
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=loss_atol, msg="loss")
    torch.testing.assert_close(results[1][1], results[0][1], rtol=0, atol=grad_atol, msg="depth")


@BACKENDS
def test_gradcheck_of_interlevel(backend: Backend) -> None:
    depth, *constants = learning(5)
    with use(backend):
        assert float(interlevel(depth, *constants)) > 0.01
        assert torch.autograd.gradcheck(
            lambda d: interlevel(d, *constants), depth.requires_grad_(), atol=1e-7
        )


@BACKENDS
def test_the_field_does_not_learn_from_the_proposals_loss(backend: Backend) -> None:
    depth, *constants = learning(5)
    weights, exit_tau = constants[3].requires_grad_(), constants[7].requires_grad_()
    with use(backend):
        interlevel(depth.requires_grad_(), *constants).backward()  # type: ignore[no-untyped-call]
    assert weights.grad is None
    assert exit_tau.grad is None


def loss_of(
    depth: list[float], weights: list[float], exit_tau: float, scale: float = 1
) -> tuple[float, list[float]]:
    """Loss and gradient of a ray of even bins and samples on [0, 1]."""
    tau = float64(*depth).requires_grad_()
    bins, own = (torch.linspace(0, 1, len(x) + 1, dtype=torch.float64) for x in (depth, weights))
    loss = interlevel(
        *(tau, bins[:-1], bins[1:], torch.tensor([0, len(depth)])),
        *(float64(*weights), own[:-1], own[1:], torch.tensor([0, len(weights)])),
        *(float64(exit_tau), float64(scale)),
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert tau.grad is not None
    return float(loss.detach()), tau.grad.tolist()


@given(
    st.lists(st.floats(0, 10, allow_subnormal=False), min_size=1, max_size=8),
    st.lists(st.floats(0, 1), min_size=8, max_size=8),
    st.floats(0, 1),
)
@BACKENDS
@LAW
def test_a_proposal_that_bounds_the_field_is_left_alone(
    backend: Backend, depth: list[float], shares: list[float], exit_share: float
) -> None:
    tau = float64(*depth)
    in_front = torch.nn.functional.pad(tau, (1, 0))[:-1].cumsum(0)
    bounds = torch.exp(-in_front) * -torch.expm1(-tau) * (1 - 1e-9)
    weights = [float(b) * share for b, share in zip(bounds, shares, strict=False)]
    exit_tau = float(tau.sum()) + 1e-9 + exit_share  # the field lets no more light through
    with use(backend):
        loss, grad = loss_of(depth, weights, exit_tau)
    # The bounds are differences of transmittances, rounded to 1e-16; a weight is over 1e-7.
    assert loss <= (1e-16) ** 2 / 1e-7 * 8
    assert all(abs(g) <= 2e-16 / 1e-7 * 8 for g in grad)


@BACKENDS
def test_a_proposal_below_the_field_is_pushed_up(backend: Backend) -> None:
    with use(backend):
        loss, (front, behind) = loss_of([0.1, 0.1], [0.0, 0.9], 5.0)
    # Its transmittance is not below the field's e^-5, so only the sample behind pulls: up where
    # it is, and down in front of it, where the proposal takes light away from it.
    assert loss > 0
    assert behind < 0 < front


@BACKENDS
def test_an_opaque_proposal_is_pushed_down_where_the_field_is_clear(backend: Backend) -> None:
    # exit: weight e^0 = 1, bound 1/2: loss 2 (1 - 1/2)^2 = 1/2; d loss / d tau = 2 * 2 * 1/2 * 1/2.
    half = math.log(2) / 2
    with use(backend):
        loss, grad = loss_of([half, half], [0.0, 0.0], 0.0, scale=2)
    assert loss == pytest.approx(0.5, rel=1e-6)
    assert grad == pytest.approx([1, 1], rel=1e-6)


@BACKENDS
def test_a_sample_is_bounded_by_all_bins_it_overlaps(backend: Backend) -> None:
    # Bins [0, 1/3], [1/3, 2/3], [2/3, 1] of weights 1/2, 1/4, 1/8; samples [0, 1/2], [1/2, 1]: the
    # bounds are 3/4 and 3/8, and the exit's is 1/8.
    two = math.log(2)
    with use(backend):
        inside, _ = loss_of([two] * 3, [0.75 - 1e-9, 0.375 - 1e-9], 3 * two)
        beyond, _ = loss_of([two] * 3, [0.75 + 0.1, 0.375 + 0.2], 3 * two)
    assert inside == pytest.approx(0, abs=1e-15)
    assert beyond == pytest.approx(0.01 / 0.85 + 0.04 / 0.575, rel=1e-6)
