"""The main panel of a window: how the run is, what is shown, how fine, and keys for it all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import radians
from typing import Any

from nerfxl.progress import spoken
from nerfxl.viewing.canvas import QUICK_SECONDS, Frame
from nerfxl.viewing.controls import as_html, put, when_asked, when_set
from nerfxl.viewing.path_tab import PathTab
from nerfxl.viewing.photographs import Comparison
from nerfxl.viewing.scenery import HELD_OUT, TRAIN
from nerfxl.viewing.shows import NAMES, Legend
from nerfxl.viewing.views_tab import ViewsTab
from nerfxl.viewing.visitor import Visitor

NOBODY = "as by nobody"
FINEST = {"as the window": 1.0, "half of it": 0.5, "a quarter": 0.25}
FOLDERS = {"Cameras": "cameras", "Tiles": "tiles", "Root box": "root", "Path": "path"}
CAMERAS = Legend("", marks=((TRAIN, "learned from"), (HELD_OUT, "held out")))
HELP = """Drag to turn, right-drag to shift, wheel to approach; **W A S D Q E** walk, arrows turn.
**N B** next photograph, the one before; **H O** start, overview; **L** upright; **K P** keyframe,
play; **1** to **6** what is shown."""


class Panel:
    """Builds the controls of a window, and keeps them true."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor, self.gui = visitor, visitor.client.gui
        self._frame: Frame | None = None
        self._status = self.gui.add_markdown("")
        tabs = self.gui.add_tab_group()
        with tabs.add_tab("Show"):
            self._build_show()
        with tabs.add_tab("Photographs"):
            self.views = ViewsTab(visitor)
        with tabs.add_tab("Path"):
            self.path = PathTab(visitor)
        self._build_keys()
        self.news()
        visitor.listener = self

    def shown(self, frame: Frame, legend: Legend | None) -> None:
        """Say how fine the picture is, and how to read it."""
        self._frame = frame
        put(self._fov, min(max(self.visitor.fov, 10.0), 110.0))
        words = "" if legend is None else as_html(legend)
        if self._legend.content != words:
            self._legend.content = words
        if self._near.visible and self.visitor.show.limits is None:
            near, far = self.visitor.show.depths
            put(self._near, near)
            put(self._far, far)
        self.news()

    def compared(self, found: Comparison) -> None:
        """Show a view beside its photograph."""
        self.views.fill(found)

    def path_changed(self) -> None:
        """Show the path as it is now."""
        self.path.fill()

    def news(self) -> None:
        """Say how the run is, and how fine the picture."""
        words = f"{self.visitor.studio.following.words}<br/>{self._fineness()}"
        if self._status.content != words:
            self._status.content = words

    def _fineness(self) -> str:
        frame, canvas = self._frame, self.visitor.canvas
        if frame is None:
            return "no picture yet"
        size = f"{frame.camera.width} × {frame.camera.height} pixels"
        more = not frame.whole and canvas.busy is not None
        return f"{size}, sharpening" if more else f"{size}, made in {spoken(frame.seconds)}"

    def _build_show(self) -> None:
        gui, visitor = self.gui, self.visitor
        self._kind = gui.add_dropdown("Show", list(NAMES))
        when_set(self._kind, self._show)
        self._legend = gui.add_html("")
        self._own = gui.add_checkbox("Own range", False, visible=False)
        self._near = gui.add_number("From", 0.0, min=0.0, visible=False)
        self._far = gui.add_number("To", 1.0, min=0.0, visible=False)
        for handle in (self._own, self._near, self._far):
            when_set(handle, self._limit)
        if visitor.studio.looks:
            self._look = gui.add_dropdown("Look", [NOBODY, *visitor.studio.looks])
            when_set(self._look, self._take_look)
        self._fov = gui.add_slider("Field of view", 10.0, 110.0, 1.0, 50.0)
        when_set(self._fov, self._widen)
        with gui.add_folder("Beside the picture"):
            for label, folder in FOLDERS.items():
                self._build_switch(label, folder)
            gui.add_html(as_html(CAMERAS))
            self._hides = gui.add_checkbox("Scene hides them", True)
            when_set(self._hides, self._hide)
        with gui.add_folder("Speed", expand_by_default=False):
            self._quick = gui.add_slider("ms, moving", 50, 1000, 50, round(1000 * QUICK_SECONDS))
            when_set(self._quick, self._hurry)
            self._finest = gui.add_dropdown("At rest", list(FINEST))
            when_set(self._finest, self._sharpen)
        where = gui.add_button_group("Go", ["to the start", "overview"])
        to = {"to the start": visitor.home, "overview": visitor.overview}
        where.on_click(lambda event: to[event.target.value]())
        gui.add_markdown(HELP)

    def _build_switch(self, label: str, folder: str) -> None:
        switch = self.gui.add_checkbox(label, True)
        when_set(switch, lambda: self.visitor.props.shown(folder, switch.value))

    def _build_keys(self) -> None:
        keys: list[tuple[Any, str, Callable[[], None]]] = [
            ("H", "To the start", self.visitor.home),
            ("O", "Overview of all boxes", self.visitor.overview),
            ("L", "Turn the camera upright", self.visitor.level),
            ("N", "Next photograph", lambda: self.views.step(1)),
            ("B", "Photograph before", lambda: self.views.step(-1)),
            ("K", "Keyframe here", self.path.add),
            ("P", "Play the path, or stop", self.path.play),
        ]
        for number, name in enumerate(NAMES, 1):
            keys.append((str(number), f"Show {name.lower()}", partial(self._choose, name)))
        for hotkey, label, do in keys:
            when_asked(self.gui.add_command(label, hotkey=hotkey), do)

    def _choose(self, name: str) -> None:
        put(self._kind, name)
        self._show()

    def _show(self) -> None:
        show = self.visitor.show
        show.kind = NAMES[self._kind.value]
        for handle in (self._own, self._near, self._far):
            handle.visible = show.kind == "depth"
        self.visitor.again()

    def _limit(self) -> None:
        near, far = self._near.value, self._far.value
        own = self._own.value and far > near
        self.visitor.show.limits = (near, far) if own else None
        self.visitor.again()

    def _take_look(self) -> None:
        chosen = self._look.value
        self.visitor.like = None if chosen == NOBODY else chosen
        self.visitor.look()

    def _widen(self) -> None:
        self.visitor.client.camera.fov = radians(self._fov.value)

    def _hide(self) -> None:
        self.visitor.hides = self._hides.value
        self.visitor.again()

    def _hurry(self) -> None:
        self.visitor.canvas.quick_seconds = self._quick.value / 1000

    def _sharpen(self) -> None:
        self.visitor.canvas.finest = FINEST[self._finest.value]
        self.visitor.look()
