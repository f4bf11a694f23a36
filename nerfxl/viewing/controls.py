"""Small helpers of the panels: what a user does, and how a legend looks as HTML."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import viser

from nerfxl.errors import UserError
from nerfxl.pictures import Colour
from nerfxl.viewing.shows import Legend

SECONDS = 6.0  # that a notice stays


def when_set(handle: viser.GuiInputHandle[Any], do: Callable[[], None]) -> None:
    """Do something when the user sets a control; not when the program does."""

    @handle.on_update
    def _(event: viser.GuiEvent[Any]) -> None:
        if event.client_id is not None:
            do()


def put(handle: viser.GuiInputHandle[Any], value: object) -> None:
    """Set a control from the program."""
    handle.value = value  # type: ignore[misc]  # viser's type is that of reading alone


def when_pressed(handle: viser.GuiButtonHandle, do: Callable[[], None]) -> None:
    """Do something when the user presses a button."""
    handle.on_click(lambda _: do())


def when_asked(handle: viser.CommandHandle, do: Callable[[], None]) -> None:
    """Do something when the user presses its key."""
    handle.on_trigger(lambda _: do())


def notify(client: viser.ClientHandle, title: str, body: str = "") -> None:
    """Tell the user something, for a few seconds."""
    client.add_notification(title, body, auto_close_seconds=SECONDS)


def guarded(client: viser.ClientHandle, do: Callable[[], None]) -> None:
    """Do something, and tell the user why it is refused if it is."""
    try:
        do()
    except UserError as error:
        client.add_notification("Not done", str(error), color="orange")


def as_html(legend: Legend) -> str:
    """A legend as a strip of colours with words at its ends, or as chips with words."""
    found = [f'<div style="{_SMALL};padding:2px 0">{escape(legend.title)}</div>'] * bool(
        legend.title
    )
    if legend.ramp:
        stops = ",".join(_css(colour) for colour in legend.ramp)
        ends = f"<span>{escape(legend.low)}</span><span>{escape(legend.high)}</span>"
        found.append(f'<div style="height:10px;background:linear-gradient(90deg,{stops})"></div>')
        found.append(
            f'<div style="{_SMALL};display:flex;justify-content:space-between">{ends}</div>'
        )
    for colour, words in legend.marks:
        chip = f"background:{_css(colour)};color:white;border-radius:8px;padding:0 7px;margin:1px"
        found.append(f'<span style="{_SMALL};{chip};display:inline-block">{escape(words)}</span>')
    return f'<div style="margin:0 0.75em 0.5em">{"".join(found)}</div>'


_SMALL = "font-size:12px"


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
