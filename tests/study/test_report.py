"""Reports of studies made by hand: figures, claims both ways, plots that open and are small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from nerfxl.progress import Speaker
from nerfxl.study import plots, report
from nerfxl.study.claims import Finding, findings, order
from nerfxl.study.figures import Row, Spread
from nerfxl.study.grid import Cell, Kind
from tests.study.made import book, groups, line, row, run

SILENT = Speaker(quiet=True)


def joint(tiles: int, seed: int = 1, **figures: float) -> Row:
    return row(Cell("scaling", "joint", tiles, min(tiles, 2), seed), **figures)


def alone(tiles: int, seed: int = 1, **figures: float) -> Row:
    return row(Cell("scaling", "independent-3d:0", tiles, min(tiles, 2), seed), **figures)


def verdicts(kind: Kind, *rows: Row) -> dict[str, Finding]:
    """Findings by the first words of their claims."""
    return {one.claim: one for one in findings(kind, groups(*rows))}


def starting(found: dict[str, Finding], words: str) -> Finding:
    (one,) = (finding for claim, finding in found.items() if claim.startswith(words))
    return one


@pytest.mark.parametrize(
    ("decibels", "verdict"),
    [
        ((23.0, 23.5, 24.0), "holds"),
        ((24.6, 24.4, 24.1), "does not hold"),
        ((23.0, 24.9, 24.0), "does not hold"),  # it rises, and falls again
        ((23.0, 23.1, 23.2), "undecided"),
        ((23.0,), "not tested"),
    ],
)
def test_whether_joint_rises(decibels: tuple[float, ...], verdict: str) -> None:
    rows = [joint(2**power, psnr=value) for power, value in enumerate(decibels)]
    found = starting(verdicts("scaling", *rows), "The joint PSNR rises")
    assert found.verdict == verdict
    assert found.where == "Fig. 8, 9"


def test_a_claim_says_its_figures() -> None:
    rows = (joint(1, psnr=24.6), joint(8, psnr=24.1), alone(8, psnr=23.0))
    found = verdicts("scaling", *rows)
    rises = starting(found, "The joint PSNR rises")
    assert (rises.verdict, rises.found) == ("does not hold", "joint 24.60 dB at 1 tile, 24.10 at 8")
    # With one tile the joint fit is the independent one.
    rest = starting(found, "The PSNR of independent-3d:0 does not rise")
    assert (rest.verdict, rest.found) == (
        "holds",
        "independent-3d:0 24.60 dB at 1 tile, 23.00 at 8",
    )


@pytest.mark.parametrize(
    ("last", "verdict"), [(22.9, "holds"), (23.2, "undecided"), (24, "does not hold")]
)
def test_whether_independent_training_rises(last: float, verdict: str) -> None:
    found = verdicts("scaling", joint(1, psnr=23.0), alone(2, psnr=22.0), alone(4, psnr=last))
    assert starting(found, "The PSNR of independent-3d:0 does not rise").verdict == verdict


def test_seeds_decide_where_there_are_several() -> None:
    # One decibel apart in the mean, but the best of the lower is above the worst of the higher.
    wide = [
        joint(1, 1, psnr=22),
        joint(1, 2, psnr=24),
        joint(2, 1, psnr=23.9),
        joint(2, 2, psnr=25),
    ]
    assert starting(verdicts("scaling", *wide), "The joint PSNR").verdict == "undecided"
    # A tenth apart, and every seed says so.
    near = [
        joint(1, 1, psnr=22),
        joint(1, 2, psnr=22.01),
        joint(2, 1, psnr=22.1),
        joint(2, 2, psnr=22.2),
    ]
    assert starting(verdicts("scaling", *near), "The joint PSNR").verdict == "holds"
    assert order(Spread.of([1.0]), Spread.of([0.8]), 0.3) == 0


def test_whether_rendering_gets_faster_with_processes() -> None:
    claim = "The time to render a picture"
    faster = (
        joint(1, render_seconds=2.0),
        joint(2, render_seconds=1.2),
        joint(8, render_seconds=9),
    )
    found = starting(verdicts("scaling", *faster), claim)
    # Of the two fits on two processes that of fewer tiles counts.
    assert (found.verdict, found.found[:36]) == ("holds", "joint 2.00 s on 1, 1.20 s on 2, wher")
    slower = (joint(1, render_seconds=2.0), joint(2, render_seconds=2.5))
    assert starting(verdicts("scaling", *slower), claim).verdict == "does not hold"
    equal = starting(
        verdicts("scaling", joint(2, render_seconds=1), joint(4, render_seconds=9)), claim
    )
    assert (equal.verdict, equal.found) == ("not tested", "all ran on 2 processes")
    assert starting(verdicts("scaling", joint(1, psnr=1)), claim).verdict == "not tested"


def test_whether_samples_stray() -> None:
    claim = "The more tiles, the more samples of independent-3d:0"
    found = starting(verdicts("scaling", alone(2, outside=0.38), alone(8, outside=0.62)), claim)
    assert (found.verdict, found.found) == ("holds", "38 % at 2, 62 % at 8")
    fewer = verdicts("scaling", alone(2, outside=0.4), alone(8, outside=0.2))
    assert starting(fewer, claim).verdict == "does not hold"


@pytest.mark.parametrize(
    ("gather", "verdict"), [(4, "holds"), (5, "undecided"), (8, "does not hold")]
)
def test_whether_segments_cost_half_of_samples(gather: float, verdict: str) -> None:
    rows = [
        row(Cell("exchange", mode, 4, ranks, 1), exchange_ms=ms, bytes_per_ray=size, step_ms=2 * ms)
        for mode, ranks, ms, size in (
            *(("gather", 2, 99, 900), ("samples", 2, 1, 1)),  # the most ranks count
            *(("gather", 4, gather, 90), ("samples", 4, 10, 700)),
            ("owner", 4, 1, 800),
        )
    ]
    found = verdicts("exchange", *rows)
    time = starting(found, "Exchanging Segments (gather) takes less than half")
    assert time.verdict == verdict
    less = f"{10 / gather:.1f} times less; whole steps {2 * gather} against 20"
    assert time.found == f"{gather} ms a step against 10 on 4 processes, {less}"
    assert starting(found, "Segments (gather) are fewer bytes").verdict == "holds"
    assert starting(found, "Segments (owner) are fewer bytes").verdict == "does not hold"
    lonely = verdicts("exchange", rows[0])
    assert starting(lonely, "Segments (gather)").verdict == "not tested"


def test_joint_against_ddp() -> None:
    both = [
        row(Cell("ddp", mode, tiles, 2, 1), psnr=psnr, render_seconds=seconds)
        for mode, tiles, psnr, seconds in (("joint", 2, 24.0, 1.0), ("ddp", 1, 23.0, 2.0))
    ]
    found = verdicts("ddp", *both)
    better = starting(found, "Joint tiles beat")
    assert (better.verdict, better.found) == (
        "holds",
        "joint 24.00, ddp 23.00 dB on 2 processes",
    )
    assert starting(found, "ddp renders faster").verdict == "does not hold"
    assert starting(verdicts("ddp", both[0]), "Joint tiles beat").verdict == "not tested"


@pytest.mark.parametrize(
    ("band", "verdict", "extra"),
    [(20.0, "holds", "+2.00"), (22.0, "undecided", "+0.00"), (22.8, "does not hold", "-0.80")],
)
def test_whether_blending_shows(band: float, verdict: str, extra: str) -> None:
    """Elsewhere, too, independent tiles lose 2 dB: that is no seam; what they lose beyond is."""
    rows = [
        row(Cell("overlap", "joint", 4, 2, 1), band_psnr=24.0, rest_psnr=25.0),
        row(Cell("overlap", "independent-3d:0", 4, 2, 1), band_psnr=band, rest_psnr=23.0),
    ]
    found = starting(verdicts("overlap", *rows), "Blending")
    assert found.verdict == verdict
    assert f"{extra} dB more lost near faces" in found.found
    (missing,) = findings("overlap", groups(rows[1]))
    assert missing.verdict == "not tested"


@pytest.mark.parametrize(
    ("band", "verdict"), [(24.0, "holds"), (23.8, "holds"), (23.0, "does not hold")]
)
def test_whether_joint_tiles_have_seams(band: float, verdict: str) -> None:
    """What is as hard to see without faces is no seam."""
    whole = row(Cell("overlap", "joint", 1, 1, 1), band_psnr=22.0, rest_psnr=23.0)
    joint = row(Cell("overlap", "joint", 4, 2, 1), band_psnr=band, rest_psnr=25.0)
    found = starting(verdicts("overlap", whole, joint), "Joint tiles leave no error")
    assert found.verdict == verdict
    assert starting(verdicts("overlap", joint), "Joint").verdict == "not tested"


def test_whether_cameras_are_corrected_and_tiles_disagree() -> None:
    def cell(mode: str, refine: bool) -> Cell:
        return Cell("cameras", mode, 4, 2, 1, refine)

    before = {"before_rotation": 0.5, "before_rotation_aligned": 0.4}
    moved = {"before_translation_aligned": 0.002, "after_translation_aligned": 0.001}
    good = row(cell("joint", True), after_rotation_aligned=0.1, **before, **moved)
    apart = row(cell("independent-3d", True), apart_rotation=0.2, **before)
    found = verdicts("cameras", good, apart)
    first = starting(found, "Joint tiles correct each camera once")
    assert first.verdict == "holds"
    assert first.found == (
        "0.400 degrees before, 0.100 after; 0.200 % of the box before, 0.100 after"
    )
    second = starting(found, "The tiles of independent-3d")
    assert (second.verdict, second.found) == (
        "holds",
        "0.200 degrees apart, where 0.500 were to be corrected",
    )
    mixed = row(cell("joint", True), **{**good.figures, "after_rotation_aligned": 0.6})
    assert starting(verdicts("cameras", mixed), "Joint tiles").verdict == "undecided"
    bad = row(cell("joint", True), **{**mixed.figures, "after_translation_aligned": 0.002})
    agree = row(cell("independent-3d", True), apart_rotation=0.01, **before)
    found = verdicts("cameras", bad, agree)
    assert [one.verdict for one in found.values()] == ["does not hold", "does not hold"]
    found = verdicts("cameras", row(cell("independent-3d", True), psnr=20))
    assert [one.verdict for one in found.values()] == ["not tested", "not tested"]


def test_whether_what_is_learned_of_images_pays() -> None:
    def cell(mode: str) -> Cell:
        return Cell("appearance", mode, 4, 2, 1)

    rows = [
        row(cell(mode), psnr=psnr)
        for mode, psnr in {"off": 20.0, "exposure": 22.0, "embedding": 20.1, "both": 19.0}.items()
    ]
    found = verdicts("appearance", *rows)
    first = starting(found, "Learning the exposure of each image")
    assert (first.verdict, first.found) == ("holds", "20.00 dB without, 22.00 with")
    assert [one.verdict for one in found.values()] == ["holds", "undecided", "does not hold"]
    found = verdicts("appearance", *rows[1:])
    assert {one.verdict for one in found.values()} == {"not tested"}


def test_a_report_from_run_folders(tmp_path: Path) -> None:
    study = tmp_path / "cube-exchange"
    cells = [
        Cell("exchange", "alone", 4, 1, 1),
        *(Cell("exchange", mode, 4, 2, 1) for mode in ("gather", "samples")),
        Cell("exchange", "gather", 4, 2, 2),
        Cell("exchange", "samples", 4, 2, 2),
    ]
    messages = {"segments": {"bytes_per_ray": 50.0, "ms_per_step": 2.0}}
    told = {"waiting": 0.2, "bytes_per_ray": 90.0, "imbalance": 1.05, "exchange": messages}
    run(study, cells[0])
    run(study, cells[1], [line(20, steps_per_second=1, **told), line(40, **told)])
    more = {"segments": {"bytes_per_ray": 600.0, "ms_per_step": 7.0}}
    run(study, cells[2], [line(40, **{**told, "bytes_per_ray": 700.0, "exchange": more})])
    run(study, cells[3], [line(40, **{**told, "bytes_per_ray": 92.0})], psnr=None, ssim=None)
    found = report.write(book(study, "exchange", cells), SILENT)

    text = (study / "report.md").read_text()
    assert "# cube: exchange" in text
    assert "4 of 5 fits of 40 steps are complete, seeds 1, 2." in text
    assert "| capture | /photographs (made up) |" in text
    assert "| machine | a machine |" in text
    assert "| command | `nerfxl study x`, 2026-01-31T12:00:00+01:00 |" in text
    assert (
        "| note | at 2026-01-31T12:00:00+01:00 other programs were at work (load 1.5 on 2 " in text
    )
    # Steps a second: the second half of 40 steps is the line of step 40 alone, 10 a second.
    assert "| gather | 4 | 2 | 100.0 (100.0 to 100.0) | 2.0 (2.0 to 2.0) | 20 (20 to 20) |" in text
    assert "| 91 (90 to 92) |" in text
    assert "| samples | 4 | 2 | 100.0 | 7.0 | 20 | 700 |" in text
    assert "| alone | 4 | 1 | 100.0 | 0.0 | 0 | 0 |" in text
    assert "| samples | 600.0 / 7.00 |" in text
    assert "* **Holds.** Segments (gather) are fewer bytes than samples (Fig. 12): 91 " in text
    assert "* to do: `--set name=samples-4-tiles-2-ranks-seed-2 --set seed=2" in text
    assert "![exchange.png](exchange.png)" in text

    stored = json.loads((study / "report.json").read_text())
    assert {**stored, "report": str(study / "report.md")} == json.loads(json.dumps(found))
    table = {(one["mode"], one["ranks"]): one["figures"] for one in stored["table"]}
    spread = {"mean": 91.0, "least": 90.0, "greatest": 92.0, "seeds": 2}
    assert table["gather", 2]["bytes_per_ray"] == spread
    states = {one["label"]: one["state"] for one in stored["cells"]}
    assert states["samples-4-tiles-2-ranks-seed-2"] == "to do"
    assert states["alone-4-tiles-1-rank-seed-1"] == "complete"
    assert opened(study / "exchange.png")


def test_a_report_names_no_folder_above_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be handed on: paths are those from the folder that the command was given in."""
    monkeypatch.chdir(tmp_path)
    cells = [Cell("appearance", mode, 4, 2, 1) for mode in ("off", "both")]
    study = tmp_path / "runs" / "studies" / "cube-appearance"
    for cell in cells:
        look = "embedding; held-out images take none" if cell.mode == "both" else "off"
        run(study, cell, capture=str(tmp_path / "data" / "cube"), appearance=look)
    report.write(book(study, "appearance", cells), SILENT)
    text, stored = (study / name for name in ("report.md", "report.json"))
    assert str(tmp_path) not in text.read_text() + stored.read_text()
    assert "| capture | data/cube (made up) |" in text.read_text()
    assert "| looks | embedding; held-out images take none |" in text.read_text()
    assert json.loads(stored.read_text())["cells"][0]["run"].startswith("runs/studies/cube-")


