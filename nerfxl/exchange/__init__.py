"""Segments across ranks: how tiles come to know of the rays that meet them, and pixels of tiles."""

from __future__ import annotations

from nerfxl.exchange.exchange import Exchange, Route, Shaded, along, deal
from nerfxl.exchange.gather import Gather, GatherRoute
from nerfxl.exchange.owner import Owner
from nerfxl.exchange.replicated import Replicated
from nerfxl.exchange.samples import Samples
from nerfxl.processes.ranks import Ranks

__all__ = [
    "Exchange",
    "Gather",
    "GatherRoute",
    "Owner",
    "Replicated",
    "Route",
    "Samples",
    "Shaded",
    "along",
    "choose",
    "deal",
    "resolved",
]

KINDS: dict[str, type[Exchange]] = {"gather": Gather, "owner": Owner, "samples": Samples}
MOST_THAT_GATHER = 16  # ranks: beyond, what each receives of all others outweighs the messages


def resolved(kind: str, ranks: int, nodes: int = 1) -> str:
    """What 'auto' stands for: gather among up to 16 ranks of one machine, owner beyond.

    >>> resolved("auto", 16), resolved("auto", 17), resolved("auto", 2, nodes=2)
    ('gather', 'owner', 'owner')
    """
    if kind != "auto":
        return kind
    return "gather" if nodes == 1 and ranks <= MOST_THAT_GATHER else "owner"


def choose(kind: str, ranks: Ranks, tiles: int) -> Exchange:
    """Make the exchange that a scene asks for: 'gather', 'owner', 'samples' or 'auto'."""
    return KINDS[resolved(kind, ranks.size, ranks.nodes)](ranks, tiles)
