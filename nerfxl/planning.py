"""The verb plan: how a scene is cut and what that costs, before anything is trained."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nerfxl.balance import Sampled, balanced
from nerfxl.balance import show as show_balance
from nerfxl.cost import (
    EXCHANGES,
    FLOAT,
    Exchange,
    FabricName,
    Load,
    Work,
    calibrated,
    cost,
    cpu,
    cuda,
    fabric,
    ladder,
)
from nerfxl.cost import count as count_load
from nerfxl.crew import processes
from nerfxl.ensemble import most_ranks, overlap, regions
from nerfxl.errors import UserError
from nerfxl.exchange import deal, resolved
from nerfxl.model import parameter_counts
from nerfxl.partition import Plan
from nerfxl.partition import plan as cut_anew
from nerfxl.plan_picture import picture
from nerfxl.plan_report import (
    PlanReport,
    available_memory,
    check_fit,
    forecast,
    report,
    show,
    show_forecast,
)
from nerfxl.prepare import TRANSFORM, Prepared, near_plane, prepare, some_rays
from nerfxl.processes import places
from nerfxl.processes.cluster import choose_device, cores, device_kind
from nerfxl.progress import Speaker
from nerfxl.rays import Rays
from nerfxl.regions import holds, meets
from nerfxl.render import FAR, SPACING
from nerfxl.runs import RunFolder, make_folder, write_atomic
from nerfxl.scene.file import load_scene
from nerfxl.scene.spec import SceneSpec

PLANNING_RAYS = 16_384
LIBRARY_BYTES = 345 * 2**20  # measured: resident after the first kernel of a CPU process
BYTES_A_SAMPLE = 1600  # counted: 400 floats of features and hidden layers with their gradients
BYTES_A_PIXEL, BYTES_A_NUMBER = 3, 8  # of a photograph; which of its pixels are learned from
FAN = 9  # rays across a picture, and along it, that say how much of it shows a tile


@dataclass(frozen=True)
class Prospect:
    """Ranks to plan for, here or elsewhere.

    node: ranks on one machine. rays: of a step, for each rank; the scene's over all ranks if None.
    step_seconds: measured, of a step on one core or GPU; None takes what is known of them.
    """

    ranks: int
    fabric: FabricName
    exchange: Exchange | None
    node: int
    rays: int | None
    step_seconds: float | None


def plan(
    scene_path: Path,
    output_dir: Path,
    nproc: int | None,
    device: str,
    overrides: Sequence[str],
    skip_missing: bool,
    prospect: Prospect | None,
    balance: Path | None,
    say: Speaker,
) -> dict[str, Any]:
    """Cut the scene, print what it will cost, and draw it; refuses what will not fit."""
    if places.here().size > 1:
        raise UserError(
            f"plan needs one process, and {places.here().starter} has started "
            f"{places.here().size}: start it by its own name."
        )
    elsewhere = prospect is not None and prospect.fabric != "loopback"
    # Plans for other machines: none of their GPUs need be here.
    kind = "cuda" if elsewhere and device in ("auto", "cuda") else device_kind(device)
    prepared = prepare(load_scene(scene_path, device=kind, overrides=overrides), skip_missing)
    spec = prepared.scene.spec
    if prospect is not None and spec.train.mode != "joint":
        raise UserError(
            f"--ranks {prospect.ranks}: what many ranks cost is known of train.mode joint, and the "
            f"mode is {spec.train.mode}: leave --ranks out, or pass --set train.mode=joint."
        )
    count = processes(nproc, kind, most_ranks(spec))
    tell(prepared, kind, count, say)
    told: dict[str, Any] = {}
    sampled = None
    if balance is not None:
        prepared, sampled, told["balance"] = _balance(prepared, balance, kind, say)
    found = costs(prepared, count)
    show(found, say.console)
    if prospect is not None:
        told["forecast"] = _forecast(prepared, prospect, kind, sampled, say)
    folder = output_dir / spec.name
    make_folder(folder)
    write_atomic(folder / "plan.json", prepared.plan.to_json())
    write_atomic(folder / TRANSFORM, prepared.world.to_json())
    capture = prepared.capture
    cameras = prepared.world.points(capture.poses()[:, :, 3])
    points = prepared.world.points(capture.points)
    target = folder / "plan.png"
    picture(prepared.plan, cameras, points, capture.point_colours, target, prepared.world.scale)
    say(f"written    {folder / 'plan.json'} and {target}")
    if balance is not None:
        named = os.path.relpath(folder / "plan.json", prepared.scene.base)
        say(f"to use it  --set {shlex.quote(f'partition.plan={named}')}, with nerfxl fit")
    if not elsewhere:
        refuse_what_will_not_fit(found, kind, count)
    return {**found.as_json(), **told, "plan": str(folder / "plan.json"), "picture": str(target)}


def tell(prepared: Prepared, kind: str, count: int, say: Speaker) -> None:
    """Print what was found, and what was chosen."""
    capture, spec = prepared.capture, prepared.scene.spec
    note = f" ({capture.note})" if capture.note else ""
    say(f"capture    {capture.root}{note}")
    tests = len(capture.test)
    width, height = capture.views[0].camera.width, capture.views[0].camera.height
    say(
        f"           {capture.format}, {len(capture.views)} views of {width} x {height}, {tests} "
        f"of them held out, {len(capture.points):,} points"
    )
    if capture.skipped:
        say(f"           without {len(capture.skipped)} missing: {', '.join(capture.skipped)}")
    say(f"bounds     {prepared.bounds.reason}")
    reach = "outside contracted into the border tiles" if prepared.plan.open else "closed"
    say(f"tiles      {len(prepared.plan)}, {reach}, sampling by {spec.sampling.method}")
    if spec.train.mode != "joint":
        say(f"mode       {how_trained(spec)}")
    plural = "es" if count > 1 else ""
    say(f"device     {kind}, {count} process{plural}, profile {prepared.scene.profile or 'none'}")


def how_trained(spec: SceneSpec) -> str:
    """How a scene's tiles are trained, in words."""
    tiles = spec.partition.tiles
    if not spec.train.independent:
        return f"{spec.train.mode}: each process holds all tiles and takes a share of the rays"
    nerfs = f"{spec.train.mode}, overlap {overlap(spec.train):g}: {tiles} NeRFs, each trained alone"
    if spec.train.mode == "independent-3d":
        return f"{nerfs} on the rays that meet its tile, blended in space"
    return f"{nerfs} on the whole scene as a group of cameras sees it, blended in the picture"


