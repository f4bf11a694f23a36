"""Segments: cut a ray anywhere, and the pieces compose to the same pixel and distortion."""

from __future__ import annotations

import os
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

from tests.kernels.backends import BACKENDS, DTYPES, FAST, random

RAYS = pytest.mark.parametrize("rays", [0, 1, 63, 1000], ids=lambda n: f"P{n}")
CHANNELS = pytest.mark.parametrize("channels", [0, 3, 17], ids=lambda n: f"C{n}")


def samples(counts: Tensor, dtype: torch.dtype = torch.float64, channels: int = 3) -> list[Tensor]:
    """`segment`'s inputs, of rays with these many samples: m ascends in [0, 1], with gaps."""
    total = int(counts.sum())
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    ray = torch.repeat_interleave(counts)
    place = torch.arange(total) - offsets[ray]
    most = max(int(counts.max()) if len(counts) else 0, 1)
    density, length, width = random(3, total)
    values = (3 * density, random(total, channels, seed=1), length)
    where = ((place + 0.5) / most, width / most)
    return [*(value.to(dtype) for value in (*values, *where)), offsets]


def counts_of(rays: int) -> Tensor:
    """0 to 12 samples a ray; the first, the last and a middle ray have none."""
    counts = (random(rays, seed=rays) * 13).long()
    if rays > 1:
        counts[[0, rays // 2, -1]] = 0
    return counts


def run(backend: Backend, inputs: list[Tensor]) -> dict[str, Tensor | None]:
    """What comes out, and every gradient of a fixed function of the values, by name."""
    density, channels = (tensor.clone().requires_grad_() for tensor in inputs[:2])
    with use(backend):
        values, weights = segment(density, channels, *inputs[2:])
    assert not weights.requires_grad
    grad = torch.cos(torch.arange(values.numel(), dtype=torch.float64)).to(values.dtype)
    values.backward(grad.reshape(values.shape))  # type: ignore[no-untyped-call]
    return {
        "values": values.detach(),
        "weights": weights,
        "density": density.grad,
        "channels": channels.grad,
    }


def assert_parity(backend: Backend, inputs: list[Tensor]) -> None:
    expected, found = run("reference", inputs), run(backend, inputs)
    # Terms of at most 1 (tau: at most 3), 12 a ray or a few times that, in another order; the
    # gradient of a density has one a channel too.
    eps = torch.finfo(inputs[0].dtype).eps
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=8 * eps, atol=64 * eps, msg=name)


@DTYPES
@RAYS
@CHANNELS
@FAST
@pytest.mark.usefixtures("poison")
def test_parity(backend: Backend, rays: int, channels: int, dtype: torch.dtype) -> None:
    assert_parity(backend, samples(counts_of(rays), dtype, channels))


@DTYPES
@FAST
@pytest.mark.usefixtures("poison")
def test_parity_of_long_rays(backend: Backend, dtype: torch.dtype) -> None:
    counts = torch.tensor([0, 31, 32, 33, 1, 64, 65, 100])
    inputs = samples(counts, dtype, 17)
    inputs[0] /= 10  # light reaches the far end: exp(-100 * 3 / 10 / 4)
    assert_parity(backend, inputs)


@DTYPES
@FAST
@pytest.mark.usefixtures("poison")
def test_parity_of_rays_without_any_sample(backend: Backend, dtype: torch.dtype) -> None:
    inputs = samples(torch.zeros(5, dtype=torch.int64), dtype)
    assert_parity(backend, inputs)
    with use(backend):
        values, weights = segment(*inputs)
    assert torch.equal(values, torch.zeros(5, 6, dtype=dtype))
    assert weights.shape == (0,)


@FAST
@pytest.mark.usefixtures("poison")
def test_parity_of_strided_inputs(backend: Backend) -> None:
    inputs = samples(counts_of(9))
    inputs[1] = inputs[1].T.contiguous().T
    inputs[3:5] = torch.stack(inputs[3:5], -1).unbind(-1)
    assert_parity(backend, inputs)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradcheck(backend: Backend) -> None:
    density, channels, *rest = samples(torch.tensor([0, 4, 1, 0]))
    inputs = (density.requires_grad_(), channels.requires_grad_())
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
    for name in ("density", "channels"):
        torch.testing.assert_close(found[name], nearer[name], rtol=0, atol=atol, msg=name)


@FAST
def test_what_is_hidden_learns_by_what_little_is_seen(backend: Backend) -> None:
    """Gradients behind a wall of tau = 20 are e^-20, and float32 knows them as well as float64.

    An optimiser that divides a gradient by its own size would make whole steps of what rounding
    leaves of a difference.
    """
    inputs = samples(torch.tensor([40]))
    inputs[0] /= 10
    inputs[0][37] = 20 / inputs[2][37]
    grads = []
    for dtype in (torch.float64, torch.float32):
        density, *rest = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
        with use(backend):
            values, _ = segment(density.requires_grad_(), *rest)
        (grad,) = torch.autograd.grad(values[:, 1:].sum(), density)  # tau's own is the same for all
        grads.append(grad.double())
    assert 1e-12 < float(grads[0][38:].abs().max()) < 1e-8
    # tau of some 22 is rounded to 2^-20, and so is a gradient of e^-tau, in some terms.
    torch.testing.assert_close(grads[1], grads[0], rtol=2**-14, atol=0)


@BACKENDS
def test_a_second_moment_is_a_channel(backend: Backend) -> None:
    inputs = samples(torch.tensor([3, 5]))
    inputs[1][:, 2] = inputs[3] ** 2
    with use(backend):
        values, weights = segment(*inputs)
    terms = [float(w * m * m) for w, m in zip(weights, inputs[3], strict=True)]
    expected = torch.tensor([sum(terms[:3]), sum(terms[3:])], dtype=torch.float64)
    torch.testing.assert_close(values[:, 5], expected, rtol=0, atol=1e-15)


unit = st.floats(0, 1, allow_subnormal=False)
# Triton's interpreter takes milliseconds a kernel.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LAW = settings(max_examples=8 if INTERPRETED else 100, deadline=None)


@st.composite
def one_ray(draw: st.DrawFn, least: int = 0) -> list[Tensor]:
    """The packed samples of one ray, without offsets; the last of three channels is m^2."""
    count = draw(st.integers(least, 8))

    def numbers(each: st.SearchStrategy[float]) -> Tensor:
        drawn = draw(st.lists(each, min_size=count, max_size=count))
        return torch.tensor(drawn, dtype=torch.float64)

    colour = torch.stack([numbers(unit) for _ in range(2)], -1)
    density = numbers(st.floats(0, 100, allow_subnormal=False))
    edges = numbers(unit).cumsum(0)  # contiguous bins, some of width 0
    edges = torch.nn.functional.pad(edges, (1, 0)) / edges.sum().clamp(min=1)
    middle = (edges[1:] + edges[:-1]) / 2
    channels = torch.cat([colour, middle[:, None] ** 2], 1)
    return [density, channels, numbers(unit), middle, edges.diff()]


def packed(ray: list[Tensor], *ends: int) -> tuple[Tensor, Tensor]:
    """Segments of rays that end where these samples do."""
    return segment(*[*ray, torch.tensor([0, *ends])])


def whole(ray: list[Tensor]) -> Tensor:
    """[1, 1, 6]."""
    return packed(ray, len(ray[0]))[0][None]


@BACKENDS
@given(one_ray(), st.lists(st.integers(0, 8), max_size=3))
@LAW
def test_a_ray_may_be_cut_anywhere(backend: Backend, ray: list[Tensor], cuts: list[int]) -> None:
    count = len(ray[0])
    ends = sorted([0, *(min(cut, count) for cut in cuts), count])
    with use(backend):
        pieces = [whole([tensor[a:b] for tensor in ray]) for a, b in pairwise(ends)]
        composed = compose(torch.cat(pieces))
        torch.testing.assert_close(composed, whole(ray)[0], rtol=1e-13, atol=1e-13)


@BACKENDS
@given(one_ray())
@LAW
def test_a_sample_is_a_segment(backend: Backend, ray: list[Tensor]) -> None:
    density, channels, length, middle, width = ray
    a = -torch.expm1(-density * length)
    columns = (density * length, a * middle, a * a * width / 3, *(a[:, None] * channels).unbind(-1))
    pieces = torch.stack(columns, -1)[:, None]  # [M, 1, 6]: tau, A m, A^2 delta / 3, A c
    with use(backend):
        composed = compose(pieces)
        torch.testing.assert_close(composed, whole(ray)[0], rtol=1e-13, atol=1e-13)


@BACKENDS
@given(one_ray())
@LAW
def test_distortion_is_its_definition(backend: Backend, ray: list[Tensor]) -> None:
    with use(backend):
        values, w = packed(ray, len(ray[0]))
    middle, width = ray[3], ray[4]
    expected = 0.0
    for i in range(len(w)):
        expected += float(w[i] ** 2 * width[i]) / 3
        for j in range(len(w)):
            expected += float(w[i] * w[j] * abs(middle[i] - middle[j]))
    assert float(values[0, 2]) == pytest.approx(expected, rel=1e-12, abs=1e-14)


@BACKENDS
@given(one_ray())
@LAW
def test_weights_and_transmittance_sum_to_one(backend: Backend, ray: list[Tensor]) -> None:
    with use(backend):
        values, weights = packed(ray, len(ray[0]))
    assert (weights >= 0).all()
    total = weights.sum() + torch.exp(-values[0, 0])
    assert float(total) == pytest.approx(1, abs=1e-14)


@BACKENDS
@given(one_ray(1), one_ray(1))
@LAW
def test_rays_do_not_touch_each_other(backend: Backend, a: list[Tensor], b: list[Tensor]) -> None:
    together = [torch.cat(pair) for pair in zip(a, b, strict=True)]
    first, total = len(a[0]), len(a[0]) + len(b[0])
    with use(backend):
        values, _ = packed(together, first, first, total)
        alone = torch.cat([whole(a)[0], torch.zeros(1, 6, dtype=torch.float64), whole(b)[0]])
    torch.testing.assert_close(values, alone, rtol=1e-15, atol=1e-15)


def dense(rays: int = 7, count: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Density, colour and ends of a batch of rays that all have as many samples: [P, S]."""
    edges = random(rays, count + 1).cumsum(1)
    density, colour = random(rays, count, seed=1) * 2, random(rays, count, 3, seed=2)
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


@pytest.mark.parametrize("shape", [(3, 4), (2,), (2, 3, 1)], ids=str)
def test_shapes_must_agree(shape: tuple[int, ...]) -> None:
    one, offsets = torch.zeros(2), torch.tensor([0, 2])
    with pytest.raises(ValueError, match="segment") as error:
        segment(one, torch.zeros(shape), one, one, one, offsets)
    assert str(error.value) == f"segment: 2 densities with shapes [{shape}, (2,), (2,), (2,)]"
