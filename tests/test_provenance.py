"""Where figures come from, told truly."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import nerfxl
from nerfxl import provenance
from nerfxl.provenance import session


def test_a_session_names_the_machine_and_the_code() -> None:
    found = session("nerfxl study scaling x.yaml", "cpu")
    assert " core" in found.machine
    assert found.machine.endswith("no GPU used")
    assert found.code.startswith(f"nerfxl {nerfxl.__version__}")
    assert "torch " in found.code
    assert found.command == "nerfxl study scaling x.yaml"
    assert found.cores >= 1
    assert replace(found, cores=2, load=1.0).busy == ""
    assert "(load 1.1 on 2 cores)" in replace(found, cores=2, load=1.1).busy
    assert replace(found, load=None).busy == ""


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_commit_is_named_only_where_it_is_the_codes_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment may lie in the repository of something else."""

    def git(*words: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    source = tmp_path / "nerfxl" / "__init__.py"
    source.parent.mkdir()
    source.write_text("")
    (tmp_path / "paper.tex").write_text("")
    monkeypatch.setattr(provenance, "__file__", str(source))
    git("init")
    git("add", "paper.tex")
    git("commit", "-m", "x")
    assert "commit" not in session("", "cpu").code
    git("add", "nerfxl")
    git("commit", "-m", "y")
    assert ", commit " in session("", "cpu").code
    assert "changes" not in session("", "cpu").code
    source.write_text("changed = True")
    assert "with changes since" in session("", "cpu").code
