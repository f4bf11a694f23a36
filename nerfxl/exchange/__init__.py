"""Segments across ranks: how tiles come to know of the rays that meet them, and pixels of tiles."""

from __future__ import annotations

from nerfxl.exchange.exchange import Exchange, Route, Shaded, along, deal
from nerfxl.exchange.gather import Gather
from nerfxl.exchange.owner import Owner
from nerfxl.exchange.samples import Samples
from nerfxl.ranks import Ranks

__all__ = ["Exchange", "Gather", "Owner", "Route", "Samples", "Shaded", "along", "choose", "deal"]

KINDS: dict[str, type[Exchange]] = {"gather": Gather, "owner": Owner, "samples": Samples}
MOST_THAT_GATHER = 16  # ranks: beyond, what each receives of all others outweighs the messages


def choose(kind: str, ranks: Ranks, tiles: int) -> Exchange:
    """Make the exchange that a scene asks for: 'gather', 'owner', 'samples' or 'auto'.

    'auto' gathers among up to 16 ranks of one node, and is 'owner' beyond.
    """
    if kind == "auto":
        kind = "gather" if ranks.nodes == 1 and ranks.size <= MOST_THAT_GATHER else "owner"
    return KINDS[kind](ranks, tiles)
