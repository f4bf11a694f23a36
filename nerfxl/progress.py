"""What a user sees while a run trains: the newest line of metrics.jsonl, told as it grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from nerfxl.history import follow

POLL_SECONDS = 0.5
SCORING = "scoring the held-out views"
PLAIN_SECONDS = 15.0  # between lines where there is no terminal to draw on


class Speaker:
    """Prints for people; silent when a script reads."""

    def __init__(self, quiet: bool) -> None:
        self.console = Console(quiet=quiet, soft_wrap=True, highlight=False)
        self.quiet = quiet

    def __call__(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False)


@contextmanager
def following(metrics: Path, steps: int, console: Console, quiet: bool) -> Iterator[None]:
    """Show the run whose ranks append to `metrics` while the block lasts."""
    if quiet:
        yield
        return
    done = threading.Event()
    told_before = metrics.stat().st_size if metrics.exists() else 0
    lines = follow(metrics, told_before, done, POLL_SECONDS)
    show = _live if console.is_terminal else _plain
    thread = threading.Thread(target=show, args=(lines, steps, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


@contextmanager
def counting(
    done: Callable[[], int], total: int, what: str, console: Console, quiet: bool
) -> Iterator[None]:
    """Show how many of `total` are done, and how long the rest will take, while the block lasts."""
    if quiet:
        yield
        return
    over = threading.Event()
    show = _bar if console.is_terminal else _lines_of
    thread = threading.Thread(target=show, args=(done, total, what, console, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


def told(line: dict[str, Any]) -> str:
    """One line of metrics in words."""
    memory = line["peak_memory"] / 2**30
    waiting = f"  {100 * line['waiting']:.0f} % waiting" if "waiting" in line else ""
    return (
        f"loss {line['loss']:.5f}  PSNR {line['psnr']:.2f} dB  "
        f"{line['rays_per_second']:,.0f} rays/s  {line['steps_per_second']:.1f} steps/s  "
        f"{line['samples_per_ray']:.1f} samples a ray  {memory:.2f} GiB a process{waiting}"
    )


def _live(lines: Iterator[dict[str, Any]], steps: int, console: Console) -> None:
    columns = (
        TextColumn("step {task.completed:,.0f} of {task.total:,.0f}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=steps)
        for line in lines:
            text = told(line) + (f"  {SCORING}" if line["step"] == steps else "")
            progress.update(task, completed=line["step"], description=text)


def _plain(lines: Iterator[dict[str, Any]], steps: int, console: Console) -> None:
    said = 0.0
    for line in lines:
        now = time.monotonic()
        if now - said >= PLAIN_SECONDS or line["step"] == steps:
            said = now
            left = (steps - line["step"]) / line["steps_per_second"]
            console.print(
                f"step {line['step']:,} of {steps:,}  {told(line)}  {left:,.0f} s left",
                highlight=False,
                soft_wrap=True,
            )
        if line["step"] == steps:
            console.print(SCORING, highlight=False)


def _bar(
    done: Callable[[], int], total: int, what: str, console: Console, over: threading.Event
) -> None:
    columns = (
        TextColumn(f"{what} {{task.completed:,.0f}} of {{task.total:,.0f}}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, completed=done())
        while not over.wait(POLL_SECONDS):
            progress.update(task, completed=done())
        progress.update(task, completed=done())


def _lines_of(
    done: Callable[[], int], total: int, what: str, console: Console, over: threading.Event
) -> None:
    before, start = done(), time.monotonic()
    while not over.wait(PLAIN_SECONDS):
        now = done()
        pace = (now - before) / (time.monotonic() - start)
        left = f", {spoken((total - now) / pace)} left" if pace else ""
        console.print(f"{what} {now:,} of {total:,}{left}", highlight=False, soft_wrap=True)


def spoken(seconds: float) -> str:
    """A time in the unit that fits it.

    >>> spoken(5), spoken(600), spoken(9000), spoken(200_000)
    ('5 s', '10 min', '2.5 h', '56 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 7200:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
