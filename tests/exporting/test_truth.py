"""Exports of the stand-in lie on its true surfaces, which are known to the triangle."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tests.conftest import Here

SCENE = Path(__file__).resolve().parents[2] / "scenes" / "university4.yaml"
FINISHED = "NERFXL_UNIVERSITY4_RUN"  # a run that is there already, in place of the short fit
SPACING = 0.1  # metres between true points: half of that is added to distances, at most
STEPS = 1500


def true_points(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points all over the true surfaces in a box, about one in SPACING^2."""
    site: Any = importlib.import_module("mesh").Site()
    importlib.import_module("buildings").all_buildings(site)
    importlib.import_module("gardens").all_gardens(site)
    triangles = np.concatenate([part for parts in site.store.values() for part in parts])
    near = ((triangles.max(1) >= low) & (triangles.min(1) <= high)).all(1)
    a, b, c = triangles[near].transpose(1, 0, 2)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    draw = np.random.default_rng(0)
    row = np.repeat(np.arange(len(a)), draw.poisson(areas / SPACING**2) + 1)
    u, v = draw.uniform(0, 1, (2, len(row), 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return np.asarray(a[row] + u * (b - a)[row] + v * (c - a)[row])


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_points_and_mesh_lie_on_the_true_surfaces(
    here: Here,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(SCENE.parent / "university4"))
    monkeypatch.delenv("NERFXL_DATA", raising=False)
    run = os.environ.get(FINISHED)
    if run is None:
        said = here("fit", SCENE, "--steps", STEPS, "--output-dir", tmp_path, "--json")
        assert said.code == 0, said.err
        run = json.loads(said.out)["run"]
    asked = {"points": ("--points", 100_000), "mesh": ("--resolution", 256)}
    distance = {}
    for kind, more in asked.items():
        file = tmp_path / f"{kind}.ply"
        said = here("export", kind, run, *more, "--to", file, "--json")
        assert said.code == 0, said.err
        found = json.loads(said.out)
        low, high = np.array(found["low"]), np.array(found["high"])
        places = np.asarray(trimesh.load(file, process=False).vertices)
        some = places[:: max(1, len(places) // 50_000)]
        distance[kind], _ = cKDTree(true_points(low - 1, high + 1)).query(some)
    edge = float((high - low).max())
    # Guards against a wrong scale, turn or shift, which would be metres, not against a bad fit.
    share = {kind: float(np.median(away)) / edge for kind, away in distance.items()}
    assert share["points"] < 0.008, share
    assert share["mesh"] < 0.012, share
