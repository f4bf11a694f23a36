"""A run's page: what it says of runs that ended well, badly, or not at all; it needs no network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nerfxl import cli, history
from nerfxl.runs import RunFolder
from tests.conftest import TINY, Here, merged
from tests.report import made
from tests.report.browser import Browser, opened

SCORED = 15  # the last step


class Fitted(NamedTuple):
    """A run of two processes that was scored three times."""

    run: RunFolder
    said: dict[str, Any]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, capture: Path) -> Fitted:
    root = tmp_path_factory.mktemp("reported")
    shutil.copytree(capture, root / "photographs")
    train = {"steps": SCORED, "log_every": 1, "eval_every": 5}
    scene = merged(TINY, {"train": train, "capture": {"path": "photographs"}})
    (root / "cube.yaml").write_text(json.dumps(scene))
    words = ("fit", "cube.yaml", "--nproc", "2", "--device", "cpu", "--tensorboard", "--json")
    command = [sys.executable, "-m", "nerfxl", *words]
    variables = {"NUMBA_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=root, env=os.environ | variables, capture_output=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return Fitted(RunFolder.open(root / said["run"]), said)


class Links(HTMLParser):
    """Whatever a page points to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.found.append(str(value))
            if name == "id":
                self.ids.append(str(value))


def text_of(run: RunFolder) -> str:
    return run.report.read_text(encoding="utf-8")


def moved(fitted: Fitted, to: Path) -> RunFolder:
    """A copy of the run, to be spoilt."""
    shutil.copytree(fitted.run.path, to / "cube" / "run")
    return RunFolder.open(to / "cube" / "run")


def test_fit_ends_with_a_page(fitted: Fitted) -> None:
    assert fitted.said["report"].endswith("report.html")
    page = text_of(fitted.run)
    assert 20_000 < len(page) < 1_000_000
    for words in ("PSNR, held out", f"step {SCORED} of {SCORED}", "All 2 held-out views"):
        assert words in page
    for words in ("train.eval_every", "partition.tiles", "Processes wait for each other"):
        assert words in page
    assert f"{fitted.said['psnr']:.2f}" in page
    assert "The other " in page


def test_the_page_holds_all_that_it_shows(fitted: Fitted) -> None:
    page = Links(text_of(fitted.run))
    pictures = [link for link in page.found if link.startswith("data:image/webp;base64,")]
    assert len(pictures) == 2 * 4 + 1  # truth, rendering, error, depth of two views; the cut
    beside = [link for link in page.found if not link.startswith(("data:", "#"))]
    assert all((fitted.run.path / link).exists() for link in beside)
    assert {link[1:] for link in page.found if link.startswith("#")} <= {*page.ids}
    assert len(page.ids) == len({*page.ids})
    assert "http" not in re.sub("http-equiv", "", text_of(fitted.run))


def test_the_page_says_where_the_run_comes_from(fitted: Fitted) -> None:
    page = text_of(fitted.run)
    assert "nerfxl fit cube.yaml --nproc 2 --device cpu --tensorboard --json" in page
    assert "2 on cpu" in page
    assert "torch " in page
    assert str(fitted.run.path.parents[2] / "photographs").rpartition("/")[2] in page
    assert "Scored at several steps" in page


def test_the_guide_explains_every_key_of_metrics(fitted: Fitted) -> None:
    guide = (Path(__file__).parents[2] / "scenes" / "guides" / "reading-a-report.md").read_text()
    keys = {key for line in history.read(fitted.run.metrics).lines for key in line}
    assert {"waiting", "imbalance", "exchange"} <= keys
    assert [key for key in sorted(keys) if f"`{key}`" not in guide] == []


def test_a_run_that_went_on_says_from_where(fitted: Fitted, here: Here, tmp_path: Path) -> None:
    run = moved(fitted, tmp_path)
    said = here("resume", run.path, "--nproc", 1, "--set", "train.steps=17", "--json")
    assert said.code == 0, said.err
    page = text_of(run)
    assert json.loads(said.out)["report"] == str(run.report)
    assert f"trained from step {SCORED}" in page  # a mark in every chart
    assert "nerfxl resume" in page
    assert "step 17 of 17" in page


def test_without_photographs_what_was_learned_is_shown(
    fitted: Fitted, here: Here, tmp_path: Path
) -> None:
    run = moved(fitted, tmp_path)
    run.scene.write_text(run.scene.read_text().replace("photographs", "gone"))
    assert here("report", run.path).code == 0
    page = text_of(run)
    assert "The photographs are not there: truth and error are not shown." in page
    assert "rendering of images/0.png" in page
    assert "truth of images" not in page
    assert "error of images" not in page


