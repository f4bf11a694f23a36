"""The paper's claims, each in a sentence, held against the figures of a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nerfxl.study.figures import Group, Spread
from nerfxl.study.grid import Kind

Verdict = Literal["holds", "does not hold", "undecided", "not tested"]

# With one seed, what differs by less is left undecided: another seed, or what else the machine did
# meanwhile, might turn it.
DECIBELS, SPEED = 0.3, 0.05
AGREEING = 0.1  # tiles whose corrections differ by less, of what was to be corrected, agree
PAPER_OUTSIDE = "38, 56 and 62 % at 2, 4 and 8 tiles of the paper's University4"


@dataclass(frozen=True)
class Finding:
    """A claim, where the paper makes it, and what became of it here."""

    claim: str
    where: str
    verdict: Verdict
    found: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def findings(kind: Kind, groups: Sequence[Group]) -> list[Finding]:
    """All claims of a kind."""
    of_kind: dict[Kind, Callable[[Sequence[Group]], list[Finding]]] = {
        "scaling": _scaling,
        "exchange": _exchange,
        "overlap": _overlap,
        "ddp": _ddp,
        "cameras": _cameras,
        "appearance": _appearance,
    }
    return of_kind[kind](groups)


def order(a: Spread, b: Spread, noise: float) -> int:
    """1 where a is above b, -1 where it is below, 0 where that is not sure.

    Seeds decide where there are several: one's least must be above the other's greatest. Otherwise
    the difference must be more than the noise.
    """
    if min(a.seeds, b.seeds) > 1:
        return (a.least > b.greatest) - (a.greatest < b.least)
    return (a.mean - b.mean > noise) - (b.mean - a.mean > noise)


def _verdict(sign: int) -> Verdict:
    """Of a claim that holds if something is above something else."""
    verdicts: dict[int, Verdict] = {1: "holds", 0: "undecided", -1: "does not hold"}
    return verdicts[sign]


def _scaling(groups: Sequence[Group]) -> list[Finding]:
    found = [_rises(_curve(groups, "joint", "psnr"))]
    independent = dict.fromkeys(one.mode for one in groups if one.mode.startswith("independent"))
    found += [_rises_not(mode, _curve(groups, mode, "psnr")) for mode in independent]
    found += [_falls_with_ranks(groups)]
    found += [
        _strays(mode, _curve(groups, mode, "outside"))
        for mode in independent
        if mode.startswith("independent-3d")
    ]
    return found


def _curve(groups: Sequence[Group], mode: str, figure: str) -> dict[int, Spread]:
    """A figure by the number of tiles; with one tile all modes are the joint one."""
    own = [one for one in groups if one.mode == mode or (one.mode == "joint" and one.tiles == 1)]
    by_tiles = {one.tiles: one[figure] for one in sorted(own, key=lambda one: one.tiles)}
    return {tiles: value for tiles, value in by_tiles.items() if value is not None}


def _rises(curve: dict[int, Spread]) -> Finding:
    about = ("The joint PSNR rises with the number of tiles", "Fig. 8, 9")
    if len(curve) < 2:
        return Finding(*about, "not tested", "it takes two numbers of tiles or more")
    values = list(curve.values())
    sign = order(values[-1], values[0], DECIBELS)
    pairs = zip(values[1:], values[:-1], strict=True)
    dips = any(order(later, earlier, DECIBELS) < 0 for later, earlier in pairs)
    return Finding(*about, "does not hold" if dips else _verdict(sign), _listed("joint", curve))


def _rises_not(mode: str, curve: dict[int, Spread]) -> Finding:
    about = (f"The PSNR of {mode} does not rise with the number of tiles", "Fig. 8, 9")
    if len(curve) < 2:
        return Finding(*about, "not tested", "it takes two numbers of tiles or more")
    values = list(curve.values())
    sign = order(values[-1], values[0], DECIBELS)
    level = sign == 0 and values[-1].mean > values[0].mean
    verdict: Verdict = "does not hold" if sign > 0 else "undecided" if level else "holds"
    return Finding(*about, verdict, _listed(mode, curve))


def _falls_with_ranks(groups: Sequence[Group]) -> Finding:
    about = ("The time to render a picture falls with the number of processes", "Fig. 8")
    timed: dict[int, Spread] = {}
    for one in sorted(groups, key=lambda one: one.tiles):  # of as many ranks, the fewest tiles
        if one.mode == "joint" and (value := one["render_seconds"]):
            timed.setdefault(one.ranks, value)
    if not timed:
        return Finding(*about, "not tested", "the runs do not say how long a picture took")
    if len(timed) < 2:
        return Finding(*about, "not tested", f"all ran on {_processes(next(iter(timed)))}")
    few, many = min(timed), max(timed)
    sign = order(timed[few], timed[many], SPEED * timed[few].mean)
    said = ", ".join(f"{value.mean:.2f} s on {ranks}" for ranks, value in sorted(timed.items()))
    return Finding(*about, _verdict(sign), f"joint {said}, where tiles grow with them")


def _strays(mode: str, curve: dict[int, Spread]) -> Finding:
    claim = f"The more tiles, the more samples of {mode} lie outside their own"
    about = (claim, f"University4: {PAPER_OUTSIDE}")
    if len(curve) < 2:
        return Finding(*about, "not tested", "it takes two numbers of tiles that say so")
    values = list(curve.values())
    said = ", ".join(f"{100 * value.mean:.0f} % at {tiles}" for tiles, value in curve.items())
    return Finding(*about, _verdict(order(values[-1], values[0], 0.01)), said)


def _exchange(groups: Sequence[Group]) -> list[Finding]:
    claim = "Exchanging Segments ({}) takes less than half the time of exchanging samples"
    found = _by_segments(groups, claim, "exchange_ms", "ms a step")
    claim = "Segments ({}) are fewer bytes than samples"
    return found + _by_segments(groups, claim, "bytes_per_ray", "bytes a ray")


def _by_segments(groups: Sequence[Group], claim: str, figure: str, unit: str) -> list[Finding]:
    """Samples against each other exchange, at the most ranks that have both."""
    at_least = 2.0 if figure == "exchange_ms" else 1.0
    found = []
    for mode in ("gather", "owner"):
        about = (claim.format(mode), "Fig. 12")
        ranks = {one.ranks for one in groups if one.mode == "samples" and one[figure]}
        ranks &= {one.ranks for one in groups if one.mode == mode and one[figure]}
        if not ranks:
            if any(one.mode == mode for one in groups):
                found.append(Finding(*about, "not tested", "it takes a run of each"))
            continue
        at = max(ranks)
        by = {one.mode: one for one in groups if one.ranks == at}
        samples, segments = by["samples"][figure], by[mode][figure]
        assert samples is not None
        assert segments is not None
        noise = SPEED * samples.mean if figure == "exchange_ms" else 0.0
        sign = order(samples, segments.times(at_least), noise)
        said = f"{segments.mean:.3g} {unit} against {samples.mean:.3g} on {_processes(at)}"
        said += f", {samples.mean / max(segments.mean, 1e-12):.1f} times less"
        steps = [by[one]["step_ms"] for one in (mode, "samples")]
        if figure == "exchange_ms" and steps[0] and steps[1]:
            said += f"; whole steps {steps[0].mean:.3g} against {steps[1].mean:.3g}"
        found.append(Finding(*about, _verdict(sign), said))
    return found


def _ddp(groups: Sequence[Group]) -> list[Finding]:
    return [
        _against_ddp(
            groups, "Joint tiles beat a whole model a process (ddp) in PSNR", "psnr", "dB"
        ),
        _against_ddp(groups, "ddp renders faster", "render_seconds", "s a picture"),
    ]


def _against_ddp(groups: Sequence[Group], claim: str, figure: str, unit: str) -> Finding:
    about = (claim, "Fig. 11")
    both = {
        ranks: (joint, ddp)
        for ranks in sorted({one.ranks for one in groups})
        if (joint := _only(groups, "joint", ranks, figure))
        and (ddp := _only(groups, "ddp", ranks, figure))
    }
    if not both:
        return Finding(*about, "not tested", "it takes a run of each on as many processes")
    joint, ddp = both[max(both)]
    sign = order(joint, ddp, DECIBELS if figure == "psnr" else SPEED * joint.mean)
    said = ", ".join(
        f"joint {_number(j.mean)}, ddp {_number(d.mean)} {unit} on {_processes(ranks)}"
        for ranks, (j, d) in both.items()
    )
    return Finding(*about, _verdict(sign), said)


def _overlap(groups: Sequence[Group]) -> list[Finding]:
    joint = next((one for one in groups if one.mode == "joint" and one.tiles > 1), None)
    whole = next((one for one in groups if one.mode == "joint" and one.tiles == 1), None)
    found = []
    if joint:
        about = ("Joint tiles leave no error at their faces", "Fig. 5")
        sign, said = _at_faces(joint, whole, "one tile")
        verdict: Verdict = "does not hold" if sign == 1 else "holds"
        found.append(Finding(*about, "not tested" if sign is None else verdict, said))
    for one in groups:
        if one.mode.startswith("independent-3d"):
            about = (f"Blending leaves errors at the tiles' faces ({one.mode})", "Fig. 5")
            sign, said = _at_faces(one, joint, "joint")
            found.append(Finding(*about, "not tested" if sign is None else _verdict(sign), said))
    return found


def _at_faces(one: Group, other: Group | None, name: str) -> tuple[int | None, str]:
    """Whether more is lost against another fit near faces than elsewhere, as `order` says it."""
    extra = _lost_at_faces(one, other)
    if extra is None or other is None:
        return None, f"it takes a run of {name}, of the same seed"
    band, rest = (
        f"{_mean(one, part):.2f} dB where {name} has {_mean(other, part):.2f}"
        for part in ("band_psnr", "rest_psnr")
    )
    said = f"near faces {band}, elsewhere {rest}: {extra.mean:+.2f} dB more lost near faces"
    return order(extra, Spread.of([0.0] * extra.seeds), DECIBELS), said


def _lost_at_faces(one: Group, other: Group | None) -> Spread | None:
    """What is lost near faces beyond what is lost elsewhere: dB, seed by seed."""
    of_seed = {row.cell.seed: row.figures for row in other.rows} if other else {}
    lost = []
    for row in one.rows:
        own, than = row.figures, of_seed.get(row.cell.seed, {})
        if "band_psnr" in own and "band_psnr" in than:
            band = than["band_psnr"] - own["band_psnr"]
            lost.append(band - (than["rest_psnr"] - own["rest_psnr"]))
    return Spread.of(lost) if lost else None


def _cameras(groups: Sequence[Group]) -> list[Finding]:
    found = [_one_correction(groups)]
    independent = [one for one in groups if one.mode.startswith("independent") and one.refine]
    return found + [_disagree(one) for one in independent]


def _one_correction(groups: Sequence[Group]) -> Finding:
    about = ("Joint tiles correct each camera once, and bring it nearer to the truth", "Fig. 4")
    joint = next((one for one in groups if one.mode == "joint" and one.refine), None)
    units = {"rotation": (1.0, "degrees"), "translation": (100.0, "% of the box")}
    signs, said = set(), []
    for what, (factor, unit) in units.items():
        pair = [joint and joint[f"{when}_{what}_aligned"] for when in ("before", "after")]
        before, after = pair
        if not (before and after):
            return Finding(*about, "not tested", "it takes a joint run with corrected cameras")
        signs.add(order(before, after, SPEED * before.mean))
        said.append(f"{factor * before.mean:.3f} {unit} before, {factor * after.mean:.3f} after")
    sign = 0 if signs == {1, -1} else max(signs, key=abs)  # both, or one and the other as it was
    return Finding(*about, _verdict(sign), "; ".join(said))


def _disagree(one: Group) -> Finding:
    claim = f"The tiles of {one.mode} correct the same camera differently"
    before, apart = one["before_rotation"], one["apart_rotation"]
    if not (before and apart):
        said = "it takes a camera that two tiles have corrected"
        return Finding(claim, "Fig. 4", "not tested", said)
    sign = order(apart, before.times(AGREEING), 0.0)
    said = f"{apart.mean:.3f} degrees apart, where {before.mean:.3f} were to be corrected"
    return Finding(claim, "Fig. 4", _verdict(sign), said)


def _appearance(groups: Sequence[Group]) -> list[Finding]:
    without = next((one["psnr"] for one in groups if one.mode == "off"), None)
    found = []
    for one in groups:
        value = one["psnr"]
        if one.mode == "off" or value is None:
            continue
        what = "exposure and embedding" if one.mode == "both" else one.mode
        about = (f"Learning the {what} of each image raises the PSNR", "NeRF in the Wild, sec. 4.1")
        if without is None:
            found.append(Finding(*about, "not tested", "it takes a run without"))
            continue
        said = f"{without.mean:.2f} dB without, {value.mean:.2f} with"
        found.append(Finding(*about, _verdict(order(value, without, DECIBELS)), said))
    return found


def _only(groups: Sequence[Group], mode: str, ranks: int, figure: str) -> Spread | None:
    one = next((one for one in groups if (one.mode, one.ranks) == (mode, ranks)), None)
    return one[figure] if one else None


def _mean(one: Group, figure: str) -> float:
    value = one[figure]
    return value.mean if value else float("nan")


def _listed(mode: str, curve: dict[int, Spread]) -> str:
    first, *rest = curve.items()
    said = [f"{first[1].mean:.2f} dB at {first[0]} tile{'s' if first[0] > 1 else ''}"]
    return f"{mode} " + ", ".join(said + [f"{value.mean:.2f} at {tiles}" for tiles, value in rest])


def _number(value: float) -> str:
    return f"{value:.2f}"


def _processes(ranks: int) -> str:
    return f"{ranks} process{'es' if ranks > 1 else ''}"
