"""The photographs of the capture: to go where they were taken, and to compare them."""

from __future__ import annotations

import numpy as np
import viser
from PIL import Image

from nerfxl.pictures import Bytes
from nerfxl.prepare import Shot
from nerfxl.viewing.controls import put, when_pressed, when_set
from nerfxl.viewing.photographs import Comparison
from nerfxl.viewing.visitor import Visitor

WIDTH = 400  # pixels of the panel beside the scene
MOST, LEAST = 960, 360  # pixels: widths of the pictures in it
BLANK = np.full((1, 1, 3), 255, np.uint8)


class ViewsTab:
    """Chooses a view, goes there, and shows it beside its photograph in a panel on the left."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor, self.gui = visitor, visitor.client.gui
        self._gone = False  # whether any view was gone to
        shots = visitor.studio.scene.shots
        has_test = any(shot.test for shot in shots)
        self._held_out = self.gui.add_checkbox(
            "Held-out ones only", has_test, disabled=not has_test
        )
        self._names = self.gui.add_dropdown("View", self._choice())
        buttons = self.gui.add_button_group("Go", ["◀", "there", "▶"])
        self._beside = self.gui.add_checkbox("Beside its photograph", True)
        self._note = self.gui.add_markdown(visitor.studio.photographs.missing)
        self._panel = self._build_panel()
        when_set(self._held_out, self._list)
        when_set(self._names, self.go)
        when_set(self._beside, self._open)
        buttons.on_click(lambda event: self.step({"◀": -1, "▶": 1}.get(event.target.value, 0)))
        visitor.props.add_cameras(visitor.studio.stands, self.choose)

    def step(self, by: int) -> None:
        """Go to the next view of the list, or to the one before; at its ends, to the other."""
        names = self._choice()
        if by and self._gone:  # the first step goes to the first
            put(self._names, names[(names.index(self._names.value) + by) % len(names)])
        self.go()

    def choose(self, name: str) -> None:
        """Go to a view, in the list or not."""
        if name not in self._choice():
            put(self._held_out, False)
            self._list()
        put(self._names, name)
        self.go()

    def go(self) -> None:
        """Go to the view that is chosen, and compare it."""
        self._gone = True
        self.visitor.visit(self._shot())
        self._open()

    def fill(self, found: Comparison) -> None:
        """Show a comparison, as far as it is there."""
        if found.name != self._names.value:
            return
        pairs = (
            (found.truth, self._photograph),
            (found.render, self._render),
            (found.error, self._error),
        )
        for image, handle in pairs:
            if image is not None:
                handle.image = _fitting(image)
            handle.visible = image is not None
        if found.render is None:
            self._score.content = "Rendering it at the photograph's size"
        elif found.psnr is None:
            self._score.content = f"No photograph to compare with; step {found.step:,}"
        else:
            self._score.content = f"PSNR **{found.psnr:.2f} dB** at step {found.step:,}"

    def _choice(self) -> list[str]:
        shots, only = self.visitor.studio.scene.shots, self._held_out.value
        return [shot.name for shot in shots if shot.test or not only]

    def _list(self) -> None:
        names, before = self._choice(), self._names.value
        self._names.options = tuple(names)
        put(self._names, before if before in names else names[0])

    def _shot(self) -> Shot:
        return next(one for one in self.visitor.studio.shots if one.name == self._names.value)

    def _open(self) -> None:
        """Show or hide the panel; what is not shown is not rendered."""
        wanted = self._beside.value and self._gone
        self._panel.visible = wanted
        self.visitor.comparing.compare(self._shot() if wanted else None)
        if wanted:
            shot = self._shot()
            kind = "held out" if shot.test else "learned from"
            self._title.content = f"**{shot.name}**, {kind}"
        self.visitor.studio.desk.wake()

    def _build_panel(self) -> viser.PanelHandle:
        panel = self.gui.add_panel(visible=False)
        with panel.add_tab("Beside its photograph"):
            self._title = self.gui.add_markdown("")
            self._score = self.gui.add_markdown("")
            self._photograph = self.gui.add_image(BLANK, label="Photograph", format="jpeg")
            self._render = self.gui.add_image(BLANK, label="Rendering", format="jpeg")
            self._error = self.gui.add_image(BLANK, label="Error", format="jpeg")
            close = self.gui.add_button("Close")
        when_pressed(close, self._close)
        panel.dock_left()
        panel.set_width(WIDTH)
        return panel

    def _close(self) -> None:
        put(self._beside, False)
        self._open()


def _fitting(image: Bytes) -> Bytes:
    """A picture at a width that suits the panel: not more than it can show, and not a stamp."""
    height, width = image.shape[:2]
    if LEAST <= width <= MOST:
        return image
    to = min(max(width, LEAST), MOST)
    how = Image.Resampling.LANCZOS if to < width else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((to, round(height * to / width)), how))
