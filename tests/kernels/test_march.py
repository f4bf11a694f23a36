"""Marching: the lattice belongs to the ray, and a tile only cuts it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfxl_kernels.backend import Backend, use
from nerfxl_kernels.march import Domain, Path, march, place
from nerfxl_kernels.march.reference import contract
from torch import Tensor

from tests.kernels.backends import BACKENDS, COUNTS, DTYPES, FAST, random

SCALES = pytest.mark.parametrize("scale", [0.1, math.inf], ids=["cone", "even"])
DOMAINS = pytest.mark.parametrize(
    "domain",
    [Domain((0.5, -0.25, 0.0), 2.0, False), Domain((0.5, -0.25, 0.0), 0.5, True)],
    ids=["closed", "open"],
)


def rays_of(
    count: int, dtype: torch.dtype = torch.float64, scale: float = 0.1
) -> tuple[Tensor, Tensor, Tensor, Path]:
    """Stretches, jitter and paths; a third of the stretches are empty.

    The numbers are multiples of 1/1024, and with a power of two of bins so is every edge: each
    backend must give the same numbers exactly, in float32 as well.
    """

    def fractions(*shape: int, seed: int, steps: int = 1024) -> Tensor:
        return (torch.floor(random(*shape, seed=seed) * steps) / steps).to(dtype)

    ends = fractions(count, 2, seed=1).sort(1).values
    ends[1::3, 1] = ends[1::3, 0]
    directions = torch.nn.functional.normalize(fractions(count, 3, seed=2) - 0.45, dim=1)
    origins = fractions(count, 3, seed=3) - 0.5
    first, span = fractions(count, seed=4), fractions(count, seed=5) + 1
    path = Path(origins, directions, first, span, scale)
    return ends[:, 0], ends[:, 1], fractions(count, seed=6, steps=16), path


Packed = tuple[Tensor, Tensor, Tensor]


def assert_same_bins(found: Packed, expected: Packed) -> None:
    for name, a, b in zip(("offsets", "m0", "m1"), found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name


@DTYPES
@COUNTS
@FAST
@pytest.mark.parametrize("bins", [1, 64], ids=lambda n: f"B{n}")
@pytest.mark.usefixtures("poison")
def test_parity_of_march(backend: Backend, count: int, bins: int, dtype: torch.dtype) -> None:
    enter, leave, jitter, _ = rays_of(count, dtype)
    with use("reference"):
        expected = march(enter, leave, jitter, bins)
    with use(backend):
        assert_same_bins(march(enter, leave, jitter, bins), expected)


@COUNTS
@DOMAINS
@SCALES
@FAST
@pytest.mark.usefixtures("poison")
def test_parity_of_march_within_occupied_cells(
    backend: Backend, count: int, domain: Domain, scale: float
) -> None:
    enter, leave, jitter, path = rays_of(count, scale=scale)
    occupied = random(8, 8, 8) < 0.3
    for cells in (occupied, torch.zeros_like(occupied)):
        for budget in (None, 5 * count):
            inputs = (enter, leave, jitter, 64, (path, domain, cells), random(count), 0.2, budget)
            with use("reference"):
                expected = march(*inputs)
            with use(backend):
                assert_same_bins(march(*inputs), expected)


@DTYPES
@COUNTS
@DOMAINS
@SCALES
@FAST
@pytest.mark.usefixtures("poison")
def test_parity_of_place(
    backend: Backend, count: int, domain: Domain, scale: float, dtype: torch.dtype
) -> None:
    enter, leave, jitter, path = rays_of(count, dtype, scale)
    offsets, m0, m1 = march(enter, leave, jitter, 16)
    with use("reference"):
        expected = place(m0, m1, offsets, path, domain)
    with use(backend):
        found = place(m0, m1, offsets, path, domain)
    # t(m) = 0.1 sinh(s) <= 0.1 sinh(3) = 1; s <= 3 is rounded, and dt = t ds. With even steps
    # t <= 3. The open domain divides by its half, 0.5.
    atol = 16 * torch.finfo(dtype).eps
    for name, a, b in zip(("points", "length"), found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol, msg=name)


@BACKENDS
def test_no_rays_and_no_samples(backend: Backend) -> None:
    nothing = torch.zeros(0)
    path = Path(torch.zeros(0, 3), torch.zeros(0, 3), nothing, nothing, 0.1)
    domain = Domain((0.0, 0.0, 0.0), 1.0, True)
    with use(backend):
        for within in (None, (path, domain, torch.ones(2, 2, 2, dtype=torch.bool))):
            offsets, m0, m1 = march(nothing, nothing, nothing, 8, within)
            assert offsets.tolist() == [0]
            assert m0.shape == m1.shape == (0,)
        points, length = place(m0, m1, offsets, path, domain)
    assert points.shape == (0, 3)
    assert length.shape == (0,)


@BACKENDS
def test_a_lattice_by_hand(backend: Backend) -> None:
    # Edges at (b + 1/2) / 4: 1/8, 3/8, 5/8, 7/8. The second ray is empty.
    enter, leave = torch.tensor([0.0, 0.5, 0.375]), torch.tensor([1.0, 0.5, 0.75])
    with use(backend):
        offsets, m0, m1 = march(enter, leave, torch.full((3,), 0.5), 4)
    assert offsets.tolist() == [0, 5, 5, 7]
    assert m0.tolist() == [0, 0.125, 0.375, 0.625, 0.875, 0.375, 0.625]
    assert m1.tolist() == [0.125, 0.375, 0.625, 0.875, 1, 0.625, 0.75]


@BACKENDS
def test_even_steps_by_hand(backend: Backend) -> None:
    # t(m) = 2 + 4 m along x from -3, and the field's x = (t - 3 + 1) / 2 in the cube [-1, 1]^3.
    origin = torch.tensor([[-3.0, 0.5, 0.5]], dtype=torch.float64)
    direction = torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
    first, span = torch.tensor([[2.0], [4.0]], dtype=torch.float64)
    path, cube = Path(origin, direction, first, span, math.inf), Domain((0.0, 0, 0), 1.0, False)
    cells = torch.zeros(2, 2, 2, dtype=torch.bool)
    cells[1, 1, 1] = True  # 0 <= x, y, z <= 1, so 3 <= t <= 4
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    with use(backend):
        offsets, m0, m1 = march(zero, 0.5 * one, zero, 8, (path, cube, cells))
        points, length = place(m0, m1, offsets, path, cube)
    assert (offsets.tolist(), m0.tolist(), m1.tolist()) == ([0, 2], [0.25, 0.375], [0.375, 0.5])
    assert length.tolist() == [0.5, 0.5]
    assert points.tolist() == [[0.625, 0.75, 0.75], [0.875, 0.75, 0.75]]  # t = 3.25 and 3.75


@BACKENDS
def test_even_steps_are_the_limit_of_cone_steps(backend: Backend) -> None:
    enter, leave, jitter, path = rays_of(20, scale=math.inf)
    cone = path._replace(scale=1e4, first=path.first / 1e4, span=path.span / 1e4)
    domain = Domain((0.0, 0.0, 0.0), 1.0, True)
    offsets, m0, m1 = march(enter, leave, jitter, 16)
    with use(backend):
        expected = place(m0, m1, offsets, path, domain)
        found = place(m0, m1, offsets, cone, domain)
    # c sinh(t / c) - t = t^3 / (6 c^2) <= 27 / 6e8; its rounding is c eps.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@BACKENDS
def test_no_bins_behind_what_is_opaque(backend: Backend) -> None:
    # In float32 as the threshold is: 0.1 is opaque, and the next number above is not.
    opaque = torch.tensor(0.1)
    passing = torch.stack([opaque, torch.nextafter(opaque, torch.tensor(1.0)), 0 * opaque])
    zero, one = torch.zeros(3), torch.ones(3)
    with use(backend):
        offsets, m0, m1 = march(zero, one, zero, 2, transmittance=passing, opaque=0.1)
        black, _, _ = march(zero, one, zero, 2, transmittance=passing)
    assert offsets.tolist() == [0, 0, 2, 2]
    assert (m0.tolist(), m1.tolist()) == ([0, 0.5], [0.5, 1])
    assert black.tolist() == [0, 2, 4, 4]


@BACKENDS
@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (7, [0, 5, 5, 7]),
        (6, [0, 5, 5, 5]),
        (5, [0, 5, 5, 5]),
        (4, [0, 0, 0, 0]),  # the last ray would fit, but the first is in front of it
        (0, [0, 0, 0, 0]),
    ],
    ids=str,
)
def test_a_budget_by_hand(backend: Backend, budget: int, expected: list[int]) -> None:
    # As in the lattice above: 5, 0 and 2 bins.
    enter, leave = torch.tensor([0.0, 0.5, 0.375]), torch.tensor([1.0, 0.5, 0.75])
    with use(backend):
        offsets, m0, m1 = march(enter, leave, torch.full((3,), 0.5), 4, budget=budget)
    assert offsets.tolist() == expected
    assert m0.tolist() == [0, 0.125, 0.375, 0.625, 0.875, 0.375, 0.625][: expected[-1]]
    assert m1.tolist() == [0.125, 0.375, 0.625, 0.875, 1, 0.625, 0.75][: expected[-1]]


unit = st.floats(0, 1, width=32)
jitters = st.floats(0, 1, width=32, exclude_max=True)
dtypes = st.sampled_from([torch.float32, torch.float64])
LAW = settings(max_examples=50, deadline=None)


def edges(enter: float, leave: float, jitter: float, bins: int, dtype: torch.dtype) -> list[float]:
    """The ends of one stretch's bins, each once; neighbours must share one number."""
    one = torch.tensor([[enter], [leave], [jitter]], dtype=dtype)
    offsets, m0, m1 = march(one[0], one[1], one[2], bins)
    assert offsets.tolist() == [0, len(m0)]
    assert torch.equal(m0[1:], m1[:-1])
    return [*m0[:1].tolist(), *m1.tolist()]


