"""Which curves a run's report shows, and in which words and units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from nerfxl.history import Line
from nerfxl.report.axes import Floats
from nerfxl.report.charts import Chart, Series
from nerfxl.report.facts import Facts


class Panel(NamedTuple):
    """A figure of metrics.jsonl as it is shown.

    factor: from the unit in which it is kept. The others: see `Chart` and `Series`.
    """

    figure: str
    title: str
    unit: str = ""
    factor: float = 1.0
    digits: int = 2
    log: bool = False
    zero: bool = False
    exact: bool = False


PANELS = (
    Panel("psnr", "PSNR", "dB"),
    Panel("loss", "Mean squared error of colours", digits=6, log=True),
    Panel("rays_per_second", "Speed", "1,000 rays a second", 1e-3, zero=True),
    Panel(
        "peak_memory", "Memory of the process that has most", "GiB", 2.0**-30, zero=True, exact=True
    ),
    Panel("samples_per_ray", "Samples a ray", zero=True),
    Panel("waiting", "Processes wait for each other", "% of the time", 100, digits=1, zero=True),
    Panel("imbalance", "Samples of the busiest process, over the mean", digits=3),
    Panel("bytes_per_ray", "Received by all processes", "bytes a ray", digits=1, zero=True),
    Panel("outside", "Samples outside their own tile", "%", 100, digits=1, zero=True),
    Panel("proposal_loss", "Loss of the proposals", digits=6, log=True),
    Panel("learning_rate", "Learning rate", digits=6, log=True, exact=True),
)
NOT_DRAWN = {"step", "steps_per_second"}  # the second is the speed again
MOST_KINDS = 6  # of messages, each its own curve


def charts(facts: Facts) -> Iterator[Chart]:
    """All that metrics.jsonl tells, what is known first, then what is new to this module."""
    lines = facts.history.lines
    for panel in PANELS:
        series = [_series("training", lines, panel)]
        if panel.figure == "psnr" and facts.scores:
            series.append(_held_out(facts))
        if any(np.isfinite(one.values).any() for one in series):
            about = (panel.digits, panel.log, panel.zero)
            yield Chart(panel.title, panel.unit, tuple(series), *about)
    waits = _messages(lines)
    if waits:
        yield Chart("Waiting, by message", "ms a step", waits, digits=2, zero=True)
    known = {panel.figure for panel in PANELS} | NOT_DRAWN
    for name in dict.fromkeys(key for line in lines for key in line if key not in known):
        series = [_series(name, lines, Panel(name, name))]
        if np.isfinite(series[0].values).any():
            yield Chart(name, "", tuple(series), digits=4)


def last_step(facts: Facts) -> int:
    """The step up to which anything is known."""
    return max(facts.history.last, *(one.step for one in facts.scores), 0)


def _series(name: str, lines: Sequence[Line], panel: Panel) -> Series:
    values = np.array([_number(line.get(panel.figure)) for line in lines]) * panel.factor
    # Proposals that were not asked in a step have a loss of 0, which no logarithm shows.
    shown = values > 0 if panel.log else np.full(len(values), True)
    style: Literal["curve", "exact"] = "exact" if panel.exact else "curve"
    return Series(name, _steps(lines)[shown], values[shown], style)


def _held_out(facts: Facts) -> Series:
    scored = {one.step: _number(one.told.get("psnr")) for one in reversed(facts.scores)}
    steps = np.array(sorted(scored), float)
    return Series("held out", steps, np.array([scored[int(step)] for step in steps]), "dots")


def _messages(lines: Sequence[Line]) -> tuple[Series, ...]:
    """Milliseconds that each kind of message is waited for, the longest first."""
    told = [line.get("exchange") or {} for line in lines]
    kinds = dict.fromkeys(kind for one in told for kind in one)
    found = {}
    for kind in kinds:
        waits = [_number((one.get(kind) or {}).get("ms_per_step")) for one in told]
        found[kind] = Series(kind, _steps(lines), np.array(waits))
    means = {kind: float(np.nanmean(one.values)) for kind, one in found.items() if _any(one)}
    longest = sorted((kind for kind in means if means[kind] > 0), key=lambda kind: -means[kind])
    return tuple(found[kind] for kind in longest[:MOST_KINDS])


def _steps(lines: Sequence[Line]) -> Floats:
    return np.array([line["step"] for line in lines], float)


def _any(one: Series) -> bool:
    return bool(np.isfinite(one.values).any())


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan
