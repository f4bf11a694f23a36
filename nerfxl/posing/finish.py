"""The last stage: the best model is settled, put into the world, written and reported."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nerfxl.posing import mapping, matching, outcome
from nerfxl.posing.ask import Ask
from nerfxl.posing.georeference import georeference
from nerfxl.posing.gps import Place
from nerfxl.posing.journal import Found, Journal
from nerfxl.posing.mapping import Attempt
from nerfxl.posing.matching import Lens
from nerfxl.posing.photographs import Photograph
from nerfxl.posing.report import CONTRADICTED, STRAY, reasons, warnings
from nerfxl.posing.stages import Tick
from nerfxl.runs import write_atomic
from nerfxl.version import __version__

STEPS = 4  # of which `finished` tells three, the last being done when it returns


@dataclass(frozen=True)
class Posed:
    """What the stages before have found. places: by GPS; attempts: the best one first."""

    photographs: Sequence[Photograph]
    lenses: Sequence[Lens]
    places: Sequence[Place | None]
    matches: Found
    attempts: Sequence[Attempt]


def finished(ask: Ask, journal: Journal, posed: Posed, tick: Tick) -> Found:
    """Write the capture, report.json last."""
    from nerfxl.colmap import pycolmap

    best, out = posed.attempts[0], ask.out
    model = pycolmap.Reconstruction(journal.folder / "mapping" / best.settings)
    deviation = mapping.focal_deviation(model) if ask.focal is None else None
    lost = dict.fromkeys(set(best.names) - set(best.agreeing), CONTRADICTED)
    if posed.matches["kind"] == "sequential":
        lost |= dict.fromkeys(mapping.strays(model), STRAY)
    if lost:
        mapping.without(model, lost)
    given = "--focal" if ask.focal is not None else "EXIF" if best.settings == "held" else ""
    focal, doubt = settled_focal(model, given, deviation, posed.lenses)
    tick(1)
    registered, poses = outcome.poses_of(model)
    at = {one.name: place for one, place in zip(posed.photographs, posed.places, strict=True)}
    places = [at[name] for name in registered]
    found = georeference(poses, outcome.points_of(model), places, ask.up, ask.seed)
    outcome.placed(model, found.transform)
    tick(1)
    outcome.write_model(model, out, ask.cores)
    tick(1)
    both = outcome.write_transforms(model, out, found.told)
    write_atomic(out / "georeference.json", json.dumps(found.told, indent=1) + "\n")
    main = posed.lenses[0]
    scene = outcome.write_scene(out, main.width, main.height, flight=outcome.is_flight(out))
    report = _report(ask, journal, posed, model, lost)
    report |= {
        "cameras": _cameras(model, posed.lenses, focal),
        "frame": found.told,
        "next": f"nerfxl plan {shlex.quote(str(scene))}",
    }
    damage = journal.stages["images"]["damage"]
    known = [damage, found.warning, doubt, *warnings(report, posed.attempts)]
    report["warnings"] = [line for line in known if line]
    write_atomic(out / "report.json", json.dumps(report, indent=1) + "\n")
    names = ["images", "sparse/0", *(["transforms.json"] if both else []), "georeference.json"]
    return {"said": f"{out}: {', '.join(names)}, scene.yaml"}


def settled_focal(
    model: Any, given: str, deviation: float | None, lenses: Sequence[Lens]
) -> tuple[str, str]:
    """Hold focal lengths to what is known where motion leaves them open; words, and a warning.

    given: who gave those that are held in any case, or "". deviation: of what was found, or None.
    """
    if given:
        mapping.adjusted_to(model, lenses)
        return f"held, by {given}", ""
    if deviation is None:
        return "refined", ""
    if deviation <= mapping.UNSURE:
        return f"refined, to {deviation:.2%}", ""
    open_by = f"motion leaves it open to {deviation:.1%} and more"
    if all(lens.focal is not None for lens in lenses):
        mapping.adjusted_to(model, lenses)
        return f"held, by EXIF: {open_by}", ""
    return (
        f"refined; {open_by}",
        f"the focal length is a guess: {open_by}, since it trades with depth when all cameras look "
        "along their motion or straight down on flat ground, and EXIF does not tell it; if you "
        "know it, say so by --focal",
    )


def _report(
    ask: Ask, journal: Journal, posed: Posed, model: Any, lost: Mapping[str, str]
) -> dict[str, Any]:
    from nerfxl.colmap import pycolmap

    best = posed.attempts[0]
    database = journal.folder / "database.db"
    names = outcome.poses_of(model)[0]
    missing = sorted({one.name for one in posed.photographs} - set(names))
    why = reasons(
        missing, names, best.others, matching.keypoints(database), matching.inliers(database)
    )
    why |= lost
    total = len(posed.photographs)
    workers = mapping.threads(total, ask.cores)
    return {
        "out": str(ask.out),
        "photographs": total,
        "registered": len(names),
        "points": model.num_points3D(),
        "observations": model.compute_num_observations(),
        "reprojection_error_px": round(float(model.compute_mean_reprojection_error()), 4),
        "track_length": round(float(model.compute_mean_track_length()), 3),
        "not_registered": [{"name": name, "reason": why[name]} for name in missing],
        "matching": {key: posed.matches[key] for key in ("kind", "reason", "pairs", "verified")},
        "mapping": [
            one.as_json() | {"said": one.told(len(posed.photographs))} for one in posed.attempts
        ],
        "settings": ask.settings,
        "seconds": {name: found.get("seconds") for name, found in journal.stages.items()},
        "repeats": "bit for bit, on any number of threads"
        if workers == 1
        else f"with the same number of threads alone: mapping used {workers}",
        "versions": {"nerfxl": __version__, "pycolmap": pycolmap.__version__},
    }


def _cameras(model: Any, lenses: Sequence[Lens], focal: str) -> list[dict[str, Any]]:
    """Cameras of the model, those of most photographs first."""
    lens_of = {name: lens for lens in lenses for name in lens.members}
    images = [model.image(number) for number in model.reg_image_ids()]
    found = []
    for number in sorted({image.camera_id for image in images}):
        camera = model.cameras[number]
        members = [image.name for image in images if image.camera_id == number]
        lens = lens_of[members[0]]
        found.append(
            {
                "model": camera.model_name,
                "width": camera.width,
                "height": camera.height,
                "params": [float(value) for value in camera.params],
                "focal_px": float(camera.mean_focal_length()),
                "focal_told": focal,
                "focal_before_px": lens.focal,
                "focal_source": lens.source,
                "photographs": len(members),
            }
        )
    return sorted(found, key=lambda one: -one["photographs"])
