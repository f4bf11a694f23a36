"""Reading JSON that nerfxl has written: what is wrong with a file is one sentence that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nerfxl.errors import UserError

Document = TypeVar("Document")


def parsed(
    text: str, decode: Callable[[Any], Document], name: str, kind: str, remedy: str = ""
) -> Document:
    """Decode a document; name: of its file. kind: what it is, such as "a plan".

    decode raises KeyError, TypeError, ValueError or OverflowError at what it cannot use.

    Raises
    ------
    UserError: it is no such document; the sentence ends with the remedy.
    """
    try:
        return decode(json.loads(text))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{name} is not {kind} that this nerfxl can read: {what}{remedy}."
        ) from error


def text_of(path: Path, kind: str) -> str:
    """Read a document's file.

    Raises
    ------
    UserError: it is missing, or no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as {kind}: {error}.") from error