@given(unit, unit, jitters, st.integers(1, 300), dtypes)
@BACKENDS
@LAW
def test_bins_cover_the_stretch(
    backend: Backend, a: float, b: float, jitter: float, bins: int, dtype: torch.dtype
) -> None:
    enter, leave = sorted((a, b))
    with use(backend):
        found = edges(enter, leave, jitter, bins, dtype)
    if enter == leave:
        assert found == []
        return
    assert (found[0], found[-1]) == (enter, leave)
    assert all(x < y for x, y in pairwise(found))
    eps = torch.finfo(dtype).eps
    assert all(y - x <= 1 / bins + 2 * eps for x, y in pairwise(found))
    for edge in found[1:-1]:
        b_ = edge * bins - jitter
        assert math.isclose(b_, round(b_), abs_tol=2 * bins * eps)


@given(unit, unit, unit, jitters, st.integers(1, 300), dtypes)
@BACKENDS
@LAW
def test_a_cut_only_adds_its_edge(
    backend: Backend, a: float, b: float, c: float, jitter: float, bins: int, dtype: torch.dtype
) -> None:
    enter, cut, leave = sorted((a, b, c))
    with use(backend):
        whole = edges(enter, leave, jitter, bins, dtype)
        front = edges(enter, cut, jitter, bins, dtype)
        behind = edges(cut, leave, jitter, bins, dtype)
    assert sorted({*front, *behind}) == sorted({*whole, *([cut] if enter < leave else [])})


