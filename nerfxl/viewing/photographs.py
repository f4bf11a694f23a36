"""The photographs beside the scene: thumbnails, and how a rendering compares with one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from nerfxl.captures import View, load_image
from nerfxl.errors import UserError
from nerfxl.field import background_colour
from nerfxl.filming.stills import Picture
from nerfxl.metrics import psnr
from nerfxl.pictures import Bytes, error_map, to_uint8
from nerfxl.pixels import opaque
from nerfxl.prepare import RunScene, Shot, photographs
from nerfxl.runs import RunFolder
from nerfxl.viewing.canvas import Easel
from nerfxl.viewing.desk import AT_LEISURE, IN_TURN
from nerfxl.viewing.sight import Task

THUMBNAIL = 160  # pixels, the longer edge
PIECE_SECONDS = 0.15


class Photographs:
    """The capture of a run, as far as it is still there.

    missing: why there are none, in one sentence; empty if there are.
    """

    def __init__(self, run: RunFolder, scene: RunScene) -> None:
        self._scene = scene
        self._views: dict[str, View] = {}
        self.missing = ""
        try:
            found = photographs(run, scene.spec, scene.shots)
        except UserError as error:
            self.missing = str(error)
        else:
            self._views = {view.name: view for view in found.views if view.image is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._views

    def load(self, name: str) -> Bytes | None:
        """The photograph of a view, [H, W, 3] as it was learned from; None where it is not there.

        One that cannot be read any more is forgotten.
        """
        if name not in self._views:
            return None
        try:
            return opaque(load_image(self._views[name]), background_colour(self._scene.spec.field))
        except UserError as error:
            del self._views[name]
            self.missing = str(error)
            return None


class Thumbnails:
    """A job of the desk, when nothing else is to do: small pictures for the drawn cameras.

    show: told each, with the name of its view.
    """

    def __init__(self, found: Photographs, show: Callable[[str, Bytes], None]) -> None:
        self._photographs, self._show = found, show
        self._left: list[str] = []
        self._made: dict[str, Bytes] = {}

    def want(self, names: Iterable[str]) -> None:
        """Show those of these views: at leisure, and again to a window that opens later."""
        self._left = [*self._left, *names]

    def urgency(self, now: float) -> int | None:
        """None when all are made."""
        del now
        return AT_LEISURE if self._left else None

    def work(self, now: float) -> None:
        """Make one."""
        del now
        name, *self._left = self._left
        if name not in self._made:
            found = self._photographs.load(name)
            if found is None:
                return
            small = Image.fromarray(found)
            small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            self._made[name] = np.asarray(small)
        self._show(name, self._made[name])


@dataclass(frozen=True, eq=False)
class Comparison:
    """A view of the capture beside its photograph; [H, W, 3] bytes each, as far as they are there.

    psnr: dB, of the whole picture. step: of the rendering.
    """

    name: str
    truth: Bytes | None = None
    render: Bytes | None = None
    error: Bytes | None = None
    psnr: float | None = None
    step: int = 0


class Comparing:
    """A job of the desk: the view that is compared, rendered at its photograph's own size.

    A training view is rendered with its own look, where looks were learned; a held-out one as by
    nobody, as it is by `nerfxl render`.
    """

    def __init__(
        self, easel: Easel, found: Photographs, show: Callable[[Comparison], None]
    ) -> None:
        self._easel, self._photographs, self._show = easel, found, show
        self._asked: tuple[Shot, Task] | None = None
        self._truth: Bytes | None = None

    def compare(self, shot: Shot | None) -> None:
        """Render a view; None: leave it."""
        self._asked = None if shot is None else (shot, _task(shot))

    def again(self) -> None:
        """Render the view again, from another checkpoint."""
        asked = self._asked
        if asked is not None:
            self.compare(asked[0])

    def urgency(self, now: float) -> int | None:
        """In turn, after what moves."""
        del now
        asked = self._asked
        ready = asked is not None and asked[1].share < 1 and self._easel.opened is not None
        return IN_TURN if ready else None

    def work(self, now: float) -> None:
        """Show the photograph; then render, piece by piece."""
        del now
        asked, opened = self._asked, self._easel.opened
        if asked is None or opened is None:  # left meanwhile
            return
        shot, task = asked
        if task.share == 0:
            self._truth = self._photographs.load(shot.name)
            self._show(Comparison(shot.name, self._truth))
        found = self._easel.advance(task, self._easel.pace.pixels(PIECE_SECONDS))
        if found is not None:
            self._show(compared(shot.name, opened.step, found, self._truth))


def compared(name: str, step: int, found: Picture, truth: Bytes | None) -> Comparison:
    """A rendering beside its photograph: what differs, and by how much."""
    render = to_uint8(found.colour.numpy())
    if truth is None:
        return Comparison(name, render=render, step=step)
    exact = torch.from_numpy(truth).float() / 255
    error = error_map(truth, render)
    return Comparison(name, truth, render, error, psnr(exact, found.colour), step)


def _task(shot: Shot) -> Task:
    return Task(shot.camera, shot.pose, None if shot.test else shot.name)
