"""Segments: cut a ray anywhere, and the pieces compose to the same pixel and distortion."""

from __future__ import annotations

from itertools import pairwise

import nerfacc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfxl_kernels.backend import Backend, use
from nerfxl_kernels.compose import compose
from nerfxl_kernels.segment import segment
from torch import Tensor

BACKENDS = pytest.mark.parametrize("backend", ["reference", "cpu"])
RAYS = pytest.mark.parametrize("rays", [0, 1, 63, 1000], ids=lambda n: f"P{n}")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
NAMES = ("density", "colour", "length", "middle", "width", "offsets")


def samples(counts: Tensor, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """`segment`'s inputs, of rays with these many samples: m ascends in [0, 1], with gaps."""
    generator = torch.Generator().manual_seed(seed)
    total = int(counts.sum())
    density, colour, length, width = (
        torch.rand(total, *more, generator=generator, dtype=torch.float64)
        for more in ((), (3,), (), ())
    )
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    ray = torch.repeat_interleave(counts)
    place = torch.arange(total) - offsets[ray]
    most = max(int(counts.max()) if len(counts) else 0, 1)
    middle = (place + 0.5) / most
    values = (3 * density, colour, length, middle, width / most)
    return [*(value.to(dtype) for value in values), offsets]


def counts_of(rays: int) -> Tensor:
    """0 to 12 samples a ray; the first, the last and a middle ray have none."""
    counts = torch.randint(0, 13, (rays,), generator=torch.Generator().manual_seed(rays))
    if rays > 1:
        counts[[0, rays // 2, -1]] = 0
    return counts


def run(backend: Backend, inputs: list[Tensor]) -> dict[str, Tensor | None]:
    """What comes out, and every gradient of a fixed function of the values, by name."""
    density, colour = (tensor.clone().requires_grad_() for tensor in inputs[:2])
    with use(backend):
        values, weights = segment(density, colour, *inputs[2:])
    assert not weights.requires_grad
    grad = torch.cos(torch.arange(values.numel(), dtype=torch.float64)).to(values.dtype)
    values.backward(grad.reshape(values.shape))  # type: ignore[no-untyped-call]
    return {
        "values": values.detach(),
        "weights": weights,
        "density": density.grad,
        "colour": colour.grad,
    }


def assert_parity(inputs: list[Tensor]) -> None:
    expected, found = run("reference", inputs), run("cpu", inputs)
    # Sums of some 12 terms of at most 1 (tau: at most 3 each), in another order.
    eps = torch.finfo(inputs[0].dtype).eps
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=64 * eps, msg=name)


@DTYPES
@RAYS
@pytest.mark.usefixtures("poison")
def test_parity(rays: int, dtype: torch.dtype) -> None:
    assert_parity(samples(counts_of(rays), dtype))


@DTYPES
@pytest.mark.usefixtures("poison")
def test_parity_of_rays_without_any_sample(dtype: torch.dtype) -> None:
    inputs = samples(torch.zeros(5, dtype=torch.int64), dtype)
    assert_parity(inputs)
    values, weights = segment(*inputs)
    assert torch.equal(values, torch.zeros(5, 6, dtype=dtype))
    assert weights.shape == (0,)


@pytest.mark.usefixtures("poison")
def test_parity_of_strided_inputs() -> None:
    inputs = samples(counts_of(9))
    inputs[1] = inputs[1].T.contiguous().T
    inputs[3:5] = torch.stack(inputs[3:5], -1).unbind(-1)
    assert_parity(inputs)


@BACKENDS
def test_gradcheck(backend: Backend) -> None:
    density, colour, *rest = samples(torch.tensor([0, 5, 1, 0, 7]))
    inputs = (density.requires_grad_(), colour.requires_grad_())
    with use(backend):
        assert torch.autograd.gradcheck(lambda d, c: segment(d, c, *rest)[0], inputs)


@BACKENDS
@DTYPES
def test_a_wall_behind_spoils_nothing_in_front(backend: Backend, dtype: torch.dtype) -> None:
    # tau = 1/2, 1/4, then a wall of 1e8: in float32 1e8 + 1/2 is 1e8, so that no prefix may be
    # found by subtracting from the whole.
    density = torch.tensor([0.5, 0.25, 1e8], dtype=dtype)
    colour = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=dtype)
    middle = torch.tensor([0.25, 0.5, 0.75], dtype=dtype)
    ones, width = torch.ones(3, dtype=dtype), torch.full((3,), 0.25, dtype=dtype)
    inputs = [density, colour, ones, middle, width, torch.tensor([0, 3])]
    found = run(backend, inputs)
    weights = found["weights"]
    assert weights is not None
    tau = torch.tensor([0.5, 0.25], dtype=torch.float64)
    front = torch.exp(-tau[0])
    expected = [1 - front, front * (1 - torch.exp(-tau[1])), torch.exp(-tau.sum())]
    atol = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(weights.double(), torch.stack(expected), rtol=0, atol=atol)

    # The gradient with a wall of 50, which hides all but e^-50, is that with one of 1e8.
    inputs[0] = torch.tensor([0.5, 0.25, 50], dtype=dtype)
    nearer = run(backend, inputs)
    for name in ("density", "colour"):
        torch.testing.assert_close(found[name], nearer[name], rtol=0, atol=atol, msg=name)


unit = st.floats(0, 1, allow_subnormal=False)
LAW = settings(max_examples=100, deadline=None)
backends = st.sampled_from(["reference", "cpu"])


@st.composite
def one_ray(draw: st.DrawFn, least: int = 0) -> list[Tensor]:
    """The packed samples of one ray, without offsets."""
    count = draw(st.integers(least, 8))

    def numbers(each: st.SearchStrategy[float]) -> Tensor:
        drawn = draw(st.lists(each, min_size=count, max_size=count))
        return torch.tensor(drawn, dtype=torch.float64)

    colour = torch.stack([numbers(unit) for _ in range(3)], -1)
    density = numbers(st.floats(0, 100, allow_subnormal=False))
    edges = numbers(unit).cumsum(0)  # contiguous bins, some of width 0
    edges = torch.nn.functional.pad(edges, (1, 0)) / edges.sum().clamp(min=1)
    return [density, colour, numbers(unit), (edges[1:] + edges[:-1]) / 2, edges.diff()]


def packed(ray: list[Tensor], *ends: int) -> tuple[Tensor, Tensor]:
    """Segments of rays that end where these samples do."""
    return segment(*[*ray, torch.tensor([0, *ends])])


def whole(ray: list[Tensor]) -> Tensor:
    """[1, 1, 6]."""
    return packed(ray, len(ray[0]))[0][None]


@given(one_ray(), st.lists(st.integers(0, 8), max_size=3), backends)
@LAW
def test_a_ray_may_be_cut_anywhere(ray: list[Tensor], cuts: list[int], backend: Backend) -> None:
    count = len(ray[0])
    ends = sorted([0, *(min(cut, count) for cut in cuts), count])
    with use(backend):
        pieces = [whole([tensor[a:b] for tensor in ray]) for a, b in pairwise(ends)]
        composed = compose(torch.cat(pieces), torch.arange(len(pieces))[None])
        torch.testing.assert_close(composed, whole(ray)[0], rtol=1e-13, atol=1e-13)


@given(one_ray(), backends)
@LAW
def test_a_sample_is_a_segment(ray: list[Tensor], backend: Backend) -> None:
    density, colour, length, middle, width = ray
    count = len(density)
    a = -torch.expm1(-density * length)
    columns = (density * length, a * middle, a * a * width / 3, *(a[:, None] * colour).unbind(-1))
    pieces = torch.stack(columns, -1)[:, None]  # [M, 1, 6]: tau, A m, A^2 delta / 3, A c
    with use(backend):
        composed = compose(pieces, torch.arange(count)[None])
        torch.testing.assert_close(composed, whole(ray)[0], rtol=1e-13, atol=1e-13)


@given(one_ray(), backends)
@LAW
def test_distortion_is_its_definition(ray: list[Tensor], backend: Backend) -> None:
    with use(backend):
        values, w = packed(ray, len(ray[0]))
    middle, width = ray[3], ray[4]
    expected = 0.0
    for i in range(len(w)):
        expected += float(w[i] ** 2 * width[i]) / 3
        for j in range(len(w)):
            expected += float(w[i] * w[j] * abs(middle[i] - middle[j]))
    assert float(values[0, 2]) == pytest.approx(expected, rel=1e-12, abs=1e-14)


@given(one_ray(), backends)
@LAW
def test_weights_and_transmittance_sum_to_one(ray: list[Tensor], backend: Backend) -> None:
    with use(backend):
        values, weights = packed(ray, len(ray[0]))
    assert (weights >= 0).all()
    total = weights.sum() + torch.exp(-values[0, 0])
    assert float(total) == pytest.approx(1, abs=1e-14)


@given(one_ray(1), one_ray(1), backends)
@LAW
def test_rays_do_not_touch_each_other(a: list[Tensor], b: list[Tensor], backend: Backend) -> None:
    together = [torch.cat(pair) for pair in zip(a, b, strict=True)]
    first, total = len(a[0]), len(a[0]) + len(b[0])
    with use(backend):
        values, _ = packed(together, first, first, total)
        alone = torch.cat([whole(a)[0], torch.zeros(1, 6, dtype=torch.float64), whole(b)[0]])
    torch.testing.assert_close(values, alone, rtol=1e-15, atol=1e-15)


def dense(rays: int = 7, count: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Density, colour and ends of a batch of rays that all have as many samples: [P, S]."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(rays, count + 1, generator=generator, dtype=torch.float64).cumsum(1)
    density = torch.rand(rays, count, generator=generator, dtype=torch.float64) * 2
    colour = torch.rand(rays, count, 3, generator=generator, dtype=torch.float64)
    return density, colour, edges[:, :-1], edges[:, 1:]


def assert_near(found: Tensor | None, expected: Tensor | None, name: str | None = None) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=name)


@BACKENDS
def test_nerfacc_agrees(backend: Backend) -> None:
    """Values and gradients of nerfacc's batched renderer, which shares no line with ours."""
    density, colour, t0, t1 = dense()
    rays, count = density.shape
    learned = [tensor.clone().requires_grad_() for tensor in (density, colour)]
    rgb, opacity, depth, extras = nerfacc.rendering(
        t0, t1, rgb_sigma_fn=lambda *_: (learned[1], learned[0])
    )
    own = [tensor.clone().requires_grad_() for tensor in (density, colour)]
    length, middle = (t1 - t0).reshape(-1), ((t0 + t1) / 2).reshape(-1)
    with use(backend):
        offsets = torch.arange(0, rays * count + 1, count)
        values, weights = segment(
            own[0].reshape(-1), own[1].reshape(-1, 3), length, middle, length, offsets
        )

    assert_near(weights.reshape(rays, count), extras["weights"].detach())
    assert_near(values[:, 3:], rgb)
    assert_near(-torch.expm1(-values[:, :1]), opacity)
    # nerfacc divides the depth by the opacity.
    assert_near(values[:, 1:2], depth * opacity)
    expected, _, _ = nerfacc.render_weight_from_density(t0, t1, density)
    moment = nerfacc.accumulate_along_rays(expected, values=((t0 + t1) / 2)[..., None])
    assert_near(values[:, 1:2].detach(), moment)

    (rgb.square().sum() + opacity.sum() + (depth * opacity).sin().sum()).backward()
    ours = values[:, 3:].square().sum() - torch.expm1(-values[:, 0]).sum()
    (ours + values[:, 1].sin().sum()).backward()  # type: ignore[no-untyped-call]
    for name, a, b in zip(("density", "colour"), own, learned, strict=True):
        assert_near(a.grad, b.grad, name)


def test_shapes_must_agree() -> None:
    one, offsets = torch.zeros(2), torch.tensor([0, 2])
    with pytest.raises(ValueError, match="segment") as error:
        segment(one, torch.zeros(2, 4), one, one, one, offsets)
    assert str(error.value) == ("segment: 2 densities with shapes [(2, 4), (2,), (2,), (2,)]")
