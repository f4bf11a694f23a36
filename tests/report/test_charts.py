"""Charts: round numbers on the axes, and curves that keep what they are made of."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerfxl.report.axes import Axis, value_axis
from nerfxl.report.charts import MOST_POINTS, Chart, Series, draw, smoothed
from nerfxl.report.markup import VOID

finite = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


class Balanced(HTMLParser):
    """Fails where a tag is not closed by its own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def curve(values: list[float], name: str = "x") -> Series:
    return Series(name, np.arange(1.0, len(values) + 1), np.array(values))


def data(markup: str) -> dict[str, object]:
    """What the chart tells the page's script."""
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', markup)
    found: dict[str, object] = json.loads(text)
    return found


@given(finite, st.floats(1e-3, 1e6))
def test_an_axis_has_a_few_round_numbers(low: float, size: float) -> None:
    axis = Axis(low, low + size, 100, 0)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 11
    assert all(low - 1e-6 * size <= tick <= low + (1 + 1e-6) * size for tick in ticks)
    gaps = np.diff(ticks)
    assert np.allclose(gaps, gaps[0], rtol=1e-3)
    digit = float(f"{gaps[0]:.1e}".partition("e")[0])
    assert digit in (1, 2, 5)


@given(st.floats(1e-9, 1e6), st.floats(1.3, 1e9))
def test_an_axis_of_powers_has_a_few_numbers(low: float, factor: float) -> None:
    ticks = Axis(low, low * factor, 100, 0, log=True).ticks()
    assert len(ticks) <= 12
    assert ticks == sorted(ticks)
    assert all(low <= tick * (1 + 1e-9) and tick <= low * factor * (1 + 1e-9) for tick in ticks)


@given(st.lists(finite, min_size=1, max_size=50), st.booleans())
def test_an_axis_shows_all_values(values: list[float], zero: bool) -> None:
    if zero:
        values = [abs(value) for value in values]
    axis = value_axis(np.array(values), 200, zero=zero)
    places = axis.place(np.array(values))
    assert places.min() >= axis.stop - 1e-9
    assert places.max() <= axis.start + 1e-9


@given(st.lists(finite, min_size=1, max_size=80), st.floats(0, 0.3))
def test_smoothing_stays_among_the_values(values: list[float], share: float) -> None:
    found = smoothed(np.array(values), share)
    assert len(found) == len(values)
    assert found.min() >= min(values) - 1e-6
    assert found.max() <= max(values) + 1e-6
    assert np.allclose(smoothed(np.full(len(values), 7.0), share), 7)


def test_a_long_curve_is_averaged_and_keeps_its_mean_and_its_end() -> None:
    values = np.sin(np.arange(10 * MOST_POINTS)).tolist()
    found = data(draw(Chart("x", "", (curve(values),), digits=9), 10 * MOST_POINTS))
    (series,) = found["series"]  # type: ignore[misc]
    assert len(series["steps"]) == MOST_POINTS  # type: ignore[has-type]
    assert series["steps"][-1] == 10 * MOST_POINTS  # type: ignore[has-type]
    assert np.mean(series["values"]) == pytest.approx(np.mean(values), abs=1e-5)  # type: ignore[has-type]


@pytest.mark.parametrize(
    "values",
    [[], [1.0], [2.0, 2.0], [np.nan, np.nan], [1.0, np.nan, 3.0], [0.0, 0.0], [1e-12, 1e12]],
)
@pytest.mark.parametrize("log", [False, True])
def test_whatever_is_known_can_be_drawn(values: list[float], log: bool) -> None:
    drawn = draw(Chart("<title>", "a & b", (curve(values), curve(values, "</script>")), log=log), 9)
    Balanced(drawn)
    assert "nan" not in drawn
    assert "inf" not in drawn.replace("info", "")
    assert "&lt;title&gt;" in drawn
    data(drawn)


def test_what_is_not_known_breaks_the_curve() -> None:
    drawn = draw(Chart("x", "", (curve([1.0, 2.0, np.nan, 4.0, 5.0]),)), 5)
    raw = re.findall(r'class="raw" d="([^"]*)"', drawn)[0]
    assert re.sub(r"[^ML]", "", raw) == "MLML"


def test_a_chart_says_in_words_what_it_shows() -> None:
    drawn = draw(Chart("PSNR", "dB", (curve([10.0, 20.0]),)), 1500)
    assert 'aria-label="PSNR from 10.00 to 20.00 dB, over 1,500 steps"' in drawn
