"""HTML by functions: what is not said to be markup is text, and escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = ("br", "img", "input", "meta", "wbr")  # without an end tag


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *inside: str | None, **attributes: str | float | bool | None) -> Html:
    """An element; `class_` and `data_step` become class and data-step, None and False nothing.

    >>> tag("p", "a < b", tag("br"), class_="note", hidden=True, id=None)
    '<p class="note" hidden>a &lt; b<br></p>'
    """
    told = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{told}>")
    return Html(f"<{name}{told}>{join(inside)}</{name}>")


def join(parts: Iterable[str | None]) -> Html:
    """Parts one after the other; None is nothing.

    >>> join(["&", None, Html("&amp;")])
    '&amp;&amp;'
    """
    return Html("".join(_escaped(part) for part in parts if part is not None))


def breakable(text: str) -> Html:
    """A path or dotted name that may be broken after its slashes and dots.

    >>> breakable("a/b.c")
    'a/<wbr>b.<wbr>c'
    """
    text = html.escape(text)
    for mark in "/._":
        text = text.replace(mark, f"{mark}\0")
    return Html(text.replace("\0", "<wbr>"))


def _escaped(part: str) -> str:
    return part if isinstance(part, Html) else html.escape(part)


def _attribute(key: str, value: str | float | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(text)}"'
