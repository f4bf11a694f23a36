"""Renders the embedded capture: a university quad, its poses, sparse points and depth maps.

Run `python scenes/university4/make.py` with the extra `[synthetic]`. Frames that are already in
the output folder are kept, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from render import Renderer, build_scene, clearance, select_variant, write_depth
from sparse import write_sparse
from walk import walk

DEPTH_FRAMES = (16, 56, 96, 136)  # 0-based and multiples of 8: held out by every reader
QUALITY = 87


def save_jpeg(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a picture so that a file under its final name is always whole."""
    partial = path.with_suffix(".partial")
    Image.fromarray(picture).save(partial, "JPEG", quality=QUALITY, subsampling=0, progressive=True)
    partial.replace(path)


def main() -> None:
    """Render the frames, then write the COLMAP model and the depth maps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder to write to; this script's own if absent")
    parser.add_argument("--samples", type=int, default=48, help="paths a pixel")
    parser.add_argument("--preview", action="store_true", help="every 20th frame, 16 samples")
    args = parser.parse_args()
    if args.preview and args.out is None:
        parser.error("--preview needs --out: its frames must not mix with the capture's")
    out = args.out or Path(__file__).resolve().parent
    print(f"variant {select_variant()}")
    start = time.perf_counter()
    scene = build_scene()
    poses = walk()
    room = clearance(scene, poses)
    print(f"scene {time.perf_counter() - start:.1f} s, nearest surface {room.min():.2f} m")
    if room.min() < 0.7:
        raise SystemExit(f"frames {np.flatnonzero(room < 0.7) + 1} are too close to a surface")
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    renderer = Renderer(scene, 16 if args.preview else args.samples)
    for index in range(0, len(poses), 20 if args.preview else 1):
        path = images / f"frame_{index + 1:04d}.jpg"
        if not path.exists():
            save_jpeg(renderer.picture(poses[index], seed=index), path)
            print(f"{path.name} {time.perf_counter() - start:.0f} s", flush=True)
    if args.preview:
        return
    depth = out / "depth"
    depth.mkdir(exist_ok=True)
    for index in DEPTH_FRAMES:
        write_depth(scene, poses[index], depth / f"frame_{index + 1:04d}.png")
    print(write_sparse(scene, poses, out))


if __name__ == "__main__":
    main()
