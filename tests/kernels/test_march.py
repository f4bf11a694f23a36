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

BACKENDS = pytest.mark.parametrize("backend", ["reference", "cpu"])
COUNTS = pytest.mark.parametrize("rays", [0, 1, 63, 1000], ids=lambda n: f"P{n}")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
DOMAINS = pytest.mark.parametrize(
    "domain",
    [Domain((0.5, -0.25, 0.0), 2.0, False), Domain((0.5, -0.25, 0.0), 0.5, True)],
    ids=["closed", "open"],
)


def rays_of(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Path]:
    """Stretches, jitter and paths; a third of the stretches are empty.

    The numbers are multiples of 1/1024, and with a power of two of bins so is every edge: each
    backend must give the same numbers exactly, in float32 as well.
    """
    generator = torch.Generator().manual_seed(count)

    def sixteenths(*shape: int, steps: int = 1024) -> Tensor:
        drawn = torch.randint(0, steps, shape, generator=generator)
        return (drawn.double() / steps).to(dtype)

    ends = sixteenths(count, 2).sort(1).values
    ends[1::3, 1] = ends[1::3, 0]
    directions = torch.nn.functional.normalize(sixteenths(count, 3) - 0.45, dim=1)
    path = Path(
        sixteenths(count, 3) - 0.5, directions, sixteenths(count), sixteenths(count) + 1, 0.1
    )
    return ends[:, 0], ends[:, 1], sixteenths(count, steps=16), path


@DTYPES
@COUNTS
@pytest.mark.usefixtures("poison")
def test_parity_of_march(rays: int, dtype: torch.dtype) -> None:
    enter, leave, jitter, _ = rays_of(rays, dtype)
    with use("reference"):
        expected = march(enter, leave, jitter, 64)
    found = march(enter, leave, jitter, 64)
    for name, a, b in zip(("offsets", "m0", "m1"), found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name


@COUNTS
@DOMAINS
@pytest.mark.usefixtures("poison")
def test_parity_of_march_within_occupied_cells(rays: int, domain: Domain) -> None:
    enter, leave, jitter, path = rays_of(rays)
    occupied = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    for within in (occupied, torch.zeros_like(occupied)):
        with use("reference"):
            expected = march(enter, leave, jitter, 64, (path, domain, within))
        found = march(enter, leave, jitter, 64, (path, domain, within))
        for name, a, b in zip(("offsets", "m0", "m1"), found, expected, strict=True):
            assert torch.equal(a, b), name


@DTYPES
@COUNTS
@DOMAINS
@pytest.mark.usefixtures("poison")
def test_parity_of_place(rays: int, domain: Domain, dtype: torch.dtype) -> None:
    enter, leave, jitter, path = rays_of(rays, dtype)
    offsets, m0, m1 = march(enter, leave, jitter, 16)
    with use("reference"):
        expected = place(m0, m1, offsets, path, domain)
    found = place(m0, m1, offsets, path, domain)
    # t(m) = 0.1 sinh(s) <= 0.1 sinh(3) = 1; s <= 3 is rounded, and dt = t ds. The open domain
    # divides by its half, 0.5.
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


unit = st.floats(0, 1, width=32)
jitters = st.floats(0, 1, width=32, exclude_max=True)
backends = st.sampled_from(["reference", "cpu"])
dtypes = st.sampled_from([torch.float32, torch.float64])
LAW = settings(max_examples=100, deadline=None)


def edges(enter: float, leave: float, jitter: float, bins: int, dtype: torch.dtype) -> list[float]:
    """The ends of one stretch's bins, each once; neighbours must share one number."""
    one = torch.tensor([[enter], [leave], [jitter]], dtype=dtype)
    offsets, m0, m1 = march(one[0], one[1], one[2], bins)
    assert offsets.tolist() == [0, len(m0)]
    assert torch.equal(m0[1:], m1[:-1])
    return [*m0[:1].tolist(), *m1.tolist()]


@given(unit, unit, jitters, st.integers(1, 300), dtypes, backends)
@LAW
def test_bins_cover_the_stretch(
    a: float, b: float, jitter: float, bins: int, dtype: torch.dtype, backend: Backend
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


@given(unit, unit, unit, jitters, st.integers(1, 300), dtypes, backends)
@LAW
def test_a_cut_only_adds_its_edge(
    a: float, b: float, c: float, jitter: float, bins: int, dtype: torch.dtype, backend: Backend
) -> None:
    enter, cut, leave = sorted((a, b, c))
    with use(backend):
        whole = edges(enter, leave, jitter, bins, dtype)
        front = edges(enter, cut, jitter, bins, dtype)
        behind = edges(cut, leave, jitter, bins, dtype)
    assert sorted({*front, *behind}) == sorted({*whole, *([cut] if enter < leave else [])})


@BACKENDS
@DTYPES
@DOMAINS
def test_within_keeps_the_bins_whose_middle_is_occupied(
    backend: Backend, dtype: torch.dtype, domain: Domain
) -> None:
    enter, leave, jitter, path = rays_of(40, dtype)
    occupied = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
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


def test_place_by_hand() -> None:
    # first = 0, span = asinh 10, scale 0.1: t(1) = 1, and t(m) = 0.1 sinh(m asinh 10).
    origin, direction = torch.tensor([[[0.0, 0, 0]], [[1.0, 0, 0]]], dtype=torch.float64)
    first, span = torch.tensor([[0.0], [10.0]], dtype=torch.float64).asinh()
    path = Path(origin, direction, first, span, 0.1)
    m0, m1 = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
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


@given(st.tuples(coordinate, coordinate, coordinate), backends)
@LAW
def test_an_open_domain_holds_all_of_space(xyz: tuple[float, ...], backend: Backend) -> None:
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
    backends,
)
@LAW
def test_contraction_is_continuous_at_the_cube(
    u: tuple[float, ...], step: float, backend: Backend
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
