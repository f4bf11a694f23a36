"""The instruments: races refuse what is wrong, ratios are taken round by round, tables say both."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch
from bench.measure import Contender, Times, race
from bench.report import README, figures, lines

CPU = torch.device("cpu")


def wrong() -> None:
    raise AssertionError("not what the reference says")


def nothing() -> None:
    """Take no time."""


def test_nothing_wrong_is_timed() -> None:
    timed: list[str] = []
    bad = Contender("bad", lambda: timed.append("bad"), wrong)
    with pytest.raises(AssertionError, match="not what the reference says"):
        race([bad], 3, CPU)
    assert not timed


def test_contenders_take_turns() -> None:
    turns: list[str] = []
    contenders = [Contender(name, partial(turns.append, name), nothing) for name in "ab"]
    race(contenders, 3, CPU)
    assert "".join(turns[-6:]) == "ababab"


def test_a_slower_one_is_slower() -> None:
    slow = Contender("slow", lambda: time.sleep(0.02), nothing)
    times = race([Contender("fast", nothing, nothing), slow], 3, CPU)
    assert min(times["slow"].wall) >= 20
    assert times["slow"].ratio_to(times["fast"])[0] > 10
    assert max(times["slow"].processor) < 20  # asleep


def test_memory_is_that_of_a_call() -> None:
    big = Contender("big", lambda: torch.ones(2**24).sum(), nothing)  # 64 MiB
    assert 50 < race([big], 1, CPU)["big"].peak_memory < 90


def test_ratios_are_of_one_round() -> None:
    mine, other = Times((2.0, 9.0, 4.0), (), 0), Times((1.0, 3.0, 4.0), (), 0)
    assert mine.ratio_to(other) == (2.0, 1.0, 3.0)


def test_the_table_of_the_readme_is_that_of_the_results() -> None:
    assert figures() in README.read_text()


def test_a_table_shows_ratio_and_share() -> None:
    row = {
        "operation": "adam",
        "workload": "all",
        "contender": "torch",
        "ratio_to_ours": [1.5, 1.25, 2.0],
        "share_of_floor": 0.314,
        "peak_mib": 3.2,
    }
    assert lines([row])[-1] == "| **adam**, all | torch | 1.50 (1.25-2.00) | 31% | 3 |"