def test_one_photograph_that_is_gone_is_named(fitted: Fitted, here: Here, tmp_path: Path) -> None:
    shutil.copytree(fitted.run.path.parents[2] / "photographs", tmp_path / "photographs")
    (tmp_path / "photographs" / "images" / "3.png").unlink()
    run = moved(fitted, tmp_path)
    before = str(fitted.run.path.parents[2])
    run.scene.write_text(run.scene.read_text().replace(before, str(tmp_path)))
    assert here("report", run.path).code == 0
    page = text_of(run)
    assert "Photographs are missing by now, and not shown: images/3.png." in page
    assert "truth of images/0.png" in page
    assert "truth of images/3.png" not in page


@pytest.mark.parametrize(
    ("spoilt", "note"),
    [
        ("scene.yaml", "What the run was asked cannot be read"),
        ("plan.json", "What the run was asked cannot be read"),
        ("cameras.json", "What the run was asked cannot be read"),
        ("metrics.jsonl", "1 line of metrics.jsonl cannot be read"),
        ("eval/step-000000015/metrics.json", "is damaged, and left out"),
        ("sessions.jsonl", "does not say on which machine"),
        ("eval/step-000000015/images_0.png", "cannot be read"),
        ("eval/step-000000015/depth/images_0.png", "no depth was stored"),
    ],
)
def test_what_is_damaged_is_said_and_the_rest_is_shown(
    fitted: Fitted, here: Here, tmp_path: Path, spoilt: str, note: str
) -> None:
    run = moved(fitted, tmp_path)
    (run.path / spoilt).write_bytes(b'{"half": \n')
    said = here("report", run.path, "--json")
    assert (said.code, said.err) == (0, "")
    page = text_of(run)
    assert note in page
    assert "Where it comes from" in page


@pytest.mark.parametrize(
    "change",
    [
        {"psnr": "high"},
        {"per_image": [{"name": 3, "psnr": 1.0, "ssim": None}]},
        {"train_seconds": None},
    ],
)
def test_scores_that_make_no_sense_are_left_out(
    here: Here, tmp_path: Path, change: dict[str, Any]
) -> None:
    run = made.run(tmp_path, [made.line(10)])
    made.scored(run, 10, [made.view("a.png", 20.0)], **change)
    assert here("report", run.path).code == 0
    assert "is damaged, and left out" in text_of(run)


def test_a_damaged_status_is_refused(fitted: Fitted, here: Here, tmp_path: Path) -> None:
    run = moved(fitted, tmp_path)
    before = text_of(run)
    run.status_file.write_text("{")
    said = here("report", run.path)
    assert said.code == 2
    assert said.err.startswith(f"nerfxl: {run.status_file} is damaged")
    assert text_of(run) == before


def test_a_run_that_failed_at_once_has_a_page(here: Here, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "cube")
    run.update(state="running", steps=100)
    run.update(state="failed", reason="step 1: <script>alert(1)</script> & no more")
    assert here("report", run.path).code == 0
    page = text_of(run)
    assert "step 1: &lt;script&gt;alert(1)&lt;/script&gt; &amp; no more" in page
    assert "there is nothing to go on from" in page
    assert "metrics.jsonl tells of no step yet" in page
    assert "No held-out image has been scored" in page


def test_a_run_that_was_stopped_says_how_to_go_on(
    fitted: Fitted, here: Here, tmp_path: Path
) -> None:
    run = moved(fitted, tmp_path)
    run.update(state="interrupted", reason="stopped by Ctrl-C", step=10)
    assert here("report", run.path).code == 0
    page = text_of(run)
    assert f"nerfxl resume {run.path}" in page
    assert "stopped by Ctrl-C" in page


def test_of_many_views_some_are_shown_and_all_are_listed(here: Here, tmp_path: Path) -> None:
    run = made.run(tmp_path, [made.line(10)])
    views = [made.view(f"{number:03d}.png", 10 + number % 37) for number in range(100)]
    made.scored(run, 10, views)
    assert here("report", run.path).code == 0
    page = text_of(run)
    assert "24 of 100 held-out views" in page
    assert "Scores of all 100 views" in page
    shown = page.partition("Scores of all")[0]
    assert shown.count('<tr data-view="') == 24
    assert ">10.00<" in shown  # the worst
    assert ">46.00<" in shown  # the best


def test_a_report_that_cannot_be_written_fails_no_fit(
    fitted: Fitted, here: Here, tmp_path: Path
) -> None:
    run = moved(fitted, tmp_path)
    run.report.unlink()
    run.report.mkdir()
    said = here("eval", run.path, "--nproc", 1, "--json")
    assert said.code == 0
    assert json.loads(said.out)["report"] is None
    assert said.err.startswith(f"nerfxl: {run.report} could not be written")
    assert here("report", run.path).code == 2


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened() as found:
        yield found


def test_the_page_opens_from_disk_in_peace(fitted: Fitted, browser: Browser) -> None:
    page = browser.visit(fitted.run.report)
    assert browser.said == []
    assert browser.asked == [fitted.run.report.as_uri()]
    assert page.locator(".charts .chart").count() >= 10
    for path in page.locator(".charts .raw").all():
        assert (path.get_attribute("d") or "").startswith("M")
    loaded = page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert loaded


