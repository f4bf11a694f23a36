"""A real browser without a window, to look at pages that lie on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
ALONE = [  # it draws, and does nothing else
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Browser:
    """A page, what its console said, and what it asked for since the last visit."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def visit(self, file: Path) -> Page:
        """Open a file anew."""
        self.page.goto("about:blank")
        self.said.clear()
        self.asked.clear()
        self.page.goto(file.as_uri())
        return self.page


@contextmanager
def opened(*options: str) -> Iterator[Browser]:
    """A browser with a profile of its own; skips the test where there is none."""
    library = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is there")
    with tempfile.TemporaryDirectory() as profile, library.sync_playwright() as started:
        context = started.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            args=[*ALONE, *options],
            viewport={"width": 1280, "height": 900},
            timeout=60_000,
        )
        context.set_default_timeout(20_000)
        browser = Browser(context.pages[0])
        browser.page.on("console", lambda message: browser.said.append(message.text))
        browser.page.on("pageerror", lambda error: browser.said.append(str(error)))
        browser.page.on("request", lambda one: _note(browser, one.url))
        try:
            yield browser
        finally:
            context.close()


def _note(browser: Browser, url: str) -> None:
    if not url.startswith("data:"):
        browser.asked.append(url)
