"""Whether the extra that a viewer needs is there."""

from __future__ import annotations

import importlib.util

from nerfxl.errors import UserError


def check_extra() -> None:
    """See that viser is there, before anything else is done.

    Raises
    ------
    UserError: it is not.
    """
    if importlib.util.find_spec("viser") is None:
        raise UserError("Viewing needs viser, which is not installed: pip install 'nerfxl[view]'.")
