"""Ranks: alone without a process group, and three gloo processes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from nerfxl.errors import UserError
from nerfxl.ranks import Ranks, choose_device

SIZE = 3
COUNTS = (2, 0, 1)


def work(folder: Path) -> None:
    """Be one process of the test, and write what it saw."""
    with Ranks.from_environment("cpu") as ranks:
        r = ranks.rank
        rows = torch.full((COUNTS[r], 2), r, dtype=torch.float64, requires_grad=True)
        gathered = ranks.all_gather(rows, COUNTS)
        whole = torch.full((2, 3), r)
        bfloat, double = torch.full((2,), r, dtype=torch.bfloat16), torch.full((1, 2), 0.5 + r)
        leaf = torch.tensor(float(r), requires_grad=True)
        ranks.all_reduce_sum([bfloat, double, leaf])
        ranks.all_reduce_sum([])
        if ranks.first:
            time.sleep(0.5)
        before = time.monotonic()
        ranks.barrier()
        seen = {
            "rank": [r, ranks.size, ranks.first],
            "threads": torch.get_num_threads() == ranks.threads,
            "uneven": gathered.tolist(),
            "detached": not gathered.requires_grad,
            "even": ranks.all_gather(whole, (2, 2, 2)).tolist(),
            "flags": ranks.all_gather(torch.tensor([r == 1]), (1, 1, 1)).tolist(),
            "sums": [bfloat.tolist(), double.tolist(), leaf.item()],
            "objects": ranks.gather_objects({"rank": r}),
            "any": [ranks.any(False), ranks.any(r == 2), ranks.any(True)],
            "waited": time.monotonic() - before > 0.2,
        }
    seen["left"] = not dist.is_initialized()
    (folder / f"{r}.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory, as_ranks: Callable[[str, Path, int], None]
) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("ranks")
    as_ranks(__file__, folder, SIZE)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]


def test_every_rank_knows_its_place(seen: list[dict[str, object]]) -> None:
    assert [one["rank"] for one in seen] == [[0, 3, True], [1, 3, False], [2, 3, False]]
    assert all(one["threads"] for one in seen)
    assert all(one["left"] for one in seen)


def test_gather_concatenates_rows_in_rank_order(seen: list[dict[str, object]]) -> None:
    for one in seen:
        assert one["uneven"] == [[0, 0], [0, 0], [2, 2]]  # rank 1 owns none
        assert one["even"] == [[0] * 3, [0] * 3, [1] * 3, [1] * 3, [2] * 3, [2] * 3]
        assert one["flags"] == [False, True, False]
        assert one["detached"]


def test_sums_are_in_place_and_of_any_dtype(seen: list[dict[str, object]]) -> None:
    for one in seen:
        # 0 + 1 + 2 = 3;  0.5 + 1.5 + 2.5 = 4.5
        assert one["sums"] == [[3, 3], [[4.5, 4.5]], 3]


def test_objects_are_gathered_in_rank_order(seen: list[dict[str, object]]) -> None:
    assert [one["objects"] for one in seen] == [[{"rank": 0}, {"rank": 1}, {"rank": 2}]] * SIZE


def test_all_agree_on_flags(seen: list[dict[str, object]]) -> None:
    assert [one["any"] for one in seen] == [[False, True, True]] * SIZE


def test_a_barrier_waits_for_the_slowest(seen: list[dict[str, object]]) -> None:
    assert [one["waited"] for one in seen[1:]] == [True, True]


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with Ranks.from_environment("cpu") as ranks:
        assert not dist.is_initialized()
        assert (ranks.rank, ranks.size, ranks.device.type) == (0, 1, "cpu")
        rows = torch.ones(2, 3, requires_grad=True)
        assert torch.equal(ranks.all_gather(rows, [2]), rows)
        assert not ranks.all_gather(rows, [2]).requires_grad
        total = torch.ones(2)
        ranks.all_reduce_sum([total])
        assert total.tolist() == [1, 1]
        assert ranks.any(True)
        assert not ranks.any(False)
        assert ranks.gather_objects("alone") == ["alone"]
        ranks.barrier()


def test_counts_must_be_those_of_the_rows() -> None:
    with pytest.raises(ValueError, match=r"rank 0 has 2 rows, counts are \[3\]"):
        Ranks().all_gather(torch.ones(2), [3])


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"RANK": "two", "WORLD_SIZE": "3"},
            "the environment variable RANK is 'two': it must be a whole number.",
        ),
        (
            {"RANK": "3", "WORLD_SIZE": "3"},
            "RANK is 3 and WORLD_SIZE is 3: start the run with torchrun.",
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1"},
            "WORLD_SIZE is 3, but MASTER_PORT is not set: start the run with torchrun, or unset "
            "RANK and WORLD_SIZE.",
        ),
    ],
)
def test_incomplete_variables_are_named(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NERFXL_LAUNCHER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught, Ranks.from_environment("cpu"):
        pass
    assert str(caught.value) == sentence


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UserError, match="device is 'tpu': choose auto, cpu or cuda"):
        choose_device("tpu")


def test_a_missing_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="sees no GPU: use --device cpu"):
        choose_device("cuda")


def test_fewer_gpus_than_processes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes need 2 GPUs and 1 found"):
        choose_device("auto", local_rank=1, local_size=2)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
