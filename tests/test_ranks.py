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

from nerfxl.processes.cluster import joined
from nerfxl.processes.ranks import Ranks

SIZE = 3
COUNTS = (2, 0, 1)


def work(folder: Path) -> None:
    """Be one process of the test, and write what it saw."""
    with joined("cpu") as ranks:
        r = ranks.rank
        rows = torch.full((COUNTS[r], 2), r, dtype=torch.float64, requires_grad=True)
        gathered = ranks.all_gather(rows, COUNTS)
        whole = torch.full((2, 3), r)
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
            "json": ranks.gather_json({"rank": r}),
            "swapped": ranks.swap(
                torch.full((3, 2), r),
                [1] * 3 if r else [0, 2, 1],
                [[0, 1, 1], [2, 1, 1], [1, 1, 1]][r],
            )
            .wait()
            .tolist(),
            "votes": ranks.votes(r == 1, False, r == 0),
            "total": [*ranks.total(r, 1), ranks.most(5 - r)],
            "traffic": {kind: [b.calls, b.received] for kind, b in ranks.traffic.items()},
            "any": [ranks.any(False), ranks.any(r == 2), ranks.any(True)],
            "waited": time.monotonic() - before > 0.2,
        }
    seen["left"] = not dist.is_initialized()
    # A thread that outlives the group can abort the interpreter as it ends.
    seen["threads left"] = gloo_threads() if ranks else []  # somebody may keep `ranks` longer
    (folder / f"{r}.json").write_text(json.dumps(seen))


def gloo_threads() -> list[str]:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


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
    assert [one["threads left"] for one in seen] == [[]] * SIZE


def test_gather_concatenates_rows_in_rank_order(seen: list[dict[str, object]]) -> None:
    for one in seen:
        assert one["uneven"] == [[0, 0], [0, 0], [2, 2]]  # rank 1 owns none
        assert one["even"] == [[0] * 3, [0] * 3, [1] * 3, [1] * 3, [2] * 3, [2] * 3]
        assert one["flags"] == [False, True, False]
        assert one["detached"]


def test_json_is_gathered_in_rank_order(seen: list[dict[str, object]]) -> None:
    assert [one["json"] for one in seen] == [[{"rank": 0}, {"rank": 1}, {"rank": 2}]] * SIZE


def test_rows_are_swapped(seen: list[dict[str, object]]) -> None:
    # Rank 0 keeps none for itself and sends two to rank 1.
    assert [one["swapped"] for one in seen] == [
        [[1, 1], [2, 2]],
        [[0, 0], [0, 0], [1, 1], [2, 2]],
        [[0, 0], [1, 1], [2, 2]],
    ]


def test_votes_and_totals_are_the_same_everywhere(seen: list[dict[str, object]]) -> None:
    assert [one["votes"] for one in seen] == [[True, False, True]] * SIZE
    assert [one["total"] for one in seen] == [[3, 3, 5]] * SIZE


def test_all_that_is_sent_is_counted(seen: list[dict[str, object]]) -> None:
    for one in seen:
        traffic = one["traffic"]
        assert isinstance(traffic, dict)
        # Three gathers, the two of which JSON is made, and one swap.
        assert traffic["other"][0] == 6
        # A ring brings 2 / 3 of the sum twice: a barrier's number, three votes, two totals, one.
        assert traffic["flags"] == [4, sum(2 * 8 * count * 2 // 3 for count in (1, 3, 2, 1))]


def test_all_agree_on_flags(seen: list[dict[str, object]]) -> None:
    assert [one["any"] for one in seen] == [[False, True, True]] * SIZE


def test_a_barrier_waits_for_the_slowest(seen: list[dict[str, object]]) -> None:
    assert [one["waited"] for one in seen[1:]] == [True, True]


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined("cpu") as ranks:
        assert not dist.is_initialized()
        assert (ranks.rank, ranks.size, ranks.device.type) == (0, 1, "cpu")
        rows = torch.ones(2, 3, requires_grad=True)
        assert torch.equal(ranks.all_gather(rows, [2]), rows)
        assert not ranks.all_gather(rows, [2]).requires_grad
        assert ranks.swap(rows, [2], [2]).wait() is not rows
        assert torch.equal(ranks.swap(rows, [2], [2]).wait(), rows)
        assert ranks.votes(True, False) == [True, False]
        assert ranks.total(3, 4) == [3, 4]
        assert not ranks.traffic
        assert ranks.any(True)
        assert not ranks.any(False)
        assert ranks.gather_json("alone") == ["alone"]
        ranks.barrier()


def test_counts_must_be_those_of_the_rows() -> None:
    with pytest.raises(ValueError, match=r"rank 0 has 2 rows, counts are \[3\]"):
        Ranks().all_gather(torch.ones(2), [3])


if __name__ == "__main__":
    work(Path(sys.argv[1]))
