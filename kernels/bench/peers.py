"""What others offer for the same work, called as their users would.

`torch_encoding` is hash encoding as PyTorch projects write it: all levels at once, eight gathers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

_P1, _P2 = 2654435761, 805459861


def torch_encoding(points: Tensor, table: Tensor, cells: tuple[int, ...]) -> Tensor:
    """The same function as `hash_encoding` in torch operations: [M, 3] -> [M, L F]."""
    levels, rows, features = table.shape
    device = points.device
    n = torch.tensor(cells, device=device)
    dense = (n + 1) ** 3 <= rows
    position = points[:, None].clamp(0, 1) * n[:, None]  # [M, L, 3]
    corner = torch.minimum(position.detach().floor(), n[:, None] - 1)
    share, corner = position - corner, corner.long()
    first = torch.arange(levels, device=device) * rows
    flat = table.reshape(-1, features)
    out = points.new_zeros(len(points), levels, features)
    for bits in product((0, 1), repeat=3):
        vertex = corner + torch.tensor(bits, device=device)
        x, y, z = vertex.unbind(-1)
        row = torch.where(
            dense,
            x + (n + 1) * (y + (n + 1) * z),
            (x ^ (y * _P1) ^ (z * _P2)) & (rows - 1),
        )
        far = torch.tensor(bits, dtype=torch.bool, device=device)
        weight = torch.where(far, share, 1 - share).prod(-1)
        out = out + weight[..., None] * flat[row + first]
    return out.reshape(len(points), levels * features)


@lru_cache
def compiled_torch_encoding() -> Callable[..., Tensor]:
    """`torch_encoding` through torch.compile (which needs a C++ compiler)."""
    compiled: Callable[..., Tensor] = torch.compile(torch_encoding, dynamic=False)
    return compiled


class DrJitEncoding:
    """drjit's HashGridEncoding on LLVM: forward, and the gradient of its table.

    `expand` gives each thread a gradient table of its own in place of atomics.
    """

    def __init__(
        self, points: Tensor, grad: Tensor, shape: torch.Size, cells: tuple[int, ...], expand: bool
    ) -> None:
        import drjit as dr
        import drjit.llvm.ad as llvm
        from drjit.nn import HashGridEncoding

        dr.set_thread_count(torch.get_num_threads())
        self.dr, self.threshold = dr, 2**30 if expand else 0
        levels, rows, features = shape
        self.encoding: Any = HashGridEncoding(
            llvm.Float,
            3,
            n_levels=levels,
            n_features_per_level=features,
            hashmap_size=rows,
            base_resolution=cells[0],
            per_level_scale=(cells[-1] / cells[0]) ** (1 / (levels - 1)),
            align_corners=True,
        )
        dr.enable_grad(self.encoding.data)
        self.points = llvm.ArrayXf(points.T.contiguous().numpy())
        self.grad = llvm.ArrayXf(grad.T.contiguous().numpy())
        dr.eval(self.points, self.grad)

    def __call__(self) -> None:
        """Features, then the gradient of the table, both computed."""
        dr = self.dr
        dr.set_expand_threshold(self.threshold)
        out = self.encoding(self.points)
        dr.eval(out)
        dr.set_grad(out, self.grad)
        dr.enqueue(dr.ADMode.Backward, out)
        dr.traverse(dr.ADMode.Backward)
        dr.eval(dr.grad(self.encoding.data))
        dr.sync_thread()
        dr.clear_grad(self.encoding.data)

    def release(self) -> None:
        """Give back what drjit's allocator keeps."""
        self.dr.flush_malloc_cache()

    def check(self) -> None:
        """A table of ones is encoded as ones: its layout is its own, so no more can be compared."""
        dr = self.dr
        kept = self.encoding.data
        self.encoding.data = dr.full(type(kept), 1, len(kept))
        ones = dr.detach(self.encoding(self.points))
        assert dr.allclose(ones, 1, atol=1e-5)
        self.encoding.data = kept


class DrJitStep:
    """A whole training step of drjit: encoding, two networks, volume rendering, Adam.

    points: [R S, 3], S samples a ray; harmonics: [R S, 16]; target: [R, 3]; length: of a sample.
    """

    def __init__(
        self,
        points: Tensor,
        harmonics: Tensor,
        target: Tensor,
        length: float,
        shape: torch.Size,
        cells: tuple[int, ...],
    ) -> None:
        import drjit as dr
        import drjit.llvm.ad as llvm
        from drjit import nn
        from drjit.opt import Adam

        self.dr, self.nn, self.llvm = dr, nn, llvm
        self.samples, self.length = len(points) // len(target), length
        grad = torch.zeros(1, shape[0] * shape[2])
        self.encoding = DrJitEncoding(points, grad, shape, cells, expand=True)
        width = shape[0] * shape[2]
        density = nn.Sequential(
            nn.Linear(width, 64, bias=False), nn.ReLU(), nn.Linear(64, 16, bias=False)
        )
        colour = nn.Sequential(
            *(nn.Linear(31, 64, bias=False), nn.ReLU()),
            *(nn.Linear(64, 64, bias=False), nn.ReLU()),
            nn.Linear(64, 3, bias=False),
        )
        rng = dr.rng(seed=0)
        self.density = nn.pack(density.alloc(llvm.TensorXf, width, rng=rng), layout="training")
        self.colour = nn.pack(colour.alloc(llvm.TensorXf, 31, rng=rng), layout="training")
        self.optimiser = Adam(lr=0.01)
        self.optimiser["table"] = self.encoding.encoding.data
        self.optimiser["density"] = self.density["weights"]
        self.optimiser["colour"] = self.colour["weights"]
        self.harmonics = llvm.ArrayXf(harmonics.T.contiguous().numpy())
        self.target = llvm.ArrayXf(target.T.contiguous().numpy())
        dr.eval(self.harmonics, self.target)

    def __call__(self) -> None:
        """One step."""
        dr, nn = self.dr, self.nn
        dr.set_expand_threshold(2**30)
        self.encoding.encoding.data = self.optimiser["table"]
        self.density["weights"] = self.optimiser["density"]
        self.colour["weights"] = self.optimiser["colour"]
        features = self.encoding.encoding(self.encoding.points)
        hidden = list(self.density(nn.CoopVec(*features)))
        colours = list(self.colour(nn.CoopVec(*hidden[1:], *self.harmonics)))
        tau = dr.exp(dr.minimum(hidden[0], 10)) * self.length
        before = dr.block_prefix_reduce(dr.ReduceOp.Add, tau, self.samples, exclusive=True)
        weight = dr.exp(-before) * (1 - dr.exp(-tau))
        loss = self.llvm.Float(0)
        for channel, wanted in zip(colours, self.target, strict=True):
            shade = weight / (1 + dr.exp(-channel))
            loss += dr.mean((dr.block_sum(shade, self.samples) - wanted) ** 2)
        dr.backward(loss)
        self.optimiser.step()
        dr.eval(self.optimiser["table"])
        dr.sync_thread()

    def check(self) -> None:
        """It learns something."""
        before = self.dr.copy(self.optimiser["table"])
        self()
        assert self.dr.any(before != self.optimiser["table"])
