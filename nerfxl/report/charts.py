"""Charts as SVG: curves raw and smoothed, single points, and the values behind them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nerfxl.report.axes import LEFT, RIGHT, TOP, Axis, Floats, label, levels, value_axis
from nerfxl.report.markup import Html, tag

WIDTH, HEIGHT = 560, 250  # of a chart, its own units
BOTTOM = 30  # below the drawing
MOST_POINTS = 500  # of a curve; more are averaged in groups
SMOOTHING = {"none": 0.0, "light": 0.012, "strong": 0.05}  # half a window, of all points


@dataclass(frozen=True)
class Series:
    """Values over steps; NaN where nothing is known.

    style: a curve that may be smoothed, one that is exact, or single points.
    """

    name: str
    steps: Floats
    values: Floats
    style: Literal["curve", "exact", "dots"] = "curve"

    @property
    def smoothings(self) -> dict[str, float]:
        """Levels at which it is drawn besides its own."""
        return {name: share for name, share in SMOOTHING.items() if share and self.style == "curve"}


@dataclass(frozen=True)
class Chart:
    """What is drawn together. digits: after the point, of a value. log, zero: of the value axis."""

    title: str
    unit: str
    series: tuple[Series, ...]
    digits: int = 2
    log: bool = False
    zero: bool = False


def draw(chart: Chart, last: float, marks: Sequence[float] = ()) -> Html:
    """Draw a chart over steps 0 to `last`, with thin lines at `marks`, as a figure."""
    series = [_thinned(one) for one in chart.series]
    across = Axis(0.0, max(last, 1.0), LEFT, WIDTH - RIGHT)
    values = np.concatenate([one.values for one in series])
    up = value_axis(values, HEIGHT - BOTTOM, chart.log, chart.zero)
    lines = [_gridlines(across, up), *(_mark(across, step) for step in marks)]
    for index, one in enumerate(series, start=1):
        drawing = _dots if one.style == "dots" else _curve
        lines.append(tag("g", *drawing(one, across, up), class_=f"series s{index} {one.style}"))
    cursor = tag("line", class_="cursor", x1=0, x2=0, y1=TOP, y2=HEIGHT - BOTTOM)
    picture = tag(
        "svg",
        *lines,
        cursor,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        tabindex=0,
        aria_label=_spoken(chart, series, last),
    )
    head = tag("figcaption", tag("b", chart.title), " ", tag("span", chart.unit, class_="unit"))
    told = tag("span", class_="told")
    data = tag("script", _data(chart, series, across), type="application/json")
    return tag("figure", tag("div", head, told), _legend(series), picture, data, class_="chart")


def smoothed(values: Floats, share: float) -> Floats:
    """The mean of the values around each, nearer ones counting more; NaN counts for nothing.

    share: half the window, of all values.

    >>> smoothed(np.array([0.0, 4.0, 0.0, np.nan]), 0.25).tolist()  # weights 1, 2, 1
    [1.3333333333333333, 2.0, 1.3333333333333333, 0.0]
    """
    half = min(round(share * len(values)) + 1, (len(values) + 1) // 2)
    if not half:
        return values
    weights = half - np.abs(np.arange(1 - half, half))
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), weights, "same")
    count = np.convolve(known.astype(float), weights, "same")
    return _means(total, count)


def _thinned(one: Series) -> Series:
    """Average neighbours where there are too many points to be told apart."""
    group = -(-len(one.steps) // MOST_POINTS)
    if one.style == "dots" or group <= 1:
        return one
    starts = np.arange(0, len(one.steps), group)
    known = np.isfinite(one.values)
    total = np.add.reduceat(np.where(known, one.values, 0.0), starts)
    count = np.add.reduceat(known.astype(float), starts)
    means = _means(total, count)
    ends = np.append(starts[1:], len(one.steps)) - 1
    return replace(one, steps=one.steps[ends], values=means)


def _means(total: Floats, count: Floats) -> Floats:
    """NaN where nothing was counted."""
    found: Floats = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return found


def _gridlines(across: Axis, up: Axis) -> Html:
    parts, foot = levels(up, WIDTH - RIGHT), HEIGHT - BOTTOM + 19
    for value, x in zip(across.ticks(), across.place(np.array(across.ticks())), strict=True):
        anchor = "end" if x > WIDTH - RIGHT - 16 else "middle"
        parts.append(tag("text", label(value), x=float(x), y=foot, text_anchor=anchor))
    base = tag("line", class_="base", x1=LEFT, x2=WIDTH - RIGHT, y1=up.start, y2=up.start)
    return tag("g", *parts, base, class_="axes", aria_hidden="true")


def _mark(across: Axis, step: float) -> Html:
    x = float(across.place(np.array([step]))[0])
    line = tag("line", class_="mark", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM)
    return tag("g", tag("title", f"trained from step {step:,.0f}"), line)


def _curve(one: Series, across: Axis, up: Axis) -> Iterator[Html]:
    """The raw curve, and the same at every level of smoothing; the page shows one of them."""
    x, y = across.place(one.steps), up.place(one.values)
    yield tag("path", class_="raw", d=_path(x, y))
    for name, share in one.smoothings.items():
        line = _path(x, up.place(smoothed(one.values, share)))
        yield tag("path", class_=f"smooth {name}", d=line)
    if np.isfinite(y).sum() == 1:  # a path of one point shows nothing
        yield from _dots(one, across, up)


def _dots(one: Series, across: Axis, up: Axis) -> Iterator[Html]:
    x, y = across.place(one.steps), up.place(one.values)
    known = np.isfinite(y)
    yield tag("path", class_="link", d=_path(x[known], y[known]))
    for at in zip(x[known], y[known], strict=True):
        yield dot(*at)


def dot(x: float, y: float) -> Html:
    """A point of its own."""
    return tag("circle", cx=round(float(x), 1), cy=round(float(y), 1), r=3.6)


def _path(x: Floats, y: Floats) -> str:
    """A line through the points, broken where one is not known."""
    parts, pen = [], "M"
    for one, other in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(other):
            parts.append(f"{pen}{one:.1f} {other:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _legend(series: Sequence[Series]) -> Html | None:
    if len(series) < 2:
        return None
    names = (
        tag("span", tag("i", class_=f"key s{index}"), one.name)
        for index, one in enumerate(series, start=1)
    )
    return tag("p", *names, class_="legend")


def _data(chart: Chart, series: Sequence[Series], across: Axis) -> Html:
    """The values, for the page to tell where the pointer is."""
    told = {
        "x": [across.start, across.stop, across.high],
        "digits": chart.digits,
        "unit": chart.unit,
        "series": [
            {
                "name": one.name if len(series) > 1 else "",
                "dots": one.style == "dots",
                "steps": one.steps.astype(int).tolist(),
                "values": _numbers(one.values),
                **_levels(one),
            }
            for one in series
        ],
    }
    return Html(json.dumps(told, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def _levels(one: Series) -> dict[str, list[float | None]]:
    smooth = one.smoothings.items()
    return {name: _numbers(smoothed(one.values, share)) for name, share in smooth}


def _numbers(values: Floats) -> list[float | None]:
    """Five digits of each, which is more than a curve shows."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]


def _spoken(chart: Chart, series: Sequence[Series], last: float) -> str:
    """The chart in a sentence, for those who do not see it."""
    parts = []
    for one in series:
        known = one.values[np.isfinite(one.values)]
        if len(known):
            name = one.name if len(series) > 1 else chart.title
            first, final = (f"{value:,.{chart.digits}f}" for value in (known[0], known[-1]))
            parts.append(f"{name} from {first} to {final} {chart.unit}".strip())
    return f"{'; '.join(parts) or chart.title}, over {last:,.0f} steps"