@given(st.integers(0, 40), st.integers(0, 400), st.floats(0, 1))
@BACKENDS
@LAW
def test_a_budget_serves_the_first_rays_whole(
    backend: Backend, count: int, budget: int, share: float
) -> None:
    enter, leave, jitter, path = rays_of(count)
    within = (path, Domain((0.0, 0.0, 0.0), 1.0, True), random(4, 4, 4) < share)
    with use(backend):
        whole, whole0, whole1 = march(enter, leave, jitter, 32, within)
        offsets, m0, m1 = march(enter, leave, jitter, 32, within, budget=budget)
    total = int(offsets[-1])
    assert total <= budget
    assert torch.equal(offsets, whole.clamp(max=total))
    assert torch.equal(m0, whole0[:total])
    assert torch.equal(m1, whole1[:total])
    beyond = whole[whole > total]
    assert total == whole[-1] or beyond[0] > budget  # the next ray with bins does not fit


@given(st.integers(0, 40), st.integers(17, 200))
@BACKENDS
@settings(LAW, max_examples=10)
def test_a_budget_that_holds_a_ray_serves_all_in_the_end(
    backend: Backend, count: int, budget: int
) -> None:
    enter, leave, jitter, _ = rays_of(count)
    with use(backend):
        _, whole0, _ = march(enter, leave, jitter, 16)
        served, parts = 0, [whole0[:0]]
        while True:
            rest = (enter[served:], leave[served:], jitter[served:])
            offsets, m0, _ = march(*rest, 16, budget=budget)
            if not len(m0):
                break
            served += int((offsets < offsets[-1]).sum())
            parts.append(m0)
    assert torch.equal(torch.cat(parts), whole0)


