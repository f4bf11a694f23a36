"""The training loop: rays are drawn, rendered through all tiles, and every rank learns its own."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from nerfxl.captures import load_image, load_mask, load_sky
from nerfxl.checkpoint import Origin, load
from nerfxl.errors import UserError
from nerfxl.evaluate import evaluate
from nerfxl.field import background_colour
from nerfxl.losses import loss
from nerfxl.model import Model, Optimisers, stored
from nerfxl.optimiser import learning_rate
from nerfxl.pixels import PixelPool, dealt
from nerfxl.prepare import RunScene, check_losses, photographs, read_back
from nerfxl.ranks import Ranks
from nerfxl.rays import Truth
from nerfxl.render import Cast
from nerfxl.runs import MetricsLog, RunFolder
from nerfxl.saver import Saver
from nerfxl.spec import SceneSpec
from nerfxl.tally import Seen, Tally

KEEP_CHECKPOINTS = 2


class StoppedError(Exception):
    """The run was asked to stop and has written its checkpoint; signal: which asked."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def fit(run: RunFolder, ranks: Ranks, resume: bool) -> None:
    """Train the run's scene to its last step, store it and score it; a collective.

    Raises
    ------
    UserError: a photograph cannot be read; a loss or gradient is not finite; no checkpoint is left
    to go on from, or none can be written.
    StoppedError: a signal asked to stop; all ranks stop at the same step, after a checkpoint.
    """
    scene = read_back(run)
    spec, train = scene.spec, scene.spec.train
    model = Model(spec, scene.plan, scene.near, ranks)
    optimisers = model.optimisers(train.eps)
    origin = Origin.of(run, spec.name, scene.plan)
    first, seconds, count = 0, 0.0, first_rays(spec)
    if resume:
        first, seconds, count = _take_up(run, origin, model, optimisers, ranks)
    saver = Saver(run.checkpoints, origin, ranks, KEEP_CHECKPOINTS)
    pool = _pool(run, scene, model, ranks)

    start = time.monotonic()
    tally = Tally(ranks)
    ahead: Ahead | None = None
    if first < train.steps:
        ahead = _cast(first + 1, count, pool, model, spec)
        model.renderer.depart(ahead.cast)
    with _log(run, ranks) as log, _signals() as asked:
        for step in range(first + 1, train.steps + 1):
            last, now, ahead = step == train.steps, ahead, None
            assert now is not None
            seen = _see(step, now, model, spec)
            if spec.sampling.method == "occupancy":
                count = next_rays(spec, count, ranks.total(seen.samples)[0])
            if not last:
                ahead = _cast(step + 1, count, pool, model, spec)
            try:
                flags = (bool(asked), saver.writing)
                stop, writing = _learn(step, seen, ahead, model, optimisers, spec, ranks, flags)
            except UserError:  # all ranks raise it at this step: what they saved before is kept
                saver.finish()
                raise
            tally.add(seen, now.cast.batch)
            if step % train.log_every == 0 or last:
                line = {"learning_rate": learning_rate(step, train)} | tally.line()
                if log:
                    log.append({"step": step} | line)
                    run.update(step=step)
                tally = Tally(ranks)
            if not writing:
                saver.finish()
            periodic = train.checkpoint_every and step % train.checkpoint_every == 0
            if last or stop or periodic:
                spent = seconds + time.monotonic() - start
                meta = {"train_seconds": spent, "rays": count, "ranks": ranks.size}
                _save(saver, step, model, optimisers, meta)
            if last or stop:
                saver.finish()
            if stop and not last:
                assert ahead is not None
                ahead.cast.route.arrive()  # leave nothing on its way
                if ranks.first:
                    run.update(step=step)
                raise StoppedError(asked[0] if asked else signal.SIGINT)
            if train.eval_every and step % train.eval_every == 0 and not last:
                saver.finish()  # scoring takes long, and may fail on one rank alone
                paused = time.monotonic()
                evaluate(run, scene, model, ranks, step, seconds + paused - start)
                start += time.monotonic() - paused  # train_seconds are of training alone
                tally = Tally(ranks)
    evaluate(run, scene, model, ranks, train.steps, seconds + time.monotonic() - start)


