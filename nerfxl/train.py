"""The training loop: what is learned each step, told, stored and scored."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from nerfxl.captures import load_image
from nerfxl.ensemble import Ensemble, assemble
from nerfxl.errors import UserError
from nerfxl.evaluate import evaluate
from nerfxl.learner import Learner
from nerfxl.optimiser import learning_rate
from nerfxl.prepare import check_losses, photographs, read_back
from nerfxl.processes.ranks import Ranks
from nerfxl.runs import MetricsLog, RunFolder
from nerfxl.storage.checkpoint import Origin, load
from nerfxl.storage.saver import Saver
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
    ensemble = assemble(scene, ranks)
    origin = Origin.of(run, spec.name, scene.plan)
    capture = photographs(run, scene.spec, scene.shots)
    check_losses(spec, capture, run.scene)
    for held_out in capture.test[ranks.rank :: ranks.size]:
        load_image(held_out)  # one that is broken is found now, not after days of training
    learners = [Learner(member, scene, capture, run.scene) for member in ensemble.members]
    first, seconds = 0, 0.0
    if resume:
        first, seconds = _take_up(run, origin, ensemble, learners, ranks)
    saver = Saver(run.checkpoints, origin, ranks, KEEP_CHECKPOINTS)

    start = time.monotonic()
    tally = Tally(ranks, apart=spec.train.independent)
    if first < train.steps:
        for learner in learners:
            learner.begin(first + 1)
    with _log(run, ranks) as log, _signals() as asked:
        for step in range(first + 1, train.steps + 1):
            last = step == train.steps
            seen, casts = [], []
            for learner in learners:
                found, cast = learner.see(step)
                learner.back(step, found, last)
                tally.add(found, cast.batch)
                seen.append(found)
                casts.append(cast)
            tally.step()
            try:
                flags = (bool(asked), saver.writing)
                stop, writing = check(step, seen, learners, ranks, flags)
            except UserError:  # all ranks raise it at this step: what they saved before is kept
                saver.finish()
                raise
            for learner in learners:
                learner.update(step, last)
            if step % train.log_every == 0 or last:
                pairs = zip(learners, casts, strict=True)
                outside = [learner.outside(step, cast) for learner, cast in pairs]
                line = {"learning_rate": learning_rate(step, train)} | tally.line(outside)
                if log:
                    log.append({"step": step} | line)
                    run.update(step=step)
                tally = tally.next()
            if not writing:
                saver.finish()
            periodic = train.checkpoint_every and step % train.checkpoint_every == 0
            if last or stop or periodic:
                spent = seconds + time.monotonic() - start
                meta = {"train_seconds": spent, "rays": learners[0].count, "ranks": ranks.size}
                _save(saver, step, learners, meta)
            if last or stop:
                saver.finish()
            if stop and not last:
                for learner in learners:
                    learner.stop()
                if ranks.first:
                    run.update(step=step)
                raise StoppedError(asked[0] if asked else signal.SIGINT)
            if train.eval_every and step % train.eval_every == 0 and not last:
                saver.finish()  # scoring takes long, and may fail on one rank alone
                paused = time.monotonic()
                evaluate(run, scene, ensemble, ranks, step, seconds + paused - start)
                start += time.monotonic() - paused  # train_seconds are of training alone
                tally = tally.next()
    evaluate(run, scene, ensemble, ranks, train.steps, seconds + time.monotonic() - start)


def _save(
    saver: Saver, step: int, learners: Sequence[Learner], meta: Mapping[str, int | float]
) -> None:
    """Begin to write a checkpoint; a collective."""
    tiles: dict[int, dict[str, Tensor]] = {}
    shared: dict[str, Tensor] = {}
    for learner in learners:
        own, common = learner.stored()
        tiles |= own
        shared |= common
    saver.start(step, tiles, shared, meta)


def _take_up(
    run: RunFolder, origin: Origin, ensemble: Ensemble, learners: Sequence[Learner], ranks: Ranks
) -> tuple[int, float]:
    """Load the newest whole checkpoint: steps done, seconds spent."""
    found = load(run.checkpoints, origin, ensemble.tiles, ranks)
    for learner in learners:
        learner.take_up(found)
    if ranks.first:
        run.update(step=found.step, reason=" ".join(found.passed_over))
    return found.step, float(found.meta["train_seconds"])


def check(
    step: int,
    seen: Sequence[Seen],
    learners: Sequence[Learner],
    ranks: Ranks,
    flags: tuple[bool, ...],
) -> list[bool]:
    """Raise on every rank if a loss or a gradient is not finite, naming the tile it comes from.

    The same message agrees on flags: whether any rank raised each.

    A sample's bad gradient reaches its tile's density layers, where every sample adds up. A bad
    value makes a bad pixel, and that a bad gradient of every tile on the ray: then the tile whose
    own numbers are bad is the one to be named.
    """
    tiles = [
        (number, tile)
        for learner in learners
        for number, tile in zip(learner.member.numbers, learner.model.tiles, strict=True)
    ]
    bad = [
        number
        for number, tile in tiles
        for weight in tile.density_layers
        if weight.grad is not None and not math.isfinite(float(weight.grad.sum()))
    ]
    bad_loss = not all(math.isfinite(float(one.loss.detach())) for one in seen)
    spoilt_somewhere, *raised = ranks.votes(bool(bad) or bad_loss, *flags)
    if not spoilt_somewhere:
        return raised
    spoilt = [
        number
        for number, tile in tiles
        if not all(bool(parameter.isfinite().all()) for parameter in tile.parameters())
    ]
    own = [[numbers[0] if numbers else -1 for numbers in (spoilt, bad)]]
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