def test_a_report_of_nothing_yet(tmp_path: Path) -> None:
    """A run that has begun is no figure; claims are not tested rather than made up."""
    cell = Cell("scaling", "joint", 2, 2, 1)
    begun = run(tmp_path, cell)
    begun.update(state="interrupted", step=20, reason="stopped by Ctrl-C")
    content = report.write(book(tmp_path, "scaling", [cell]), SILENT)
    assert {one["verdict"] for one in content["claims"]} == {"not tested"}
    assert content["pictures"] == []
    assert content["cells"][0]["state"] == "interrupted at step 20 of 40"
    assert "0 of 1 fits are complete, seed 1." in (tmp_path / "report.md").read_text()


EVERYTHING = {"psnr": 20.0, "ssim": 0.5, "rays_per_second": 9e3, "render_seconds": 1.0}
EVERYTHING |= {"memory": 0.5, "outside": 0.4, "step_ms": 50.0, "exchange_ms": 9.0, "waiting": 0.2}
EVERYTHING |= {"bytes_per_ray": 90.0, "band_psnr": 19.0, "rest_psnr": 21.0}
EVERYTHING |= {
    f"{when}_{what}{how}": 0.1
    for when in ("before", "after", "apart")
    for what in ("rotation", "translation")
    for how in ("", "_aligned")
}


