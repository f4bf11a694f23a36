"""The books of training: what a line says, from what ranks report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nerfxl.processes.ranks import Ranks, Traffic
from nerfxl.rays import Batch, Rays
from nerfxl.tally import Seen, Tally, exchanged


def batch(rays: int, count: int) -> Batch:
    rows = torch.zeros(rays, 3)
    return Batch(Rays(rows, rows), torch.zeros(rays, 2), torch.arange(rays), count)


def seen(squared: float, samples: int) -> Seen:
    zero = torch.zeros(())
    return Seen(zero, torch.tensor(squared), torch.tensor(0.5), samples)


class Two(Ranks):
    """The first of two ranks; the second loaded as many rays, and waited and worked otherwise."""

    def gather_json(self, own: object) -> list[object]:
        assert isinstance(own, dict)
        other = {
            "samples": [40, 200],
            "squared": 0.3,
            "waited": {"tau": 0.5},
            "received": {"tau": 80},
            "seconds": 3.0,
        }
        return [own, own | other]


def test_a_line_tells_of_all_steps_and_ranks() -> None:
    ranks = Two(0, 2)
    ranks.traffic["tau"] = Traffic(7, 1000, 3.0)  # before: does not count
    tally = Tally(ranks)
    tally.add(seen(0.1, 100), batch(5, 10))
    tally.step()
    tally.add(seen(0.2, 150), batch(5, 10))
    tally.step()
    ranks.traffic["tau"].received += 120
    ranks.traffic["tau"].waited += 0.25
    line = tally.line()
    # 0.1 + 0.2 + 0.3 over two ranks of 10 rays and 3 colours.
    assert line["loss"] == pytest.approx(0.6 / 60)
    assert line["psnr"] == pytest.approx(20.0)
    assert line["proposal_loss"] == 1.0
    assert line["samples_per_ray"] == (100 + 150 + 40 + 200) / 20
    # The busiest has 100 of 140, then 200 of 350.
    assert line["imbalance"] == 2 * (100 + 200) / 490
    assert line["bytes_per_ray"] == (120 + 80) / 20
    per_step = line["exchange"]["tau"]
    assert per_step == {"bytes_per_ray": 10, "ms_per_step": pytest.approx(1000 * 0.75 / 4)}
    # 0.25 s and 0.5 s of its own; this rank has begun a moment ago, and the other 3 s.
    assert line["waiting"] == pytest.approx(0.75 / 3, rel=0.05)


def test_nerfs_apart_count_their_own_rays() -> None:
    """Two here, and two there, a step; their proposals' losses add up to the last step's."""
    tally = Tally(Two(0, 2), apart=True)
    for _ in range(2):
        tally.add(seen(0.1, 30), batch(5, 5))
        tally.add(seen(0.2, 40), batch(10, 10))
        tally.step()
    line = tally.line([(1, 4), None, (2, 4)])
    assert line["proposal_loss"] == 2 * (0.5 + 0.5)
    assert line["loss"] == pytest.approx((2 * (0.1 + 0.2) + 0.3) / (3 * 60))
    assert line["samples_per_ray"] == (2 * 70 + 240) / 60
    assert line["outside"] == (1 + 2 + 1 + 2) / 16


def test_one_rank_exchanges_nothing() -> None:
    tally = Tally(Ranks())
    tally.add(seen(0.3, 40), batch(10, 10))
    tally.step()
    assert not {"waiting", "imbalance", "exchange"} & tally.line().keys()


def test_the_end_says_what_was_exchanged(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 5, "bytes_per_ray": 90, "waiting": 0.2, "imbalance": 1.0},
        {"step": 9, "bytes_per_ray": 110, "waiting": 0.3, "imbalance": 1.5},
    ]
    torn = '{"step": 12, "bytes_'  # a crash has cut it short
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    assert exchanged(metrics) == (
        "100 bytes a ray received by all processes, 25 % of the time waiting, the busiest has 1.25 "
        "times the mean of samples"
    )
    metrics.write_text(json.dumps({"step": 5, "loss": 1.0}) + "\n")
    assert exchanged(metrics) is None
