"""Which fits a study is made of: what is compared, on how many tiles and ranks, by which seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nerfxl.cost import ladder
from nerfxl.errors import UserError

Kind = Literal["scaling", "exchange", "overlap", "ddp", "cameras", "appearance"]

MODES: dict[Kind, tuple[str, ...]] = {
    "scaling": ("joint", "independent-3d:0", "independent-3d:0.15", "independent-2d"),
    "exchange": ("gather", "owner", "samples"),
    "overlap": ("joint", "independent-3d:0", "independent-3d:0.15", "independent-2d"),
    "ddp": ("joint", "ddp"),
    "cameras": ("joint", "independent-3d"),
    "appearance": ("off", "exposure", "embedding", "both"),
}
SCALING_TILES = (1, 2, 4, 8)
# Where the user's own --set is silent. One view is enough for an exchange, whose subject is not
# quality; the errors of the poses are a few pixels of a photograph, as after a hasty registration.
BASE: dict[Kind, tuple[str, ...]] = {
    "scaling": (),
    "exchange": ("train.steps=400", "train.log_every=20", "capture.split={every: 1000000}"),
    "overlap": (),
    "ddp": (),
    "cameras": ("cameras.disturb.rotation=0.5", "cameras.disturb.translation=0.002"),
    "appearance": ("appearance.at_test=half",),
}
ALONE = "alone"  # in place of an exchange: one process, which tells nobody
LARGEST_SEED = 2**32 - 1
MOST_TILES = 4096
_MODE = re.compile(r"([a-z0-9-]+?)(?::(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Cell:
    """One fit of a study.

    mode: what is compared: a train.mode, with `:overlap` where one is given, an exchange, or what
    is learned of the look of images.
    refine: whether poses are corrected, in a study of cameras.
    """

    kind: Kind
    mode: str
    tiles: int
    ranks: int
    seed: int
    refine: bool | None = None

    @property
    def uncut(self) -> bool:
        """Whether it has no faces between tiles, though the study is about them."""
        return self.kind == "overlap" and self.tiles == 1

    @property
    def label(self) -> str:
        """Names the cell, and its folder.

        >>> Cell("scaling", "independent-3d:0.15", 8, 2, 42).label
        'independent-3d-0.15-8-tiles-seed-42'
        """
        words = [self.mode.replace(":", "-"), _counted(self.tiles, "tile")]
        if self.kind in ("exchange", "ddp"):
            words.append(_counted(self.ranks, "rank"))
        if self.refine is not None:
            words.append("refined" if self.refine else "unrefined")
        return "-".join([*words, f"seed-{self.seed}"])

    @property
    def place(self) -> tuple[object, ...]:
        """Where the cell stands in a table: modes in their usual order, then by size."""
        usual = (ALONE, *MODES[self.kind])
        at = usual.index(self.mode) if self.mode in usual else len(usual)
        return at, self.mode, self.tiles, self.ranks, bool(self.refine), self.seed

    @property
    def overrides(self) -> list[str]:
        """What makes this cell of the study's scene, `key=value` each."""
        found = [f"name={self.label}", f"seed={self.seed}", f"partition.tiles={self.tiles}"]
        if self.kind in ("scaling", "ddp"):
            found.append("partition.plan=auto")  # a plan that is given has one number of tiles
        if self.kind == "exchange":
            exchange = "auto" if self.mode == ALONE else self.mode
            return [*found, "train.mode=joint", "train.overlap=auto", f"exchange={exchange}"]
        if self.kind == "appearance":
            learned = {"both": ("exposure", "embedding")}.get(self.mode, (self.mode,))
            looks = {name: name in learned for name in ("embedding", "exposure")}
            return found + [f"appearance.{name}={_switch(on)}" for name, on in looks.items()]
        mode, _, overlap = self.mode.partition(":")
        found += [f"train.mode={mode}", f"train.overlap={overlap or 'auto'}"]
        if mode != "joint":
            found.append("exchange=auto")
        if self.refine is not None:
            found.append(f"cameras.refine={_switch(self.refine)}")
        return found


def grid(
    kind: Kind,
    modes: Sequence[str] | None,
    tiles: Sequence[int] | None,
    seeds: Sequence[int],
    most: int,
    scene_tiles: int,
) -> list[Cell]:
    """All fits of a study, seed by seed.

    Parameters
    ----------
    modes, tiles:
        As asked for; None takes what is usual for the kind.
    seeds:
        Each gives the whole grid once.
    most:
        The largest number of ranks.
    scene_tiles:
        What the scene says, for the studies whose subject is something else.

    Raises
    ------
    UserError: the kind needs more ranks, more tiles, one number of tiles, or another mode.
    """
    modes = MODES[kind] if modes is None else modes
    if kind == "overlap" and "joint" not in modes:
        raise UserError(
            f"--modes {','.join(modes)}: study overlap measures all others against joint; add it."
        )
    counts = _tiles(kind, tiles, most, scene_tiles)
    of_seed = {
        "scaling": _scaling,
        "exchange": _exchange,
        "overlap": _overlap,
        "ddp": _ddp,
        "cameras": _cameras,
        "appearance": _alike,
    }[kind]
    return [cell for seed in seeds for cell in of_seed(kind, modes, counts, seed, most)]