@dataclass(frozen=True)
class Ahead:
    """A batch that is on its way to the tiles, and what it should find."""

    cast: Cast
    truth: Truth


def _cast(step: int, count: int, pool: PixelPool, model: Model, spec: SceneSpec) -> Ahead:
    """Draw the rays of a step, and cut them by the plan."""
    batch, truth = pool.batch(spec.seed, step, count)
    return Ahead(model.renderer.cast(batch), truth)


def _see(step: int, now: Ahead, model: Model, spec: SceneSpec) -> Seen:
    """Rays that have departed -> pixels -> loss; a collective."""
    pixels, proposal_loss = model.renderer(
        now.cast, padding(step, spec), learn_proposal=learns_proposal(step, spec)
    )
    total, squared = loss(pixels, now.truth, spec.train.losses, now.cast.batch.count)
    total = total + spec.sampling.proposal.weight * proposal_loss
    return Seen(total, squared, proposal_loss.detach(), pixels.samples)


def _learn(
    step: int,
    seen: Seen,
    ahead: Ahead | None,
    model: Model,
    optimisers: Optimisers,
    spec: SceneSpec,
    ranks: Ranks,
    flags: tuple[bool, ...],
) -> list[bool]:
    """Gradients and update, while the rays of the next step travel; a collective.

    Returns, of each flag, whether any rank raised it.
    """
    seen.loss.backward()  # type: ignore[no-untyped-call]
    if ahead is not None:
        model.renderer.depart(ahead.cast)
    raised = _check(step, seen.loss.detach(), model, ranks, flags)
    model.sum_shared_gradients()
    rate = learning_rate(step, spec.train)
    for optimiser in (*optimisers.tiles, optimisers.shared):
        optimiser.step(step, rate)
    for tile in model.tiles:
        if tile.occupancy is not None:
            tile.occupancy.update(tile, step - 1)
    return raised


def padding(step: int, spec: SceneSpec) -> float:
    """How evenly samples are spread: evenly at first, then as the proposal says."""
    warmup = spec.sampling.proposal.warmup
    even = 1 - step / warmup if warmup else 0.0
    return max(spec.sampling.proposal.padding, even)


