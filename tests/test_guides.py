"""The guides: what they print is what comes out."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GUIDES = ROOT / "scenes" / "guides"
CELL = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.mark.long
def test_the_library_page_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words to the letter; numbers to a tenth, for another machine rounds otherwise."""
    (tmp_path / "scenes").symlink_to(ROOT / "scenes")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    cells = CELL.findall((GUIDES / "library.md").read_text(encoding="utf-8"))
    assert len(cells) >= 8
    for source, expected in cells:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(source, "library.md", "exec"), space)  # noqa: S102
        said = out.getvalue()
        assert NUMBER.sub("#", said) == NUMBER.sub("#", expected)
        found, wanted = ([float(n) for n in NUMBER.findall(text)] for text in (said, expected))
        assert found == pytest.approx(wanted, rel=0.1), said
