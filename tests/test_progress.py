"""Progress: lines of metrics.jsonl in words, while they come."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest
from rich.console import Console

from nerfxl import progress
from nerfxl.history import follow
from nerfxl.progress import following, told

LINE = {
    "step": 50,
    "loss": 0.01,
    "psnr": 20.0,
    "rays_per_second": 12345.6,
    "steps_per_second": 2.0,
    "samples_per_ray": 8.25,
    "peak_memory": 3 * 2**29,
}
WORDS = (
    "loss 0.01000  PSNR 20.00 dB  12,346 rays/s  2.0 steps/s  8.2 samples a ray  1.50 GiB a process"
)


pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)


def plain() -> tuple[io.StringIO, Console]:
    out = io.StringIO()
    return out, Console(file=out, width=300, force_terminal=False)


def test_a_line_in_words() -> None:
    assert told(LINE) == WORDS


def test_a_line_of_many_ranks_says_how_they_wait() -> None:
    assert told(LINE | {"waiting": 0.243}) == f"{WORDS}  24 % waiting"


def test_lines_are_told_once_and_the_last_always(tmp_path: Path) -> None:
    out, console = plain()
    metrics = tmp_path / "metrics.jsonl"
    with following(metrics, 100, console, quiet=False), metrics.open("w") as file:
        for step in (50, 60, 100):  # 60 comes too soon after 50
            file.write(json.dumps(LINE | {"step": step}) + "\n")
    assert out.getvalue() == (
        f"step 50 of 100  {WORDS}  25 s left\nstep 100 of 100  {WORDS}  0 s left\n"
        "scoring the held-out views\n"
    )


def test_what_was_there_before_is_not_told_again(tmp_path: Path) -> None:
    out, console = plain()
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(json.dumps(LINE) + "\n")
    with following(metrics, 100, console, quiet=False), metrics.open("a") as file:
        file.write(json.dumps(LINE | {"step": 100}) + "\n")
    assert out.getvalue().startswith("step 100 of 100")
    assert out.getvalue().count("\n") == 2  # the line, and that scoring begins


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    metrics, done = tmp_path / "metrics.jsonl", threading.Event()
    text = json.dumps(LINE) + "\n"
    metrics.write_text("")
    lines = follow(metrics, 0, done, 0.01)
    with metrics.open("a") as file:
        file.write(text + text[:20])
        file.flush()
        assert next(lines) == LINE
        file.write(text[20:])
        file.flush()
        assert next(lines) == LINE
    done.set()
    assert list(lines) == []


def test_quiet_is_quiet(tmp_path: Path) -> None:
    out, console = plain()
    metrics = tmp_path / "metrics.jsonl"
    with following(metrics, 100, console, quiet=True):
        metrics.write_text(json.dumps(LINE | {"step": 100}) + "\n")
    assert out.getvalue() == ""


def test_a_terminal_sees_a_bar(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=300, force_terminal=True)
    metrics = tmp_path / "metrics.jsonl"
    with following(metrics, 100, console, quiet=False):
        metrics.write_text(json.dumps(LINE | {"step": 100}) + "\n")
    assert "step 100 of 100" in out.getvalue()
    assert "PSNR 20.00 dB" in out.getvalue()


def test_an_error_ends_the_telling(tmp_path: Path) -> None:
    _, console = plain()
    before = set(threading.enumerate())
    with (
        pytest.raises(RuntimeError, match="in training"),
        following(tmp_path / "metrics.jsonl", 100, console, quiet=False),
    ):
        raise RuntimeError("in training")
    assert set(threading.enumerate()) <= before
