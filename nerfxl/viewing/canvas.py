"""A window's picture: rough at once, finer and finer while the camera rests."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from nerfxl.cameras import Camera
from nerfxl.filming.stills import Picture
from nerfxl.opened import Opened
from nerfxl.viewing.desk import AT_ONCE, IN_TURN
from nerfxl.viewing.pace import Pace, sizes
from nerfxl.viewing.sight import Array, Sight, Task

QUICK_SECONDS = 0.2  # that a picture may take while the camera moves
PIECE_SECONDS = 0.15  # after which a finer picture can be left
REST_SECONDS = 0.25  # that a camera must have stood still before its picture becomes finer


class Easel:
    """The run that all windows look at, as of its newest checkpoint, and how fast it is rendered.

    opened: None while the run has no checkpoint yet.
    """

    def __init__(self) -> None:
        self.opened: Opened | None = None
        self.pace = Pace()

    def advance(self, task: Task, pixels: int) -> Picture | None:
        """Render about so many pixels of a task; the whole picture once they were its last."""
        assert self.opened is not None
        camera = task.next(pixels)
        start = time.monotonic()
        piece = self.opened.render(camera, task.pose, task.like)
        self.pace.learn(camera.width * camera.height, time.monotonic() - start)
        return task.add(piece)


@dataclass(frozen=True, eq=False)
class Frame:
    """A whole picture.

    step: of training. seconds: that it took. whole: whether it is as fine as it will be.
    """

    picture: Picture
    camera: Camera
    pose: Array
    step: int
    seconds: float
    whole: bool


@dataclass(frozen=True, eq=False)
class _Look:
    """A sight that was asked for, and since when. least: rows of its first picture; 0 = a rough."""

    sight: Sight
    since: float
    least: int = 0


class Canvas:
    """A job of the desk: the picture of one window.

    `look`, `again` and `repaint` may be called from any thread, `work` from the desk's alone.
    show: told each frame, and the last one again after `repaint`.
    """

    def __init__(self, easel: Easel, show: Callable[[Frame], None]) -> None:
        self.easel, self.show = easel, show
        self.quick_seconds = QUICK_SECONDS
        self.finest = 1.0  # of the window's width and height, where sharpening ends
        self.frame: Frame | None = None
        self._asked: _Look | None = None
        self._begun: _Look | None = None
        self._sizes: list[tuple[int, int]] = []  # that are to come, the one at work first
        self._all = 0  # how many they were
        self._task: Task | None = None
        self._spent = 0.0
        self._stale = False

    def look(self, sight: Sight, now: float) -> None:
        """Ask for another sight; what was being made finer of the old one is left."""
        self._asked = _Look(sight, now)

    def again(self) -> None:
        """Render the same sight anew, in one go, with what is shown left in place meanwhile."""
        asked, frame = self._asked, self.frame
        if asked is not None and frame is not None:
            self._asked = _Look(asked.sight, asked.since, frame.camera.height)

    def repaint(self) -> None:
        """Show the last frame once more, for it is to be shown in another way."""
        self._stale = True

    @property
    def busy(self) -> tuple[int, int, float] | None:
        """Width and height of the picture at work, and its share that is done; None at rest."""
        task, coming = self._task, self._sizes
        return (*coming[0], task.share if task else 0.0) if coming else None

    def urgency(self, now: float) -> int | None:
        """At once for a sight's first picture, in turn for what makes it finer."""
        asked = self._asked
        if asked is None or self.easel.opened is None:
            return None
        if (self._stale and self.frame) or (self._begun is not asked and not asked.least):
            return AT_ONCE
        more = self._sizes or self._begun is not asked
        return IN_TURN if more and now - asked.since >= REST_SECONDS else None

    def work(self, now: float) -> None:
        """Render the next piece; show a picture that is whole."""
        del now
        if self._stale and self.frame:
            self._stale = False
            self.show(self.frame)
            return
        asked = self._asked
        assert asked is not None
        if self._begun is not asked:
            self._begin(asked)
        sight, pace = asked.sight, self.easel.pace
        if self._task is None:
            self._task = Task(sight.camera(*self._sizes[0]), sight.pose, sight.like)
            self._spent = 0.0
        quick = len(self._sizes) == self._all and not asked.least
        start = time.monotonic()
        width, height = self._sizes[0]
        piece = width * height if quick else pace.pixels(PIECE_SECONDS)
        found = self.easel.advance(self._task, piece)
        self._spent += time.monotonic() - start
        if found is not None:
            self._finish(found)

    def _begin(self, asked: _Look) -> None:
        sight = asked.sight
        most = max(1, round(sight.width * self.finest)), max(1, round(sight.height * self.finest))
        found = sizes(*most, self.easel.pace.pixels(self.quick_seconds))
        self._sizes = [size for size in found if size[1] >= asked.least] or found[-1:]
        self._all, self._task, self._begun = len(self._sizes), None, asked

    def _finish(self, found: Picture) -> None:
        assert self._task is not None
        assert self.easel.opened is not None
        del self._sizes[0]
        step, whole = self.easel.opened.step, not self._sizes
        self.frame = Frame(found, self._task.camera, self._task.pose, step, self._spent, whole)
        self._task = None
        self.show(self.frame)
