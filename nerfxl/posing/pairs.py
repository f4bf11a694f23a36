"""Which photographs to compare with which: what was chosen, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nerfxl.errors import UserError

Kind = Literal["sequential", "exhaustive", "spatial"]
Pair = tuple[int, int]  # the smaller number first

FEW = 60  # photographs; each of as many is compared with each other in minutes
NEIGHBOURS = 20
NEXT = 10  # frames after each
_KEYS = 50  # frames spread over the whole, compared each with each: they see where a walk returns
_MANY = 0.9  # of the photographs have GPS, or numbers that follow upon one another


@dataclass(frozen=True)
class Choice:
    """Pairs of photographs by their number, ascending; kind and reason as they are told."""

    kind: Kind
    reason: str
    pairs: tuple[Pair, ...]


def choose(
    names: Sequence[str],
    places: NDArray[np.float64] | None,
    video: bool,
    wanted: Kind | Literal["auto"],
) -> Choice:
    """Choose the pairs to compare.

    Parameters
    ----------
    names: of the photographs, in order. places: [N, 2] metres by GPS, NaN where there is none; None
    where nothing is known of places. video: they are frames of a video. wanted: a kind, or 'auto'.

    Raises
    ------
    UserError: 'spatial' is wanted, and no photograph has GPS.
    """
    count = len(names)
    known = 0 if places is None else int(np.isfinite(places).all(axis=1).sum())
    if wanted == "spatial" and known < 2:
        raise UserError(
            f"--matching spatial needs GPS, which {known} of {count} photographs have: leave it "
            "out, or put a gps.csv beside them."
        )
    kind, reason = _choice(names, known, video) if wanted == "auto" else (wanted, "--matching")
    if kind == "exhaustive":
        return Choice(kind, reason, tuple(combinations(range(count), 2)))
    if kind == "sequential":
        return Choice(kind, reason, _in_sequence(count))
    assert places is not None
    return Choice(kind, reason, _near(places))


def _choice(names: Sequence[str], known: int, video: bool) -> tuple[Kind, str]:
    count = len(names)
    if video:
        return "sequential", "frames of a video"
    if count <= FEW:
        return "exhaustive", f"{count} photographs are few"
    if known >= _MANY * count:
        return "spatial", f"{known} of {count} photographs have GPS"
    if in_order(names):
        return "sequential", "names are numbered in order, and GPS is missing"
    return "exhaustive", "neither GPS nor numbered names say which photographs are neighbours"


def in_order(names: Sequence[str]) -> bool:
    """Whether names are one word and numbers that follow upon one another, as a camera counts.

    >>> in_order(["img_3010.jpg", "img_3011.jpg", "img_3013.jpg"])
    True
    >>> in_order(["church.jpg", "market.jpg", "tower2.jpg"])
    False
    """
    found = [re.fullmatch(r"(.*?)(\d+)\D*", name) for name in names]
    numbers = [(one[1], int(one[2])) for one in found if one]
    steps = [b[1] - a[1] for a, b in pairwise(numbers) if a[0] == b[0]]
    usual = min((step for step in steps if step > 0), default=0)
    near = sum(0 < step <= 4 * usual for step in steps)
    return near >= _MANY * (len(names) - 1)


def _in_sequence(count: int) -> tuple[Pair, ...]:
    """Each with the next ten, then with those 16, 32, ... on; some with all, to close loops."""
    pairs = {
        (one, one + step)
        for step in (*range(1, NEXT + 1), 16, 32, 64)
        for one in range(count - step)
    }
    keys = np.unique(np.linspace(0, count - 1, min(count, _KEYS)).astype(int)).tolist()
    return tuple(sorted(pairs | set(combinations(keys, 2))))


def _near(places: NDArray[np.float64]) -> tuple[Pair, ...]:
    """Each with its nearest by GPS, and, as some have none, with the next two of the list."""
    count = len(places)
    pairs = {(one, one + step) for step in (1, 2) for one in range(count - step)}
    known = np.flatnonzero(np.isfinite(places).all(axis=1))
    for one in known:
        away = np.linalg.norm(places[known] - places[one], axis=1)
        nearest = known[np.argsort(away, kind="stable")[: NEIGHBOURS + 1]]
        pairs |= {(min(one, other), max(one, other)) for other in nearest.tolist() if other != one}
    return tuple(sorted((int(a), int(b)) for a, b in pairs))
