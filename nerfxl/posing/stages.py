"""How far a stage of posing is, and work in C++ that Ctrl-C can end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from nerfxl.progress import PLAIN_SECONDS, Speaker, spoken

Tick = Callable[[int], None]  # told how many more are done
Result = TypeVar("Result")

_POLL_SECONDS = 0.2


@contextmanager
def shown(say: Speaker, stage: str, total: int) -> Iterator[Tick]:
    """Show a stage while the block lasts: a bar on a terminal, elsewhere a line now and then."""
    if say.quiet or not say.console.is_terminal:
        yield _plain(say, stage, total)
        return
    columns = (
        TextColumn(f"{stage:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeLeftColumn(),
    )
    with Progress(*columns, console=say.console, transient=True) as progress:
        task = progress.add_task(stage, total=total)
        yield lambda more: progress.advance(task, more)


def _plain(say: Speaker, stage: str, total: int) -> Tick:
    began = said = time.monotonic()
    done = 0

    def tick(more: int) -> None:
        nonlocal done, said
        done += more
        now = time.monotonic()
        if now - said >= PLAIN_SECONDS and 0 < done < total:
            said = now
            left = (now - began) / done * (total - done)
            say(f"{stage:<11}{done:,} of {total:,}, {spoken(left)} left")

    return tick


def interruptible(call: Callable[[Any], Result]) -> Result:
    """Return call(token), made in a thread, so that Ctrl-C is heard meanwhile.

    token: pycolmap's, which every long function of pycolmap takes; an interruption cancels it.
    """
    from nerfxl.colmap import pycolmap

    token = pycolmap.CancellationToken()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call, token)
        try:
            while not future.done():
                wait([future], timeout=_POLL_SECONDS)
        except BaseException:
            token.cancel()
            raise
        return future.result()
