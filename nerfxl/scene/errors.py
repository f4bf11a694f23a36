"""What the checks of a scene found, in sentences that name place, key, value and remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from nerfxl.scene.forms import kind_of
from nerfxl.scene.grammar import all_keys, expected, keys_at
from nerfxl.scene.spec import ProfileSpec
from nerfxl.scene.yaml_tree import Path, scalar

MAX_SENTENCES = 30


@dataclass(frozen=True)
class Place:
    """Where a value was written.

    key, value: "file:line:column" of each, or the override. name: path under which the user wrote
    it. order: sorts the places of a file. override: the path that an override set.
    """

    key: str
    value: str
    name: Path
    order: tuple[int, int]
    override: Path | None = None


Places = dict[Path, Place]


def sentences(error: ValidationError, data: Mapping[str, Any], places: Places) -> list[str]:
    """Translate pydantic's errors into sentences, in the order of the file.

    Parameters
    ----------
    error
        What validating `data` raised.
    data
        Plain values, as read.
    places
        Where each value of `data` was written.

    """
    faults = [
        (path, details)
        for details in error.errors(include_url=False)
        for path in [_path_in(details["loc"], data, details["type"])]
    ]
    lines: dict[str, tuple[int, int]] = {}
    for path, details in _worth_saying(faults, data):
        for place, line in _told(path, details, data, places):
            lines.setdefault(line, place.order)
    ordered = sorted(lines, key=lambda line: lines[line])
    if len(ordered) > MAX_SENTENCES:
        more = len(ordered) - MAX_SENTENCES
        ordered = [*ordered[:MAX_SENTENCES], f"... and {more} more"]
    return ordered


def _path_in(loc: Path, data: Any, kind: str) -> Path:
    """Keep of pydantic's location what leads through the data; the rest names forms of a union."""
    path: Path = ()
    for index, part in enumerate(loc):
        inside_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if inside_list or (isinstance(data, dict) and part in data):
            data = data[part]
            path = (*path, part)
        elif kind == "missing" and index == len(loc) - 1 and isinstance(part, str):
            path = (*path, part)
    return path


def _worth_saying(faults: list[tuple[Path, Any]], data: Any) -> Iterator[tuple[Path, Any]]:
    """Leave out what follows from another fault: a list too short because its items are wrong."""
    causes = [path for path, details in faults if details["type"] != "too_short"]
    above = {path[:length] for path in causes for length in range(len(path) + 1)}
    unknown = [path for path, details in faults if details["type"] == "extra_forbidden"]
    meant = {(*path[:-1], _nearest(path, data)) for path in unknown}
    for path, details in faults:
        follows = details["type"] == "too_short" and path in above
        misspelt = details["type"] == "missing" and path in meant
        if not follows and not misspelt:
            yield path, details


def _told(path: Path, details: Any, data: Any, places: Places) -> Iterator[tuple[Place, str]]:
    kind = details["type"]
    if kind == "conflict":
        for keys, sentence in details["ctx"]["conflicts"]:
            yield _conflict(keys, sentence, places)
        return
    at, place = _nearest_place(path, places)
    if kind == "extra_forbidden":
        where, sentence = place.key, _unknown(path, data)
    elif kind == "missing" and not isinstance(path[-1], int) and path not in places:
        where, sentence = place.key, f"missing; expected {expected(path)}"
    elif kind == "refusal":
        where, sentence = place.value, details["msg"]
    else:
        where, sentence = place.value, _unexpected(path, details, data)
    name = (*place.name, *path[len(at) :])
    said = place.override is not None and place.override == name
    yield place, f"{where}: {sentence}" if said else f"{where}: {dotted(name)}: {sentence}"


def _conflict(keys: tuple[str, ...], sentence: str, places: Places) -> tuple[Place, str]:
    """Blame an override if there is one among the keys, then a profile, then what is written."""
    paths = [tuple(key.split(".")) for key in keys]
    written = [places[path] for path in paths if path in places] or [places[()]]
    place = min(
        written, key=lambda place: (place.override is None, place.name[:1] != ("profiles",))
    )
    name = "" if place.override else f"{dotted(place.name)}: "
    return place, f"{place.value}: {name}{sentence}"


def _nearest_place(path: Path, places: Places) -> tuple[Path, Place]:
    return next(
        (path[:length], places[path[:length]])
        for length in range(len(path), -1, -1)
        if path[:length] in places
    )


def _unknown(path: Path, data: Any) -> str:
    allowed = _allowed(path, data)
    nearest = _nearest(path, data)
    hint = f" did you mean '{nearest}'?" if nearest else ""
    return f"unknown key;{hint} allowed: {', '.join(allowed)}"


def _nearest(path: Path, data: Any) -> str | None:
    """Suggest a key of like name here, or the only one of this name elsewhere."""
    key = str(path[-1])[:64]
    close = get_close_matches(key, _allowed(path, data), n=1, cutoff=0.7)
    if close:
        return close[0]
    names = all_keys(ProfileSpec) if path[0] == "profiles" else all_keys()
    elsewhere = [name for name in names if name.split(".")[-1] == key]
    return elsewhere[0] if len(elsewhere) == 1 else None


def _allowed(path: Path, data: Any) -> tuple[str, ...]:
    siblings = _value_at(path[:-1], data)
    return keys_at(path[:-1], beside=tuple(key for key in siblings if key != path[-1]))


def _value_at(path: Path, data: Any) -> Any:
    for part in path:
        data = data[part]
    return data


def _unexpected(path: Path, details: Any, data: Any) -> str:
    value = _value_at(path, data)
    if details["type"] == "string_too_long":
        return f"found {len(value)} characters, at most {details['ctx']['max_length']} are allowed"
    if details["type"] == "too_long":
        return f"found {len(value)} entries, at most {details['ctx']['max_length']} are allowed"
    if details["type"] == "too_short" and value == []:
        return "found an empty list, expected at least one entry"
    return f"found {found(value)}, expected {expected(path)}"


def found(value: object) -> str:
    """Describe a value by itself and its kind: 'sixteen' (text)."""
    kind = kind_of(value)
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value == "":
        return "empty text"
    if kind == "mapping":
        return "a mapping"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (boolean)"
    if isinstance(value, str):
        quoted = kind_of(scalar(value)) in ("integer", "number")
        shown = repr(value) if len(value) <= 60 else f"{value[:57]!r}..."
        return f"{shown} (text{'; remove the quotes' if quoted else ''})"
    return f"{value} ({kind})"


def dotted(path: Path) -> str:
    """Write a path as the user would: capture.path[1].note."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if part.isprintable() and part and len(part) <= 60 else repr(part[:60])
            text += f".{shown}" if text else shown
    return text
