"""Charts as SVG: axes with round numbers, curves raw and smoothed, and the values behind them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerfxl.report.markup import Html, tag

WIDTH, HEIGHT = 560, 250  # of a chart, its own units
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 30  # around the drawing
MOST_POINTS = 500  # of a curve; more are averaged in groups
SMOOTHING = {"none": 0.0, "light": 0.012, "strong": 0.05}  # half a window, of all points

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A curve, or single points. values: NaN where nothing is known."""

    name: str
    steps: Floats
    values: Floats
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """What is drawn together. digits: after the point, of a value. log, zero: of the value axis."""

    title: str
    unit: str
    series: tuple[Series, ...]
    digits: int = 2
    log: bool = False
    zero: bool = False


@dataclass(frozen=True)
class Axis:
    """Values to places between two ends, even or in powers of ten."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def place(self, values: Floats) -> Floats:
        """Where values are drawn; NaN where they cannot be."""
        if self.log:
            values = np.log10(np.where(values > 0, values, np.nan))
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else self.ends
        share: Floats = (values - low) / (high - low)
        return self.start + share * (self.stop - self.start)

    @property
    def ends(self) -> tuple[float, float]:
        """The values at both ends."""
        return self.low, self.high

    def ticks(self) -> list[float]:
        """Round values, about five."""
        return _powers(self.low, self.high) if self.log else _even(self.low, self.high)


def draw(chart: Chart, last: float, marks: Sequence[float] = ()) -> Html:
    """Draw a chart over steps 0 to `last`, with thin lines at `marks`, as a figure."""
    series = [_thinned(one) for one in chart.series]
    across = Axis(0.0, max(last, 1.0), LEFT, WIDTH - RIGHT)
    values = np.concatenate([one.values for one in series])
    up = value_axis(values, HEIGHT - BOTTOM, chart.log, chart.zero)
    lines = [_gridlines(across, up), *(_mark(across, step) for step in marks)]
    for index, one in enumerate(series, start=1):
        lines.append(_dots(one, across, up, index) if one.dots else _curve(one, across, up, index))
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
    told = tag("output", class_="told", aria_live="polite")
    data = tag("script", _data(chart, series, across), type="application/json")
    return tag("figure", tag("div", head, told), _legend(series), picture, data, class_="chart")


def smoothed(values: Floats, share: float) -> Floats:
    """The mean of the values around each, nearer ones counting more; NaN counts for nothing.

    share: half the window, of all values.

    >>> smoothed(np.array([0.0, 4.0, 0.0, np.nan]), 0.25).tolist()  # weights 1, 2, 1
    [1.3333333333333333, 2.0, 1.3333333333333333, 0.0]
    """
    half = round(share * len(values)) + 1
    weights = half - np.abs(np.arange(1 - half, half))
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), weights, "same")
    count = np.convolve(known.astype(float), weights, "same")
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def label(value: float) -> str:
    """A number on an axis.

    >>> label(25000.0), label(0.002), label(1e-7), label(12.5)
    ('25,000', '0.002', '1e-7', '12.5')
    """
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    text = f"{value:,.4f}".rstrip("0").rstrip(".")
    return text or "0"


def _thinned(one: Series) -> Series:
    """Average neighbours where there are too many points to be told apart."""
    group = -(-len(one.steps) // MOST_POINTS)
    if one.dots or group <= 1:
        return one
    starts = np.arange(0, len(one.steps), group)
    known = np.isfinite(one.values)
    total = np.add.reduceat(np.where(known, one.values, 0.0), starts)
    count = np.add.reduceat(known.astype(float), starts)
    means = np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)
    ends = np.append(starts[1:], len(one.steps)) - 1
    return Series(one.name, one.steps[ends], means)


def value_axis(values: Floats, bottom: float, log: bool = False, zero: bool = False) -> Axis:
    """An axis that shows all values, upward from `bottom`."""
    known = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.1, 1.0)
    if log:
        return Axis(low / 1.15, high * 1.15, bottom, TOP, log)
    low = 0.0 if zero else low
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low if zero else low - room, high + room, bottom, TOP)


def levels(up: Axis, right: float) -> list[Html]:
    """Lines across the drawing at round values, and the values."""
    parts = []
    for value, y in zip(up.ticks(), up.place(np.array(up.ticks())).tolist(), strict=True):
        parts.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y))
        parts.append(tag("text", label(value), x=LEFT - 8, y=y + 4, text_anchor="end"))
    return parts


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


def _curve(one: Series, across: Axis, up: Axis, index: int) -> Html:
    """The raw curve, and the same at every level of smoothing; the page shows one of them."""
    x = across.place(one.steps)
    parts = [tag("path", class_="raw", d=_path(x, up.place(one.values)))]
    for name, share in SMOOTHING.items():
        if share:
            y = up.place(smoothed(one.values, share))
            parts.append(tag("path", class_=f"smooth {name}", d=_path(x, y)))
    known = np.flatnonzero(np.isfinite(one.values))
    if len(known) == 1:  # a path of one point shows nothing
        parts.append(dot(x[known[0]], up.place(one.values[known])[0]))
    return tag("g", *parts, class_=f"series s{index}")


def _dots(one: Series, across: Axis, up: Axis, index: int) -> Html:
    x, y = across.place(one.steps), up.place(one.values)
    known = np.isfinite(y)
    line = tag("path", class_="link", d=_path(x[known], y[known]))
    return tag(
        "g",
        line,
        *(dot(*at) for at in zip(x[known], y[known], strict=True)),
        class_=f"series s{index}",
    )


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
                "dots": one.dots,
                "steps": one.steps.astype(int).tolist(),
                "values": _numbers(one.values),
                **({} if one.dots else _levels(one)),
            }
            for one in series
        ],
    }
    return Html(json.dumps(told, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def _levels(one: Series) -> dict[str, list[float | None]]:
    levels = {name: share for name, share in SMOOTHING.items() if share}
    return {name: _numbers(smoothed(one.values, share)) for name, share in levels.items()}


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


def _even(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    pace = min((size * step for step in (1, 2, 5, 10)), key=lambda p: abs((high - low) / p - 4.5))
    first, end = math.ceil(low / pace - 1e-9), math.floor(high / pace + 1e-9)
    return [float(f"{number * pace:.10g}") for number in range(first, end + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten; with their doubles and fives where there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        found = [step * 10.0**power for power in exponents for step in steps]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            break
    return [float(f"{value:.10g}") for value in found[:: max(1, len(found) // 6)]]
