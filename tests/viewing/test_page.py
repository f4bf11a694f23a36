"""`nerfxl view` and `fit --view`, in a real browser, from the first picture to Ctrl-C."""

from __future__ import annotations

import io
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nerfxl.filming.paths import CameraPath
from nerfxl.opened import Opened, open_run
from nerfxl.viewing.sight import Sight, window_onto
from tests.conftest import Here, Spawn, Spawned, WriteScene, listening
from tests.report import browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.long
SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL without a GPU
WIDTH, HEIGHT = 760, 400
Until = Callable[[Callable[[], bool]], None]


@pytest.fixture
def page() -> Iterator[Page]:
    with browser.opened(*SOFTWARE) as found:
        found.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        yield found.page
        abroad = [url for url in found.asked if not url.startswith(("http://127.0.0.1", "blob:"))]
        assert not abroad
        assert not [words for words in found.said if "rror" in words]


@pytest.fixture
def run_of_cube(scene_file: WriteScene, tmp_path: Path, here: Here) -> Path:
    """A run of thirty steps."""
    said = here("fit", scene_file(), "--steps", 30, "--output-dir", tmp_path / "runs", "--json")
    assert said.code == 0, said.err
    return Path(json.loads(said.out)["run"])


def url_of(spawned: Spawned, until: Until) -> str:
    """Where a viewer says that it is."""
    pattern = re.compile(r"viewer +(http://\S+),")
    until(lambda: pattern.search(spawned.out.read_text()) is not None)
    found = pattern.search(spawned.out.read_text())
    assert found is not None
    return found[1]


def pixels(page: Page) -> NDArray[np.float64]:
    """What the window shows beside its panels: [h, w, 3], 0 to 255."""
    canvas = page.locator("canvas").first
    with Image.open(io.BytesIO(canvas.screenshot())) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def at_rest(page: Page) -> None:
    """Wait until the picture is as fine as it will be."""
    page.wait_for_function(
        """() => { const text = document.body.innerText;
            return /\\d+ × \\d+ pixels/.test(text) && !text.includes("sharpening") }""",
        timeout=120_000,
    )
    time.sleep(0.5)  # until the browser has drawn what it was sent


def without_props(page: Page) -> None:
    """Show the picture alone, without the notice that the browser has no GPU."""
    for close in page.locator(".mantine-Notification-closeButton").all():
        close.click()
    for label in ("Cameras", "Tiles", "Root box", "Path"):
        page.get_by_label(label, exact=True).uncheck()


def test_looking_around_a_run(page: Page, run_of_cube: Path, spawn: Spawn, until: Until) -> None:
    viewer = spawn("view", run_of_cube, "--port", "0")
    url = url_of(viewer, until)
    assert set(listening(viewer.process.pid)) == {"127.0.0.1"}
    page.goto(url)
    at_rest(page)
    opened = open_run(run_of_cube, device="cpu")
    check_picture(page, opened)
    check_displays(page)
    check_second_window(page, url)
    check_comparison(page, run_of_cube, until)
    check_path(page, run_of_cube, opened, until)
    viewer.process.send_signal(signal.SIGINT)
    assert viewer.ended(30) == 0
    assert viewer.out.read_text().endswith("viewer     ended\n")
    assert viewer.err.read_text() == ""


def check_picture(page: Page, opened: Opened) -> None:
    """The window shows, pixel by pixel, what the run renders from its first camera."""
    without_props(page)
    at_rest(page)
    home = next(shot for shot in opened.shots() if not shot.test)
    shown = pixels(page)
    height, width, _ = shown.shape
    assert 380 < width < 460, "a panel of 320 pixels is beside it"
    sight = Sight(home.pose, window_onto(home.camera, width / height), width, height)
    exact = opened.render(sight.camera(width, height), sight.pose).colour.numpy() * 255
    mirrored = exact[:, ::-1]
    # JPEG costs about 1 of 255; after thirty steps the scene is so blurred that its mirror image,
    # which would be wrong, differs by 5 or 6 only.
    assert np.abs(shown - exact).mean() < 2
    assert np.abs(shown - mirrored).mean() > 4


def check_displays(page: Page) -> None:
    """A click shows something else, with its legend."""
    before = pixels(page)
    page.get_by_label("Show", exact=True).first.click()
    page.get_by_role("option", name="Depth").click()
    page.get_by_text("Distance from the camera").wait_for()
    time.sleep(1)
    assert np.abs(pixels(page) - before).mean() > 20
    page.mouse.click(200, 300)
    page.keyboard.press("1")
    page.get_by_text("Distance from the camera").wait_for(state="hidden")
    time.sleep(1)
    assert np.abs(pixels(page) - before).mean() < 1