@given(st.integers(0, 40), st.floats(0, 1, width=32), st.integers(0, 9))
@BACKENDS
@LAW
def test_opaque_empties_rays_and_leaves_the_others_as_they_are(
    backend: Backend, count: int, opaque: float, seed: int
) -> None:
    enter, leave, jitter, _ = rays_of(count)
    passing = random(count, seed=seed)
    with use(backend):
        whole, whole0, whole1 = march(enter, leave, jitter, 16)
        offsets, m0, m1 = march(enter, leave, jitter, 16, transmittance=passing, opaque=opaque)
    seen = passing > opaque
    assert torch.equal(offsets.diff(), whole.diff() * seen)
    of_seen = torch.repeat_interleave(seen, whole.diff())
    assert torch.equal(m0, whole0[of_seen])
    assert torch.equal(m1, whole1[of_seen])


@BACKENDS
@DTYPES
@DOMAINS
def test_within_keeps_the_bins_whose_middle_is_occupied(
    backend: Backend, dtype: torch.dtype, domain: Domain
) -> None:
    enter, leave, jitter, path = rays_of(40, dtype)
    occupied = random(8, 8, 8) < 0.5
    with use(backend):
        all_offsets, all0, all1 = march(enter, leave, jitter, 64)
        points, _ = place(all0, all1, all_offsets, path, domain)
        offsets, m0, m1 = march(enter, leave, jitter, 64, (path, domain, occupied))
    kept, counts = [], [0] * 40
    for ray, point in zip(torch.repeat_interleave(all_offsets.diff()), points, strict=True):
        i, j, k = (min(max(int(x * 8), 0), 7) for x in point)
        kept.append(bool(occupied[i, j, k]))
        counts[int(ray)] += kept[-1]
    assert 50 < sum(kept) < len(kept) - 50
    assert torch.equal(m0, all0[kept])
    assert torch.equal(m1, all1[kept])
    assert offsets.diff().tolist() == counts


