"""Checkpoints: any number of ranks reads what any other wrote; what is damaged is stepped over."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nerfxl import runs
from nerfxl.errors import UserError
from nerfxl.exchange import deal
from nerfxl.processes.ranks import Ranks
from nerfxl.storage import saver
from nerfxl.storage.checkpoint import Checkpoint, Origin, latest, load, read, read_manifest
from nerfxl.storage.saver import Saver


class Meeting:
    """Where the threads of one test lay down what they bring to a collective."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=20)
        self.brought: dict[int, object] = {}


@dataclass(frozen=True, eq=False)
class ThreadRanks(Ranks):
    """Ranks that are threads of one process: the same collectives, without starting any."""

    meeting: Meeting = field(default_factory=lambda: Meeting(1))

    def _all(self, mine: object) -> list[object]:
        self.meeting.brought[self.rank] = mine
        self.meeting.barrier.wait()
        found = [self.meeting.brought[r] for r in range(self.size)]
        self.meeting.barrier.wait()
        return found

    def all_gather(self, own: Tensor, counts: Sequence[int], kind: str = "other") -> Tensor:  # noqa: ARG002
        assert own.shape[0] == counts[self.rank]
        return torch.cat([part for part in self._all(own) if isinstance(part, Tensor)])

    def gather_json(self, own: object) -> list[object]:
        return self._all(json.loads(json.dumps(own)))

    def votes(self, *flags: bool) -> list[bool]:
        brought = [rank for rank in self._all(flags) if isinstance(rank, tuple)]
        return [any(rank[i] for rank in brought) for i in range(len(flags))]


def tile(k: int) -> dict[str, Tensor]:
    return {
        "field.table": torch.arange(6, dtype=torch.float32).reshape(2, 3) + k,
        "optimiser.table.m": torch.full((2,), -k, dtype=torch.bfloat16),
        "grid.occupied": torch.tensor([True, False]),
        "optimiser.step": torch.tensor(k),
    }


SHARED = {"colour.weight": torch.eye(3, dtype=torch.float64)}


ORIGIN = Origin("garden", "2026-01-31T12:00:00.000+00:00", "plan's hash")
META = {"seconds": 0.5, "rays": 7}


def together(R: int, act: Callable[[Ranks], Any]) -> list[Any]:
    """Do the same on R threads, as ranks."""
    meeting = Meeting(R)
    with ThreadPoolExecutor(R) as pool:
        return list(pool.map(act, [ThreadRanks(rank, R, meeting=meeting) for rank in range(R)]))


def save_on(R: int, folder: Path, K: int, step: int = 5, keep_last: int | None = None) -> Path:
    """Save K tiles from R ranks."""

    def one(ranks: Ranks) -> None:
        own = {k: tile(k) for k in deal(K, R)[ranks.rank]}
        save(folder, own, ranks, step, keep_last)

    together(R, one)
    return folder / f"step-{step:09d}"


def save(
    folder: Path,
    tiles: dict[int, dict[str, Tensor]],
    ranks: Ranks,
    step: int = 5,
    keep_last: int | None = None,
) -> None:
    saver = Saver(folder, ORIGIN, ranks, keep_last)
    saver.start(step, tiles, SHARED, META)
    saver.finish()


def load_on(R: int, folder: Path, K: int) -> list[Checkpoint]:
    """Load K tiles on R ranks."""
    return together(R, lambda ranks: load(folder, ORIGIN, deal(K, R)[ranks.rank], ranks))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


@settings(max_examples=15, deadline=None)
@given(K=st.integers(1, 6), data=st.data())
def test_any_number_of_ranks_reads_what_any_other_wrote(K: int, data: st.DataObject) -> None:
    before, after = (data.draw(st.integers(1, K)) for _ in range(2))
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_on(before, folder, K)
        for own, found in zip(deal(K, after), load_on(after, folder, K), strict=True):
            assert found.step == 5
            assert list(found.tiles) == list(own)
            assert all(same(found.tiles[k], tile(k)) for k in own)
            assert same(found.shared, SHARED)
            assert found.meta == META


