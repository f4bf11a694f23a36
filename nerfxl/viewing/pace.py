"""How fine a picture may be: learned from how long pictures took."""

from __future__ import annotations

from math import sqrt

START = 20_000.0  # pixels a second, before anything was measured: of a slow machine
NEWEST = 0.3  # weight of the newest measurement
LEAST = 4000  # pixels: fewer take no less time, for each rendering takes some, whatever its size
SHORT = 1e-4  # seconds: what was quicker counts as this


class Pace:
    """Pixels that are rendered in a second, as the last pictures were."""

    def __init__(self, rate: float = START) -> None:
        self.rate = rate

    def learn(self, pixels: int, seconds: float) -> None:
        """Take in that so many pixels took so long."""
        self.rate += NEWEST * (pixels / max(seconds, SHORT) - self.rate)

    def pixels(self, seconds: float) -> int:
        """How many can be rendered in a time, or else as few as make sense."""
        return max(LEAST, round(self.rate * seconds))


def sizes(width: int, height: int, pixels: int) -> list[tuple[int, int]]:
    """Sizes of the pictures that a window gets one after the other: quick first, whole at last.

    The first is the window's divided by a power of the root of 2, and of at most so many pixels:
    steps of a pace that varies a little do not show. Each that follows has four times as many, and
    the last is the window's own.

    >>> sizes(1280, 720, 60_000)
    [(320, 180), (640, 360), (1280, 720)]
    >>> sizes(1280, 720, 2_000_000)
    [(1280, 720)]
    """
    shrink = 1.0
    while width * height / shrink**2 > pixels:
        shrink *= sqrt(2)
    found = [_divided(width, height, shrink)]
    while shrink > 1.01:
        shrink = max(1.0, shrink / 2)
        found.append(_divided(width, height, shrink))
    return found


def _divided(width: int, height: int, shrink: float) -> tuple[int, int]:
    return max(1, round(width / shrink)), max(1, round(height / shrink))