def read_numbers(text: str | None, option: str, low: int, high: int) -> tuple[int, ...] | None:
    """Read '1,2,4'; None if nothing was given.

    Raises
    ------
    UserError: it is no such list.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,10}", word) and low <= int(word) <= high for word in words):
        raise UserError(
            f"{option} '{text}': expected whole numbers from {low} to {high} with commas between "
            "them, such as 1,2,4."
        )
    return tuple(dict.fromkeys(int(word) for word in words))


def read_modes(text: str | None, kind: Kind) -> tuple[str, ...] | None:
    """Read 'joint,independent-3d:0.15'; None if nothing was given.

    Raises
    ------
    UserError: a mode is not one of the kind's.
    """
    if text is None:
        return None
    known = list(dict.fromkeys(mode.partition(":")[0] for mode in MODES[kind]))
    found = []
    for word in (word.strip() for word in text.split(",")):
        match = _MODE.fullmatch(word)
        name, overlap = match.groups() if match else ("", None)
        if name not in known or (overlap is not None and not name.startswith("independent")):
            with_overlap = any(one.startswith("independent") for one in known)
            hint = "; an overlap follows a colon, such as independent-3d:0.15" * with_overlap
            raise UserError(f"--modes '{word}': study {kind} compares {', '.join(known)}{hint}.")
        found.append(name if overlap is None else f"{name}:{float(overlap):g}")
    return tuple(dict.fromkeys(found))


def base(kind: Kind, overrides: Sequence[str]) -> list[str]:
    """What all cells share: the user's overrides, and where they are silent what is usual."""
    said = {text.partition("=")[0] for text in overrides}
    return [text for text in BASE[kind] if text.partition("=")[0] not in said] + [*overrides]


def as_options(overrides: Sequence[str]) -> str:
    """Overrides as they are written on a command line.

    >>> as_options(["seed=1", "capture.split={every: 4}"])
    "--set seed=1 --set 'capture.split={every: 4}'"
    """
    return " ".join(f"--set {shlex.quote(text)}" for text in overrides)


def own_keys(cells: Sequence[Cell]) -> set[str]:
    """Keys of the scene that a study sets by itself, cell by cell."""
    return {text.partition("=")[0] for cell in cells for text in cell.overrides}


def _tiles(kind: Kind, asked: Sequence[int] | None, most: int, scene_tiles: int) -> tuple[int, ...]:
    if kind in ("exchange", "ddp") and most < 2:
        raise UserError(
            f"study {kind} compares processes, and this machine has a core or GPU for one: pass "
            "--nproc 2 to let two share it."
        )
    if kind == "scaling":
        return tuple(sorted(asked or SCALING_TILES))
    if kind == "ddp":
        found = tuple(sorted(asked or ladder(most)[1:]))
        if found[-1] > most:
            raise UserError(
                f"--tiles {found[-1]}: study ddp gives each tile a process of its own, and there "
                f"are cores or GPUs for {most}: pass --nproc {found[-1]} to let them share."
            )
        if found[0] < 2:
            raise UserError("--tiles 1: study ddp compares processes; pass 2 and more.")
        return found
    if asked and len(asked) > 1:
        raise UserError(
            f"--tiles {','.join(map(str, asked))}: study {kind} compares at one number of tiles; "
            "pass one."
        )
    least = {"exchange": most, "appearance": 1}.get(kind, 2)
    count = asked[0] if asked else max(scene_tiles, least)
    if count < 2 and kind != "appearance":
        raise UserError(f"--tiles {count}: study {kind} looks at what lies between tiles; pass 2.")
    return (count,)


def _scaling(
    kind: Kind, modes: Sequence[str], tiles: Sequence[int], seed: int, most: int
) -> Iterator[Cell]:
    for count in tiles:
        # With one tile there is nothing to divide: all modes are one NeRF, fitted once.
        fitted = ("joint",) if count == 1 and "joint" in modes else modes
        yield from (Cell(kind, mode, count, min(most, count), seed) for mode in fitted)


def _exchange(
    kind: Kind, modes: Sequence[str], tiles: Sequence[int], seed: int, most: int
) -> Iterator[Cell]:
    (count,) = tiles
    yield Cell(kind, ALONE, count, 1, seed)
    for ranks in ladder(min(most, count))[1:]:
        yield from (Cell(kind, mode, count, ranks, seed) for mode in modes)


def _alike(
    kind: Kind, modes: Sequence[str], tiles: Sequence[int], seed: int, most: int
) -> Iterator[Cell]:
    (count,) = tiles
    return (Cell(kind, mode, count, min(most, count), seed) for mode in modes)


def _overlap(
    kind: Kind, modes: Sequence[str], tiles: Sequence[int], seed: int, most: int
) -> Iterator[Cell]:
    yield Cell(kind, "joint", 1, 1, seed)  # has no faces: what is hard to see is so without them
    yield from _alike(kind, modes, tiles, seed, most)


def _ddp(
    kind: Kind, modes: Sequence[str], tiles: Sequence[int], seed: int, most: int
) -> Iterator[Cell]:
    del most
    for ranks in tiles:
        for mode in modes:
            yield Cell(kind, mode, 1 if mode == "ddp" else ranks, ranks, seed)


def _cameras(
    kind: Kind, modes: Sequence[str], tiles: Sequence[int], seed: int, most: int
) -> Iterator[Cell]:
    (count,) = tiles
    for mode in modes:
        for refine in (False, True):
            yield Cell(kind, mode, count, min(most, count), seed, refine)


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _counted(number: int, what: str) -> str:
    return f"{number}-{what}{'s' if number > 1 else ''}"
