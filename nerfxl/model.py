"""The tiles of one rank and what they share: built from a spec, stored as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nerfxl.exchange import Exchange, choose
from nerfxl.field import Shared, Tile
from nerfxl.partition import Plan
from nerfxl.processes.ranks import Ranks
from nerfxl.render import Renderer
from nerfxl.scene.spec import SceneSpec
from nerfxl.views import Views


class Model:
    """What one rank holds of a scene, and the renderer over it.

    Each tile at hand sees what all tiles share through a twin of it, so that the tiles' gradients
    stay apart until they are summed in tile order.

    views: photographs of the run (see `Views`). exchange: other than the scene's own. kind: of the
    tiles; `Paged` ones learn nothing.
    """

    def __init__(
        self,
        spec: SceneSpec,
        plan: Plan,
        near: float,
        ranks: Ranks,
        dtype: torch.dtype | None = None,
        views: int = 0,
        exchange: Exchange | None = None,
        kind: type[Tile] = Tile,
    ) -> None:
        self.spec = spec
        self.exchange = exchange or choose(spec.exchange, ranks, len(plan))
        self.tiles = [
            kind(k, plan.tiles[k], plan.cores[k], spec.field, spec.sampling, spec.seed).to(
                ranks.device, dtype
            )
            for k in self.exchange.own
        ]
        learned = Views(spec.cameras, spec.appearance, views)
        self.shared = Shared(spec.field, spec.seed, learned).to(ranks.device, dtype)
        self.twins = [self.shared.twin() for _ in self.tiles]
        self.renderer = Renderer(plan, self.tiles, self.twins, spec.sampling, near, self.exchange)

    def sum_gradients(self) -> None:
        """Give what all tiles share the sum of their gradients; a collective.

        A tile says what it found in its samples, and in the background of the rays that are loaded
        in its name: so nothing is left out and nothing is counted twice, whatever the exchange. A
        missing gradient counts as zeros and becomes a tensor, so that an optimiser takes the same
        step however many ranks there are.
        """
        rows = []
        for twin in self.twins:
            rows.append(torch.cat([_gradient(weight).reshape(-1) for weight in twin.parameters()]))
            twin.zero_grad()
        total = self.exchange.sum_in_tile_order(torch.stack(rows))
        parameters = list(self.shared.parameters())
        parts = torch.split(total, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        for tile in self.tiles:
            for parameter in tile.parameters():
                if parameter.grad is not None:
                    self.exchange.sum_copies(parameter.grad)

    def load(self, tiles: Mapping[int, Mapping[str, Tensor]], shared: Mapping[str, Tensor]) -> None:
        """Take the fields of a checkpoint's tensors; what else they hold is left."""
        for tile in self.tiles:
            _fill(tile, tiles[tile.index])
        _fill(self.shared, shared)


def parameter_counts(spec: SceneSpec) -> tuple[int, int]:
    """Parameters of one tile, and of what all tiles share, without allocating them.

    An independent NeRF shares nothing: all that is its own counts as its tile's.
    """
    field, proposal = spec.field, spec.sampling.proposal
    tile = field.levels * 2**field.log2_table * field.features
    inputs = field.levels * field.features
    tile += inputs * field.density_hidden + field.density_hidden * (1 + field.geometry_features)
    if spec.sampling.method == "proposal":
        tile += proposal.levels * 2**proposal.log2_table
    shared = sum(p.numel() for p in Shared(field, spec.seed).parameters())
    return (tile + shared, 0) if spec.train.independent else (tile, shared)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _fill(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = module.state_dict()
    module.load_state_dict({name: tensors[name] for name in own})
