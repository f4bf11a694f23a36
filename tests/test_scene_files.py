"""Scene files: the laws of reading, overriding and writing; every sentence of refusal; ours."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nerfxl.errors import UserError
from nerfxl.scene import grammar, yaml_tree
from nerfxl.scene.file import DEVICES, Device, Scene, choose_candidate, load_scene, save_scene
from nerfxl.scene.spec import SceneSpec
from nerfxl.scene.yaml_tree import Fault, read_tree, written

SCENES = Path(__file__).resolve().parent.parent / "scenes"
NAMES = ["university4", "garden", "building", "mexico_beach", "matrixcity", "ochota"]
TRAIN_KEYS = (
    "mode, overlap, steps, rays, learning_rate, optimiser, eps, warmup_steps, schedule, losses, "
    "checkpoint_every, log_every, eval_every"
)
SCENE_KEYS = (
    "name, seed, capture, bounds, partition, field, sampling, train, exchange, cameras, "
    "appearance, profiles"
)


def load(folder: Path, text: str | bytes, *overrides: str, device: Device = "cpu") -> Scene:
    path = folder / "x.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_scene(path, device=device, overrides=overrides)


def refusal(folder: Path, text: str | bytes, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "").split("\n")


# Laws. Values are drawn from the JSON schema, which so is tested with them.

SCHEMA = SceneSpec.model_json_schema()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COORDINATES = st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=6, unique=True)
AWKWARD: dict[str, st.SearchStrategy[Any]] = {  # keys with more rules than a schema can tell
    "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    "capture.path": st.lists(
        st.fixed_dictionaries(
            {
                "path": st.from_regex(
                    r"(\$\{A_1\}|[a-z:'#é /])nowhere[a-z ./-]{0,9}x", fullmatch=True
                )
            },
            optional={"note": TEXT},
        ),
        min_size=1,
        max_size=3,
    ),
    "capture.sky": st.sampled_from(["sky", "masks/sky"]),
    "partition.plan": st.sampled_from(["auto", "plan.json", "../${NERFXL_DATA}/plan.json"]),
    "capture.split": st.just("auto")
    | st.builds(dict, every=st.integers(2, 1000))
    | st.builds(dict, train=st.just(["a", "1"]), test=st.just(["b: c"])),
    "bounds.box": st.just("auto")
    | COORDINATES.map(
        lambda c: [[min(c[i::3]) for i in range(3)], [max(c[i::3]) for i in range(3)]]
    ),
    "train.schedule.milestones": st.lists(st.floats(0.01, 0.99), unique=True, max_size=4).map(
        sorted
    ),
}


def values(node: dict[str, Any], key: str = "") -> st.SearchStrategy[Any]:
    """Values that a node of the schema allows."""
    if key in AWKWARD:
        return AWKWARD[key]
    if "$ref" in node:
        return values(SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]], key)
    if "oneOf" in node:
        return st.one_of([values(option) for option in node["oneOf"]])
    if "enum" in node or "const" in node:
        return st.sampled_from(node.get("enum", [node.get("const")]))
    if node["type"] == "integer":
        return st.integers(node["minimum"], node["maximum"])
    if node["type"] == "number":
        return st.floats(
            node.get("minimum", node.get("exclusiveMinimum")),
            node.get("maximum", node.get("exclusiveMaximum")),
            exclude_min="exclusiveMinimum" in node,
            exclude_max="exclusiveMaximum" in node,
        )
    if node["type"] == "string":
        return TEXT
    if node["type"] == "array":
        return st.tuples(*[values(item) for item in node["prefixItems"]]).map(list)
    inside = {
        name: values(item, f"{key}.{name}".lstrip("."))
        for name, item in node["properties"].items()
        if name != "profiles"
    }
    needed = node.get("required", [])
    return st.fixed_dictionaries(
        {name: value for name, value in inside.items() if name in needed},
        optional={name: value for name, value in inside.items() if name not in needed},
    )


SCENE_DATA = values(SCHEMA)


@settings(max_examples=40, deadline=None)
@given(SCENE_DATA)
def test_what_the_schema_allows_is_read_and_what_is_saved_is_read_back(
    data: dict[str, Any],
) -> None:
    try:
        SceneSpec.model_validate(data)
    except ValidationError as error:
        assume({fault["type"] for fault in error.errors()} != {"conflict"})
        raise
    with tempfile.TemporaryDirectory() as folder:
        scene = load(Path(folder), written(data))
        first, second = Path(folder, "first.yaml"), Path(folder, "second.yaml")
        save_scene(scene, first)
        again = load_scene(first, device="cuda")
        save_scene(again, second)
        assert load_scene(second, device="cpu").spec == again.spec
        assert first.read_text() == second.read_text()
    rest = {"capture": {"path"}, "partition": {"plan"}}
    assert again.spec.model_dump(exclude=rest) == scene.spec.model_dump(exclude=rest)
    given = scene.spec.partition.plan
    assert again.spec.partition.plan == (given if given == "auto" else "plan.json")
    assert [c.note for c in again.spec.capture.path] == [c.note for c in scene.spec.capture.path]


LEAVES = [
    key
    for key in grammar.all_keys()
    if not grammar.expected(tuple(key.split("."))).startswith("a mapping")
]


def leaf(key: str) -> st.SearchStrategy[Any]:
    node = SCHEMA
    for part in key.split("."):
        if "$ref" in node:
            node = SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]]
        node = node["properties"][part]
    return values(node, key)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([key for key in LEAVES if key != "capture.path"]))
def test_an_override_does_what_editing_the_file_does(data: st.DataObject, key: str) -> None:
    value = data.draw(leaf(key))
    plain = {"name": "a", "capture": {"path": "x"}, "train": {"steps": 7}}
    edited = json.loads(json.dumps(plain))
    *sections, last = key.split(".")
    inside = edited
    for section in sections:
        inside = inside.setdefault(section, {})
    inside[last] = value
    text = flow(value)
    with tempfile.TemporaryDirectory() as folder:
        try:
            expected = load(Path(folder), written(edited)).spec
        except UserError:  # an impossible combination
            refusal(Path(folder), written(plain), f"{key}={text}")
        else:
            assert load(Path(folder), written(plain), f"{key}={text}").spec == expected


def flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    return written({"v": value})[len("v: ") : -1]


@given(
    st.recursive(
        TEXT | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False),
        lambda v: st.lists(v, max_size=3),
    )
)
def test_what_is_written_is_read_back(value: Any) -> None:
    tree = read_tree(written({"key": {"inner": value}}))
    assert (tree.data, tree.faults) == ({"key": {"inner": value}}, [])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "a",
                "b: ",
                "- ",
                "? ",
                "\n",
                "\n  ",
                "[",
                "]",
                "{",
                "}",
                ",",
                '"',
                "'",
                "#",
                "&a ",
                "*a ",
                "!",
                "---\n",
                "...\n",
                "%YAML 1.1\n",
                "|\n",
                ">",
                "\t",
                "\\",
                "<<: ",
                "\r",
                "\x00",
                "\x85",
                "é",
                "~",
                "1e5",
                ".inf",
            ]
        ),
        max_size=14,
    ).map("".join)
)
def test_no_text_makes_the_reader_fail(text: str) -> None:
    tree = read_tree(text)
    assert all(fault.sentence for fault in tree.faults)


# YAML 1.2


def test_scalars_are_those_of_yaml_1_2() -> None:
    tree = read_tree("[off, yes, 1e-3, 1_000, 0x1F, 0o17, 017, .5, 2001-01-01, ~, null, true, '1']")
    assert tree.data == [
        "off",
        "yes",
        0.001,
        "1_000",
        31,
        15,
        17,
        0.5,
        "2001-01-01",
        None,
        None,
        True,
        "1",
    ]


TRICKY = {
    "empty": ("", ["x.yaml: empty: no key or value is written"]),
    "text": ("capture", ["x.yaml:1:1: a scene is a mapping of keys, such as capture:"]),
    "list": ("- capture", ["x.yaml:1:1: a scene is a mapping of keys, such as capture:"]),
    "alias": (
        "capture: &c {path: x}\ntrain: *c\n",
        [
            "x.yaml:1:10: anchors (&) and aliases (*) are not used here; write the value out",
            "x.yaml:2:8: anchors (&) and aliases (*) are not used here; write the value out",
        ],
    ),
    "merge": (
        "capture:\n  <<: {path: x}\n",
        ["x.yaml:2:3: merge keys (<<) are not used here; write the keys out"],
    ),
    "duplicates": (
        "seed: 1\ncapture: {path: x, path: y}\nseed: 2\n",
        [
            "x.yaml:2:20: 'path' is given twice, first on line 2; keep one",
            "x.yaml:3:1: 'seed' is given twice, first on line 1; keep one",
        ],
    ),
    "tag": ("seed: !!int '5'\n", ["x.yaml:1:7: tags (!) are not used here; remove it"]),
    "python": (
        "seed: !!python/object/apply:os.system [ls]\n",
        ["x.yaml:1:7: tags (!) are not used here; remove it"],
    ),
    "documents": (
        "seed: 1\n---\nseed: 2\n",
        ["x.yaml:2:1: a second document starts here; a file holds one"],
    ),
    "directive": (
        "%YAML 1.1\n---\nseed: 1\n",
        ["x.yaml:2:1: directives (%) are not used here; remove the lines before ---"],
    ),
    "deep": ("a: " + "[" * 17, ["x.yaml:1:19: nested deeper than 16 levels"]),
    "very deep": ("{a: " * 100_000, ["x.yaml:1:65: nested deeper than 16 levels"]),
    "complex key": ("? [a]\n: 1\n", ["x.yaml:1:3: a key must be one word"]),
    "tab": (
        "capture:\n\tpath: x\n",
        ["x.yaml:2:1: a tab stands where YAML allows none; use spaces"],
    ),
    "indentation": (
        "capture:\n  path: x\n   format: auto\n",
        [
            "x.yaml:3:10: a key cannot stand here; align it with its neighbours, or put text that "
            "holds ': ' in quotes"
        ],
    ),
    "open list": (
        "seed: [1,\n",
        ["x.yaml:2:1: not readable as YAML: expected the node content, but found '<stream end>'"],
    ),
    "control": ("seed: \x00", ["x.yaml:1:7: character U+0000 cannot stand in YAML; remove it"]),
    "half": (
        'name: "\\ud800"',
        ["x.yaml:1:7: an escape (\\u) makes half a character; write the character itself"],
    ),
    "latin-1": (b"seed: 1\nname: \xe9", ["x.yaml:2:7: not UTF-8; save it as UTF-8"]),
    "large": (
        b"#" * (2**20 + 1),
        ["x.yaml: larger than 1 MiB; a scene file is a few lines of text"],
    ),
}


@pytest.mark.parametrize(("text", "lines"), TRICKY.values(), ids=TRICKY)
def test_yaml_that_is_refused(tmp_path: Path, text: str | bytes, lines: list[str]) -> None:
    assert refusal(tmp_path, text) == lines


def test_a_file_of_very_many_values_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_tree, "MAX_VALUES", 9)
    assert read_tree("[1, 2, 3, 4, 5, 6, 7, 8]").faults == []  # the list is a value too
    (fault,) = read_tree("[1, 2, 3, 4, 5, 6, 7, 8, 9]").faults
    assert fault == Fault((1, 26), "more than 9 values")


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbfcapture: {path: x}\r\n").spec.capture.path[0].path == "x"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/none\.yaml: no such file$"):
        load_scene(tmp_path / "none.yaml", device="cpu")
    with pytest.raises(UserError, match=r": a folder, not a scene file$"):
        load_scene(tmp_path, device="cpu")


# Bad values

C = "capture: {path: x}\n"
BAD = {
    "no capture": (
        "seed: 1\n",
        [
            "x.yaml:1:1: capture: missing; expected a mapping of path, format, downscale, "
            "orientation, split, sky, max_megapixels, source"
        ],
    ),
    "no path": (
        "capture:\n  downscale: 2\n",
        [
            "x.yaml:1:1: capture.path: missing; expected a path, or a list whose entries are a "
            "path or a mapping {path, note}"
        ],
    ),
    "all at once": (
        C + "train:\n  step: 5\n  steps: '500'\n  rays: true\n  log_every: 5.0\n"
        "field:\n  levels: sixteen\n  features: 3\n  background: [1, 0]\n",
        [
            f"x.yaml:3:3: train.step: unknown key; did you mean 'steps'? allowed: {TRAIN_KEYS}",
            "x.yaml:4:10: train.steps: found '500' (text; remove the quotes), expected an integer "
            "from 1 to 10000000",
            "x.yaml:5:9: train.rays: found true (boolean), expected an integer from 1 to 4194304",
            "x.yaml:6:14: train.log_every: found 5.0 (number), expected an integer from 1 to "
            "10000000",
            "x.yaml:8:11: field.levels: found 'sixteen' (text), expected an integer from 1 to 32",
            "x.yaml:9:13: field.features: found 3 (integer), expected 1, 2, 4 or 8",
            "x.yaml:10:15: field.background: found a list of 2, expected 'sky', 'black', 'white' "
            "or [red, green, blue] from 0 to 1",
        ],
    ),
    "key elsewhere": (
        C + "steps: 5\n",
        [f"x.yaml:2:1: steps: unknown key; did you mean 'train.steps'? allowed: {SCENE_KEYS}"],
    ),
    "key of nowhere": (C + "1: 2\n", [f"x.yaml:2:1: 1: unknown key; allowed: {SCENE_KEYS}"]),
    "empty section": (
        C + "train:\n",
        [f"x.yaml:3:1: train: found nothing, expected a mapping of {TRAIN_KEYS}"],
    ),
    "choice": (
        "capture: {path: x, format: bundler}\n",
        [
            "x.yaml:1:28: capture.format: found 'bundler' (text), expected 'auto', 'colmap', "
            "'transforms' or 'synthetic'"
        ],
    ),
    "infinite": (
        C + "field: {density_bias: .inf, levels: .nan}\n",
        [
            "x.yaml:2:23: field.density_bias: found inf (number), expected a number from -20 to 20",
            "x.yaml:2:37: field.levels: found nan (number), expected an integer from 1 to 32",
        ],
    ),
    "out of bounds": (
        C + "seed: -1\nbounds: {quantile: 0.5}\nsampling: {near: -1}\n",
        [
            "x.yaml:2:7: seed: found -1 (integer), expected an integer from 0 to 4294967295",
            "x.yaml:3:20: bounds.quantile: found 0.5 (number), expected a number from 0 to below "
            "0.5",
            "x.yaml:4:18: sampling.near: found -1 (integer), expected 'auto' or a number from 0 to "
            "1e+09",
        ],
    ),
    "huge": (
        C + f"seed: {'9' * 30}\n",
        [f"x.yaml:2:7: seed: found {'9' * 30} (integer), expected an integer from 0 to 4294967295"],
    ),
    "name": (
        C + "name: a/b\n",
        [
            "x.yaml:2:7: name: found 'a/b' (text), expected text of letters, digits, '.', '_' and "
            "'-'"
        ],
    ),
    "long name": (
        C + f"name: {'x' * 65}\n",
        ["x.yaml:2:7: name: found 65 characters, at most 64 are allowed"],
    ),
    "box item": (
        C + "bounds:\n  box:\n    - [0, 0, 0]\n    - [1, a, 1]\n",
        ["x.yaml:5:11: bounds.box[1][1]: found 'a' (text), expected a number from -1e+09 to 1e+09"],
    ),
    "box shape": (
        C + "bounds: {box: [[0, 0, 0], [1, 1]]}\n",
        ["x.yaml:2:27: bounds.box[1]: found a list of 2, expected [x, y, z]"],
    ),
    "box inside out": (
        C + "bounds: {box: [[0, 0, 0], [1, -1, 1]]}\n",
        [
            "x.yaml:2:15: bounds.box: each of x, y, z of the first corner must be below that of "
            "the second corner"
        ],
    ),
    "milestones": (
        C + "train: {schedule: {milestones: [0.9, 0.5]}}\n",
        [
            "x.yaml:2:32: train.schedule.milestones: the milestones must ascend, for example "
            "[0.5, 0.75, 0.9]"
        ],
    ),
    "milestone": (
        C + "train: {schedule: {milestones: [0.5, 1]}}\n",
        [
            "x.yaml:2:38: train.schedule.milestones[1]: found 1 (integer), expected a number "
            "above 0 and below 1"
        ],
    ),
    "refine": (
        C + "cameras: {refine: all}\nappearance: {embedding: 8}\n",
        [
            "x.yaml:2:19: cameras.refine: found 'all' (text), expected 'off', 'on' or "
            "'translation'",
            "x.yaml:3:25: appearance.embedding: found 8 (integer), expected 'off' or 'on'",
        ],
    ),
    "paths": (
        "capture:\n  path:\n    - a\n    - {pth: b}\n    - 'c\\d'\n    - 5\n    - \"e\\0\"\n"
        "    - ~/f\n    - ${G\n    - ''\n",
        [
            "x.yaml:4:8: capture.path[1].pth: unknown key; did you mean 'path'? allowed: path, "
            "note",
            "x.yaml:5:7: capture.path[2]: the path contains a backslash; separate folders with /",
            "x.yaml:6:7: capture.path[3]: found 5 (integer), expected a path or a mapping "
            "{path, note}",
            "x.yaml:7:7: capture.path[4]: the path contains a NUL character; remove it",
            "x.yaml:8:7: capture.path[5]: ~ is not expanded in scene files; write ${HOME}",
            "x.yaml:9:7: capture.path[6]: an environment variable is written ${NAME}, with "
            "letters, digits and _",
            "x.yaml:10:7: capture.path[7]: found empty text, expected a path or a mapping "
            "{path, note}",
        ],
    ),
    "no paths": (
        "capture: {path: []}\n",
        ["x.yaml:1:17: capture.path: found an empty list, expected at least one entry"],
    ),
    "split key": (
        "capture: {path: x, split: {evry: 8}}\n",
        [
            "x.yaml:1:28: capture.split.evry: unknown key; did you mean 'every'? allowed: every",
        ],
    ),
    "split number": (
        "capture: {path: x, split: 8}\n",
        [
            "x.yaml:1:27: capture.split: found 8 (integer), expected 'auto', {every: n} or "
            "{train: [names], test: [names]}"
        ],
    ),
    "split twice": (
        "capture: {path: x, split: {train: [a, a], test: [b]}}\n",
        ["x.yaml:1:35: capture.split.train: 'a' is listed twice; each image may be listed once"],
    ),
    "split both": (
        "capture: {path: x, split: {train: [a], test: [a]}}\n",
        ["x.yaml:1:27: capture.split: 'a' is in both train and test; remove it from one"],
    ),
    "split two ways": (
        "capture: {path: x, split: {every: 8, train: [a], test: [b]}}\n",
        ["x.yaml:1:28: capture.split.every: unknown key; allowed: train, test"],
    ),
    "impossible": (
        C + "field:\n  levels: 32\n  features: 8\n  max_resolution: 16\n",
        [
            "x.yaml:3:11: field.levels: field.levels 32 times field.features 8 makes 256 inputs "
            "to the density network; at most 128 are possible",
            "x.yaml:5:19: field.max_resolution: field.max_resolution 16 is not above "
            "field.base_resolution 16; with more than one level it must be",
        ],
    ),
    "profile keys": (
        C + "profiles:\n  cpu:\n    train:\n      step: 5\n    capture:\n      path: y\n"
        "    steps: 5\n  gpu: {}\n",
        [
            "x.yaml:5:7: profiles.cpu.train.step: unknown key; did you mean 'steps'? allowed: "
            f"{TRAIN_KEYS}",
            "x.yaml:7:7: profiles.cpu.capture.path: unknown key; allowed: downscale",
            "x.yaml:8:5: profiles.cpu.steps: unknown key; did you mean 'train.steps'? allowed: "
            "capture, partition, field, sampling, train",
            "x.yaml:9:3: profiles.gpu: unknown key; allowed: cpu, cuda",
        ],
    ),
    "profile impossible": (
        C + "field: {features: 8}\nprofiles:\n  cuda:\n    field: {levels: 32}\n"
        "  cpu: {sampling: {budget: 100}}\n",
        [
            "x.yaml:6:28: profiles.cpu.sampling.budget: 8192 rays of 32 samples "
            "(sampling.samples) are more than sampling.budget 100",
            "x.yaml:5:21: profiles.cuda.field.levels: field.levels 32 times field.features 8 makes "
            "256 inputs to the density network; at most 128 are possible",
        ],
    ),
}


@pytest.mark.parametrize(("text", "lines"), BAD.values(), ids=BAD)
def test_values_that_are_refused(tmp_path: Path, text: str, lines: list[str]) -> None:
    assert refusal(tmp_path, text) == lines


def test_very_many_errors_are_counted(tmp_path: Path) -> None:
    lines = refusal(tmp_path, C + "".join(f"k{i}: 1\n" for i in range(100)))
    assert len(lines) == 31
    assert lines[-1] == "... and 70 more"


# Overrides

BAD_OVERRIDES = {
    "train.steps=abc": "found 'abc' (text), expected an integer from 1 to 10000000",
    "train.steps=": "found nothing, expected an integer from 1 to 10000000",
    "train.step=5": f"unknown key; did you mean 'steps'? allowed: {TRAIN_KEYS}",
    "tran.steps=5": f"tran: unknown key; did you mean 'train'? allowed: {SCENE_KEYS}",
    "train={stps: 3}": f"train.stps: unknown key; did you mean 'steps'? allowed: {TRAIN_KEYS}",
    "train.steps.x=5": "train.steps: found a mapping, expected an integer from 1 to 10000000",
    "train.steps": "expected key=value, for example --set train.steps=500",
    "train..steps=5": "expected key=value, for example --set train.steps=500",
    "=5": "expected key=value, for example --set train.steps=500",
    "profiles.cpu.seed=4": "profiles are merged before overrides; set the key itself",
    "seed=&a 5": "anchors (&) and aliases (*) are not used here; write the value out",
    "bounds.box=[[0,0,0],[1,a,1]]": (
        "bounds.box[1][1]: found 'a' (text), expected a number from -1e+09 to 1e+09"
    ),
    "bounds.box=[[0,0": "not readable as YAML: expected ',' or ']', but got '<stream end>'",
    "capture.path=a\\b": "the path contains a backslash; separate folders with /",
    "train.rays=1000000": (
        "1000000 rays of 32 samples (sampling.samples) are more than sampling.budget 262144"
    ),
}


@pytest.mark.parametrize(("override", "sentence"), BAD_OVERRIDES.items(), ids=BAD_OVERRIDES)
def test_overrides_that_are_refused(tmp_path: Path, override: str, sentence: str) -> None:
    assert refusal(tmp_path, C + "train: {rays: 7}\n", override) == [
        f"--set {override}: {sentence}"
    ]


def test_all_errors_of_overrides_are_told_in_their_order(tmp_path: Path) -> None:
    lines = refusal(tmp_path, C, "train.steps=0", "foo=1")
    assert lines == [
        "--set train.steps=0: found 0 (integer), expected an integer from 1 to 10000000",
        f"--set foo=1: unknown key; allowed: {SCENE_KEYS}",
    ]


def test_overrides_come_after_the_profile_and_the_last_holds(tmp_path: Path) -> None:
    text = C + "train: {steps: 5, rays: 6}\nprofiles: {cpu: {train: {steps: 7, log_every: 8}}}\n"
    scene = load(tmp_path, text)
    assert (scene.spec.train.steps, scene.spec.train.rays, scene.spec.train.log_every) == (7, 6, 8)
    assert scene.profile == "cpu"
    assert scene.spec.profiles == SceneSpec.model_validate({"capture": {"path": "x"}}).profiles
    assert load(tmp_path, text, "train.steps=9", "train.steps=10").spec.train.steps == 10
    elsewhere = load(tmp_path, text, device="cuda")
    assert (elsewhere.spec.train.steps, elsewhere.profile) == (5, "")


def test_an_override_replaces_the_whole_value(tmp_path: Path) -> None:
    text = "capture: {path: x, split: {train: [a], test: [b]}}\n"
    assert load(tmp_path, text, "capture.split={every: 4}").spec.capture.split != "auto"
    assert load(tmp_path, C, "capture.split.every=4").spec.capture.split != "auto"


def test_the_name_is_the_files_unless_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "_my scene (2).yaml"
    path.write_text(C)
    assert load_scene(path, device="cpu").spec.name == "my-scene-2-"
    assert load_scene(path, device="cpu", overrides=["name=off"]).spec.name == "off"


# Where the capture lies


def test_the_first_candidate_that_exists_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "capture:\n  path:\n    - ${NERFXL_TEST}/a\n    - {path: here, note: stand-in}\n"
    (tmp_path / "here").mkdir()
    (tmp_path / "data" / "a").mkdir(parents=True)
    monkeypatch.setenv("NERFXL_TEST", "")  # must not make it /a
    scene = load(tmp_path, text)
    assert choose_candidate(scene) == (tmp_path / "here", "stand-in")
    monkeypatch.setenv("NERFXL_TEST", str(tmp_path / "data"))
    assert choose_candidate(scene) == (tmp_path / "data" / "a", "")


def test_no_candidate_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NERFXL_TEST", raising=False)
    text = "capture:\n  path: ['${NERFXL_TEST}/a', b]\n  source: Ask the owner.\n"
    with pytest.raises(UserError) as caught:
        choose_candidate(load(tmp_path, text))
    assert str(caught.value) == (
        f"{tmp_path}/x.yaml: capture.path: no capture found; tried ${{NERFXL_TEST}}/a "
        f"(NERFXL_TEST is not set); {tmp_path}/b (no such folder).\n"
        "Where the data comes from: Ask the owner."
    )


def test_a_saved_scene_repeats_the_run_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "run").mkdir()
    text = C.replace("x", "[a, {path: b, note: real}]") + "profiles: {cpu: {train: {steps: 7}}}\n"
    scene = load(tmp_path, text, "field.levels=4")
    save_scene(scene, tmp_path / "run" / "scene.yaml")
    (tmp_path / "a").mkdir()  # appears later: the run used b
    again = load_scene(tmp_path / "run" / "scene.yaml", device="cuda")
    assert choose_candidate(again) == (tmp_path / "b", "real")
    assert (again.spec.train.steps, again.spec.field.levels, again.spec.name) == (7, 4, "x")
    assert (tmp_path / "run" / "scene.yaml").read_text().startswith("# Resolved by nerfxl")


# The files of this project


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_the_scenes_are_valid(name: str, device: Device) -> None:
    path = SCENES / f"{name}.yaml"
    scene = load_scene(path, device=device)
    assert (scene.spec.name, scene.profile, scene.base) == (name, device, SCENES)
    assert scene.spec.capture.source
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "university4"])
def test_a_scene_without_its_data_says_where_that_comes_from(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NERFXL_DATA", raising=False)
    scene = load_scene(SCENES / f"{name}.yaml", device="cpu")
    with pytest.raises(UserError) as caught:
        choose_candidate(scene)
    tried, source = str(caught.value).split("\n", 1)
    assert tried.endswith(f"tried ${{NERFXL_DATA}}/{name} (NERFXL_DATA is not set).")
    assert source == f"Where the data comes from: {scene.spec.capture.source.strip()}"


def test_the_embedded_capture_is_found_where_the_real_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NERFXL_DATA", raising=False)
    folder, note = choose_candidate(load_scene(SCENES / "university4.yaml", device="cpu"))
    assert folder == SCENES / "university4"
    assert note == "rendered stand-in; figures on it are not the paper's"


def test_the_scenes_are_all_listed() -> None:
    assert sorted(path.stem for path in SCENES.glob("*.yaml")) == sorted(NAMES)


def test_the_written_pages_are_current() -> None:
    remedy = "run `python -m nerfxl.scene.grammar`"
    assert (SCENES / "README.md").read_text() == grammar.page(), remedy
    assert json.loads((SCENES / "schema.json").read_text()) == json.loads(grammar.schema()), remedy


def test_reading_a_scene_loads_no_heavy_library() -> None:
    code = "import sys, nerfxl.scene.file; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
