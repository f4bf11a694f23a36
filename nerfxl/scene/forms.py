"""The forms that the values of a scene file may take; `spec` puts them together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)
from pydantic_core import PydanticCustomError

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Says:
    """Annotation: what this type accepts, in the words of the errors and of the grammar page."""

    words: str


def kind_of(value: object) -> str:
    """Name the YAML kind of a value."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "list" if isinstance(value, list | tuple) else "mapping"


def form_of(value: object) -> str:
    """Name the form of a value: its kind, where an integer is a number like others."""
    kind = kind_of(value)
    return "number" if kind == "integer" else kind


def refusal(sentence: str) -> PydanticCustomError:
    """Make an error whose sentence is complete as it stands."""
    return PydanticCustomError("refusal", "{sentence}", {"sentence": sentence})


class Strict(BaseModel):
    """No unknown keys, no conversions ("500" is not 500, true is not 1), no changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# `strict=False` on a tuple lets a YAML list be one; the items stay strict.
ByForm = Discriminator(form_of)
Auto = Annotated[Literal["auto"], Tag("text")]
Coordinate = Annotated[float, Field(ge=-1e9, le=1e9)]
Corner = Annotated[
    tuple[Coordinate, Coordinate, Coordinate], Field(strict=False), Says("[x, y, z]")
]
Channel = Annotated[float, Field(ge=0, le=1)]
Colour = Annotated[
    tuple[Channel, Channel, Channel],
    Field(strict=False),
    Says("[red, green, blue] from 0 to 1"),
    Tag("list"),
]
Downscale = Annotated[
    int,
    Field(ge=1, le=64, description="Divides image width and height; done while decoding."),
]
ImageName = Annotated[str, Field(min_length=1, max_length=4096), Says("an image name")]


def _ordered(box: tuple[Any, Any]) -> tuple[Any, Any]:
    if not all(low < high for low, high in zip(*box, strict=True)):
        raise refusal("each of x, y, z of the first corner must be below that of the second corner")
    return box


Corners = Annotated[
    tuple[Corner, Corner],
    Field(strict=False),
    AfterValidator(_ordered),
    Says("two corners [[x, y, z], [x, y, z]]"),
    Tag("list"),
]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise refusal(f"{twice!r} is listed twice; each image may be listed once")
    return names


ImageNames = Annotated[
    tuple[ImageName, ...],
    Field(strict=False),
    AfterValidator(_distinct),
    Says("a list of image names"),
]


def _path(path: str) -> str:
    if "\0" in path:
        raise refusal("the path contains a NUL character; remove it")
    if "\\" in path:
        raise refusal("the path contains a backslash; separate folders with /")
    if path.startswith("~"):
        raise refusal("~ is not expanded in scene files; write ${HOME}")
    if "${" in VARIABLE.sub("", path):
        raise refusal("an environment variable is written ${NAME}, with letters, digits and _")
    return path


PathText = Annotated[
    str, Field(min_length=1, max_length=4096), AfterValidator(_path), Says("a path")
]
PlanText = Annotated[
    str, Field(min_length=1, max_length=4096), AfterValidator(_path), Says("'auto' or a path")
]


def _ascending(milestones: tuple[float, ...]) -> tuple[float, ...]:
    if any(a >= b for a, b in pairwise(milestones)):
        raise refusal("the milestones must ascend, for example [0.5, 0.75, 0.9]")
    return milestones


Milestones = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1)], ...],
    Field(strict=False, max_length=64),
    AfterValidator(_ascending),
    Says("a list of fractions of the run, ascending"),
]


def _whole(value: object) -> object:
    # Python holds True and 2.0 equal to 1 and 2, and so does Literal.
    if type(value) is not int:
        raise PydanticCustomError("not_whole", "not an integer")
    return value


FeatureCount = Annotated[Literal[1, 2, 4, 8], BeforeValidator(_whole)]


def _off_on(value: object) -> object:
    # YAML 1.2 reads `off` as text; whoever writes `false` means the same.
    return {False: "off", True: "on"}[value] if isinstance(value, bool) else value


OffOn = BeforeValidator(_off_on)