def first_rays(spec: SceneSpec) -> int:
    """Rays of the first step: as many as fit the budget if no cell is empty."""
    sampling = spec.sampling
    if sampling.method == "proposal":
        return spec.train.rays
    return max(1, min(spec.train.rays, sampling.budget // sampling.occupancy.samples))


def next_rays(spec: SceneSpec, rays: int, samples: int) -> int:
    """Rays of the next step: as many as fit the budget at this step's samples a ray.

    samples: of all ranks, a whole number, so that the answer does not depend on how many they are.
    """
    return max(1, min(spec.train.rays, spec.sampling.budget * rays // max(1, samples)))


def learns_proposal(step: int, spec: SceneSpec) -> bool:
    """Whether the proposals take a gradient at this step."""
    proposal = spec.sampling.proposal
    due = step <= proposal.warmup or step % proposal.every == 0
    return spec.sampling.method == "proposal" and due


def _pool(run: RunFolder, scene: RunScene, model: Model, ranks: Ranks) -> PixelPool:
    """Load the photographs that are this rank's to load; a collective."""
    exchange = model.exchange
    capture, losses = photographs(run, scene.spec, scene.shots), scene.spec.train.losses
    check_losses(scene.spec, capture, run.scene)
    for held_out in capture.test[ranks.rank :: ranks.size]:
        load_image(held_out)  # one that is broken is found now, not after days of training
    views = dealt(capture.train, exchange.tiles, exchange.loads)
    pool = PixelPool(
        views,
        (load_image(view) for _, view in views),
        (load_mask(view) for _, view in views),
        scene.world,
        background_colour(scene.spec.field),
        ranks.device,
        depth_rays=losses.depth_rays if losses.depth else 0.0,
        skies=(load_sky(view) for _, view in views) if losses.sky else None,
    )
    own = [pixels * (k in exchange.own) for k, pixels in enumerate(pool.held(exchange.tiles))]
    pool.agree(ranks.total(*own))
    if not sum(pool.totals):
        raise UserError(
            f"{capture.root}: no pixel is left to learn from, the masks or the lenses of all "
            f"{len(capture.train)} photographs leave out every one; correct them."
        )
    if losses.depth and not ranks.total(len(pool.sighted))[0]:
        raise UserError(
            f"{run.scene}: train.losses.depth is {losses.depth:g}, and no keypoint of the "
            f"{len(capture.train)} images to fit of {capture.root} belongs to a point; give a "
            "COLMAP model whose images name their points, or set train.losses.depth to 0."
        )
    return pool


def _save(
    saver: Saver,
    step: int,
    model: Model,
    optimisers: Optimisers,
    meta: Mapping[str, int | float],
) -> None:
    """Begin to write a checkpoint; a collective."""
    pairs = zip(model.tiles, optimisers.tiles, strict=True)
    tiles = {tile.index: stored(tile, optimiser) for tile, optimiser in pairs}
    saver.start(step, tiles, stored(model.shared, optimisers.shared), meta)


def _take_up(
    run: RunFolder, origin: Origin, model: Model, optimisers: Optimisers, ranks: Ranks
) -> tuple[int, float, int]:
    """Load the newest whole checkpoint: steps done, seconds spent, rays of the next step."""
    found = load(run.checkpoints, origin, model.exchange.own, ranks)
    model.load(found)
    for tile, optimiser in zip(model.tiles, optimisers.tiles, strict=True):
        optimiser.load(found.tiles[tile.index])
    optimisers.shared.load(found.shared)
    if ranks.first:
        run.update(step=found.step, reason=" ".join(found.passed_over))
    return found.step, float(found.meta["train_seconds"]), int(found.meta["rays"])


def _check(
    step: int, total: Tensor, model: Model, ranks: Ranks, flags: tuple[bool, ...]
) -> list[bool]:
    """Raise on every rank if a loss or a gradient is not finite, naming the tile it comes from.

    The same message agrees on flags: whether any rank raised each.

    A sample's bad gradient reaches its tile's density layers, where every sample adds up. A bad
    value makes a bad pixel, and that a bad gradient of every tile on the ray: then the tile whose
    own numbers are bad is the one to be named.
    """
    bad = [
        tile.index
        for tile in model.tiles
        for weight in tile.density_layers
        if weight.grad is not None and not math.isfinite(float(weight.grad.sum()))
    ]
    bad_loss = not math.isfinite(float(total))
    spoilt_somewhere, *raised = ranks.votes(bool(bad) or bad_loss, *flags)
    if not spoilt_somewhere:
        return raised
    spoilt = [
        tile.index
        for tile in model.tiles
        if not all(bool(parameter.isfinite().all()) for parameter in tile.parameters())
    ]
    own = [[tiles[0] if tiles else -1 for tiles in (spoilt, bad)]]
    found = ranks.all_gather(torch.tensor(own, device=ranks.device), [1] * ranks.size)
    holder, receiver = found.amax(0).tolist()
    if holder >= 0:
        what = f"tile {holder} holds numbers that are"
    else:
        what = "the loss is" if ranks.any(bad_loss) else f"the gradient of tile {receiver} is"
    raise UserError(
        f"step {step}: {what} not finite. The last checkpoint is kept; go on from it with a "
        "lower train.learning_rate, and look at the images that this tile sees."
    )


def _log(run: RunFolder, ranks: Ranks) -> AbstractContextManager[MetricsLog | None]:
    """metrics.jsonl on the rank that writes it, nothing on the others."""
    return MetricsLog(run.metrics) if ranks.first else nullcontext()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in place of dying of them."""
    asked: list[int] = []
    old = {
        number: signal.signal(number, lambda n, _: asked.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
