"""What the README promises: its commands parse, its files exist, its example loads."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

from nerfxl import cli, commands, doctor, listing, planning
from nerfxl.exporting import conduct as exporting
from nerfxl.posing import conduct as posing
from nerfxl.posing.outcome import write_scene
from nerfxl.scene.file import load_scene
from nerfxl.study import conduct
from nerfxl.viewing import verb as verbs

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "kernels/README.md"]
PAGES += ["scenes/README.md", "scenes/university4/README.md"]

HARDER = ROOT / "scenes" / "guides" / "harder-captures.md"
GUIDES = sorted((ROOT / "scenes" / "guides").glob("*.md"))
PAGES += [f"scenes/guides/{page.name}" for page in GUIDES]
PLACES = {"[RUN]": "", "SCENE": "scenes/university4.yaml", "PHOTOS": "photos", "DIR": "my-capture"}

FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(nerfxl [^`]*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")

FIT = (
    "python3 -m venv .venv && .venv/bin/pip install -e . && "
    ".venv/bin/nerfxl fit scenes/university4.yaml"
)


def blocks(language: str, text: str = README) -> list[str]:
    return [body for found, body in FENCE.findall(text) if found == language]


def verbs_of_help() -> Iterator[list[str]]:
    """What comes after `nerfxl`, of every verb that has a help of its own."""
    for one in (*cli.app.registered_commands, *cli.handing.export.registered_commands):
        assert one.callback is not None
        inside = one in cli.handing.export.registered_commands
        yield ["export"] * inside + [one.name or one.callback.__name__]


def helped(*words: str) -> str:
    """What a help says on a terminal of 80 columns."""
    return CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "80"}).output


EXAMPLE = re.compile(r"^  Example: (nerfxl .*)$", re.MULTILINE)
EXAMPLES = [found for words in verbs_of_help() for found in EXAMPLE.findall(helped(*words))]


def spoken() -> Iterator[str]:
    """Every `nerfxl ...` command of README and guides, placeholders of README's table filled in."""
    pages = [README, *(page.read_text(encoding="utf-8") for page in GUIDES)]
    for line in "".join(block for page in pages for block in blocks("bash", page)).splitlines():
        _, found, command = line.rpartition(".venv/bin/nerfxl ")
        if found or line.startswith("nerfxl "):
            yield f"nerfxl {command}" if found else line
    for command in INLINE.findall(README):
        for name, value in PLACES.items():
            command = command.replace(name, value)
        yield command


WRITTEN = {" ".join(command.partition("#")[0].split()) for command in spoken()}
COMMANDS = sorted(WRITTEN | set(EXAMPLES))


def test_the_commands_of_a_bare_machine_are_single_lines() -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert FIT in lines
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert script[-1] in lines
    assert script[-1].endswith(".venv/bin/nox")
    assert script[-1] in blocks("bash", (ROOT / "CONTRIBUTING.md").read_text())[0]


def test_what_runs_in_ci_is_that_line_alone() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    rest = [line for line in script[:-1] if not line.startswith("#")]
    assert rest == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."']
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_every_verb_is_shown() -> None:
    shown = {shlex.split(command)[1] for command in WRITTEN}
    known = {
        one.name or one.callback.__name__ for one in cli.app.registered_commands if one.callback
    }
    assert shown == known | {"export"}


def test_help_says_of_every_verb_what_it_does_and_gives_an_example() -> None:
    assert "..." not in helped().partition("Commands:")[2], "cut short at 80 columns"
    assert len(EXAMPLES) == len(list(verbs_of_help()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scenes").symlink_to(ROOT / "scenes")
    (tmp_path / "my-scene.yaml").write_text(blocks("yaml")[0])
    (tmp_path / "my-capture").mkdir()
    write_scene(tmp_path / "my-capture", 4000, 3000, flight=True)
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "scene.yaml").symlink_to(ROOT / "scenes" / "university4.yaml")
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []

    def verb(name: str) -> Any:
        def stand_in(*arguments: Any) -> dict[str, Any]:
            asked.append(name)
            if name in ("fit", "plan"):
                lists = [one for one in arguments if isinstance(one, list)]
                load_scene(arguments[0], device="cpu", overrides=lists[0])
            if name == "study":
                load_scene(arguments[0].scene, device="cpu", overrides=arguments[0].overrides)
            return {"fault": ""}

        return stand_in

    for name in ("fit", "resume", "plan", "evaluate", "render", "inspect", "report"):
        monkeypatch.setattr(planning if name == "plan" else commands, name, verb(name))
    for place, name, called in (
        *((conduct, "conduct", "study"), (listing, "listed", "list")),
        *((doctor, "examine", "doctor"), (posing, "pose", "pose"), (verbs, "view", "view")),
        *((exporting, f"export_{what}", "export") for what in ("points", "mesh", "cameras")),
    ):
        monkeypatch.setattr(place, name, verb(called))
    words = shlex.split(command)[1:]
    outcome = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    wanted = words[0].replace("eval", "evaluate")
    assert asked == ([] if "--help" in words else [wanted])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_example_of_a_scene_loads(device: Literal["cpu", "cuda"], tmp_path: Path) -> None:
    (whole,) = blocks("yaml")
    parts = blocks("yaml", HARDER.read_text(encoding="utf-8"))
    path = tmp_path / "my-scene.yaml"
    path.write_text(whole)
    spec = load_scene(path, device=device).spec
    assert (spec.capture.downscale, spec.partition.tiles) == (2, 8)
    for part in parts:
        path.write_text(f"{whole}\n{part}")
        assert load_scene(path, device=device).spec != spec


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [link.partition("#")[0] for link in LINK.findall(text) if "://" not in link]
    missing = [
        link for link in targets if link and not (ROOT / page).parent.joinpath(link).exists()
    ]
    assert not missing


def test_the_example_of_the_kernels_runs() -> None:
    (example,) = blocks("python", (ROOT / "kernels" / "README.md").read_text(encoding="utf-8"))
    exec(compile(example, "kernels/README.md", "exec"), {})  # noqa: S102