@BACKENDS
def test_place_by_hand(backend: Backend) -> None:
    # first = 0, span = asinh 10, scale 0.1: t(1) = 1, and t(m) = 0.1 sinh(m asinh 10).
    origin, direction = torch.tensor([[[0.0, 0, 0]], [[1.0, 0, 0]]], dtype=torch.float64)
    first, span = torch.tensor([[0.0], [10.0]], dtype=torch.float64).asinh()
    path = Path(origin, direction, first, span, 0.1)
    m0, m1 = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    with use(backend):
        points, length = place(m0, m1, torch.tensor([0, 2]), path, Domain((1.0, 0, 0), 1.0, False))
    torch.testing.assert_close(length, torch.tensor([1.0, 0.0], dtype=torch.float64))
    middle = 0.1 * math.sinh(math.asinh(10) / 2)
    expected = torch.tensor([[middle / 2, 0.5, 0.5], [0.5, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(points, expected)  # u = t - 1, (u + 1) / 2 = t / 2


@BACKENDS
@DTYPES
def test_lengths_are_positive_and_sum_to_the_stretch(backend: Backend, dtype: torch.dtype) -> None:
    enter, leave, jitter, path = rays_of(63, dtype)
    with use(backend):
        offsets, m0, m1 = march(enter, leave, jitter, 64)
        _, length = place(m0, m1, offsets, path, Domain((0.0, 0.0, 0.0), 1.0, True))
    assert (length > 0).all()
    total = torch.segment_reduce(length, "sum", offsets=offsets)
    t0, t1 = (0.1 * torch.sinh(path.first + m * path.span) for m in (enter, leave))
    torch.testing.assert_close(total, t1 - t0, rtol=0, atol=64 * torch.finfo(dtype).eps)


@BACKENDS
def test_gaps_between_bins_do_not_count(backend: Backend) -> None:
    _, _, _, path = rays_of(1)
    m0, m1 = torch.tensor([[0, 0.5, 0.75], [0.25, 0.75, 1]], dtype=torch.float64).unbind()
    with use(backend):
        _, length = place(m0, m1, torch.tensor([0, 3]), path, Domain((0.0, 0.0, 0.0), 1.0, True))
    t = [0.1 * torch.sinh(path.first + m * path.span) for m in (m0, m1)]
    torch.testing.assert_close(length, t[1] - t[0], rtol=0, atol=1e-15)


@BACKENDS
@DOMAINS
def test_gradcheck_of_place(backend: Backend, domain: Domain) -> None:
    enter, leave, jitter, path = rays_of(3)
    offsets, m0, m1 = march(enter, leave, jitter, 4)
    tensors = [tensor.requires_grad_() for tensor in path[:4]]
    with use(backend):
        assert torch.autograd.gradcheck(
            lambda o, d, s0, s1: place(m0, m1, offsets, Path(o, d, s0, s1, 0.1), domain), tensors
        )


@pytest.mark.parametrize("name", ["origins", "directions", "first", "span"])
def test_any_part_of_the_path_may_learn(name: str) -> None:
    enter, leave, jitter, path = rays_of(3)
    offsets, m0, m1 = march(enter, leave, jitter, 4)
    learned = getattr(path, name).clone().requires_grad_()
    points, _ = place(
        m0, m1, offsets, path._replace(**{name: learned}), Domain((0.0, 0.0, 0.0), 1.0, True)
    )
    points.sum().backward()  # type: ignore[no-untyped-call]
    assert learned.grad is not None
    assert learned.grad.any()


@BACKENDS
def test_march_passes_no_gradient(backend: Backend) -> None:
    enter, leave, jitter, path = rays_of(3)
    domain, occupied = Domain((0.0, 0.0, 0.0), 1.0, True), torch.ones(2, 2, 2, dtype=torch.bool)
    learned = path._replace(origins=path.origins.clone().requires_grad_())
    with use(backend):
        expected = march(enter, leave, jitter, 4)
        found = march(
            enter.requires_grad_(), leave.requires_grad_(), jitter, 4, (learned, domain, occupied)
        )
    for a, b in zip(found, expected, strict=True):
        assert not a.requires_grad
        assert torch.equal(a, b)


OPEN = Domain((1.0, 2.0, 3.0), 0.5, True)
coordinate = st.floats(-1e6, 1e6)


def place_at(xyz: tuple[float, ...], domain: Domain) -> Tensor:
    """A point's field coordinates [3], by `place` on a ray that starts there and stands still."""
    origin = torch.tensor([xyz], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    path = Path(origin, torch.zeros_like(origin), zero, zero, 0.1)
    return place(zero, zero, torch.tensor([0, 1]), path, domain)[0][0]


@given(st.tuples(coordinate, coordinate, coordinate))
@BACKENDS
@LAW
def test_an_open_domain_holds_all_of_space(backend: Backend, xyz: tuple[float, ...]) -> None:
    with use(backend):
        point = place_at(xyz, OPEN)
    assert ((point >= 0) & (point <= 1)).all()
    u = (torch.tensor(xyz, dtype=torch.float64) - torch.tensor(OPEN.centre)) / OPEN.half
    n = float(u.abs().max())
    reach = n if n <= 1 else 2 - 1 / n  # of 2, the edge of contracted space
    assert math.isclose(float((point - 0.5).abs().max()), reach / 4, abs_tol=1e-12)


@given(
    st.tuples(*(st.floats(-1, 1),) * 3).filter(lambda u: max(map(abs, u)) > 0.01),
    st.floats(1e-12, 1e-3),
)
@BACKENDS
@LAW
def test_contraction_is_continuous_at_the_cube(
    backend: Backend, u: tuple[float, ...], step: float
) -> None:
    n = max(map(abs, u))
    sides = []
    with use(backend):
        for scale in ((1 - step) / n, (1 + step) / n):
            sides.append(
                place_at(
                    tuple(c + 0.5 * scale * x for c, x in zip(OPEN.centre, u, strict=True)), OPEN
                )
            )
    # du = 2 step at slope 1 within and at most 1 without, over 4
    assert float((sides[1] - sides[0]).abs().max()) <= 0.5 * step + 1e-14


def test_a_closed_domain_is_its_cube() -> None:
    corners = torch.tensor([[0.5, 1.5, 2.5], [1.5, 2.5, 3.5]])
    cube = contract(corners, OPEN._replace(open=False))
    assert cube.tolist() == [[0, 0, 0], [1, 1, 1]]
    # An open one keeps the middle half for it.
    assert contract(corners, OPEN).tolist() == [[0.25, 0.25, 0.25], [0.75, 0.75, 0.75]]


def test_bins_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"^bins: found 0, expected at least 1$"):
        march(torch.zeros(1), torch.ones(1), torch.zeros(1), 0)


def test_the_budget_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match=r"^budget: found -1, expected at least 0$"):
        march(torch.zeros(1), torch.ones(1), torch.zeros(1), 4, budget=-1)


def test_a_transmittance_for_each_ray() -> None:
    sentence = r"^transmittance: found shape \(2, 1\), expected \(2,\)$"
    with pytest.raises(ValueError, match=sentence):
        march(torch.zeros(2), torch.ones(2), torch.zeros(2), 4, transmittance=torch.ones(2, 1))
