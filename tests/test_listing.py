"""The list of runs: the newest first, the dead told as failed, the damaged told as damaged."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from nerfxl.runs import RunFolder
from tests.conftest import Here
from tests.report import made


def began(run: RunFolder, when: str, **changes: Any) -> RunFolder:
    """Change what status.json says."""
    told = json.loads(run.status_file.read_text())
    run.status_file.write_text(json.dumps(told | {"started": when} | changes))
    return run


def listed(here: Here, output_dir: Path, *options: str) -> list[dict[str, Any]]:
    said = here("list", "--output-dir", output_dir, "--json", *options)
    assert (said.code, said.err) == (0, "")
    found: list[dict[str, Any]] = json.loads(said.out)["runs"]
    return found


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, RunFolder]:
    """One of each kind."""
    whole = began(made.run(tmp_path, [made.line(9)]), "2026-01-02T00:00:00+00:00")
    made.scored(whole, 9, [made.view("a.png", 21.0)])
    later = made.scored(whole, 5, [made.view("a.png", 22.0)])  # scored again, from another step
    os.utime(later, ns=(time.time_ns(), time.time_ns() + 10**9))
    nobody = {"state": "running", "pid": 2**22 + 1}  # above what Linux gives
    dead = began(made.run(tmp_path, name="other"), "2026-01-03T00:00:00+00:00", **nobody)
    damaged = made.run(tmp_path)
    damaged.status_file.write_text("{")
    broken = began(made.run(tmp_path, name="odd"), "2026-01-01T00:00:00+00:00")
    made.scored(broken, 3, []).write_text("[")
    begun = RunFolder.create(tmp_path, "begun")  # killed before it had a status
    (tmp_path / "cube" / "notes").mkdir()
    (tmp_path / "cube" / "plan.json").write_text("{}")
    return {"whole": whole, "dead": dead, "damaged": damaged, "broken": broken, "begun": begun}


def test_every_run_is_told_of_and_no_other_folder(
    runs: dict[str, RunFolder], tmp_path: Path, here: Here
) -> None:
    found = listed(here, tmp_path)
    names = {str(run.path): name for name, run in runs.items()}
    assert [names[one["run"]] for one in found[:3]] == ["dead", "whole", "broken"]
    told = {names[one["run"]]: one for one in found}
    assert told.keys() == runs.keys()
    states = {name: one["state"] for name, one in told.items()}
    assert states == {
        "whole": "completed",
        "dead": "failed",
        "damaged": "damaged",
        "broken": "completed",
        "begun": "damaged",
    }
    whole = told["whole"]
    assert (whole["step"], whole["steps"], whole["psnr"], whole["seconds"]) == (9, 9, 22.0, 90.0)
    assert whole["bytes"] == sum(
        file.stat().st_size for file in runs["whole"].path.rglob("*") if file.is_file()
    )
    assert told["dead"]["reason"] == f"process {2**22 + 1} ended without saying why"
    assert told["damaged"]["reason"].startswith(f"{runs['damaged'].status_file} is damaged")
    assert "metrics.json is damaged" in told["broken"]["reason"]
    assert "holds no status.json" in told["begun"]["reason"]


def test_people_read_a_line_a_run(runs: dict[str, RunFolder], tmp_path: Path, here: Here) -> None:
    said = here("list", "--output-dir", tmp_path)
    assert (said.code, said.err) == (0, "")
    head, *lines = said.out.splitlines()
    assert head.split() == ["state", "step", "PSNR", "trained", "size", "run"]
    assert len({line.rindex("  ") for line in (head, *lines[:5])}) == 1
    whole = next(
        line for line in lines if line.endswith(f"  {runs['whole'].path.relative_to(tmp_path)}")
    )
    assert whole.split()[:7] == ["completed", "9", "of", "9", "22.00", "dB", "90"]
    assert f"{runs['dead'].path}: process {2**22 + 1} ended without saying why." in lines


def test_fits_of_studies_are_listed_when_asked_for(tmp_path: Path, here: Here) -> None:
    own = made.run(tmp_path, [made.line(9)])
    fit = made.run(tmp_path / "studies" / "cube-scaling", [made.line(9)], name="joint-4-tiles")
    assert [one["run"] for one in listed(here, tmp_path)] == [str(own.path)]
    assert "and 1 fit of 1 study: see --studies" in here("list", "--output-dir", tmp_path).out
    both = listed(here, tmp_path, "--studies")
    assert [(one["run"], one["study"]) for one in both] == [
        (str(own.path), None),
        (str(fit.path), "cube-scaling"),
    ]


def test_where_there_is_nothing(tmp_path: Path, here: Here) -> None:
    assert listed(here, tmp_path) == []
    said = here("list", "--output-dir", tmp_path)
    assert said.out == f"{tmp_path} holds no run: start one with 'nerfxl fit'.\n"
    gone = here("list", "--output-dir", tmp_path / "gone", "--json")
    assert (gone.code, gone.out) == (2, "")
    assert gone.err.startswith(f"nerfxl: {tmp_path / 'gone'} is not there")
