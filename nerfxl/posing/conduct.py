"""The verb pose: its stages, one after the other, each done once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nerfxl.errors import UserError
from nerfxl.posing import frames, gps, mapping, matching
from nerfxl.posing.ask import Ask
from nerfxl.posing.finish import STEPS, Posed, finished
from nerfxl.posing.journal import Found, Journal, fresh, moved, opened
from nerfxl.posing.mapping import Attempt
from nerfxl.posing.pairs import NEXT, Choice, choose
from nerfxl.posing.photographs import Files, Photograph, collected, digest, listed
from nerfxl.posing.report import no_model, told
from nerfxl.posing.stages import shown
from nerfxl.progress import Speaker


@dataclass(frozen=True)
class Source:
    """What is to be posed. files: None for a video. table: the gps.csv, or None."""

    path: Path
    files: Files | None
    table: Path | None
    digest: str


def pose(ask: Ask, say: Speaker) -> dict[str, Any]:
    """Pose photographs, or go on where this was stopped; what report.json holds.

    Raises
    ------
    UserError: the photographs cannot be used, nothing of them can be posed, or the folder is of
    another capture.
    """
    if ask.camera not in matching.MODELS:
        raise UserError(f"--camera {ask.camera}: it is not one of {', '.join(matching.MODELS)}.")
    source = _source(ask)
    with opened(ask.out, ask.settings, source.digest) as journal:
        try:
            report = Posing(ask, source, journal, say).all_stages()
        except KeyboardInterrupt:
            say("stopped    the same command goes on")
            raise
    told(report, say)
    return report


@dataclass(frozen=True)
class Posing:
    """A capture on its way."""

    ask: Ask
    source: Source
    journal: Journal
    say: Speaker

    @property
    def database(self) -> Path:
        """Features and matches."""
        return self.journal.folder / "database.db"

    def all_stages(self) -> dict[str, Any]:
        """Do what is not done yet; return the report."""
        stage, out = self.journal.stage, self.ask.out
        collect = stage("images", out / "images", self.collect, self.say)
        photographs = [Photograph.from_json(one) for one in collect["photographs"]]
        lenses = matching.lenses(photographs, self.ask.focal)
        places = self.places(photographs)
        choice = self.choice(photographs, places)
        extract = partial(self.extract, photographs, lenses)
        stage("features", self.database, extract, self.say)
        match = partial(self.match, photographs, choice)
        matches = stage("matches", self.database, match, self.say)
        attempts = self.attempts(lenses, len(photographs))
        if not attempts[0].agreeing:
            counts = matching.keypoints(self.database)
            raise no_model(self.ask.photos, counts, matches["verified"])
        posed = Posed(photographs, lenses, places, matches, attempts)
        stage("capture", out / "report.json", partial(self.finish, posed), self.say)
        report: dict[str, Any] = json.loads((out / "report.json").read_text())
        return report

    def collect(self) -> Found:
        """Put the photographs, or frames of the video, into the capture."""
        self.database.unlink(missing_ok=True)
        part = fresh(self.journal.folder / "images.part")
        files, source = self.source.files, self.source.path
        if files is None:
            with shown(self.say, "frames", self.ask.stretches) as tick:
                selection = frames.selected(source, self.ask.stretches, part, tick)
            found, damage = selection.photographs, selection.damage
            told = f"{len(found)} of {selection.frames:,} frames, the sharpest of each stretch"
        else:
            with shown(self.say, "photographs", len(files.photographs)) as tick:
                found, damage = collected(files, part, tick), ""
            told = f"{len(found)}"
            if files.ignored:
                told += f"; {len(files.ignored)} other files ignored, such as {files.ignored[0]}"
        sizes = sorted({(one.width, one.height) for one in found})
        told += f", {sizes[0][0]} x {sizes[0][1]} pixels"
        told += f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""
        moved(part, self.ask.out / "images")
        rows = [one.as_json() for one in found]
        return {"said": told, "photographs": rows, "damage": damage}

    def extract(self, photographs: Sequence[Photograph], lenses: list[matching.Lens]) -> Found:
        """Find features in all photographs."""
        if not self.database.exists():
            matching.check_room(self.journal.folder, len(photographs))
            matching.begin(self.database, lenses, self.ask.camera)
        with shown(self.say, "features", len(photographs)) as tick:
            images = self.ask.out / "images"
            matching.extract(self.database, images, self.ask.max_size, self.ask.cores, tick)
        counts = matching.keypoints(self.database)
        mean = sum(counts.values()) / len(counts)
        cameras = f"{len(lenses)} cameras" if len(lenses) > 1 else "one camera"
        return {"said": f"{mean:,.0f} a photograph; {cameras}", "features": sum(counts.values())}

    def places(self, photographs: Sequence[Photograph]) -> list[gps.Place | None]:
        """Where the photographs were taken, as far as GPS tells."""
        table = gps.read_table(self.source.table) if self.source.table else {}
        names = [name for one in photographs for name in gps.names_of(one)]
        if table and not table.keys() & set(names):
            raise UserError(
                f"{self.source.table}: none of its {len(table)} lines is of one of the "
                f"{len(photographs)} photographs, such as {photographs[0].source}; write their "
                "names into it, or move it elsewhere."
            )
        return gps.located(photographs, table)

    def choice(
        self, photographs: Sequence[Photograph], places: Sequence[gps.Place | None]
    ) -> Choice:
        """Which photographs to compare."""
        names = [one.name for one in photographs]
        video = self.source.files is None
        return choose(names, gps.plane(places), video, self.ask.matching)

    def match(self, photographs: Sequence[Photograph], choice: Choice) -> Found:
        """Compare photographs."""
        self.say(f"matching   {choice.kind}, {len(choice.pairs):,} pairs: {choice.reason}")
        names = [(photographs[a].name, photographs[b].name) for a, b in choice.pairs]
        with shown(self.say, "matches", len(names)) as tick:
            matching.match(self.database, names, self.ask.cores, self.ask.seed, tick)
        if choice.kind == "sequential":
            far = [name for name, (a, b) in zip(names, choice.pairs, strict=True) if b - a > NEXT]
            matching.drop_weak(self.database, far)
        good = sum(1 for count in matching.inliers(self.database).values() if count)
        return {
            "said": f"{good:,} of {len(names):,} pairs see the same ({choice.kind} matching)",
            "kind": choice.kind,
            "reason": choice.reason,
            "pairs": len(names),
            "verified": good,
        }

    def attempts(self, lenses: Sequence[matching.Lens], count: int) -> list[Attempt]:
        """Map, with other settings too where the usual register too few; the best comes first."""
        matching.trust(self.database, lenses)
        known = all(lens.focal is not None for lens in lenses)
        forward: list[mapping.Settings] = ["forward", "held"] if known else ["forward"]
        usual: list[mapping.Settings] = ["usual"]
        kinds = {"auto": usual + forward, "usual": usual, "forward": forward}[self.ask.mapping]
        done: list[Attempt] = []
        for settings in kinds:
            if not any(len(one.agreeing) >= mapping.ENOUGH * count for one in done):
                done.append(self.attempt(settings, count))
        return sorted(done, key=lambda one: -len(one.agreeing))

    def attempt(self, settings: mapping.Settings, count: int) -> Attempt:
        """Map with some settings."""
        folder = self.journal.folder / "mapping"
        threads = mapping.threads(count, self.ask.cores)

        def work() -> Found:
            with shown(self.say, "mapping", count) as tick:
                found = mapping.attempted(
                    settings, self.database, folder, threads, self.ask.seed, tick
                )
            return {**found.as_json(), "said": found.told(count)}

        return Attempt.from_json(self.journal.stage(settings, folder / settings, work, self.say))

    def finish(self, posed: Posed) -> Found:
        """Write the capture and its report."""
        with shown(self.say, "capture", STEPS) as tick:
            return finished(self.ask, self.journal, posed, tick)


def _source(ask: Ask) -> Source:
    """Find what is to be posed, and tell it from all else."""
    photos = ask.photos
    if not photos.exists():
        raise UserError(f"{photos}: no such folder or video; give the photographs to pose.")
    if photos.is_dir() and photos.resolve() == ask.out.resolve():
        raise UserError(f"--out {ask.out}: this is the photographs' own folder; name a new one.")
    if photos.is_dir() and ask.frames is not None:
        raise UserError(
            f"--frames {ask.frames}: {photos} is a folder, of which all photographs are taken; "
            "leave it out, or give a video."
        )
    table = gps.table_beside(photos) if photos.is_dir() else None
    if table is not None:
        gps.read_table(table)  # a mistake is told before hours of work
    if photos.is_dir():
        files = listed(photos, ask.out)
        total = digest(files.photographs, photos)
    else:
        frames.check(photos)
        files, total = None, digest([photos], photos.parent)
    words = total.encode() + (table.read_bytes() if table else b"")
    return Source(photos, files, table, hashlib.sha256(words).hexdigest())