def test_the_layout_is_one_file_a_tile_and_no_leftovers(tmp_path: Path) -> None:
    path = save_on(2, tmp_path, 3)
    assert path == tmp_path / "step-000000005"
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "shared.safetensors",
        "tile-0000.safetensors",
        "tile-0001.safetensors",
        "tile-0002.safetensors",
    ]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latest", "step-000000005"]
    assert (tmp_path / "latest").read_text() == "step-000000005\n"


def test_views_of_one_buffer_and_gradients_are_saved(tmp_path: Path) -> None:
    buffer = torch.arange(4.0)
    leaf = torch.ones(2, 2, requires_grad=True)
    tiles = {0: {"a": buffer[:2], "b": buffer[2:], "c": leaf.t()}}
    saver = Saver(tmp_path, ORIGIN, Ranks())
    saver.start(1, tiles, {}, {})
    saver.finish()
    found = load(tmp_path, ORIGIN, [0], Ranks())
    assert found.tiles[0]["b"].tolist() == [2, 3]
    assert found.shared == {}


def test_tiles_must_be_all_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tiles must be 0 \.\. K-1, each once: "):
        save(tmp_path, {1: tile(1)}, Ranks())


def test_a_scalar_that_json_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Saver(tmp_path, ORIGIN, Ranks()).start(1, {0: tile(0)}, {}, {"loss": float("nan")})
    assert not any(tmp_path.iterdir())


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save_on(1, tmp_path, 1, step, keep_last=2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000000030", "step-000000040"]
    # Gone back behind 40, which was damaged: 30 must not go in its place.
    save_on(1, tmp_path, 1, 35, keep_last=2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000000030", "step-000000035"]
    save_on(1, tmp_path, 1, 32, keep_last=1)
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-000000032"]


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    save_on(1, tmp_path, 2)
    save_on(2, tmp_path, 2)
    assert read_manifest(latest(tmp_path)).tiles == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latest", "step-000000005"]


def test_pruning_spares_the_files_of_others(tmp_path: Path) -> None:
    (save_on(1, tmp_path, 1, 10) / "notes.txt").write_text("keep me")
    save_on(1, tmp_path, 1, 20, keep_last=1)
    assert (tmp_path / "step-000000010" / "notes.txt").read_text() == "keep me"
    assert latest(tmp_path).name == "step-000000020"


Fault = Callable[[Path], object]


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def edit(change: Callable[[dict[str, object]], object]) -> Fault:
    def fault(file: Path) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return fault


FAULTS: list[tuple[str, Fault, str]] = [
    (
        "tile-0001.safetensors",
        Path.unlink,
        "{file} is missing, though the manifest lists it.",
    ),
    ("tile-0001.safetensors", truncate, "{file} has 317 bytes instead of 318."),
    (
        "tile-0001.safetensors",
        flip,
        "{file} is damaged: its sha256 is not the manifest's.",
    ),
    (
        "shared.safetensors",
        flip,
        "{file} is damaged: its sha256 is not the manifest's.",
    ),
    (
        "manifest.json",
        Path.unlink,
        "{folder} is not a complete checkpoint: it holds no manifest.json.",
    ),
    ("manifest.json", truncate, ""),
    (
        "manifest.json",
        lambda file: os.truncate(file, 100),
        "{file} is damaged: it is not JSON.",
    ),
    (
        "manifest.json",
        lambda file: file.write_text("[1]"),
        "{file} is not the manifest of a nerfxl checkpoint.",
    ),
    (
        "manifest.json",
        lambda file: file.write_text('{"format": "other"}'),
        "{file} is not the manifest of a nerfxl checkpoint.",
    ),
    (
        "manifest.json",
        edit(lambda content: content.update(version=3)),
        "{file} has version 3, this nerfxl reads version 2: use the nerfxl that wrote it.",
    ),
    (
        "manifest.json",
        edit(lambda content: content.update(step=21)),
        "{file} is damaged: it does not match its own hash.",
    ),
    (
        "manifest.json",
        lambda file: file.write_bytes(b"\xff\xfe\x00"),
        "{file} is damaged: it is not JSON.",
    ),
]


@pytest.mark.parametrize(("name", "fault", "sentence"), FAULTS)
def test_damage_is_named_and_stepped_over_by_all_ranks_together(
    name: str,
    fault: Fault,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_on(1, tmp_path, 2, 10)
    folder = save_on(1, tmp_path, 2, 20)
    fault(folder / name)
    if not sentence:  # only the last newline is lost: nothing is wrong
        assert read(folder, ORIGIN).step == 20
        return
    expected = sentence.format(file=folder / name, folder=folder)
    with pytest.raises(UserError) as caught:
        read(folder, ORIGIN)
    assert str(caught.value) == expected
    # The second rank alone reads tile 1; both go back.
    for found in load_on(2, tmp_path, 2):
        assert found.step == 10
        assert found.passed_over == (expected,)
    assert capsys.readouterr().err == f"nerfxl: {expected} Trying the checkpoint before it.\n"
    # What can be seen without reading every byte is seen by `latest` too.
    assert latest(tmp_path).name == ("step-000000020" if fault is flip else "step-000000010")


def test_when_none_is_left_all_that_is_wrong_is_said(tmp_path: Path) -> None:
    first, second = (save_on(1, tmp_path, 1, step) for step in (10, 20))
    flip(first / "tile-0000.safetensors")
    (second / "shared.safetensors").unlink()

    def one(ranks: Ranks) -> str:
        with pytest.raises(UserError) as caught:
            load(tmp_path, ORIGIN, [0], ranks)
        return str(caught.value)

    assert together(2, one) == 2 * [
        f"{tmp_path} holds no whole checkpoint: start anew by 'nerfxl fit "
        f"{tmp_path.parent / 'scene.yaml'}'; {second / 'shared.safetensors'} is missing, though "
        f"the manifest lists it; {first / 'tile-0000.safetensors'} is damaged: its sha256 is not "
        "the manifest's."
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scene": "house"}, "comes from another run, of scene 'house', started 2026-01-31T12:00"),
        ({"started": "2025"}, "comes from another run, of scene 'garden', started 2025."),
        ({"plan": "other"}, "was written for another plan than the run's plan.json."),
    ],
)
def test_what_another_run_wrote_is_stepped_over_by_name(
    changes: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    save_on(1, tmp_path, 1, 10)
    foreign = Saver(tmp_path, replace(ORIGIN, **changes), Ranks())
    foreign.start(20, {0: tile(0)}, SHARED, META)
    foreign.finish()
    found = load(tmp_path, ORIGIN, [0], Ranks())
    assert found.step == 10
    assert found.passed_over[0].startswith(f"{tmp_path / 'step-000000020'} {sentence}")
    # What is another run's is not ours to remove, when the next one is written.
    save_on(1, tmp_path, 1, 15, keep_last=1)
    assert (tmp_path / "step-000000020").exists() is ("plan" not in changes)
    assert not (tmp_path / "step-000000010").exists()


def test_a_shard_of_another_run_is_found(tmp_path: Path) -> None:
    """Of the same size and names, whole in itself: the hash alone tells."""
    save_on(1, tmp_path / "other", 2, 20)
    save_on(1, tmp_path / "own", 2, 10)
    folder = save_on(1, tmp_path / "own", 2, 20)
    name = "tile-0001.safetensors"
    shutil.copy(tmp_path / "other" / "step-000000020" / "tile-0000.safetensors", folder / name)
    found = load(tmp_path / "own", ORIGIN, [0, 1], Ranks())
    assert found.step == 10
    assert found.passed_over == (f"{folder / name} is damaged: its sha256 is not the manifest's.",)


@pytest.mark.parametrize(
    "files", [{}, {"../../secrets": {}}, [], {"tile-0000.safetensors": {"sha256": "", "bytes": ""}}]
)
def test_a_manifest_made_by_hand_does_no_harm(files: object, tmp_path: Path) -> None:
    folder = save_on(1, tmp_path, 1)
    file = folder / "manifest.json"
    content = json.loads(file.read_text()) | {"files": files}
    del content["sha256"]
    text = json.dumps(content, sort_keys=True)
    file.write_text(json.dumps(content | {"sha256": sha256(text.encode()).hexdigest()}))
    with pytest.raises(UserError) as caught:
        load(tmp_path, ORIGIN, [0], Ranks())
    assert f"{file} is damaged: it does not say what it must" in str(caught.value)


def test_a_damaged_tile_that_nobody_asked_for_does_not_matter(tmp_path: Path) -> None:
    flip(save_on(1, tmp_path, 2) / "tile-0001.safetensors")
    assert same(load(tmp_path, ORIGIN, [0], Ranks()).tiles[0], tile(0))


@pytest.mark.parametrize("content", ["", "../../etc\n", "step-000000099\n", None])
def test_a_pointer_that_leads_nowhere_is_ignored(content: str | None, tmp_path: Path) -> None:
    save_on(1, tmp_path, 1, 9)
    save_on(1, tmp_path, 1, 10)
    pointer = tmp_path / "latest"
    pointer.unlink()
    if content is not None:
        pointer.write_text(content)
    assert latest(tmp_path).name == "step-000000010"


def test_the_pointer_wins_over_a_higher_step(tmp_path: Path) -> None:
    save_on(1, tmp_path, 1, 20)
    save_on(1, tmp_path, 1, 10)
    assert load(tmp_path, ORIGIN, [0], Ranks()).step == 10


def test_no_checkpoint_at_all_is_said(tmp_path: Path) -> None:
    expected = (
        f"{tmp_path} holds no whole checkpoint: start anew by "
        f"'nerfxl fit {tmp_path.parent / 'scene.yaml'}'."
    )
    for look in (latest, lambda folder: load(folder, ORIGIN, [0], Ranks())):
        with pytest.raises(UserError) as caught:
            look(tmp_path)
        assert str(caught.value) == expected


@pytest.mark.parametrize("victim", ["tile-0001.safetensors", "manifest.json", "latest"])
def test_a_crash_while_saving_leaves_the_older_checkpoint(
    victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_on(1, tmp_path, 2, 10)

    def crash(path: Path, content: Any) -> None:
        if path.name == victim:
            path.with_name(f".{victim}.1.tmp").write_bytes(b"half")
            raise RuntimeError("killed")
        runs.write_atomic(path, content)

    monkeypatch.setattr(saver, "write_atomic", crash)
    with pytest.raises(RuntimeError, match="killed"):
        save_on(1, tmp_path, 2, 20)
    assert latest(tmp_path).name == "step-000000010"
    monkeypatch.undo()
    save_on(1, tmp_path, 2, 30)
    assert latest(tmp_path).name == "step-000000030"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_full_disk_on_one_rank_stops_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_on(1, tmp_path, 2, 10)

    def full(path: Path, content: Any) -> None:
        if path.name == "tile-0001.safetensors":
            raise UserError(f"{path} could not be written: No space left on device.")
        runs.write_atomic(path, content)

    monkeypatch.setattr(saver, "write_atomic", full)

    def one(ranks: Ranks) -> str:
        with pytest.raises(UserError) as caught:
            save(tmp_path, {ranks.rank: tile(ranks.rank)}, ranks, 20)
        return str(caught.value)

    expected = (
        "the checkpoint of step 20 is not stored, older ones are kept: "
        f"{tmp_path / 'step-000000020.tmp' / 'tile-0001.safetensors'} could not be written: "
        "No space left on device."
    )
    assert together(2, one) == [expected, expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000000010"]
