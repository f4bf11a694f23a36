"""The pages do what they say: their commands run, in their order, and print what is printed."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nerfxl.filming.film import write_film

ROOT = Path(__file__).resolve().parent.parent
GUIDES = ROOT / "scenes" / "guides"
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "odm_brighton"
WALK = ROOT / "scenes" / "university4" / "images"
CELL = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

ELSEWHERE = re.compile("^(pip|python3|ssh) |HOST:")  # a network, or another machine
STAYS = re.compile(r"nerfxl view|--view\b|^tensorboard")  # until Ctrl-C
RUN = re.compile(r"runs/university4/2026-01-31_12-00-00")
LESS = {  # words at the end count: the same with less to do
    r"nerfxl fit": "--steps 200 --set capture.downscale=8 --set train.checkpoint_every=100",
    r"nerfxl resume": "--set train.steps=210",
    r"nerfxl render .*--path": "--size 48x36 --frames 3",
    r"nerfxl export points": "--points 1000 --min-opacity 0.5 --max-spread 9 --overwrite",
    r"nerfxl export mesh": "--resolution 32 --level 0.3 --keep-hidden --smallest 0 --overwrite",
    r"nerfxl export cameras": "--overwrite",
    r"nerfxl plan .*--balance": "--set capture.downscale=8",
    r"nerfxl study": "--steps 10 --set capture.downscale=8 --set capture.split.every=36",
    r"nerfxl study scaling": "--seeds 1 --tiles 1,2",
}
BASH = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = {
    page.name: page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted(GUIDES.glob("*.md")))
    if "```bash" in page.read_text(encoding="utf-8")
}


def commands(page: str) -> list[str]:
    lines = "".join(BASH.findall(PAGES[page])).splitlines()
    spoken = [line.partition("#")[0].strip() for line in lines]
    return [line for line in spoken if line and not ELSEWHERE.search(line)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a newcomer sits: scenes, photographs, a video, a run, and a camera path."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "scenes", desk / "scenes")
    if PHOTOGRAPHS.is_dir():
        shutil.copytree(PHOTOGRAPHS / "images", desk / "my-photographs")
    write_film(sorted(WALK.iterdir())[:40], desk / "walk.mp4", fps=5)
    (path,) = re.findall(r"```json\n(.*?)```", PAGES["viewer.md"], re.DOTALL)
    (desk / "my-path.json").write_text(path)
    ask("nerfxl fit scenes/university4.yaml", desk)
    return desk


def ask(command: str, desk: Path) -> None:
    """Give a command as at a terminal, with less to do; one that stays is stopped once it is up."""
    less = " ".join(words for what, words in LESS.items() if re.search(what, command))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "BROWSER": "true", "PYTHONUNBUFFERED": "1"}
    said: list[str] = []
    with subprocess.Popen(
        ["bash", "-c", f"exec {command} {less}"],
        cwd=desk,
        env=env,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            said.append(line)
            if STAYS.search(command) and re.search(r"https?://\S+:\d+", line):
                os.killpg(process.pid, signal.SIGTERM)
    allowed = (0, 143, -signal.SIGTERM) if STAYS.search(command) else (0,)
    assert process.returncode in allowed, f"{command} {less}\n{''.join(said)}"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, desk: Path) -> None:
    if "my-photographs" in PAGES[page] and not PHOTOGRAPHS.is_dir():
        pytest.skip("the shared captures are not here")
    for command in commands(page):
        latest = max((desk / "runs" / "university4").glob("2*/checkpoints/latest"))
        newest = latest.parent.parent
        if "paths/path.json" in command:
            (newest / "paths").mkdir(exist_ok=True)
            shutil.copy(desk / "my-path.json", newest / "paths" / "path.json")
        ask(RUN.sub(f"runs/university4/{newest.name}", command), desk)


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
