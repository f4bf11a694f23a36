"""The scene grammar in words: for error messages, for scenes/README.md and scenes/schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nerfxl.runs import write_atomic
from nerfxl.scene.forms import Says
from nerfxl.scene.spec import ProfilesSpec, SceneSpec

_BOUNDS = ("ge", "gt", "le", "lt")
SCENES = Path(__file__).resolve().parents[2] / "scenes"


def expected(path: tuple[str | int, ...]) -> str:
    """Say what the value at a path of a scene may be: "an integer from 1 to 32"."""
    annotation: Any = SceneSpec
    metadata: tuple[Any, ...] = ()
    for part in path:
        annotation, metadata = _descend(annotation, part)
    return _words(annotation, metadata)


def keys_at(path: tuple[str | int, ...], beside: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of the keys of the mapping at a path; of several forms, that which has `beside`."""
    annotation: Any = SceneSpec
    for part in path:
        annotation, _ = _descend(annotation, part)
    models = [form for form, _ in _forms(annotation) if _is_model(form)]
    best = max(models, key=lambda model: sum(key in model.model_fields for key in beside))
    return tuple(best.model_fields)


def all_keys(root: type[BaseModel] = SceneSpec) -> Iterator[str]:
    """Dotted names of all keys of a scene, profiles aside, or of one of its parts."""

    def below(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, info in model.model_fields.items():
            yield prefix + name
            section = _section(info)
            if section and section is not ProfilesSpec:
                yield from below(section, f"{prefix}{name}.")

    return below(root, "")


class Setting(NamedTuple):
    """A key of a scene: its value and default as JSON has them (None: there is none)."""

    key: str
    value: Any
    default: Any
    meaning: str


def settings(part: BaseModel, prefix: str = "") -> Iterator[Setting]:
    """All that a resolved scene says, key by key; its name and profiles aside."""
    document = part.model_dump(mode="json")
    usual = type(part).model_construct().model_dump(mode="json", warnings=False)
    for name, info in type(part).model_fields.items():
        key, value = prefix + name, getattr(part, name)
        if key in ("name", "profiles"):
            continue
        if _section(info):
            yield from settings(value, f"{key}.")
        else:
            yield Setting(key, document[name], usual.get(name), info.description or "")


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _section(info: FieldInfo) -> type[BaseModel] | None:
    annotation: Any = info.annotation
    return annotation if _is_model(annotation) else None


def _forms(annotation: Any, metadata: tuple[Any, ...] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    """Take `Annotated` and unions apart: [(bare type, its metadata)]."""
    if hasattr(annotation, "__metadata__"):
        return _forms(get_args(annotation)[0], (*metadata, *annotation.__metadata__))
    if get_origin(annotation) not in (None, tuple, Literal):  # a union
        return [form for option in get_args(annotation) for form in _forms(option)]
    return [(annotation, metadata)]


def _descend(annotation: Any, part: str | int) -> tuple[Any, tuple[Any, ...]]:
    for form, _ in _forms(annotation):
        if isinstance(part, str) and _is_model(form) and part in form.model_fields:
            info = form.model_fields[part]
            return info.annotation, tuple(info.metadata)
        if isinstance(part, int) and get_origin(form) is tuple:
            items = get_args(form)
            return (items[0] if items[-1] is ... else items[part]), ()
    raise KeyError(part)


def _words(annotation: Any, metadata: tuple[Any, ...]) -> str:
    said = _said(metadata)
    if said:
        return said
    forms = _forms(annotation, metadata)
    if len(forms) > 1:
        return " or ".join(_words(form, extra) for form, extra in forms)
    form, extra = forms[0]
    return _said(extra) or _plain_words(form, extra)


def _said(metadata: tuple[Any, ...]) -> str | None:
    return next((item.words for item in metadata if isinstance(item, Says)), None)


def _plain_words(form: Any, metadata: tuple[Any, ...]) -> str:
    if get_origin(form) is Literal:
        options = [repr(option) for option in get_args(form)]
        return " or ".join([", ".join(options[:-1]), options[-1]] if options[1:] else options)
    if form is int or form is float:
        return _bounded("an integer" if form is int else "a number", metadata)
    if form is str:
        return "text"
    return f"a mapping of {', '.join(form.model_fields)}"


def _bounded(noun: str, metadata: tuple[Any, ...]) -> str:
    bounds: dict[str, Any] = {}
    for item in metadata:
        for limit in item.metadata if isinstance(item, FieldInfo) else [item]:
            bounds |= {name: getattr(limit, name) for name in _BOUNDS if hasattr(limit, name)}
    words = {name: _number(value) for name, value in bounds.items()}
    if "gt" in words:
        upper = f"below {words['lt']}" if "lt" in words else f"at most {words['le']}"
        return f"{noun} above {words['gt']} and {upper}"
    upper = f"below {words['lt']}" if "lt" in words else words["le"]
    return f"{noun} from {words['ge']} to {upper}"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def schema() -> str:
    """Write the JSON schema of scene files, for editors."""
    document = SceneSpec.model_json_schema()
    heading = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "nerfxl scene"}
    return json.dumps({**document, **heading}, indent=2, ensure_ascii=False) + "\n"


_INTRODUCTION = """\
# Scene files

<!-- Written by `nox -s schema` from nerfxl/scene/spec.py: edit that, then run it again. -->

A scene file says everything about a run. It is YAML 1.2; the shortest one is

```yaml
capture:
  path: my-photographs
```

and every other key has the default listed below. The line

```yaml
# yaml-language-server: $schema=schema.json
```

at the top gives completion and checks in editors.

**Where the capture lies.** `capture.path` is one path or an ordered list of them; the first that
exists is used, and its `note` travels with the figures made from it. Paths are relative to the
scene file. `${NAME}` is an environment variable; where it is unset, that path does not exist.

**Profiles.** `profiles.cpu` and `profiles.cuda` (CUDA and ROCm) hold keys that replace the scene's
own on that kind of device: of `partition`, `field`, `sampling`, `train`, and `capture.downscale`.

**Overrides.** `--set key=value` puts a value, written in YAML, in place of the file's and the
profile's: `--set train.steps=500`, `--set bounds.box=[[0,0,0],[1,1,1]]`,
`--set capture.split={every: 4}` (quote it for the shell).

**Refused**, each with file, line and column: unknown keys, values of the wrong kind (`"500"` is
text, `true` is no number) or out of bounds, impossible combinations, duplicate keys, anchors,
aliases, merge keys, tags, several documents, more than 16 levels, and files over 1 MiB.

The run folder keeps the resolved scene: the profile merged, overrides applied, every key written,
the capture's path absolute. Fitting that file repeats the run.

Source coordinates are those of the capture's files; in scene units the root box is 2 long.
"""


def page() -> str:
    """Write the grammar page: a table of keys a section."""
    return _INTRODUCTION + "".join(_tables(SceneSpec, "", SceneSpec.__doc__ or ""))


def _tables(model: type[BaseModel], prefix: str, about: str) -> Iterator[str]:
    title = f"`{prefix[:-1]}`" if prefix else "The file"
    yield f"\n## {title}\n\n{about}\n\n| key | value | default | meaning |\n|---|---|---|---|\n"
    for name, info in model.model_fields.items():
        yield _row(name, info)
    for name, info in model.model_fields.items():
        section = _section(info)
        if section and section is not ProfilesSpec:
            yield from _tables(section, f"{prefix}{name}.", section.__doc__ or "")


def _row(name: str, info: FieldInfo) -> str:
    words = _words(info.annotation, tuple(info.metadata))
    if info.is_required():
        default = "(must be given)"
    elif _section(info):
        words, default = "a mapping", "as below"
    else:
        default = f"`{_default(info.default)}`"
    if info.annotation is ProfilesSpec:
        words, default = "a mapping of cpu, cuda", "none"
    if name == "name":
        default = "the file's name"
    return f"| `{name}` | {words} | {default} | {info.description} |\n"


def _default(value: Any) -> str:
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value)


def main(folder: Path = SCENES) -> None:
    """Write schema.json and README.md anew."""
    write_atomic(folder / "schema.json", schema())
    write_atomic(folder / "README.md", page())


if __name__ == "__main__":
    main()
