"""The axes of charts: values to places, and round numbers beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerfxl.report.markup import Html, tag

LEFT, RIGHT, TOP = 54, 14, 12  # around a drawing, its own units

Floats = NDArray[np.float64]


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
        low, high = self.low, self.high
        if self.log:
            values = np.log10(np.where(values > 0, values, np.nan))
            low, high = math.log10(low), math.log10(high)
        found: Floats = self.start + (values - low) / (high - low) * (self.stop - self.start)
        return found

    def ticks(self) -> list[float]:
        """Round values, about five."""
        return _powers(self.low, self.high) if self.log else _even(self.low, self.high)


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


def label(value: float) -> str:
    """A number on an axis.

    >>> label(25000.0), label(0.002), label(1e-7), label(12.5)
    ('25,000', '0.002', '1e-7', '12.5')
    """
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    text = f"{value:,.4f}".rstrip("0").rstrip(".")
    return text or "0"


def _even(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    pace = min((size * step for step in (1, 2, 5, 10)), key=lambda p: abs((high - low) / p - 4.5))
    first, end = math.ceil(low / pace - 1e-9), math.floor(high / pace + 1e-9)
    digits = 1 - math.floor(math.log10(pace))
    return [round(number * pace, digits) for number in range(first, end + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten; with their doubles and fives where there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        found = [step * 10.0**power for power in exponents for step in steps]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            break
    return [float(f"{value:.10g}") for value in found[:: max(1, len(found) // 6)]]