def check_second_window(page: Page, url: str) -> None:
    """Another window has a camera and a display of its own."""
    before = pixels(page)
    other = page.context.new_page()
    other.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    other.goto(url)
    other.get_by_text(" pixels").wait_for(timeout=60_000)
    other.keyboard.press("2")
    other.keyboard.press("o")
    other.get_by_text("Distance from the camera").wait_for()
    assert np.abs(pixels(page) - before).mean() < 1
    other.close()


def check_comparison(page: Page, run: Path, until: Until) -> None:
    """Going to a held-out view shows it beside its photograph, with the score that eval gave it."""
    page.get_by_role("tab", name="Photographs").click()
    page.get_by_role("button", name="▶").click()
    page.get_by_text("PSNR").wait_for(timeout=60_000)
    scores = json.loads(next(run.glob("eval/*/metrics.json")).read_text())["per_image"]
    told = re.search(r"PSNR ([\d.]+) dB", page.inner_text("body"))
    assert told is not None
    assert float(told[1]) == pytest.approx(scores[0]["psnr"], abs=0.02)
    assert page.get_by_text(scores[0]["name"]).count()
    page.get_by_role("button", name="▶").click()
    until(lambda: f"{scores[1]['psnr']:.1f}" in page.inner_text("body"))
    page.get_by_role("button", name="Close").click()
    page.get_by_text("PSNR").wait_for(state="hidden")


def check_path(page: Page, run: Path, opened: Opened, until: Until) -> None:
    """Keyframes where the camera was; what is saved is what render reads."""
    views = [shot for shot in opened.shots() if shot.test]
    page.get_by_role("tab", name="Path").click()
    page.get_by_role("button", name="Add a keyframe here").click()
    page.get_by_text("1: 0.0 s").wait_for(state="attached")
    page.mouse.click(200, 300)
    page.keyboard.press("h")
    at_rest(page)
    page.keyboard.press("k")
    file = run / "paths" / "path.json"
    page.get_by_role("button", name="Save in the run's folder").click()
    until(file.is_file)
    found = CameraPath.load(file)
    assert [one.time for one in found.keyframes] == [0, 2]
    home = next(shot for shot in opened.shots() if not shot.test)
    for frame, shot in zip(found.keyframes, (views[1], home), strict=True):
        np.testing.assert_allclose(frame.pose, shot.pose, atol=1e-3)
    page.get_by_role("button", name="Save in the run's folder").click()  # it is its own file now
    page.locator('input[value="path"]:visible').first.fill("../elsewhere")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Save in the run's folder").click()
    page.get_by_text("cannot name a path").wait_for()


def test_a_viewer_that_is_asked_to_end_says_no_more_than_that(
    run_of_cube: Path, spawn: Spawn, until: Until
) -> None:
    viewer = spawn("view", run_of_cube, "--port", "0")
    url_of(viewer, until)
    viewer.process.terminate()
    assert viewer.ended(30) == 143
    assert viewer.out.read_text().endswith("viewer     ended\n")
    assert viewer.err.read_text() == ""


def test_fit_shows_its_run_until_ctrl_c(
    scene_file: WriteScene, tmp_path: Path, spawn: Spawn, until: Until
) -> None:
    fit = spawn("fit", scene_file(), "--output-dir", tmp_path / "runs", "--view", "--nproc", 2)
    until(lambda: "stays until Ctrl-C" in fit.out.read_text() or fit.process.poll() is not None)
    said = fit.out.read_text()
    assert said.index("scores ") < said.index("stays until Ctrl-C")
    assert url_of(fit, until).startswith("http://127.0.0.1:")
    children = Path(f"/proc/{fit.process.pid}/task/{fit.process.pid}/children").read_text().split()
    assert len(children) == 1
    fit.process.send_signal(signal.SIGINT)
    assert fit.ended(30) == 0
    until(lambda: not Path(f"/proc/{children[0]}").exists())
    status = json.loads(next((tmp_path / "runs").glob("*/*/status.json")).read_text())
    assert status["state"] == "completed"


def test_a_viewer_ends_with_a_run_that_is_stopped(
    scene_file: WriteScene, tmp_path: Path, spawn: Spawn, until: Until
) -> None:
    scene = scene_file(train={"steps": 100_000, "checkpoint_every": 0})
    fit = spawn("fit", scene, "--output-dir", tmp_path / "runs", "--view", "--nproc", 1)
    url_of(fit, until)
    until(lambda: "step" in fit.out.read_text())
    children = Path(f"/proc/{fit.process.pid}/task/{fit.process.pid}/children").read_text().split()
    fit.process.send_signal(signal.SIGINT)
    assert fit.ended(60) == 130
    assert "stays until" not in fit.out.read_text()
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
