"""Plots of a study: figures against tiles or ranks, readable in print and without colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from nerfxl.errors import UserError
from nerfxl.runs import write_atomic
from nerfxl.study.figures import Group, Spread
from nerfxl.study.grid import ALONE, Kind

Rows = dict[str, dict[str, Spread | None]]  # by mode, the figures by the name of their mark

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Style(NamedTuple):
    """How a mode, or a figure, is drawn."""

    colour: str
    marker: str
    dashes: Literal["-", "--", "-.", ":", "none"] | tuple[float, Sequence[float]]


# Colours that remain apart for the colour-blind; markers and dashes tell the same without them.
STYLES = (
    Style("#000000", "o", "-"),
    Style("#d55e00", "s", "--"),
    Style("#0072b2", "^", "-."),
    Style("#8a5a83", "D", ":"),
    Style("#009e73", "v", (0, (6, 2))),
)
REFINED = {"as given": False, "corrected": True}
PANEL = (3.5, 2.7)  # inches
DOTS = 150  # an inch


class Panel(NamedTuple):
    """Axes of a figure. factor: from the unit that it is kept in. zero: whether they begin at 0."""

    figure: str
    title: str
    factor: float = 1.0
    zero: bool = True


def check_installed() -> None:
    """Find out before the first fit whether its figures can be drawn.

    Raises
    ------
    UserError: they cannot.
    """
    if find_spec("matplotlib") is None:
        raise UserError(
            "study draws with matplotlib, which is not installed: pip install 'nerfxl[study]'."
        )


def draw(kind: Kind, groups: Sequence[Group], folder: Path) -> list[str]:
    """Draw a study's figures into its folder; the names of the files, none if nothing is known."""
    of_kind: dict[Kind, Callable[[Sequence[Group]], Figure | None]] = {
        "scaling": _scaling,
        "exchange": _exchange,
        "overlap": _overlap,
        "ddp": _ddp,
        "cameras": _cameras,
        "appearance": _appearance,
    }
    figure, buffer = of_kind[kind](groups), io.BytesIO()
    if figure is None:
        return []
    figure.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
    write_atomic(folder / f"{kind}.png", buffer.getvalue())
    return [f"{kind}.png"]


def _scaling(groups: Sequence[Group]) -> Figure:
    panels = (
        Panel("psnr", "PSNR, dB", zero=False),
        Panel("ssim", "SSIM", zero=False),
        Panel("rays_per_second", "training, 1000 rays/s", 1e-3),
        Panel("render_seconds", "rendering, s a picture"),
        Panel("outside", "samples outside, %", 100),
    )
    return _lines(groups, panels, "tiles", alone="joint")


def _exchange(groups: Sequence[Group]) -> Figure:
    panels = (
        Panel("step_ms", "a step, ms"),
        Panel("exchange_ms", "of it exchanging, ms"),
        Panel("waiting", "waiting, %", 100),
        Panel("bytes_per_ray", "bytes a ray"),
    )
    return _lines(groups, panels, "processes", alone=ALONE)


def _ddp(groups: Sequence[Group]) -> Figure:
    panels = (
        Panel("psnr", "PSNR, dB", zero=False),
        Panel("rays_per_second", "training, 1000 rays/s", 1e-3),
        Panel("render_seconds", "rendering, s a picture"),
        Panel("memory", "memory, GiB a process"),
    )
    return _lines(groups, panels, "processes", alone="")


def _overlap(groups: Sequence[Group]) -> Figure | None:
    marks = {"near faces": "band_psnr", "elsewhere": "rest_psnr"}
    rows = {
        "one tile" if one.tiles == 1 else one.mode: {name: one[key] for name, key in marks.items()}
        for one in groups
    }
    return _dotted({"PSNR, dB": rows}, width=1.6 * PANEL[0])


def _cameras(groups: Sequence[Group]) -> Figure | None:
    """Errors before and after are those after alignment: what a picture can show."""
    quality: Rows = {}
    turned: Rows = {}
    moved: Rows = {}
    for mode in dict.fromkeys(one.mode for one in groups):
        own = {one.refine: one for one in groups if one.mode == mode}
        quality[mode] = {name: _of(own, refine, "psnr") for name, refine in REFINED.items()}
        for rows, what, factor in ((turned, "rotation", 1.0), (moved, "translation", 100.0)):
            rows[mode] = {
                "as given": _of(own, False, f"before_{what}_aligned", factor),
                "corrected": _of(own, True, f"after_{what}_aligned", factor),
                "tiles apart": _of(own, True, f"apart_{what}", factor),
            }
    panels = {"rotation, degrees": turned, "translation, % of the box": moved}
    return _dotted({"PSNR, dB": quality, **panels}, zero=tuple(panels))


def _appearance(groups: Sequence[Group]) -> Figure | None:
    panels = {"PSNR, dB": "psnr", "SSIM": "ssim"}
    return _dotted(
        {title: {one.mode: {title: one[name]} for one in groups} for title, name in panels.items()}
    )


