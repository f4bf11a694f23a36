"""Histories: what of metrics.jsonl counts, after crashes and restarts."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerfxl import history
from nerfxl.history import History


def line(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, **more}


def write(path: Path, *texts: str) -> Path:
    path.write_text("".join(texts))
    return path


def test_a_run_that_was_never_trained_has_no_lines(tmp_path: Path) -> None:
    assert history.read(tmp_path / "metrics.jsonl") == History()


def test_steps_after_a_checkpoint_are_done_again(tmp_path: Path) -> None:
    told = [line(10), line(20), line(30, psnr=1), line(20), line(30, psnr=2), line(40)]
    file = write(tmp_path / "metrics.jsonl", *(json.dumps(one) + "\n" for one in told))
    found = history.read(file)
    assert [one["step"] for one in found.lines] == [10, 20, 30, 40]
    assert found.lines[2]["psnr"] == 2
    assert (found.returns, found.damaged) == ([10], 0)


def test_what_was_told_of_steps_that_are_gone_is_gone(tmp_path: Path) -> None:
    """The run went back to step 10 and has not come as far as before."""
    told = [line(10), line(20), line(30), line(15)]
    file = write(tmp_path / "metrics.jsonl", *(json.dumps(one) + "\n" for one in told))
    assert [one["step"] for one in history.read(file).lines] == [10, 15]


@given(st.lists(st.integers(1, 20)))
def test_steps_always_grow_and_the_last_line_always_counts(steps: list[int]) -> None:
    found = History()
    for step in steps:
        found.add(line(step))
        kept = [one["step"] for one in found.lines]
        assert kept == sorted(set(kept))
        assert kept[-1] == step


@pytest.mark.parametrize("torn", ['{"step": 5', '{"loss": 1}', "[1]", '{"step": "5"}', "\x00\xff"])
def test_a_damaged_line_hides_no_other(tmp_path: Path, torn: str) -> None:
    file = write(tmp_path / "metrics.jsonl", '{"step": 1}\n', f"{torn}\n", '{"step": 2}\n')
    found = history.read(file)
    assert [one["step"] for one in found.lines] == [1, 2]
    assert found.damaged == 1


def test_a_damaged_line_does_not_end_the_telling(tmp_path: Path) -> None:
    """A crash has cut a line short; the next start ends it, and writes on."""
    file, done = write(tmp_path / "metrics.jsonl", '{"st'), threading.Event()
    at = file.stat().st_size
    with file.open("a") as more:
        more.write('\n{"step": 7}\n{"step"\n{"step": 8}\n')
    done.set()
    assert list(history.follow(file, at, done, 0.01)) == [{"step": 7}, {"step": 8}]


def test_seconds_add_up_from_the_rates() -> None:
    found = History()
    for step, rate in ((10, 5.0), (30, 10.0), (40, None), (20, 2.0)):
        found.add(line(step, steps_per_second=rate))
        if step == 40:
            assert found.seconds == [2.0, 4.0, 4.0]  # 10 / 5, 20 / 10, and one that tells nothing
    assert found.seconds == [2.0, 7.0]  # the steps after 10 were done again: 10 / 2


def test_a_line_that_is_being_written_is_not_damaged(tmp_path: Path) -> None:
    file = write(tmp_path / "metrics.jsonl", '{"step": 1}\n', '{"step": 2')
    found = history.read(file)
    assert ([one["step"] for one in found.lines], found.damaged) == ([1], 0)


def test_rates_are_those_of_the_second_half() -> None:
    """Speeds are medians, shares are means; what no line tells is not there."""
    exchange = {"a": {"bytes_per_ray": 1.0, "ms_per_step": 2.0}}
    lines = [line(10, rays_per_second=1.0, steps_per_second=1000.0, waiting=0.9)]
    for step, rays in ((20, 100.0), (21, 200.0), (22, 900.0)):
        lines.append(line(step, rays_per_second=rays, waiting=step / 100, exchange=exchange))
    found = history.rates(history.settled(lines))
    assert found == pytest.approx({"rays_per_second": 200, "exchange_ms": 2, "waiting": 0.21})
    assert history.messages(lines) == {"a": (1.0, 2.0)}
    assert history.settled([]) == []
    assert not history.rates([])
    assert not history.messages([])
