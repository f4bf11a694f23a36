"""The models of a scene: strict, frozen, described; and the words made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from nerfxl.scene.grammar import all_keys, expected, keys_at
from nerfxl.scene.spec import Candidate, SceneSpec, SplitEvery, SplitLists

CAPTURE = {"capture": {"path": "photographs"}}


def scene(**sections: Any) -> SceneSpec:
    return SceneSpec.model_validate({**CAPTURE, **sections})


def models(model: type[BaseModel] = SceneSpec) -> Iterator[type[BaseModel]]:
    yield model
    for info in model.model_fields.values():
        section: Any = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from models(section)


def test_a_scene_needs_only_its_capture() -> None:
    spec = scene()
    assert spec.capture.path == (Candidate(path="photographs"),)
    assert (spec.seed, spec.partition.tiles, spec.train.steps) == (42, 4, 20_000)
    assert (spec.field.levels, spec.field.features, spec.field.log2_table) == (16, 2, 19)


@pytest.mark.parametrize(
    "train",
    [{"steps": "500"}, {"steps": True}, {"steps": 500.0}, {"learning_rate": "0.1"}, {"eps": True}],
    ids=str,
)
def test_nothing_is_converted(train: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        scene(train=train)


@pytest.mark.parametrize("features", [True, 2.0, "2", 3])
def test_choices_of_integers_are_strict_too(features: object) -> None:
    with pytest.raises(ValidationError):  # Python holds True == 1 and 2.0 == 2
        scene(field={"features": features})


def test_an_integer_is_a_number() -> None:
    spec = scene(field={"density_bias": 0, "background": [1, 0, 0.5]}, sampling={"near": 2})
    assert type(spec.field.density_bias) is float
    assert spec.field.background == (1.0, 0.0, 0.5)
    assert spec.sampling.near == 2.0


def test_models_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        scene().train.steps = 5
    with pytest.raises(ValidationError, match="Extra inputs"):
        scene(trian={})


def test_a_split_is_named_counted_or_the_captures_own() -> None:
    def split(value: object) -> object:
        return scene(capture={"path": "x", "split": value}).capture.split

    assert split("auto") == "auto"
    assert split({"every": 4}) == SplitEvery(every=4)
    assert split({"train": ["a"], "test": []}) == SplitLists(train=("a",), test=())
    for wrong in ({"every": 1}, {"every": 8, "train": ["a"]}, {"train": ["a"]}, {}, 8, "none"):
        with pytest.raises(ValidationError):
            split(wrong)


def test_off_may_be_written_false() -> None:
    assert scene(cameras={"refine": False}, appearance={"embedding": "off"}) == scene()
    assert scene(cameras={"refine": True}).cameras.refine == "on"


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"field": {"base_resolution": 64, "max_resolution": 64}},
            "field.max_resolution 64 is not above field.base_resolution 64; with more than one "
            "level it must be",
        ),
        (
            {"field": {"levels": 17, "features": 8}},
            "field.levels 17 times field.features 8 makes 136 inputs to the density network; at "
            "most 128 are possible",
        ),
        (
            {"field": {"base_resolution": 512}},
            "sampling.proposal.max_resolution 512 is not above field.base_resolution 512, where "
            "the proposal's grid starts too",
        ),
        (
            {"sampling": {"budget": 131071}},
            "8192 rays of 32 samples (sampling.samples) are more than sampling.budget 131071",
        ),
    ],
    ids=["resolution", "width", "proposal", "budget"],
)
def test_impossible_together(sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        scene(**sections)
    assert [error["msg"] for error in caught.value.errors()] == [sentence]


def test_one_level_needs_no_range_of_resolutions() -> None:
    scene(
        field={"levels": 1, "base_resolution": 64, "max_resolution": 64},
        sampling={"proposal": {"levels": 1, "max_resolution": 64}},
    )


def test_a_profile_may_hold_one_of_two_values_that_depend_on_each_other() -> None:
    scene(profiles={"cpu": {"field": {"base_resolution": 8192}}})  # checked once it is merged


def test_every_key_is_described_and_every_number_bounded() -> None:
    for model in models():
        assert model.__doc__
        for name, info in model.model_fields.items():
            assert (info.description or "").endswith("."), f"{model.__name__}.{name}"
    for key in all_keys():
        words = expected(tuple(key.split(".")))  # raises for a number without bounds
        assert words, key


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("field", "levels"), "an integer from 1 to 32"),
        (("field", "features"), "1, 2, 4 or 8"),
        (("bounds", "quantile"), "a number from 0 to below 0.5"),
        (("train", "learning_rate"), "a number above 0 and at most 1"),
        (("train", "schedule", "milestones", 1), "a number above 0 and below 1"),
        (("sampling", "near"), "'auto' or a number from 0 to 1e+09"),
        (("bounds", "box"), "'auto' or two corners [[x, y, z], [x, y, z]]"),
        (("bounds", "box", 1), "[x, y, z]"),
        (("capture", "path", 0), "a path or a mapping {path, note}"),
        (("capture", "path", 0, "note"), "text"),
        (("partition",), "a mapping of tiles, method, plan"),
        (("profiles", "cpu", "train", "steps"), "an integer from 1 to 10000000"),
    ],
    ids=str,
)
def test_what_a_key_may_be_in_words(path: tuple[str | int, ...], words: str) -> None:
    assert expected(path) == words


def test_the_keys_of_a_form_are_those_of_the_form_that_was_begun() -> None:
    assert keys_at(("capture", "split")) == ("every",)
    assert keys_at(("capture", "split"), beside=("train",)) == ("train", "test")