def _of(
    own: Mapping[bool | None, Group], refine: bool, name: str, factor: float = 1.0
) -> Spread | None:
    value = own[refine][name] if refine in own else None
    return value.times(factor) if value else None


def _lines(groups: Sequence[Group], panels: Sequence[Panel], x: str, alone: str) -> Figure:
    """A panel a figure that is known, a line a mode, against the number of tiles or processes.

    alone: the mode that stands for all others where there is one tile or process.
    """
    known = [panel for panel in panels if any(one[panel.figure] for one in groups)]
    figure, every = _axes(len(known))
    modes = list(dict.fromkeys(one.mode for one in groups if one.mode != ALONE))
    at = sorted({_place(one, x) for one in groups})
    for axes, panel in zip(every, known, strict=True):
        for mode, style in zip(modes, _styles(len(modes)), strict=True):
            points = _points([one for one in groups if one.mode in (mode, alone)], mode, panel, x)
            values = list(points.values())
            means = [value.mean for value in values]
            _marks(axes, style, mode, (list(points), means), yerr=_bars(values))
        axes.set_xscale("log", base=2)
        axes.set_xlim(at[0] / 1.2, at[-1] * 1.2)
        axes.set_xticks(at, [str(place) for place in at])
        axes.minorticks_off()
        axes.set_xlabel(x)
        axes.set_ylabel(panel.title)
        if panel.zero:
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    _legend(figure, every)
    return figure


def _points(groups: Sequence[Group], mode: str, panel: Panel, x: str) -> dict[int, Spread]:
    """What is drawn of a mode; other groups than its own stand for it where there is one of x."""
    found = {}
    for one in sorted(groups, key=lambda one: one.mode == mode):
        place = _place(one, x)
        value = one[panel.figure]
        if value and (one.mode == mode or place == 1):
            found[place] = value.times(panel.factor)
    return dict(sorted(found.items()))


def _place(one: Group, x: str) -> int:
    return one.tiles if x == "tiles" else one.ranks


def _dotted(
    panels: Mapping[str, Rows], zero: Sequence[str] = (), width: float = PANEL[0]
) -> Figure | None:
    """A panel a title that has values, in it a line a mode, on it a mark a figure.

    zero: titles of those that begin at 0.
    """
    known = {title: rows for title, rows in panels.items() if any(map(_any, rows.values()))}
    if not known:
        return None
    most = max(map(len, known.values()))
    figure, every = _axes(len(known), width, height=1.5 + 0.35 * most)
    for axes, (title, rows) in zip(every, known.items(), strict=True):
        names = list(next(iter(rows.values())))
        for name, style in zip(names, _styles(len(names)), strict=True):
            marked = [(at, value) for at, row in enumerate(rows.values()) if (value := row[name])]
            values = [value for _, value in marked]
            places = ([value.mean for value in values], [float(at) for at, _ in marked])
            _marks(axes, style._replace(dashes="none"), name, places, xerr=_bars(values))
        axes.set_yticks(range(len(rows)), list(rows) if axes is every[0] else [""] * len(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(title)
        axes.margins(x=0.1)
        if title in zero:
            axes.set_xlim(left=0)
    _legend(figure, every)
    return figure


def _any(row: Mapping[str, Spread | None]) -> bool:
    return any(row.values())


def _axes(
    count: int, width: float = PANEL[0], height: float = PANEL[1]
) -> tuple[Figure, list[Axes]]:
    """So many panels, at most two a line."""
    from matplotlib.figure import Figure

    columns = min(count, 2 if count in (2, 4) else 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(columns * width, lines * height + 0.3), layout="constrained")
    every = [figure.add_subplot(lines, columns, place + 1) for place in range(count)]
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, every


def _marks(
    axes: Axes,
    style: Style,
    name: str,
    at: tuple[Sequence[float], Sequence[float]],
    xerr: list[list[float]] | None = None,
    yerr: list[list[float]] | None = None,
) -> None:
    """Hollow marks at (x, y), with bars where there are several seeds; nothing where are none."""
    if at[0]:
        axes.errorbar(
            *at,
            xerr=xerr,
            yerr=yerr,
            color=style.colour,
            marker=style.marker,
            linestyle=style.dashes,
            markerfacecolor="white",
            capsize=3,
            label=name,
        )


def _bars(values: Sequence[Spread]) -> list[list[float]] | None:
    """From the mean down to the least and up to the greatest; none with one seed."""
    if all(value.seeds == 1 for value in values):
        return None
    down = [value.mean - value.least for value in values]
    return [down, [value.greatest - value.mean for value in values]]


def _styles(count: int) -> list[Style]:
    return [STYLES[place % len(STYLES)] for place in range(count)]


def _legend(figure: Figure, every: Sequence[Axes]) -> None:
    """Say once what marks mean, as the panel that has most of them does."""
    handles, labels = max((axes.get_legend_handles_labels() for axes in every), key=_count)
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)


def _count(legend: tuple[list[Artist], list[str]]) -> int:
    return len(legend[1])