@pytest.mark.parametrize("kind", get_args(Kind))
def test_plots_open_and_are_small(kind: Kind, tmp_path: Path) -> None:
    modes = {"exchange": ("alone", "gather", "samples"), "ddp": ("joint", "ddp")}
    rows = [
        row(Cell(kind, mode, ranks, ranks, seed, refine), **EVERYTHING)
        for mode in modes.get(kind, ("joint", "independent-3d:0", "independent-2d"))
        for ranks in (1, 2, 4)
        for seed in (1, 2)
        for refine in ((False, True) if kind == "cameras" else (None,))
    ]
    for some in (rows, rows[-1:]):  # many points, and one
        assert plots.draw(kind, groups(*some), tmp_path) == [f"{kind}.png"]
        assert opened(tmp_path / f"{kind}.png")


@pytest.mark.parametrize("kind", ["overlap", "cameras"])
def test_where_nothing_is_known_nothing_is_drawn(kind: Kind, tmp_path: Path) -> None:
    assert (
        plots.draw(kind, groups(row(Cell(kind, "joint", 4, 2, 1, False), memory=1)), tmp_path) == []
    )
    assert not any(tmp_path.iterdir())


def opened(file: Path) -> bool:
    """Whether it is a picture, of at most 200 KB, with something on it."""
    assert file.stat().st_size < 200_000
    with Image.open(file) as image:
        image.load()
        assert min(image.size) > 200
        colours = image.convert("L").getextrema()
    return colours == (0, 255)
