"""The studies that come with the project: small, whole, and of a known commit and machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from nerfxl.study.book import Entry
from nerfxl.study.claims import findings
from nerfxl.study.figures import Row, grouped
from nerfxl.study.grid import Cell
from nerfxl.study.report import JSON, MARKDOWN

STORED = Path(__file__).resolve().parents[2] / "scenes" / "studies"
STUDIES = sorted(path.parent for path in STORED.glob(f"*/{JSON}"))
LARGEST = 200_000


def test_there_are_some() -> None:
    kinds = {json.loads((path / JSON).read_text())["kind"] for path in STUDIES}
    assert kinds == {"scaling", "exchange", "overlap", "ddp", "cameras", "appearance"}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_a_stored_study_is_whole(path: Path) -> None:
    found, text = json.loads((path / JSON).read_text()), (path / MARKDOWN).read_text()
    assert {one["state"] for one in found["cells"]} == {"complete"}
    for session in found["sessions"]:
        assert re.search(r"commit [0-9a-f]{12};", session["code"]), (
            "of no commit, or of changed code"
        )
        assert session["machine"] in text
        assert session["command"].replace("|", "\\|") in text
    names = {file.name for file in path.iterdir()}
    assert names == {JSON, MARKDOWN, *found["pictures"]}
    for name in found["pictures"]:
        assert f"![{name}]({name})" in text
        with Image.open(path / name) as picture:
            picture.load()
    assert all(file.stat().st_size < LARGEST for file in path.iterdir())
    assert not re.search(r"(^|[\s\"'(=])/(root|home|work|tmp|Users)/", text + json.dumps(found))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_claims_of_a_stored_study_follow_from_its_figures(path: Path) -> None:
    """A report that was stored before a claim was changed is to be written again."""
    found = json.loads((path / JSON).read_text())
    rows = []
    for one in found["cells"]:
        cell = Cell(**one["cell"])
        rows.append(Row(Entry(cell, (), "cpu"), None, "complete", one["figures"]))
    assert [one.as_json() for one in findings(found["kind"], grouped(rows))] == found["claims"]
