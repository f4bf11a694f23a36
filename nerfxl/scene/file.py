"""Scene files: read with file, line and column in every error; overridden; resolved; written."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from nerfxl.errors import UserError
from nerfxl.runs import write_atomic
from nerfxl.scene.errors import Place, Places, sentences
from nerfxl.scene.forms import VARIABLE
from nerfxl.scene.spec import Candidate, SceneSpec
from nerfxl.scene.yaml_tree import Tree, read_tree, written

Device = Literal["cpu", "cuda"]

MAX_BYTES = 1 << 20
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class Scene:
    """A resolved scene.

    spec: every key has its value; the profile is merged and `spec.profiles` is empty.
    path: the file it was read from. base: the folder against which capture paths resolve.
    profile: name of the merged profile, or "" where the file has none for the device.
    """

    spec: SceneSpec
    path: Path
    base: Path
    profile: str


def load_scene(path: Path | str, *, device: Device, overrides: Sequence[str] = ()) -> Scene:
    """Read a scene file, merge the device's profile, then put the overrides in place.

    Parameters
    ----------
    path
        The scene file.
    device
        Whose profile is merged; ROCm counts as cuda.
    overrides
        `key=value` each: a dotted key and a value in YAML. The last of equal keys holds.

    Raises
    ------
    UserError
        With all that is wrong with the file, one line each, or else with all that is wrong with
        the overrides.

    """
    path = Path(path)
    document = _read(path)
    _raise_all(_check(document))
    merged = {name: _merged(document, name) for name in DEVICES}
    _raise_all([line for name in DEVICES for line in _check(merged[name])])
    chosen = merged[device]
    _override(chosen, overrides)
    _raise_all(_check(chosen))
    profiles = document.data.get("profiles", {})
    return Scene(
        spec=SceneSpec.model_validate(chosen.data),
        path=path,
        base=path.resolve().parent,
        profile=device if device in profiles else "",
    )


def save_scene(scene: Scene, path: Path) -> None:
    """Write the resolved scene, so that loading the file on any device gives the same run.

    The capture's path becomes the absolute path of the candidate that exists. Where none does, all
    candidates are kept, made absolute, with their environment variables as they are. A plan that
    was given becomes the plan.json beside the file, which the run keeps for itself.
    """
    found = next((entry for entry in _entries(scene) if entry.exists), None)
    if found:
        candidates = [{"path": str(found.folder), "note": found.note}]
    else:
        candidates = [_anchored(scene, entry) for entry in scene.spec.capture.path]
    document = scene.spec.model_dump(mode="json", exclude={"profiles"})
    document["capture"]["path"] = candidates
    if scene.spec.partition.plan != "auto":
        document["partition"]["plan"] = "plan.json"
    header = "# Resolved by nerfxl: every key of the run, nothing left to a default."
    write_atomic(path, f"{header}\n{written(document)}")


def choose_candidate(scene: Scene) -> tuple[Path, str]:
    """Find the capture: the first candidate that exists, absolute, and its note.

    Raises
    ------
    UserError
        If none exists; it lists all of them, the unset variables, and `capture.source`.

    """
    tried = []
    for entry in _entries(scene):
        if entry.folder is None:
            tried.append(f"{entry.written} ({', '.join(entry.unset)} is not set)")
        elif not entry.exists:
            tried.append(f"{entry.folder} (no such folder)")
        else:
            return entry.folder, entry.note
    source = scene.spec.capture.source.strip()
    raise UserError(
        f"{scene.path}: capture.path: no capture found; tried {'; '.join(tried)}."
        + (f"\nWhere the data comes from: {source}" if source else "")
    )


def plan_file(scene: Scene) -> Path | None:
    """Find the plan that the scene names; None where it asks for a new cut.

    Raises
    ------
    UserError
        If an environment variable in its path is not set.

    """
    text = scene.spec.partition.plan
    if text == "auto":
        return None
    file, unset = _resolved(scene, text)
    if file is None:
        raise UserError(
            f"{scene.path}: partition.plan is {text}, but {', '.join(unset)} is not set: set it, "
            "or write another path."
        )
    return file


@dataclass(frozen=True)
class _Entry:
    written: str
    note: str
    folder: Path | None
    unset: tuple[str, ...]

    @property
    def exists(self) -> bool:
        return self.folder is not None and self.folder.exists()


def _entries(scene: Scene) -> Iterator[_Entry]:
    for candidate in scene.spec.capture.path:
        folder, unset = _resolved(scene, candidate.path)
        yield _Entry(candidate.path, candidate.note, folder, unset)


def _resolved(scene: Scene, path: str) -> tuple[Path | None, tuple[str, ...]]:
    """A path of the scene, absolute, or None and the environment variables that are not set."""
    # An empty variable would turn ${DATA}/x into /x: it counts as unset.
    names = dict.fromkeys(VARIABLE.findall(path))
    unset = tuple(name for name in names if not os.environ.get(name))
    if unset:
        return None, unset
    text = VARIABLE.sub(lambda match: os.environ[match[1]], path)
    return (scene.base / text).resolve(), ()


def _anchored(scene: Scene, candidate: Candidate) -> dict[str, str]:
    path = candidate.path
    if not path.startswith("${"):
        path = str(scene.base / path)
    return {"path": path, "note": candidate.note}


@dataclass
class _Document:
    """Plain values of a scene and where each was written."""

    data: dict[str, Any]
    places: Places


def _raise_all(lines: Sequence[str]) -> None:
    if lines:
        raise UserError("\n".join(dict.fromkeys(lines)))


def _check(document: _Document) -> list[str]:
    try:
        SceneSpec.model_validate(document.data)
    except ValidationError as error:
        return sentences(error, document.data, document.places)
    return []


def _read(path: Path) -> _Document:
    try:
        if not path.is_file():
            reason = "a folder, not a scene file" if path.is_dir() else "no such file"
            raise UserError(f"{path}: {reason}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: larger than 1 MiB; a scene file is a few lines of text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise UserError(f"{path}:{line}:{column}: not UTF-8; save it as UTF-8") from error
    tree = read_tree(text)
    _raise_all([_located(path, fault.mark, fault.sentence) for fault in tree.faults])
    if not isinstance(tree.data, dict):
        mark = tree.values[()]
        raise UserError(_located(path, mark, "a scene is a mapping of keys, such as capture:"))
    tree.data.setdefault("name", _name(path))
    return _Document(tree.data, _places(path, tree))


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:64] or "scene"


def _located(path: Path, mark: tuple[int, int] | None, sentence: str) -> str:
    return f"{path}:{mark[0]}:{mark[1]}: {sentence}" if mark else f"{path}: {sentence}"


def _places(path: Path, tree: Tree) -> Places:
    return {
        at: Place(
            key=_located(path, tree.keys.get(at, value), "").rstrip(": "),
            value=_located(path, value, "").rstrip(": "),
            name=at,
            order=value,
        )
        for at, value in tree.values.items()
    }


def _merged(document: _Document, device: Device) -> _Document:
    """Lay a profile over the scene: mappings join, all else is replaced."""
    data = {key: copy.deepcopy(value) for key, value in document.data.items() if key != "profiles"}
    places = {at: place for at, place in document.places.items() if at[:1] != ("profiles",)}
    _lay_over(data, document.data.get("profiles", {}).get(device, {}))
    places |= {
        at[2:]: place
        for at, place in document.places.items()
        if at[:2] == ("profiles", device) and len(at) > 2
    }
    return _Document(data, places)


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = copy.deepcopy(value)


def _override(document: _Document, overrides: Sequence[str]) -> None:
    lines = []
    for number, text in enumerate(overrides):
        key, equals, value = text.partition("=")
        where = f"--set {_shown(text)}"
        if not equals or not _KEY.fullmatch(key):
            lines.append(f"{where}: expected key=value, for example --set train.steps=500")
            continue
        path = tuple(key.split("."))
        if path[0] == "profiles":
            lines.append(f"{where}: profiles are merged before overrides; set the key itself")
            continue
        tree = read_tree(value) if value.strip() else Tree()
        lines += [f"{where}: {fault.sentence}" for fault in tree.faults]
        _put(document, path, tree.data, Place(where, where, path, (-1, number), override=path))
    _raise_all(lines)


def _put(document: _Document, path: tuple[str, ...], value: Any, place: Place) -> None:
    """Put a value in place of what was there, and mappings in place of what cannot hold it."""
    inside = document.data
    for depth, part in enumerate(path[:-1], start=1):
        if not isinstance(inside.get(part), dict):
            inside[part] = {}
            _replace_places(document.places, path[:depth], place)
        inside = inside[part]
    inside[path[-1]] = value
    _replace_places(document.places, path, place)


def _replace_places(places: Places, path: tuple[str, ...], place: Place) -> None:
    for at in [at for at in places if at[: len(path)] == path]:
        del places[at]
    places[path] = replace(place, name=path)


def _shown(text: str) -> str:
    text = text if len(text) <= 80 else text[:77] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
