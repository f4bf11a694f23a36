"""One YAML 1.2 document, read safely, with the line and column of each value; and written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

MAX_DEPTH = 16
MAX_VALUES = 50_000  # what is read within seconds

Path = tuple[str | int, ...]
Mark = tuple[int, int]  # line and column, from 1

# The core schema of YAML 1.2.2, section 10.3.2. A number of more digits than MAX_DIGITS is text:
# Python takes quadratic time to read it.
_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_HALF = re.compile("[\ud800-\udfff]")
MAX_DIGITS = 64


@dataclass(frozen=True)
class Fault:
    """What is wrong, and where: line and column, or None where there is none."""

    mark: Mark | None
    sentence: str


@dataclass
class Tree:
    """A document: its values as dict, list, str, int, float, bool and None, and their places.

    `keys` and `values` map the path of a value to the mark of its key and of itself. A tree with
    faults holds what could be read.
    """

    data: Any = None
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def read_tree(text: str) -> Tree:
    """Read one document.

    Refused are anchors, aliases, merge keys, tags, duplicate keys, directives, a second document,
    more than `MAX_DEPTH` levels or `MAX_VALUES` values, and what is not YAML: see the faults.
    """
    tree = Tree()
    bad = _UNPRINTABLE.search(text)
    if bad:
        tree.faults.append(
            Fault(
                _mark_at(text, bad.start()),
                f"character U+{ord(bad.group()):04X} cannot stand in YAML; remove it",
            )
        )
        return tree
    try:
        _Reader(tree, YAML(typ="safe", pure=True).parse(text)).document()
    except MarkedYAMLError as error:
        tree.faults.append(_syntax_fault(error, text))
    except _Stopped:
        pass
    return tree


def scalar(text: str) -> str | int | float | bool | None:
    """Read a plain scalar by the core schema of YAML 1.2: `off`, `yes` and `1_000` are text."""
    if len(text) > MAX_DIGITS:
        return text
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEXADECIMAL.fullmatch(text):
        return int(text[2:], 16)
    if _NUMBER.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text) or _NAN.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def written(mapping: Mapping[str, Any]) -> str:
    """Write a mapping of plain values as YAML from which `read_tree` reads the same values."""
    return "".join(f"{line}\n" for line in _lines(mapping))


class _Stopped(Exception):  # noqa: N818
    """A way out, not an error: there is no use in reading on."""


class _Reader:
    """Builds a tree from the events of ruamel's parser, which go no deeper than they are asked."""

    def __init__(self, tree: Tree, events: Iterator[Event]) -> None:
        self.tree = tree
        self.events = events

    def document(self) -> None:
        next(self.events)  # stream start
        start = next(self.events)
        if not isinstance(start, DocumentStartEvent):
            self.stop(None, "empty: no key or value is written")
        if start.tags or start.version not in (None, (1, 2)):
            self.fault(start, "directives (%) are not used here; remove the lines before ---")
        self.tree.data = self.value(next(self.events), (), 1)
        next(self.events)  # document end
        after = next(self.events)
        if isinstance(after, DocumentStartEvent):
            self.stop(after, "a second document starts here; a file holds one")

    def value(self, event: Event, path: Path, depth: int) -> Any:
        self.tree.values[path] = _mark(event)
        if len(self.tree.values) > MAX_VALUES:
            self.stop(event, f"more than {MAX_VALUES} values")
        if isinstance(event, AliasEvent):
            self.stop(event, "anchors (&) and aliases (*) are not used here; write the value out")
        if isinstance(event, NodeEvent) and event.anchor is not None:
            self.fault(event, "anchors (&) and aliases (*) are not used here; write the value out")
        if isinstance(event, NodeEvent) and getattr(event, "tag", None) is not None:
            self.fault(event, "tags (!) are not used here; remove it")
        if isinstance(event, ScalarEvent):
            self.whole_characters(event)
            return scalar(event.value) if event.style is None else event.value
        if depth > MAX_DEPTH:
            self.stop(event, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, SequenceStartEvent):
            return self.sequence(path, depth)
        return self.mapping(path, depth)

    def sequence(self, path: Path, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(self.value(event, (*path, len(items)), depth + 1))
        return items

    def mapping(self, path: Path, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            key = self.key(event)
            here = (*path, key)
            if key in items:
                line = self.tree.keys[here][0]
                self.fault(event, f"{key!r} is given twice, first on line {line}; keep one")
            self.tree.keys[here] = _mark(event)
            items[key] = self.value(next(self.events), here, depth + 1)
        return items

    def key(self, event: Event) -> str:
        if not isinstance(event, ScalarEvent):
            self.stop(event, "a key must be one word")
        if event.anchor is not None or event.tag is not None:
            self.fault(event, "anchors (&) and tags (!) are not used here; remove it")
        self.whole_characters(event)
        if event.value == "<<" and event.style is None:
            self.fault(event, "merge keys (<<) are not used here; write the keys out")
        return str(event.value)

    def whole_characters(self, event: ScalarEvent) -> None:
        # An escape such as "\ud800" makes text that no file can hold and no terminal can show.
        if _HALF.search(event.value):
            self.fault(event, "an escape (\\u) makes half a character; write the character itself")

    def fault(self, event: Event, sentence: str) -> None:
        self.tree.faults.append(Fault(_mark(event), sentence))

    def stop(self, event: Event | None, sentence: str) -> NoReturn:
        self.tree.faults.append(Fault(_mark(event) if event else None, sentence))
        raise _Stopped


def _mark(event: Event) -> Mark:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _mark_at(text: str, index: int) -> Mark:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def _syntax_fault(error: MarkedYAMLError, text: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Fault(None, f"not readable as YAML: {error.problem}")
    place = (mark.line + 1, mark.column + 1)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if line[mark.column : mark.column + 1] == "\t":
        return Fault(place, "a tab stands where YAML allows none; use spaces")
    if error.problem == "mapping values are not allowed here":
        return Fault(
            place,
            "a key cannot stand here; align it with its neighbours, or put text that holds ': ' "
            "in quotes",
        )
    return Fault(place, f"not readable as YAML: {error.problem}")


def _lines(mapping: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{indent}{key}:"
            for item in value:
                first, *rest = _lines(item, "")
                yield f"{indent}  - {first}"
                yield from (f"{indent}    {line}" for line in rest)
        else:
            yield f"{indent}{key}: {_flow(value)}"


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_flow(item) for item in value)}]"
    if not isinstance(value, str):  # a number, or the empty mapping
        return str(value)  # repr of a float reads back as the same float
    plain = _PLAIN.fullmatch(value) and isinstance(scalar(value), str)
    return value if plain else _quoted(value)


def _quoted(text: str) -> str:
    escapes = {'"': '\\"', "\\": "\\\\"}
    return f'"{"".join(escapes.get(c) or (c if c.isprintable() else _escape(c)) for c in text)}"'


def _escape(character: str) -> str:
    return f"\\U{ord(character):08x}"