def costs(prepared: Prepared, ranks: int) -> PlanReport:
    """What a fit of this scene on so many ranks will cost."""
    spec, work = prepared.scene.spec, _work(prepared)
    ddp, alone = spec.train.mode == "ddp", spec.train.independent
    # Ranks of 'ddp' share a step's samples; NeRFs that are alone take theirs one after the other.
    parts = ranks if ddp else len(prepared.plan) if alone else 1
    found = report(
        prepared.plan,
        prepared.points,
        _load(prepared, prepared.plan),
        scale=prepared.world.scale,
        parameters_per_tile=work.parameters,
        shared_parameters=work.shared,
        image_bytes=_images(prepared, work, ranks),
        sample_budget=-(-_samples_a_step(spec) // parts),
        bytes_per_sample=BYTES_A_SAMPLE,
        ranks=1 if ddp else ranks,  # each holds what one would
        library_bytes=LIBRARY_BYTES,
    )
    received = found.exchange_bytes_per_ray
    if ddp:
        gradients = 2 * FLOAT * found.parameters_total * (ranks - 1) // ranks
        received = round(gradients / spec.train.rays)
    if alone:
        received = 0
    mode = spec.train.mode
    return replace(found, mode=mode, ranks=ranks, exchange_bytes_per_ray=received)


def refuse_what_will_not_fit(found: PlanReport, kind: str, ranks_here: int) -> None:
    """Raise a UserError unless the ranks of this machine fit into its memory."""
    sharing = ranks_here if kind == "cpu" else 1
    check_fit(found, available_memory(kind), f"this machine's {kind}", sharing)


def _balance(
    prepared: Prepared, path: Path, kind: str, say: Speaker
) -> tuple[Prepared, Sampled, dict[str, Any]]:
    """Cut anew by the samples of a run, and print what that does for lambda."""
    run = RunFolder.open(path)
    device = choose_device("cpu" if kind == "cpu" else "auto")
    new, sampled, measured = balanced(prepared, run, PLANNING_RAYS, device)
    show_balance(measured, run, say.console)
    return replace(prepared, plan=new), sampled, measured.as_json()


def _forecast(
    prepared: Prepared, prospect: Prospect, kind: str, sampled: Sampled | None, say: Speaker
) -> dict[str, Any]:
    """Print what many ranks cost, and return it; of more tiles where the scene has too few."""
    spec, cut = prepared.scene.spec, prepared.plan
    if prospect.ranks > len(cut):
        points = prepared.points if sampled is None else sampled.points
        say(
            f"ranks      {prospect.ranks} need as many tiles: these figures are of "
            f"--set partition.tiles={prospect.ranks}, the plan that is written has {len(cut)}"
        )
        cut = cut_anew(points, cut.root, prospect.ranks, cut.open)
    load, work = _load(prepared, cut), _work(prepared)
    if sampled is not None:
        found = sampled.by_tile(cut)  # how they lie; how many they are, the scene says
        load = replace(load, samples=found * (load.samples.sum() / found.sum()))
    here = cores() if prospect.fabric == "loopback" else None
    machine = cuda() if kind == "cuda" else cpu(here)
    if prospect.step_seconds is not None:
        machine = calibrated(machine, prospect.step_seconds, load.of(spec.train.rays), work)
    wires = fabric(prospect.fabric, prospect.node)
    costs = []
    for ranks in ladder(prospect.ranks):
        rays = spec.train.rays if prospect.rays is None else prospect.rays * ranks
        shares, batch = deal(len(cut), ranks), load.of(rays)
        for exchange in [prospect.exchange] if prospect.exchange else EXCHANGES:
            costs.append(cost(exchange, shares, batch, work, machine, wires))
    show_forecast(costs, machine, wires, say.console)
    return forecast(costs, load.rays, len(cut), machine, wires)


def _load(prepared: Prepared, cut: Plan) -> Load:
    spec, world = prepared.scene.spec, prepared.world
    rays = some_rays(prepared.capture, world, PLANNING_RAYS, spec.seed)
    sampling = spec.sampling
    samples = sampling.samples
    if sampling.method == "occupancy":
        samples = max(1, sampling.budget // spec.train.rays)
    return count_load(cut, rays, near_plane(spec, world, cut.open), FAR, SPACING, samples)


def _work(prepared: Prepared) -> Work:
    spec = prepared.scene.spec
    per_tile, shared = parameter_counts(spec)
    cameras = (view.camera for view in prepared.capture.train)
    bytes_a_pixel = BYTES_A_PIXEL + (spec.train.losses.sky > 0)
    return Work(
        parameters=per_tile,
        shared=shared,
        images=bytes_a_pixel * sum(camera.width * camera.height for camera in cameras),
        sample_bytes=BYTES_A_SAMPLE,
        libraries=LIBRARY_BYTES,
        proposal=spec.sampling.method == "proposal",
    )


def _images(prepared: Prepared, work: Work, ranks: int) -> int:
    """Bytes of the photographs that a rank holds, of the one that holds most."""
    spec = prepared.scene.spec
    if spec.train.independent:
        held = _learned_from(prepared)
        return max(sum(held[k] for k in own) for own in deal(len(held), ranks))
    owner = spec.train.mode == "joint" and resolved(spec.exchange, ranks) == "owner"
    return -(-work.images // ranks) if owner else work.images


def _learned_from(prepared: Prepared) -> list[int]:
    """Bytes of the photographs that each independent NeRF learns from.

    Where not all of their pixels meet its tile, with the numbers of those that do: as many as a fan
    of rays says.
    """
    spec, capture, world = prepared.scene.spec, prepared.capture, prepared.world
    learned = [not view.test for view in capture.views]
    centres = world.points(np.stack(prepared.poses)[learned, :, 3])
    stood = torch.from_numpy(centres).float()  # [V, 3]
    pixels = torch.tensor([view.camera.width * view.camera.height for view in capture.train])
    fans = torch.from_numpy(capture.sights(FAN)[learned] @ world.rotation.T).float()
    rays = Rays(stood.repeat_interleave(fans.shape[1], 0), fans.flatten(0, 1))
    found, held = regions(spec, prepared.plan, stood), []
    for box in map(found.box, range(len(prepared.plan))):
        if spec.train.mode == "independent-3d":
            share = meets(box, rays).reshape(len(pixels), -1).double().mean(1)  # [V]
        else:
            share = holds(box, stood).double()
        part = bool((share % 1 > 0).any())
        bytes_each = BYTES_A_PIXEL * (share > 0) + BYTES_A_NUMBER * part * share
        held.append(math.ceil(float((pixels * bytes_each).sum())))
    return held


def _samples_a_step(spec: SceneSpec) -> int:
    """Samples of the field in flight in a step, at most."""
    if spec.sampling.method == "occupancy":
        return spec.sampling.budget
    return spec.train.rays * (spec.sampling.samples + spec.partition.tiles)
