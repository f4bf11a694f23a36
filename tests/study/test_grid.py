"""Which fits a study is made of."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerfxl.errors import UserError
from nerfxl.scene.spec import SceneSpec
from nerfxl.study.grid import (
    BASE,
    MODES,
    Cell,
    Kind,
    base,
    grid,
    own_keys,
    read_modes,
    read_numbers,
)

KINDS: tuple[Kind, ...] = get_args(Kind)


def labels(kind: Kind, **changes: object) -> list[str]:
    asked = {"modes": None, "tiles": None, "seeds": (1,), "most": 2, "scene_tiles": 4, **changes}
    return [cell.label for cell in grid(kind, **asked)]  # type: ignore[arg-type]


def test_scaling_fits_one_tile_once_and_every_mode_on_more() -> None:
    found = labels("scaling", tiles=(2, 1))
    assert found == [
        "joint-1-tile-seed-1",
        "joint-2-tiles-seed-1",
        "independent-3d-0-2-tiles-seed-1",
        "independent-3d-0.15-2-tiles-seed-1",
        "independent-2d-2-tiles-seed-1",
    ]
    # Four modes on 2, 4 and 8 tiles and one fit of one tile, for each of two seeds.
    assert len(labels("scaling", seeds=(1, 2))) == 2 * (4 * 3 + 1)


def test_an_exchange_is_measured_on_two_four_and_more_ranks_and_alone() -> None:
    assert labels("exchange", modes=("gather", "samples"), most=4) == [
        "alone-4-tiles-1-rank-seed-1",
        "gather-4-tiles-2-ranks-seed-1",
        "samples-4-tiles-2-ranks-seed-1",
        "gather-4-tiles-4-ranks-seed-1",
        "samples-4-tiles-4-ranks-seed-1",
    ]
    assert labels("exchange", most=8, modes=("owner",))[-1] == "owner-8-tiles-8-ranks-seed-1"
    assert labels("exchange", most=8, modes=("owner",), tiles=(3,))[-1].startswith("owner-3-tiles")


def test_ddp_is_one_tile_on_as_many_ranks_as_joint_has_tiles() -> None:
    cells = grid("ddp", None, None, (1,), 4, 8)
    assert [(one.mode, one.tiles, one.ranks) for one in cells] == [
        ("joint", 2, 2),
        ("ddp", 1, 2),
        ("joint", 4, 4),
        ("ddp", 1, 4),
    ]


def test_cameras_are_corrected_and_not() -> None:
    assert labels("cameras", modes=("joint",)) == [
        "joint-4-tiles-unrefined-seed-1",
        "joint-4-tiles-refined-seed-1",
    ]


@given(
    st.sampled_from(KINDS),
    st.integers(2, 9),
    st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
    st.integers(2, 9),
)
def test_the_laws_of_every_grid(kind: Kind, most: int, seeds: list[int], tiles: int) -> None:
    cells = grid(kind, None, None, seeds, most, tiles)
    assert len({cell.label for cell in cells}) == len(cells)
    assert [cell.seed for cell in cells] == sorted((c.seed for c in cells), key=seeds.index)
    for cell in cells:
        assert 1 <= cell.ranks <= most
        assert cell.ranks <= cell.tiles or cell.mode == "ddp"
        # What makes a cell is a scene that the grammar takes, and says what the cell says.
        values = dict(text.split("=", 1) for text in cell.overrides)
        assert len(values) == len(cell.overrides)
        name, seed, count = (values[key] for key in ("name", "seed", "partition.tiles"))
        document = {"capture": {"path": "x"}, "name": name, "seed": int(seed)}
        train = {"mode": values.get("train.mode", "joint")}
        spec = SceneSpec.model_validate(
            {**document, "partition": {"tiles": int(count)}, "train": train}
        )
        assert (spec.name, spec.partition.tiles) == (cell.label, cell.tiles)
        if kind not in ("exchange", "appearance"):
            assert spec.train.mode == cell.mode.partition(":")[0]


def test_overlaps_are_settings_of_independent_fits_alone() -> None:
    found = Cell("scaling", "independent-3d:0.15", 4, 2, 1).overrides
    assert found[-3:] == ["train.mode=independent-3d", "train.overlap=0.15", "exchange=auto"]
    # Whatever the scene says of independent fits: the joint one has no overlap.
    assert "train.overlap=auto" in Cell("scaling", "joint", 4, 2, 1).overrides


def test_what_the_user_sets_stands_in_place_of_what_is_usual() -> None:
    found = base("exchange", ["train.steps=7", "field.levels=2"])
    assert found == [*BASE["exchange"][1:], "train.steps=7", "field.levels=2"]


def test_a_study_knows_the_keys_that_it_sets() -> None:
    found = own_keys(grid("cameras", None, None, (1,), 2, 4))
    assert found == {
        *("name", "seed", "partition.tiles", "train.mode", "train.overlap", "exchange"),
        "cameras.refine",
    }


def test_lists_are_read() -> None:
    assert read_numbers("1, 2,8,2", "--tiles", 1, 9) == (1, 2, 8)
    assert read_numbers(None, "--tiles", 1, 9) is None
    assert read_modes("joint,independent-3d:0.150", "scaling") == ("joint", "independent-3d:0.15")
    assert read_modes("gather, samples", "exchange") == ("gather", "samples")
    assert all(read_modes(",".join(MODES[kind]), kind) == MODES[kind] for kind in KINDS)


@pytest.mark.parametrize("text", ["", "1,", "x", "0", "10", "-1", "1.5", "1 2", "٣"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        read_numbers(text, "--tiles", 1, 9)
    assert str(caught.value) == (
        f"--tiles '{text}': expected whole numbers from 1 to 9 with commas between them, such as "
        "1,2,4."
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("scaling", "ddp"),
        ("scaling", "joint:0.15"),
        ("scaling", "independent-3d:-1"),
        ("scaling", "joint,"),
        ("exchange", "joint"),
        ("ddp", "ddp:1"),
    ],
)
def test_modes_of_another_kind_are_refused(kind: Kind, text: str) -> None:
    with pytest.raises(UserError, match=f"study {kind} compares "):
        read_modes(text, kind)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("exchange", {"most": 1}, "pass --nproc 2"),
        ("ddp", {"most": 1}, "pass --nproc 2"),
        ("ddp", {"tiles": (2, 8)}, "--tiles 8: study ddp gives each tile a process of its own"),
        ("ddp", {"tiles": (1, 2)}, "--tiles 1: study ddp compares processes"),
        ("overlap", {"tiles": (2, 4)}, "--tiles 2,4: study overlap compares at one number"),
        ("overlap", {"tiles": (1,)}, "--tiles 1: study overlap looks at what lies between tiles"),
        ("overlap", {"modes": ("independent-2d",)}, "measures all others against joint"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    kind: Kind, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        labels(kind, **changes)
    assert sentence in str(caught.value)


def test_what_is_learned_of_images_is_all_that_a_study_of_appearance_changes() -> None:
    found = grid("appearance", None, None, (3,), 2, 1)
    looks = [[text for text in cell.overrides if text.startswith("appearance.")] for cell in found]
    assert [cell.mode for cell in found] == ["off", "exposure", "embedding", "both"]
    assert looks == [
        [f"appearance.embedding={a}", f"appearance.exposure={b}"]
        for a, b in (("off", "off"), ("off", "on"), ("on", "off"), ("on", "on"))
    ]
    for cell in found:
        assert cell.tiles == 1
        assert len(cell.overrides) == 5