def test_curves_tell_their_values(fitted: Fitted, browser: Browser) -> None:
    page = browser.visit(fitted.run.report)
    chart = page.locator(".charts .chart").first
    chart.locator("svg").hover()
    told = chart.locator(".told").inner_text()
    assert re.fullmatch(r"step \d+ +training +\d+\.\d\d( +held out +\d+\.\d\d)?", told)
    chart.locator("svg").focus()
    page.keyboard.press("Home")
    assert chart.locator(".told").inner_text().startswith("step 1 ")
    page.keyboard.press("ArrowRight")
    assert chart.locator(".told").inner_text().startswith("step 2 ")
    assert page.locator(".charts .told").nth(1).inner_text().startswith("step 2 ")  # all charts
    light = chart.locator(".smooth.light")
    assert light.is_visible()
    page.get_by_label("none").check()
    assert not light.is_visible()
    assert browser.said == []


def test_a_click_on_a_head_sorts(fitted: Fitted, browser: Browser) -> None:
    page = browser.visit(fitted.run.report)
    scores = {one["name"]: one["psnr"] for one in fitted.said["per_image"]}
    rising = sorted(scores, key=lambda name: scores[name])

    def names() -> list[str]:
        rows = page.locator("table.views tbody tr").all()
        return [str(row.get_attribute("data-view")) for row in rows]

    head = page.locator("table.views").get_by_role("button", name="PSNR")
    head.click()
    assert names() == rising
    assert page.locator("table.views [aria-sort=ascending]").count() == 1
    head.click()
    assert names() == rising[::-1]
    page.locator("table.views").get_by_role("button", name="view", exact=True).click()
    assert names() == sorted(scores)


def test_a_picture_is_enlarged_and_compared(fitted: Fitted, browser: Browser) -> None:
    page = browser.visit(fitted.run.report)
    small = page.locator("tr[data-view='images/3.png'] .thumb").first
    before = small.bounding_box()
    small.click()
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    assert "images/3.png" in viewer.locator("h3").inner_text()
    assert viewer.locator(".stage img").count() == 2  # the truth over the rendering
    large = viewer.locator(".stage img").first.bounding_box()
    assert before
    assert large
    assert large["width"] > 2 * before["width"]
    viewer.locator("input").fill("20")
    assert viewer.locator(".stage").evaluate("it => it.style.getPropertyValue('--at')") == "20%"
    viewer.get_by_role("button", name="error").click()
    assert viewer.locator(".stage img").count() == 1
    page.keyboard.press("ArrowRight")
    assert "images/0.png" in viewer.locator("h3").inner_text()
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert browser.said == []


def test_the_page_fits_paper_darkness_and_telephones(fitted: Fitted, browser: Browser) -> None:
    page = browser.visit(fitted.run.report)

    def colour() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = colour()
    page.emulate_media(color_scheme="dark")
    assert colour() != light
    page.emulate_media(media="print", color_scheme="dark")
    assert colour() == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    page.emulate_media(media="screen", color_scheme="light")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1280, "height": 900})


def test_every_verb_knows_json() -> None:
    verbs = {
        verb.name or verb.callback.__name__: verb.callback
        for verb in cli.app.registered_commands
        if verb.callback
    }
    assert {"fit", "report", "list", "doctor"} <= verbs.keys()
    mute = {name for name, verb in verbs.items() if "as_json" not in signature(verb).parameters}
    assert mute - {"view"} == set()  # which people look at, and which prints nothing to read


def test_every_verb_prints_json_alone(fitted: Fitted, here: Here, tmp_path: Path) -> None:
    run = moved(fitted, tmp_path / "runs")
    scene, out = fitted.run.path.parents[2] / "cube.yaml", ("--output-dir", tmp_path / "runs")
    said = {
        "plan": here("plan", scene, *out, "--json"),
        "fit": here("fit", scene, *out, "--steps", 2, "--nproc", 1, "--json"),
        "resume": here("resume", run.path, "--set", "train.steps=16", "--nproc", 1, "--json"),
        "eval": here("eval", run.path, "--nproc", 1, "--json"),
        "render": here("render", run.path, "--nproc", 1, "--json"),
        "inspect": here("inspect", run.path, "--json"),
        "report": here("report", run.path, "--json"),
        "list": here("list", *out, "--json"),
        "doctor": here("doctor", *out, "--json"),
    }
    for verb, one in said.items():
        assert one.code == 0, (verb, one.err)
        assert isinstance(json.loads(one.out), dict), verb
    assert {one["run"] for one in json.loads(said["list"].out)["runs"]} == {
        str(run.path),
        json.loads(said["fit"].out)["run"],
    }
