"""Checkpoints: any number of ranks reads what any other wrote; damage is found and survived."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nerfxl import checkpoint, runs
from nerfxl.checkpoint import latest, load, save
from nerfxl.errors import UserError
from nerfxl.exchange import deal
from nerfxl.ranks import Ranks


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

    def any(self, flag: bool) -> bool:
        return True in self._all(flag)


def tile(k: int) -> dict[str, Tensor]:
    return {
        "field.table": torch.arange(6, dtype=torch.float32).reshape(2, 3) + k,
        "optimiser.table.m": torch.full((2,), -k, dtype=torch.bfloat16),
        "grid.occupied": torch.tensor([True, False]),
        "optimiser.step": torch.tensor(k),
    }


SHARED = {"colour.weight": torch.eye(3, dtype=torch.float64)}


def save_on(R: int, folder: Path, K: int, step: int = 5, keep_last: int | None = None) -> Path:
    """Save K tiles from R threads."""
    meeting = Meeting(R)

    def one(rank: int) -> Path:
        ranks = ThreadRanks(rank, R, meeting=meeting)
        own = {k: tile(k) for k in deal(K, R)[rank]}
        return save(folder, step, own, SHARED, {"scene": "garden", "psnr": 0.1}, ranks, keep_last)

    with ThreadPoolExecutor(R) as pool:
        paths = list(pool.map(one, range(R)))
    assert len(set(paths)) == 1
    return paths[0]


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
        for own in deal(K, after):
            found = load(folder, own, expect=K)
            assert (found.step, found.tile_count) == (5, K)
            assert list(found.tiles) == list(own)
            assert all(same(found.tiles[k], tile(k)) for k in own)
            assert same(found.shared, SHARED)
            assert found.meta == {"scene": "garden", "psnr": 0.1}


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
    save(tmp_path, 1, {0: {"a": buffer[:2], "b": buffer[2:], "c": leaf.t()}}, None, {}, Ranks())
    found = load(tmp_path)
    assert found.tiles[0]["b"].tolist() == [2, 3]
    assert found.shared == {}


def test_tiles_must_be_all_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tiles must be 0 \.\. K-1, each once: \[1\]"):
        save(tmp_path, 1, {1: tile(1)}, None, {}, Ranks())


def test_a_scalar_that_json_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(tmp_path, 1, {0: tile(0)}, None, {"loss": float("nan")}, Ranks())
    assert not any(tmp_path.iterdir())


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save_on(1, tmp_path, 1, step, keep_last=2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000000030", "step-000000040"]
    # Gone back to an older step: what was just written is never the one to go.
    save_on(1, tmp_path, 1, 35, keep_last=1)
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-000000035"]


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    save_on(1, tmp_path, 2)
    save_on(2, tmp_path, 2)
    assert load(tmp_path).tile_count == 2
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


DELETE = "Delete step-000000020 to go on from an older checkpoint."
FAULTS: list[tuple[str, Fault, str]] = [
    (
        "tile-0001.safetensors",
        Path.unlink,
        f"{{file}} is missing, though the manifest lists it. {DELETE}",
    ),
    ("tile-0001.safetensors", truncate, f"{{file}} has 317 bytes instead of 318. {DELETE}"),
    (
        "tile-0001.safetensors",
        flip,
        f"{{file}} is damaged: its sha256 is not the manifest's. {DELETE}",
    ),
    (
        "shared.safetensors",
        flip,
        f"{{file}} is damaged: its sha256 is not the manifest's. {DELETE}",
    ),
    (
        "manifest.json",
        Path.unlink,
        "{folder} is not a complete checkpoint: it holds no manifest.json. Name another one.",
    ),
    ("manifest.json", truncate, ""),
    (
        "manifest.json",
        lambda file: os.truncate(file, 100),
        f"{{file}} is damaged: it is not JSON. {DELETE}",
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
        edit(lambda content: content.update(version=2)),
        "{file} has version 2, this nerfxl reads version 1: use the nerfxl that wrote it.",
    ),
    (
        "manifest.json",
        edit(lambda content: content.update(step=21)),
        f"{{file}} is damaged: it does not match its own hash. {DELETE}",
    ),
    (
        "manifest.json",
        lambda file: file.write_bytes(b"\xff\xfe\x00"),
        f"{{file}} is damaged: it is not JSON. {DELETE}",
    ),
]


@pytest.mark.parametrize(("name", "fault", "sentence"), FAULTS)
def test_damage_is_named_and_what_can_be_seen_without_reading_is_stepped_over(
    name: str, fault: Fault, sentence: str, tmp_path: Path
) -> None:
    save_on(1, tmp_path, 2, 10)
    folder = save_on(1, tmp_path, 2, 20)
    fault(folder / name)
    if not sentence:  # only the last newline is lost: nothing is wrong
        assert load(folder).step == 20
        return
    with pytest.raises(UserError) as caught:
        load(folder)
    assert str(caught.value) == sentence.format(file=folder / name, folder=folder)
    if fault is flip:
        with pytest.raises(UserError, match="is damaged"):
            load(tmp_path)
    else:
        assert latest(tmp_path).name == "step-000000010"
        assert load(tmp_path).step == 10


def test_a_damaged_tile_that_nobody_asked_for_does_not_matter(tmp_path: Path) -> None:
    flip(save_on(1, tmp_path, 2) / "tile-0001.safetensors")
    assert same(load(tmp_path, [0]).tiles[0], tile(0))


def test_another_plan_is_refused(tmp_path: Path) -> None:
    folder = save_on(1, tmp_path, 2)
    with pytest.raises(UserError) as caught:
        load(tmp_path, expect=3)
    assert str(caught.value) == (
        f"{folder} holds 2 tiles, but the plan has 3: use the plan.json of the run that wrote it."
    )
    with pytest.raises(UserError, match="holds tiles 0 to 1, but tile 2 was asked for"):
        load(tmp_path, [2])


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
    assert load(tmp_path).step == 10


def test_no_checkpoint_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no complete checkpoint: start the run anew, or name another folder."
    )


@pytest.mark.parametrize("victim", ["tile-0001.safetensors", "manifest.json", "latest"])
def test_a_crash_while_saving_leaves_the_older_checkpoint(
    victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_on(1, tmp_path, 2, 10)

    def crash(path: Path, content: bytes | str) -> None:
        if path.name == victim:
            path.with_name(f".{victim}.1.tmp").write_bytes(b"half")
            raise RuntimeError("killed")
        runs.write_atomic(path, content)

    monkeypatch.setattr(checkpoint, "write_atomic", crash)
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

    def full(path: Path, content: bytes | str) -> None:
        if path.name == "tile-0001.safetensors":
            raise UserError(f"{path} could not be written: No space left on device.")
        runs.write_atomic(path, content)

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    meeting = Meeting(2)

    def one(rank: int) -> str:
        ranks = ThreadRanks(rank, 2, meeting=meeting)
        with pytest.raises(UserError) as caught:
            save(tmp_path, 20, {rank: tile(rank)}, SHARED, {}, ranks)
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    assert first == "another rank could not write its part of the checkpoint: see its log."
    assert second.endswith("tile-0001.safetensors could not be written: No space left on device.")
    assert latest(tmp_path).name == "step-000000010"
