"""Runs made by hand, of known figures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nerfxl.runs import RunFolder


def line(step: int, **changes: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    told = {"loss": 1 / step, "psnr": float(step), "rays_per_second": 1000.0, "peak_memory": 2**30}
    return {"step": step, **told, "steps_per_second": 10.0, **changes}


def view(name: str, psnr: float) -> dict[str, Any]:
    """A held-out view's scores."""
    return {"name": name, "psnr": psnr, "ssim": psnr / 100}


def run(output_dir: Path, lines: Iterable[dict[str, Any]] = (), name: str = "cube") -> RunFolder:
    """A run that was trained to its last line, and says that it is complete."""
    made = RunFolder.create(output_dir, name)
    told = list(lines)
    step = told[-1]["step"] if told else 0
    made.update(state="running", step=step, steps=step)
    made.update(state="completed")
    made.metrics.write_text("".join(json.dumps(one) + "\n" for one in told))
    return made


def scored(made: RunFolder, step: int, views: Iterable[dict[str, Any]], **changes: Any) -> Path:
    """Write the scores of a step; their file."""
    per_image = list(views)
    told = {
        "step": step,
        "images": len(per_image),
        "psnr": sum(one["psnr"] for one in per_image) / max(1, len(per_image)),
        "ssim": 0.5,
        "lpips": None,
        "lpips_reason": "not computed",
        "train_seconds": 90.0,
        "peak_memory_per_rank": [2**30, 2**29],
        "world_size": 2,
        "parameters": 1000,
        "capture": "/photographs",
        "capture_note": "made up",
        "appearance": "off",
        "render_seconds": 0.5,
        "per_image": per_image,
    }
    file = made.eval / f"step-{step:09d}" / "metrics.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(told | changes))
    return file
